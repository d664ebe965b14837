"""Samplers and pruners of a study: the schema. lncis.studies.search and .pruning do what it says."""

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lncis.config import STRICT_KEYS


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class GridSampler:
    """Every combination of the choices, in their order."""

    type: Literal["grid"] = "grid"


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class OptunaSampler:
    """Optuna's independent draws, its tree-structured Parzen estimator, or its Gaussian process.

    gp needs the fewest configurations where few ranges are searched and all always apply; tpe takes any space. There is
    no CMA-ES: it needs hundreds of configurations, takes neither choices nor conditions, and one more package.
    """

    type: Literal["random", "tpe", "gp"]
    configurations: int = Field(ge=1)
    """How many configurations to try; each is trained with every seed."""
    seed: int = Field(default=0, ge=0)
    first: list[dict[str, Any]] = field(default_factory=list)
    """Points to try before the sampler's own, as `{path: value}`; what a point leaves out is drawn."""
    warm_start: str | None = None
    """The id of an earlier study of the same space and objective, whose results the sampler begins with."""


Sampler = Annotated[GridSampler | OptunaSampler, Field(discriminator="type")]


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class NoPruner:
    """Every trial trains to its last epoch."""

    type: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class AshaPruner:
    """ASHA (Li et al., MLSys 2020): at each rung a configuration goes on if it is in the best 1/`reduction_factor`.

    Rungs lie `first_rung`, `first_rung * reduction_factor`, ... epochs after the earliest end of stage 1 in the study,
    moved to the next epoch that is evaluated; a configuration skips those before its own.
    """

    type: Literal["asha"] = "asha"
    first_rung: int = Field(default=1, ge=1)
    reduction_factor: int = Field(default=2, ge=2)


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class MedianPruner:
    """At each rung a configuration goes on unless it is below the median of those that finished.

    Rungs lie `first_rung`, `first_rung + every`, ... epochs after the earliest end of stage 1 in the study, moved to
    the next epoch that is evaluated; a configuration skips those before its own.
    """

    type: Literal["median"] = "median"
    first_rung: int = Field(default=1, ge=1)
    every: int = Field(default=1, ge=1)
    startup_configurations: int = Field(default=4, ge=1)
    """None is pruned before so many have finished."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class HyperbandPruner:
    """Hyperband (Li et al., JMLR 2018), with ASHA in its brackets: it also trusts the first rungs less.

    Rungs lie as those of ASHA. Each configuration is in a bracket: the first one decides at every rung, the next ones
    skip the first rung, the first two, ..., and the last one decides nowhere. Only configurations of one bracket are
    compared. More are in earlier brackets, drawn by the number of the configuration as Optuna draws them.
    """

    type: Literal["hyperband"] = "hyperband"
    first_rung: int = Field(default=1, ge=1)
    reduction_factor: int = Field(default=3, ge=2)


Pruner = Annotated[NoPruner | AshaPruner | MedianPruner | HyperbandPruner, Field(discriminator="type")]
