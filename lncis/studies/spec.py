"""StudySpec: one question put to many trainings; the schema of studies/*.yaml, of requests and of Python use."""

import itertools
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from lncis import documents
from lncis.config import STRICT_KEYS, TrainConfig, Workers
from lncis.errors import ConfigError
from lncis.metrics import TEST_METRICS, VAL_METRICS


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Categorical:
    """One of a list of values."""

    type: Literal["categorical"] = "categorical"
    choices: list[Any] = Field(min_length=1)
    """Plain values: numbers, strings, true, false or null."""

    @property
    def examples(self) -> list[Any]:
        """Values that a config must accept if the parameter is to make sense."""
        return self.choices

    @model_validator(mode="after")
    def _plain_and_distinct(self) -> "Categorical":
        for number, choice in enumerate(self.choices):
            if isinstance(choice, list | dict):
                raise ValueError(f"choices must be plain values but got {choice}; search the fields in it one by one")
            if choice in self.choices[:number]:
                raise ValueError(f"choices must differ but {choice} stands twice")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Range:
    """A number between two bounds, both included."""

    type: Literal["float", "int"]
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False
    """Draw the logarithm uniformly; needs low > 0."""

    @property
    def examples(self) -> list[Any]:
        """Values that a config must accept if the parameter is to make sense."""
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


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class GridSampler:
    """Every combination of the choices, in their order."""

    type: Literal["grid"] = "grid"


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class OptunaSampler:
    """Optuna's independent draws, or its tree-structured Parzen estimator."""

    type: Literal["random", "tpe"]
    configurations: int = Field(ge=1)
    """How many configurations to try; each is trained with every seed."""
    seed: int = Field(default=0, ge=0)


Sampler = Annotated[GridSampler | OptunaSampler, Field(discriminator="type")]


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Pruner:
    """none: every trial trains to its last epoch."""

    type: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Objective:
    """What is best."""

    metric: str = "val/segm_AP"
    """A metric on the noisy validation split, after the last epoch."""
    mode: Literal["max", "min"] = "max"

    @model_validator(mode="after")
    def _may_be_selected_on(self) -> "Objective":
        if self.metric in TEST_METRICS:
            raise ValueError(f"metric must not be a test figure ({self.metric}): select on one of {_or(VAL_METRICS)}")
        if self.metric not in VAL_METRICS:
            raise ValueError(f"metric must be one of {_or(VAL_METRICS)} but got {self.metric!r}: nothing reports it")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Resources(Workers):
    """The workers of one trial, and how many trials train at a time."""

    max_concurrent_trials: int = Field(default=2, ge=1)


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class PaperRow:
    """What the paper got for one configuration, in percent, to stand beside ours."""

    set: dict[str, Any]
    """Dotted config paths and their values; the row belongs to the trials that were run with them."""
    AP: float
    AP50: float
    AP75: float


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Paper:
    """The table of the paper that a study repeats on other data."""

    table: str
    rows: list[PaperRow]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a study."""

    configuration: int
    """Counts the configurations of a study from 0, baselines first; its trials differ in their seed alone."""
    overrides: dict[str, Any]
    """What sets it apart from the study's base: dotted path -> value."""
    seed: int
    config: TrainConfig
    baseline: str | None = None
    """Its name, if it is a reference that is not searched."""

    @property
    def label(self) -> str:
        """What a table calls the configuration."""
        if self.baseline is not None:
            return self.baseline
        short = [path.rpartition(".")[2] for path in self.overrides]
        names = short if len(set(short)) == len(short) else list(self.overrides)
        values = [f"{v:g}" if isinstance(v, float) else str(v) for v in self.overrides.values()]
        return ", ".join(f"{name} = {value}" for name, value in zip(names, values, strict=True))

    @property
    def name(self) -> str:
        """What tells the trial from all others of its study."""
        return f"{self.configuration:04d}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class StudySpec:
    """One question: a base training, what is varied, how it is judged, what it may use."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """For people; also the MLflow experiment."""
    question: str = ""
    base: TrainConfig = field(default_factory=TrainConfig)
    search: dict[str, Parameter] = Field(min_length=1)
    """Dotted path of a TrainConfig field -> the values to try."""
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> overrides of a reference that is trained with every seed and never selected."""
    sampler: Sampler = field(default_factory=GridSampler)
    pruner: Pruner = field(default_factory=Pruner)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default_factory=lambda: [0], min_length=1)
    """Training seeds; they replace base.seed."""
    objective: Objective = field(default_factory=Objective)
    resources: Resources = field(default_factory=Resources)
    paper: Paper | None = None

    @model_validator(mode="after")
    def _can_be_run(self) -> "StudySpec":
        problems = []
        if len(set(self.seeds)) < len(self.seeds):
            problems.append(f"seeds must differ but got {self.seeds}")
        if self.base.seed != TrainConfig().seed:
            problems.append(f"base.seed must not be set (got {self.base.seed}): write seeds: [{self.base.seed}]")
        if self.base.batch_size % self.resources.num_workers:
            problems.append(
                f"base.batch_size must be a multiple of resources.num_workers ({self.resources.num_workers}) "
                f"but got {self.base.batch_size}"
            )
        ranges = [path for path, parameter in self.search.items() if isinstance(parameter, Range)]
        if "seed" in self.search:
            problems.append("search.seed: training seeds are not searched; write them under seeds:")
        elif self.sampler.type == "grid" and ranges:
            problems += [
                f"search.{path}: a grid needs choices, not a range; use type: categorical or sampler tpe"
                for path in ranges
            ]
        elif self.sampler.type == "grid":
            for overrides in self.grid:  # whole: values may fit together that do not fit the base alone
                problems += self._misfits("search", overrides)
        else:
            for path, parameter in self.search.items():
                found = (self._misfits("search", {path: value}) for value in parameter.examples)
                problems += next(filter(None, found), [])
        for name, overrides in self.baselines.items():
            if "seed" in overrides:
                problems.append(f"baselines.{name}: seed must not be set; baselines train with every seed of seeds:")
            problems += self._misfits(f"baselines.{name}", overrides)
        if problems:
            raise ValueError("\n".join(dict.fromkeys(problems)))
        return self

    def _misfits(self, place: str, overrides: dict[str, Any]) -> list[str]:
        try:
            self.configure(overrides, seed=0)
        except ConfigError as error:
            return [f"{place}.{problem}" for problem in error.problems]
        return []

    def configure(self, overrides: dict[str, Any], seed: int) -> TrainConfig:
        """Return the base with dotted paths replaced and a training seed; ConfigError where that is no config."""
        document = documents.with_overrides(documents.dump(self.base), {**overrides, "seed": seed})
        return documents.parse(TrainConfig, document, source=self.name)

    def trials(self, configuration: int, overrides: dict[str, Any], *, baseline: str | None = None) -> list[Trial]:
        """Return the trials of one configuration, one for each seed."""
        return [
            Trial(
                configuration=configuration,
                overrides=overrides,
                seed=seed,
                config=self.configure(overrides, seed),
                baseline=baseline,
            )
            for seed in self.seeds
        ]

    @property
    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the choices; only a grid has one."""
        choices = [p.choices for p in self.search.values() if isinstance(p, Categorical)]
        return [dict(zip(self.search, values, strict=True)) for values in itertools.product(*choices)]

    @property
    def total_trials(self) -> int:
        """Trainings asked for: baselines and searched configurations, with every seed."""
        return (len(self.baselines) + self.configurations) * len(self.seeds)

    @property
    def configurations(self) -> int:
        """How many configurations are searched, baselines not counted."""
        return len(self.grid) if self.sampler.type == "grid" else self.sampler.configurations


def load(path: Path) -> StudySpec:
    """Return the study in a YAML file; ConfigError names the file and every mistake."""
    return documents.load(StudySpec, path)


def _or(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
