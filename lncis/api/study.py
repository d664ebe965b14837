"""The wire schema of studies: their states, trials, stages, best configurations and events."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, computed_field

from lncis.api.document import Document, Time


class State(StrEnum):
    """queued -> running -> succeeded | failed | cancelled | spent; running <-> paused; spent -> queued.

    A paused study that is resumed waits in the queue for its turn. One that has spent its budget is over until its
    budget is raised. A running study returns to the queue by itself if
    the cluster loses its job.
    """

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SPENT = "spent"
    """Its budget is spent; it has a result of what finished until then."""


ENDED = (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.SPENT)


class Action(StrEnum):
    """What users may ask of a study."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    DRAIN = "drain"
    """Pause it once the trials that run have ended; no other begins."""


class Progress(Document):
    """How far a study is, as its journal says."""

    trials_total: int
    trials_started: int
    trials_finished: int
    trials_pruned: int
    trials_failed: int
    epochs_total: int
    """Requested by all trials; an epoch that several trials share counts for each of them."""
    epochs_done: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fraction(self) -> float:
        """From 0 to 1; pruned and failed trials count as done."""
        ended = self.trials_finished + self.trials_pruned + self.trials_failed
        epochs = self.epochs_done / self.epochs_total if self.epochs_total else 0.0
        trials = ended / self.trials_total if self.trials_total else 0.0
        return round(min(1.0, max(epochs, trials)), 4)


class OverSeeds(Document):
    """A mean over seeds, and over noise draws where there are several."""

    mean: float | None
    ci95: float | None
    """Half-width of the 95 % interval (lncis.studies.report.intervals); null with one training. With one noise draw it
    holds for that draw."""
    seeds: int
    """How many trainings."""

    def __str__(self) -> str:
        spread = "" if self.ci95 is None else f" ± {self.ci95:.1f}"
        return "-" if self.mean is None else f"{self.mean:.1f}{spread}"


_ANY, _INK = r"[^\x00-\x1f\x7f-\x9f]", r"[^\s\x00-\x1f\x7f-\x9f]"
Label = Annotated[str, Field(pattern=f"^{_INK}(?:{_ANY}{{0,38}}{_INK})?$")]
"""1 to 40 characters, no control characters, no blanks at the ends."""

Status = Literal["finished", "running", "unfinished"]


class BestSoFar(Document):
    """The best configuration so far, in few words."""

    metric: str
    label: str
    overrides: dict[str, Any]
    objective: OverSeeds
    status: Status


class Links(Document):
    """Paths of a study."""

    self: str
    trials: str
    stages: str
    best: str
    events: str


class StudySummary(Document):
    """A study in a list."""

    id: str
    name: str
    owner: str
    state: State
    reason: str
    """Why it is in that state, or not yet in the next one; may be empty."""
    state_since: Time
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    priority: int
    max_concurrent_trials: int | Literal["auto"]
    legal: list[Action]
    """What may be asked of it now."""
    progress: Progress
    best: BestSoFar | None
    archived: bool
    """Whether lists leave it out."""
    labels: list[str]
    extends: str | None
    """The study that it extends, its parent; `GET /studies?extends=ID` lists the studies that extend one."""
    mlflow_url: str | None
    """Its run in MLflow."""
    last_event: int
    """Number of its latest event, for following it from now on."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def links(self) -> Links:
        """Where to read more."""
        parts = {name: f"/studies/{self.id}/{name}" for name in ("trials", "stages", "best", "events")}
        return Links.model_validate({"self": f"/studies/{self.id}", **parts})

    @property
    def over(self) -> bool:
        """Whether it has ended: succeeded, failed, cancelled, or spent."""
        return self.state in ENDED


class Study(StudySummary):
    """A study."""

    cost: dict[str, Any] | None
    """Epochs and seconds (lncis.studies.report.cost); null before its journal has any."""
    spec: dict[str, Any]


class Removed(Document):
    """A study that was deleted, and what is left of it."""

    id: str
    bytes_freed: int
    """On the disk of LNCIS_RUNS; files that others have links to are not among them."""
    stages: int
    stages_of_others: int
    """How many of them other studies use too: nothing of theirs was deleted."""
    left: list[str]
    """What was not deleted, and what becomes of it."""


class Labels(Document):
    """Words by which people find a study again."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"labels": ["paper", "table 6"]}]})

    labels: list[Label] = Field(max_length=20)


class StudyPage(Document):
    """Some studies, newest first."""

    studies: list[StudySummary]
    next_cursor: str | None
    """For ?cursor=; null on the last page."""


class Trial(Document):
    """One training with fixed hyperparameters and seeds."""

    name: str
    configuration: int
    label: str
    overrides: dict[str, Any]
    baseline: str | None
    seed: int
    noise_seed: int | None
    fold: int | None
    """Which part of the training images it left out; null: the study has no folds."""
    state: Literal["running", "unfinished", "finished", "pruned", "failed"]
    """unfinished: it has not ended, and does not run, as its study does not."""
    reason: str
    started_at: Time
    ended_at: Time | None
    epoch: int
    """Finished epochs."""
    epochs: int
    """Requested epochs."""
    objective: float | None
    """At its last evaluation."""
    metrics: dict[str, float | None]
    stages: list[str]
    """Keys, in order."""


class TrialPage(Document):
    """Some trials, in the order in which they were started."""

    trials: list[Trial]
    next_cursor: str | None


class Stage(Document):
    """A stretch of training that several trials may share."""

    key: str
    after: str | None
    """Key of the stage that it forks from."""
    first_epoch: int
    last_epoch: int
    epoch: int
    """Finished epochs, counted from the beginning of the training."""
    reused: bool
    """Whether an earlier study trained it."""
    users_total: int
    users: list[str]
    """Names of the first 100 trials that use it."""


class StagePage(Document):
    """Some stages; each one comes after the stage that it forks from."""

    stages: list[Stage]
    next_cursor: str | None


class Configuration(Document):
    """One of the best configurations of a study."""

    rank: int
    status: Status
    """Whether it finished with every seed; the others come after those, by their last evaluation."""
    configuration: int
    label: str
    overrides: dict[str, Any]
    objective: OverSeeds
    metrics: dict[str, OverSeeds]
    seeds_finished: int
    seeds_total: int
    epoch: int
    epochs: int
    trials: list[str]
    config: dict[str, Any]
    """A TrainConfig, whole."""


class BestConfigurations(Document):
    """The best configurations of a study."""

    study: str
    state: State
    objective: dict[str, Any]
    configurations: list[Configuration]


class Event(Document):
    """Something that happened to a study: one server-sent event."""

    number: int
    """Its id; the next one to come is `number + 1`."""
    type: str
    """state, trial_started, epoch_finished, trial_ended or trial_retried; the last one is `end`."""
    data: dict[str, Any]
