"""StudySpec: one question put to many trainings; the schema of studies/*.yaml, of requests and of Python use."""

import math
from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from lncis import documents
from lncis.config import STRICT_KEYS, TrainConfig, Workers
from lncis.errors import ConfigError
from lncis.metrics import TEST_METRICS, VAL_METRICS
from lncis.studies.spec import space
from lncis.studies.spec.samplers import GridSampler, NoPruner, OptunaSampler, Pruner, Sampler
from lncis.studies.spec.space import STAGE1_EPOCHS, Parameter, Range


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Objective:
    """A metric and which way is better."""

    metric: str = "val/segm_AP"
    """A metric on the validation split, after the last epoch; its labels are those of `val_labels`."""
    mode: Literal["max", "min"] = "max"

    @model_validator(mode="after")
    def _may_be_selected_on(self) -> "Objective":
        if self.metric in TEST_METRICS:
            raise ValueError(f"metric must not be a test figure ({self.metric}): select on one of {_or(VAL_METRICS)}")
        if self.metric not in VAL_METRICS:
            raise ValueError(f"metric must be one of {_or(VAL_METRICS)} but got {self.metric!r}: nothing reports it")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class SelectionObjective(Objective):
    """What is best."""

    select: Literal["mean", "lower_bound"] = "mean"
    """Over the seeds of a configuration: their mean, or the pessimistic end of its 95 % interval."""


def _told_at_once(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Return a value that is a number or auto; else raise one error, where pydantic would raise one for each."""
    try:
        return check(value)
    except ValidationError as error:
        raise PydanticCustomError("number_or_auto", "Input should be a whole number from 1, or auto") from error


MOST_AT_ONCE = 32
"""What `auto` goes up to: each takes 0.8 GB where the study is driven, for Ray Train's processes and for a relay."""

NUMBER_OR_AUTO = WrapValidator(_told_at_once)
"""Marks a field that is a number or `auto`."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Resources(Workers):
    """The workers of one trial, and how many trials train at a time."""

    max_concurrent_trials: Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], NUMBER_OR_AUTO] = 2
    """auto: as many as the cluster has room for, also on nodes that come while the study runs; at most MOST_AT_ONCE."""

    def at_a_time(self, trials: int) -> int:
        """Return how many of so many trials may train at a time; with auto, where there is room for them."""
        return min(MOST_AT_ONCE if self.max_concurrent_trials == "auto" else self.max_concurrent_trials, trials)


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class PaperRow:
    """What the paper got for one configuration, in percent, to stand beside ours."""

    set: dict[str, Any]
    """Dotted config paths and their values; the row belongs to the trials that were run with them."""
    given: dict[str, Any] = field(default_factory=dict)
    """Dotted paths and values that the study's base must have for the row to hold, such as the noise rate."""
    AP: float
    AP50: float | None = None
    AP75: float | None = None

    @property
    def text(self) -> str:
        """Its figures in a line."""
        return "  ".join(f"{figure:.1f}" for figure in (self.AP, self.AP50, self.AP75) if figure is not None)


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Paper:
    """The table of the paper that a study repeats on other data."""

    table: str
    rows: list[PaperRow]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a study."""

    configuration: int
    """Counts the configurations of a study from 0, baselines first; its trials differ in their seeds alone."""
    overrides: dict[str, Any]
    """What sets it apart from the study's base: dotted path -> value."""
    seed: int
    noise_seed: int | None = None
    """Set where the study repeats its trials over several noise draws."""
    config: TrainConfig
    baseline: str | None = None
    """Its name, if it is a reference that is not searched."""

    @property
    def label(self) -> str:
        """What a table calls the configuration."""
        return label(self.overrides, self.baseline)

    @property
    def replicate(self) -> str:
        """What a table calls the draw: the seed, and the noise seed if there are several."""
        return f"{self.seed}" if self.noise_seed is None else f"{self.seed}, noise {self.noise_seed}"

    @property
    def name(self) -> str:
        """What tells the trial from all others of its study."""
        return trial_name(self.configuration, self.seed, self.noise_seed)


def trial_name(configuration: int, seed: int, noise_seed: int | None) -> str:
    """Return what tells a trial from all others of its study."""
    return f"{configuration:04d}-seed{seed}" + ("" if noise_seed is None else f"-noise{noise_seed}")


def label(overrides: dict[str, Any], baseline: str | None = None) -> str:
    """Return what people call a configuration: `lncis, gamma = 6, A = -4`, or the name of the baseline."""
    if baseline is not None:
        return baseline
    short = [path.rpartition(".")[2] for path in overrides]
    names = short if len(set(short)) == len(short) else list(overrides)
    values = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in overrides.values()]
    return ", ".join(
        value if name == "type" else f"{name} = {value}" for name, value in zip(names, values, strict=True)
    )


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
    pruner: Pruner = field(default_factory=NoPruner)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default_factory=lambda: [0], min_length=1)
    """Training seeds; they replace base.seed."""
    noise_seeds: list[Annotated[int, Field(ge=0)]] = field(default_factory=list)
    """Noise draws, each with every training seed; they replace noise.seed, where there is noise. Empty: that alone."""
    objective: SelectionObjective = field(default_factory=SelectionObjective)
    secondary_objectives: list[Objective] = field(default_factory=list)
    """Further objectives: the sampler pursues all, the report shows the Pareto front, `objective` names the best."""
    resources: Resources = field(default_factory=Resources)
    sharing: bool = True
    """Train once what several trials share; false trains every trial alone."""
    sensitivity_check: bool = True
    """See, by a few steps before the first trial, that each searched parameter changes the training."""
    keep_checkpoints: Literal["all", "best"] = "all"
    """Of the finished trials; best: those of the best configuration."""
    paper: Paper | None = None

    @model_validator(mode="after")
    def _can_be_run(self) -> "StudySpec":
        problems = [*self._seed_problems(), *self._sampler_problems(), *self._search_problems()]
        for name, overrides in self.baselines.items():
            if "seed" in overrides:
                problems.append(f"baselines.{name}: seed must not be set; baselines train with every seed of seeds:")
            problems += self._misfits(f"baselines.{name}", overrides)
        if self.base.batch_size % self.resources.num_workers:
            problems.append(
                f"base.batch_size must be a multiple of resources.num_workers ({self.resources.num_workers}) "
                f"but got {self.base.batch_size}"
            )
        if problems:
            raise ValueError("\n".join(dict.fromkeys(problems)))
        return self

    def _seed_problems(self) -> list[str]:
        problems = [
            f"{field} must differ but got {seeds}"
            for field, seeds in (("seeds", self.seeds), ("noise_seeds", self.noise_seeds))
            if len(set(seeds)) < len(seeds)
        ]
        if self.base.seed != TrainConfig().seed:
            problems.append(f"base.seed must not be set (got {self.base.seed}): write seeds: [{self.base.seed}]")
        if self.noise_seeds and "noise.seed" in self.search:
            problems.append("search.noise.seed: noise seeds stand under noise_seeds: already; drop one of the two")
        if self.objective.select == "lower_bound" and len(self.replicates) < 2:
            problems.append("objective.select: lower_bound needs at least 2 seeds; add some to seeds: or use mean")
        return problems

    def _sampler_problems(self) -> list[str]:
        problems, sampler = list[str](), self.sampler
        if self.secondary_objectives and self.pruner.type != "none":
            problems.append(
                "pruner.type: must be none where there are secondary_objectives: a rung compares one objective"
            )
        metrics = [self.objective.metric, *(objective.metric for objective in self.secondary_objectives)]
        if len(set(metrics)) < len(metrics):
            problems.append(
                f"secondary_objectives: must name other metrics than objective, each once, but got {metrics[1:]}"
            )
        if not isinstance(sampler, OptunaSampler):
            return problems
        if len(sampler.first) > sampler.configurations:
            problems.append(
                f"sampler.first: must hold at most {sampler.configurations} points (sampler.configurations) "
                f"but got {len(sampler.first)}"
            )
        for number, point in enumerate(sampler.first):
            problems += self._point_problems(f"sampler.first.{number}", point)
        return problems

    def _point_problems(self, place: str, point: dict[str, Any]) -> list[str]:
        problems = [f"{place}.{path}: is not searched; drop it" for path in point if path not in self.search]
        problems += [
            f"{place}.{path}: {complaint}"
            for path, value in point.items()
            if path in self.search and (complaint := space.outside(self.search[path], value))
        ]
        return problems or self._misfits(place, point)

    def _search_problems(self) -> list[str]:
        if "seed" in self.search:
            return ["search.seed: training seeds are not searched; write them under seeds:"]
        if problems := space.problems(self.search):
            return problems
        if self.sampler.type != "grid":
            for path, parameter in self.search.items():
                tried = (space.example(self.search, path, value) for value in parameter.examples)
                problems += next(filter(None, (self._misfits("search", overrides) for overrides in tried)), [])
            return problems
        ranges = [path for path, parameter in self.search.items() if isinstance(parameter, Range)]
        if ranges:
            return [
                f"search.{path}: a grid needs choices, not a range; use type: categorical or sampler tpe"
                for path in ranges
            ]
        # each combination whole: values may fit together that do not fit the base alone
        return [problem for overrides in self.grid for problem in self._misfits("search", overrides)]

    def _misfits(self, place: str, overrides: dict[str, Any]) -> list[str]:
        try:
            self.configure(overrides, seed=0)
        except ConfigError as error:
            return [f"{place}.{problem}" for problem in error.problems]
        return []

    def configure(self, overrides: dict[str, Any], seed: int, noise_seed: int | None = None) -> TrainConfig:
        """Return the base with dotted paths replaced and its seeds set; ConfigError where that is no config.

        E1 is rounded to whole epochs. Another `loss.type` than the base's begins from that loss's defaults.
        """
        switch = overrides.get(STAGE1_EPOCHS)
        rounded = {STAGE1_EPOCHS: round(switch)} if isinstance(switch, float) and math.isfinite(switch) else {}
        changes = {**overrides, **rounded, "seed": seed}
        document = documents.with_overrides(documents.dump(self.base), changes, schema=TrainConfig)
        if noise_seed is not None and document["noise"] != {"type": "none"}:  # without noise there is none to draw
            document = documents.with_overrides(document, {"noise.seed": noise_seed})
        return documents.parse(TrainConfig, document, source=self.name)

    def trials(self, configuration: int, overrides: dict[str, Any], *, baseline: str | None = None) -> list[Trial]:
        """Return the trials of one configuration, one for each of the study's `replicates`."""
        return [
            Trial(
                configuration=configuration,
                overrides=overrides,
                seed=seed,
                noise_seed=noise_seed,
                config=self.configure(overrides, seed, noise_seed),
                baseline=baseline,
            )
            for seed, noise_seed in self.replicates
        ]

    @property
    def replicates(self) -> list[tuple[int, int | None]]:
        """Training seed and noise seed of each trial of a configuration."""
        draws: Sequence[int | None] = self.noise_seeds or [None]
        return [(seed, draw) for draw in draws for seed in self.seeds]

    @property
    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the choices; only a grid has one."""
        return space.grid(self.search)

    @property
    def objectives(self) -> list[Objective]:
        """What the sampler pursues: the objective, then the secondary objectives."""
        return [self.objective, *self.secondary_objectives]

    @property
    def total_trials(self) -> int:
        """Trainings asked for: baselines and searched configurations, with every replicate."""
        return (len(self.baselines) + self.configurations) * len(self.replicates)

    @property
    def configurations(self) -> int:
        """How many configurations are searched, baselines not counted."""
        return len(self.grid) if self.sampler.type == "grid" else self.sampler.configurations


def _or(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
