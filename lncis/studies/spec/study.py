"""StudySpec: what a study is; the schema of studies/*.yaml, of requests and of Python use."""

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from lncis import documents
from lncis.config import STRICT_KEYS, Fold, TrainConfig, Workers, or_auto
from lncis.metrics import TEST_METRICS, VAL_METRICS
from lncis.studies.spec import space
from lncis.studies.spec.samplers import GridSampler, NoPruner, Pruner, Sampler
from lncis.studies.spec.space import Parameter


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
    """An objective that selects the best configuration."""

    select: Literal["mean", "lower_bound"] = "mean"
    """Over the seeds of a configuration: the mean, or the worse end of its 95 % interval."""


MAX_AUTO_TRIALS = 32
"""Concurrent trials with `auto`, at most: each takes 0.7 GB at the driver, for the processes of Ray Train."""

NUMBER_OR_AUTO = or_auto("a whole number from 1")
"""Marks a field that is a number or `auto`."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Resources(Workers):
    """The workers of one trial, and how many trials train at a time."""

    max_concurrent_trials: Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], NUMBER_OR_AUTO] = 2
    """auto: as many as the cluster has room for, nodes that join later included; at most MAX_AUTO_TRIALS."""
    price_per_worker_hour: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """What a worker costs while the study holds it, idle or not, in any currency; for `budget.money`."""

    def at_a_time(self, trials: int) -> int:
        """Return how many of `trials` may train at a time; with auto it assumes a cluster with room for them."""
        return min(MAX_AUTO_TRIALS if self.max_concurrent_trials == "auto" else self.max_concurrent_trials, trials)


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Budget:
    """What a study may spend over all its sessions; the limit that is reached first ends it, and null is none.

    Then running stages end at their epoch, and the result is made from the trials that finished. With a larger budget
    the study goes on.
    """

    epochs: int | None = Field(default=None, ge=1)
    """Epochs that it trains; those shared between its trials count once, those of earlier studies do not."""
    worker_hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Hours for which it holds workers, idle or not, summed over them."""
    hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Wall time, in hours."""
    money: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Worker-hours times `resources.price_per_worker_hour`, which must be set."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class PaperRow:
    """The paper's AP of one configuration, in percent, shown beside ours."""

    set: dict[str, Any]
    """Dotted config paths and their values; the row belongs to the trials with these overrides."""
    given: dict[str, Any] = field(default_factory=dict)
    """Dotted paths and values that the study's base must have for the row to hold, such as the noise rate."""
    AP: float
    AP50: float | None = None
    AP75: float | None = None

    @property
    def text(self) -> str:
        """AP, AP50 and AP75 in one line."""
        return "  ".join(f"{figure:.1f}" for figure in (self.AP, self.AP50, self.AP75) if figure is not None)


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Paper:
    """The table of the paper that a study reproduces."""

    table: str
    rows: list[PaperRow]


class Replicate(NamedTuple):
    """What tells a trial from the others of its configuration."""

    seed: int
    noise_seed: int | None = None
    """None: the study draws its noise once."""
    fold: Fold | None = None
    """None: the study has no folds."""

    def __str__(self) -> str:
        """Return the seed, with the noise seed and the fold if there are several, as tables show it."""
        noise = "" if self.noise_seed is None else f", noise {self.noise_seed}"
        return f"{self.seed}{noise}" + ("" if self.fold is None else f", fold {self.fold.number}")


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Extends:
    """The study that another one extends."""

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    """Its id."""
    epochs: list[Annotated[int, Field(ge=1)]] = field(default_factory=list)
    """Where its trials ended: trials of more epochs are cut there, to go on from their checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a study."""

    configuration: int
    """Counts the configurations of a study from 0, baselines first; its trials differ in their seeds alone."""
    overrides: dict[str, Any]
    """How it differs from the study's base: dotted path -> value."""
    seed: int
    noise_seed: int | None = None
    """Set where the study repeats its trials over several noise draws."""
    fold: Fold | None = None
    """The part of the training images that it leaves out; set where the study has folds."""
    config: TrainConfig
    baseline: str | None = None
    """The name of the baseline, if it is one."""

    @property
    def label(self) -> str:
        """The configuration as tables show it."""
        return label(self.overrides, self.baseline)

    @property
    def replicate(self) -> Replicate:
        """What tells it from the other trials of its configuration."""
        return Replicate(self.seed, self.noise_seed, self.fold)

    @property
    def name(self) -> str:
        """A name that no other trial of the study has."""
        return trial_name(self.configuration, self.replicate)


def trial_name(configuration: int, replicate: Replicate) -> str:
    """Return a name that no other trial of the study has."""
    noise = "" if replicate.noise_seed is None else f"-noise{replicate.noise_seed}"
    fold = "" if replicate.fold is None else f"-fold{replicate.fold.number}"
    return f"{configuration:04d}-seed{replicate.seed}{noise}{fold}"


def label(overrides: dict[str, Any], baseline: str | None = None) -> str:
    """Return a short label of a configuration: `lncis, gamma = 6, A = -4`, or the name of the baseline."""
    if baseline is not None:
        return baseline
    named = zip(short_names(list(overrides)), map(value_text, overrides.values()), strict=True)
    return ", ".join(value if name == "type" else f"{name} = {value}" for name, value in named)


def short_names(paths: list[str]) -> list[str]:
    """Return the last parts of dotted paths, or the whole paths where two would be the same."""
    short = [path.rpartition(".")[2] for path in paths]
    return short if len(set(short)) == len(short) else paths


def value_text(value: Any) -> str:
    """Return a parameter's value as tables show it: floats with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


MAX_FOLDS = 100


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class StudySpec:
    """A study: a base training, a search space, an objective, and resources."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """For people; also the name of the MLflow experiment."""
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
    folds: int | None = Field(default=None, ge=2, le=MAX_FOLDS)
    """Parts of the training images. Each seed splits them its own way and trains once without each part, which is then
    `val`. null: none; all of `train` is trained on."""
    objective: SelectionObjective = field(default_factory=SelectionObjective)
    secondary_objectives: list[Objective] = field(default_factory=list)
    """The sampler optimises these too, and the report shows the Pareto front; `objective` alone selects the best."""
    resources: Resources = field(default_factory=Resources)
    budget: Budget = field(default_factory=Budget)
    """When it ends, whatever is left to do; by default never before all is done."""
    sharing: bool = True
    """Train stages that several trials share once; false trains every trial alone."""
    sensitivity_check: bool = True
    """Check with a few steps, before the first trial, that each searched parameter changes the training."""
    keep_checkpoints: Literal["all", "best"] = "all"
    """Of the finished trials; best: those of the best configuration."""
    paper: Paper | None = None
    extends: Extends | None = None
    """The finished study that this one extends; `lncis study extend` writes it."""

    def configure(
        self, overrides: dict[str, Any], seed: int, noise_seed: int | None = None, fold: Fold | None = None
    ) -> TrainConfig:
        """Return the base with dotted paths replaced, its seeds and its fold set; ConfigError where that is no config.

        Without `fold` it is a training on all of `train`, also where the study has folds. Another `loss.type` than the
        base's begins from that loss's defaults.
        """
        document = documents.with_overrides(documents.dump(self.base), {**overrides, "seed": seed}, schema=TrainConfig)
        if noise_seed is not None and document["noise"] != {"type": "none"}:  # without noise there is none to draw
            document = documents.with_overrides(document, {"noise.seed": noise_seed})
        if fold is not None:
            document["fold"] = documents.dump(fold)
        return documents.parse(TrainConfig, document, source=self.name)

    def trials(self, configuration: int, overrides: dict[str, Any], *, baseline: str | None = None) -> list[Trial]:
        """Return the trials of one configuration, one for each of the study's `replicates`."""
        return [self.trial(configuration, overrides, replicate, baseline=baseline) for replicate in self.replicates]

    def trial(
        self,
        configuration: int,
        overrides: dict[str, Any],
        replicate: Replicate,
        *,
        baseline: str | None = None,
    ) -> Trial:
        """Return one trial of a configuration; ConfigError where its overrides do not fit the base."""
        return Trial(
            configuration=configuration,
            overrides=overrides,
            seed=replicate.seed,
            noise_seed=replicate.noise_seed,
            fold=replicate.fold,
            config=self.configure(overrides, *replicate),
            baseline=baseline,
        )

    @property
    def replicates(self) -> list[Replicate]:
        """What tells the trials of a configuration apart: the fold varies fastest, then the seed.

        Each seed splits the images its own way.
        """
        draws: Sequence[int | None] = self.noise_seeds or [None]
        return [Replicate(seed, draw, fold) for draw in draws for seed in self.seeds for fold in self._folds(seed)]

    def _folds(self, seed: int) -> Sequence[Fold | None]:
        return [None] if self.folds is None else [Fold(number=k, of=self.folds, seed=seed) for k in range(self.folds)]

    @property
    def grid(self) -> list[dict[str, Any]]:
        """The overrides of every combination of the choices; ranges are left out."""
        return space.grid(self.search)

    @property
    def objectives(self) -> list[Objective]:
        """What the sampler optimises: the objective, then the secondary objectives."""
        return [self.objective, *self.secondary_objectives]

    @property
    def total_trials(self) -> int:
        """How many trials the study has: baselines and searched configurations, with every replicate."""
        return (len(self.baselines) + self.configurations) * len(self.replicates)

    @property
    def configurations(self) -> int:
        """How many configurations are searched, baselines not counted."""
        return len(self.grid) if self.sampler.type == "grid" else self.sampler.configurations


def _or(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
