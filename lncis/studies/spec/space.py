"""The search space: the values of each parameter, and where it applies."""

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from lncis.config import STRICT_KEYS

STAGE1_EPOCHS = "schedule.stage1_epochs"
"""E1, the one parameter that decides where trials leave the stage that they share."""

Conditions = dict[str, Any]
"""Dotted path of another searched parameter -> the value, or the list of values, it must have."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Categorical:
    """One of a list of values."""

    type: Literal["categorical"] = "categorical"
    choices: list[Any] = Field(min_length=1)
    """Plain values: numbers, strings, true, false or null."""
    when: Conditions = field(default_factory=dict)
    """Searched only where these hold; empty: always."""

    @property
    def examples(self) -> list[Any]:
        """Values that a config must accept, for the parameter to be usable."""
        return self.choices

    @model_validator(mode="after")
    def _plain_and_distinct(self) -> "Categorical":
        seen = set[Any]()
        for choice in self.choices:
            if isinstance(choice, list | dict):
                raise ValueError(f"choices must be plain values but got {choice}; search the fields in it one by one")
            if choice in seen:
                raise ValueError(f"choices must differ but {choice} stands twice")
            seen.add(choice)
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Range:
    """A number between two bounds, both included."""

    type: Literal["float", "int"]
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False
    """Draw the logarithm uniformly; needs low > 0."""
    when: Conditions = field(default_factory=dict)
    """Searched only where these hold; empty: always."""

    @property
    def examples(self) -> list[Any]:
        """Values that a config must accept, for the parameter to be usable."""
        if self.type == "int":
            return [int(self.low), int(self.high)]
        return [self.low, self.low + 0.382 * (self.high - self.low), self.high]

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"low must be below high ({self.high}) but got {self.low}")
        if self.type == "int" and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"low and high must be whole numbers but got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be greater than 0 for a log range but got {self.low}")
        return self


Parameter = Annotated[Categorical | Range, Field(discriminator="type")]
Space = Mapping[str, Parameter]
"""Dotted path of a TrainConfig field -> its parameter; one with conditions stands below those it names."""


def applies(parameter: Categorical | Range, chosen: Mapping[str, Any]) -> bool:
    """Say whether a parameter is searched, given what was chosen for those above it."""
    return all(path in chosen and chosen[path] in values_of(wanted) for path, wanted in parameter.when.items())


def outside(parameter: Categorical | Range, value: Any) -> str:
    """Return what is wrong with a value that a parameter cannot take; empty where it can."""
    if isinstance(parameter, Categorical):
        return "" if value in parameter.choices else f"must be among the choices {parameter.choices} but got {value!r}"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and parameter.low <= value <= parameter.high and (parameter.type == "float" or value == int(value)):
        return ""
    kind = "a whole number" if parameter.type == "int" else "a number"
    return f"must be {kind} from {parameter.low:g} to {parameter.high:g} but got {value!r}"


def values_of(wanted: Any) -> list[Any]:
    """Return the values that a condition accepts."""
    return wanted if isinstance(wanted, list) else [wanted]


def grid(space: Space) -> list[dict[str, Any]]:
    """Return every combination of the choices, the last parameter varying fastest; ranges have none."""
    combinations: list[dict[str, Any]] = [{}]
    for path, parameter in space.items():
        if isinstance(parameter, Categorical):
            combinations = [
                {**chosen, **more}
                for chosen in combinations
                for more in ([{path: c} for c in parameter.choices] if applies(parameter, chosen) else [{}])
            ]
    return combinations


def example(space: Space, path: str, value: Any) -> dict[str, Any]:
    """Return overrides under which a parameter applies and has a value: itself and what its conditions ask for."""
    return {**conditions(space, path), path: value}


def conditions(space: Space, path: str) -> dict[str, Any]:
    """Return overrides under which a parameter applies; none where it always does."""
    return next(_where_applies(space, path))


def _where_applies(space: Space, path: str) -> Iterator[dict[str, Any]]:
    """Yield each choice of the parameters that decide whether one applies under which it does."""
    deciding = set(space[path].when)
    for other in reversed(list(space)):
        deciding |= set(space[other].when) if other in deciding else set()
    above = {other: parameter for other, parameter in space.items() if other in deciding}
    return (chosen for chosen in grid(above) if applies(space[path], chosen))


def problems(space: Space) -> list[str]:
    """Return a line for each condition that can never hold."""
    found = []
    above: dict[str, Categorical | Range] = {}
    for path, parameter in space.items():
        for other, wanted in parameter.when.items():
            place = f"search.{path}.when.{other}"
            named = above.get(other)
            if not isinstance(named, Categorical):
                found.append(f"{place}: must name a categorical parameter that stands above {path} in search")
            elif missing := [value for value in values_of(wanted) if value not in named.choices]:
                found.append(f"{place}: must be among the choices {named.choices} but got {missing[0]!r}")
        above[path] = parameter
    if not found:
        never = [path for path in space if next(_where_applies(space, path), None) is None]
        found = [f"search.{path}.when: can never hold; correct or drop it" for path in never]
    return found
