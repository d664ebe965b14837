"""The wire schema of the service as a whole: queue, readiness, presets, plans, changes, problems."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from lncis.api.document import WHOLE, Document, Time
from lncis.api.study import Action, State
from lncis.studies.spec import NUMBER_OR_AUTO


class QueueEntry(Document):
    """A study that is not over."""

    position: int | None
    """From 1, among those that wait for their turn; null for the others."""
    id: str
    name: str
    owner: str
    state: State
    priority: int
    waiting_since: Time
    why: str
    """Why it is not running; empty if it is."""


class Dependency(Document):
    """Something that the service needs: its database, Ray or MLflow."""

    ok: bool
    detail: str
    since: Time | None = None
    """When `ok` last changed."""


class Queue(Document):
    """The studies that are not over, in the order in which they get their turn."""

    ray: Dependency
    max_running: int
    max_running_per_user: int
    running: int
    studies: list[QueueEntry]


class Readiness(Document):
    """Which dependencies answer: without the database nothing works, without Ray studies wait."""

    ready: bool
    database: Dependency
    ray: Dependency
    mlflow: Dependency


class Preset(Document):
    """A shipped study."""

    name: str
    question: str
    spec: dict[str, Any]


class Presets(Document):
    """The shipped studies."""

    presets: list[Preset]


class PlannedTrial(Document):
    """A trial that a study would run."""

    name: str
    label: str
    seed: int
    noise_seed: int | None
    fold: int | None
    stages: list[str]


class PlannedStage(Document):
    """A stage that a study would train."""

    key: str
    after: str | None
    first_epoch: int
    last_epoch: int
    users: list[str]


class Plan(Document):
    """What a study would do: the answer to a dry run. It lists the first 1,000 trials and stages."""

    exact: bool
    """False if the sampler decides during the study: then these trials are draws from its space."""
    trials_total: int
    epochs_to_train: int
    epochs_without_sharing: int
    trials: list[PlannedTrial]
    stages: list[PlannedStage]
    spec: dict[str, Any]
    estimate: dict[str, Any]
    """Wall time in seconds and checkpoint bytes; null where unknown."""


class ExtensionPlan(Plan):
    """What an extension of a finished study would do; `epochs_to_train` are those that its parent has not trained."""

    parent: str
    differences: list["Difference"]
    """Each field that differs from the parent's."""
    epochs_taken_over: int
    """Epochs that the parent has trained."""
    notes: list[str]
    """Where trials of more epochs go on."""


class BudgetChange(Document):
    """Limits of a study over all its sessions; those not given stay as they are, and null takes one away."""

    model_config = ConfigDict(extra="forbid")

    epochs: int | None = Field(default=None, ge=1, strict=True)
    worker_hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    money: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @property
    def given(self) -> dict[str, float | None]:
        """The limits that are to change."""
        return {name: getattr(self, name) for name in sorted(self.model_fields_set)}


class Adjustment(Document):
    """What may be changed of a study that is not over; of one that has spent its budget, that alone."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"priority": 10}]})

    priority: Annotated[int, Field(ge=-1000, le=1000, strict=True), WHOLE] | None = None
    """Studies with a higher priority run first."""
    max_concurrent_trials: (
        Annotated[Annotated[int, Field(ge=1, le=10_000, strict=True), WHOLE] | Literal["auto"], NUMBER_OR_AUTO] | None
    ) = None
    """Takes effect at the next start of the study."""
    budget: BudgetChange | None = None
    """A study whose budget is spent goes back into the queue with a larger one; else it counts from its next start."""


class FieldError(Document):
    """One mistake in a request."""

    path: str
    """Dotted path of the field; empty if the mistake concerns several fields."""
    problem: str
    """What the field must be, and what it is."""


class Difference(Document):
    """A field in which two requests with the same Idempotency-Key differ; null where a request lacks it."""

    path: str
    earlier: Any
    now: Any


class ProblemDocument(Document):
    """RFC 9457: every answer from 400 up."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldError] = Field(default_factory=list)
    """Every mistake in the request."""
    differing: list[Difference] = Field(default_factory=list)
    """The fields in which a request differs from the earlier one with its Idempotency-Key."""
    legal: list[Action] | None = None
    """What may be asked of the study instead."""
