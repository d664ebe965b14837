"""What the API's documents look like: models for OpenAPI, and the functions that fill them from rows."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lncis.studies.spec import NUMBER_OR_AUTO
from service.store.states import Action, State, legal
from service.store.studies import Study
from service.times import iso, time_of


class Progress(BaseModel):
    """How far a study is, as its journal said last."""

    trials_total: int
    trials_started: int
    trials_finished: int
    trials_pruned: int
    trials_failed: int
    epochs_total: int = Field(description="That trials ask for; what they share is counted for each of them.")
    epochs_done: int
    fraction: float = Field(description="From 0 to 1; trials that were pruned or failed count as done.")


class Links(BaseModel):
    """Where more is to be had."""

    self: str
    trials: str
    stages: str
    best: str
    events: str


class StudySummary(BaseModel):
    """A study in a list."""

    model_config = ConfigDict(use_enum_values=True)

    id: str
    name: str
    owner: str
    state: State
    reason: str = Field(description="Why it is in that state, or not yet in the next; may be empty.")
    state_since: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    priority: int
    max_concurrent_trials: int | Literal["auto"]
    legal: list[Action] = Field(description="What may be asked of it now.")
    progress: Progress
    best: dict[str, Any] | None = Field(description="Label and objective of the best configuration so far.")
    mlflow_url: str | None
    last_event: int = Field(description="Number of its latest event, to follow it from now on.")
    links: Links


class StudyDocument(StudySummary):
    """A study."""

    cost: dict[str, Any] | None = Field(
        description="Epochs and seconds (lncis.studies.report.cost); null before its end."
    )
    spec: dict[str, Any]


class StudyPage(BaseModel):
    """Some studies, newest first."""

    studies: list[StudySummary]
    next_cursor: str | None = Field(description="For ?cursor=; null on the last page.")


class TrialDocument(BaseModel):
    """One training."""

    name: str
    configuration: int
    label: str
    overrides: dict[str, Any]
    baseline: str | None
    seed: int
    noise_seed: int | None
    state: Literal["running", "finished", "pruned", "failed"]
    reason: str
    started_at: str
    ended_at: str | None
    epoch: int
    epochs: int
    objective: float | None = Field(description="At its last evaluation.")
    metrics: dict[str, float | None]
    stages: list[str]


class TrialPage(BaseModel):
    """Some trials, in the order in which they were started."""

    trials: list[TrialDocument]
    next_cursor: str | None


class StageDocument(BaseModel):
    """A stretch of training that trials share."""

    key: str
    after: str | None = Field(description="Key of the stage that it forks from.")
    first_epoch: int
    last_epoch: int
    epoch: int = Field(description="Finished epochs, counted from the beginning of the training.")
    reused: bool = Field(description="Found finished, from an earlier study.")
    users_total: int
    users: list[str] = Field(description="Names of the first 100 trials that use it.")


class StagePage(BaseModel):
    """Some stages; each stands after the one that it forks from."""

    stages: list[StageDocument]
    next_cursor: str | None


class OverSeeds(BaseModel):
    """A mean over seeds."""

    mean: float | None
    ci95: float | None = Field(description="Half-width of the 95 % interval (Student's t); null with one seed.")
    seeds: int


class BestConfiguration(BaseModel):
    """One of the best."""

    rank: int
    status: Literal["finished", "running", "unfinished"] = Field(
        description="Whether it finished with every seed; the others come after those, by their last evaluation."
    )
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
    config: dict[str, Any] = Field(description="A TrainConfig, whole.")


class Best(BaseModel):
    """The best configurations of a study."""

    study: str
    state: State
    objective: dict[str, Any]
    configurations: list[BestConfiguration]


class QueueEntry(BaseModel):
    """A study that is not over."""

    position: int | None = Field(description="From 1, among those that wait for their turn; null for the others.")
    id: str
    name: str
    owner: str
    state: State
    priority: int
    waiting_since: str
    why: str = Field(description="Why it is not running; empty where it is.")


class Queue(BaseModel):
    """The studies that are not over, in the order in which they get their turn."""

    ray: dict[str, Any]
    max_running: int
    max_running_per_user: int
    running: int
    studies: list[QueueEntry]


class Preset(BaseModel):
    """A shipped study."""

    name: str
    question: str
    spec: dict[str, Any]


class Presets(BaseModel):
    """The shipped studies."""

    presets: list[Preset]


class Plan(BaseModel):
    """What a study would do."""

    exact: bool = Field(description="False where the sampler decides as it goes: then these are draws of its space.")
    trials_total: int
    epochs_to_train: int
    epochs_without_sharing: int
    trials: list[dict[str, Any]]
    stages: list[dict[str, Any]]
    spec: dict[str, Any]
    estimate: dict[str, Any] = Field(description="Wall time in seconds and checkpoint bytes; null where unknown.")


class Adjustment(BaseModel):
    """What may be changed of a study that is not over."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"priority": 10}]})

    priority: int | None = Field(default=None, ge=-1000, le=1000, description="Higher first.", strict=True)
    max_concurrent_trials: (
        Annotated[Annotated[int, Field(ge=1, le=10_000, strict=True)] | Literal["auto"], NUMBER_OR_AUTO] | None
    ) = Field(default=None, description="Counts from the next start of the study.")


def summary(study: Study) -> dict[str, Any]:
    """Return a study as a list shows it."""
    path = f"/studies/{study.id}"
    ended_early = study.trials_pruned + study.trials_failed
    done = study.epochs_done / study.epochs_total if study.epochs_total else 0.0
    over = (study.trials_finished + ended_early) / study.trials_total if study.trials_total else 0.0
    return {
        "id": study.id,
        "name": study.name,
        "owner": study.owner,
        "state": study.state,
        "reason": study.reason,
        "state_since": iso(study.state_since),
        "created_at": iso(study.created_at),
        "started_at": time_of(study.started_at),
        "finished_at": time_of(study.finished_at),
        "priority": study.priority,
        "max_concurrent_trials": study.max_concurrent_trials,
        "legal": legal(study.state, study.wanted),
        "progress": {
            "trials_total": study.trials_total,
            "trials_started": study.trials_started,
            "trials_finished": study.trials_finished,
            "trials_pruned": study.trials_pruned,
            "trials_failed": study.trials_failed,
            "epochs_total": study.epochs_total,
            "epochs_done": study.epochs_done,
            "fraction": round(min(1.0, max(done, over)), 4),
        },
        "best": study.best,
        "mlflow_url": study.mlflow_url,
        "last_event": study.events,
        "links": {
            "self": path,
            **{name: f"{path}/{name}" for name in ("trials", "stages", "best", "events")},
        },
    }


def document(study: Study, spec: dict[str, Any]) -> dict[str, Any]:
    """Return a study whole."""
    return {**summary(study), "cost": study.cost, "spec": spec}
