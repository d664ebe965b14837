"""The database's tables. Times are seconds since 1970 in UTC; migrations/ holds how a database got here."""

from enum import StrEnum
from typing import Any, ClassVar, Literal

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Enum,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    inspect,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

from lncis.api import Action, State
from service.store.states import Job, Wanted, legal, unended

metadata = MetaData()


class NumberOrAuto(TypeDecorator[Any]):
    """A number from 1, or `auto`, which the database keeps as 0."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        """Return what the database keeps."""
        return 0 if value == "auto" else value

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        """Return what it means."""
        return "auto" if value == 0 else value


class Words(TypeDecorator[Any]):
    """A list of words without newlines, which the database keeps as lines: `LIKE` finds one by its ends."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        """Return what the database keeps."""
        return "".join(f"\n{word}" for word in value) + "\n" if value else ""

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        """Return what it means."""
        return [word for word in value.split("\n") if word]


def _words(kind: type[StrEnum], length: int) -> Enum:
    """Return the type of a column that keeps a member of an enum as text."""
    return Enum(kind, native_enum=False, length=length, values_callable=lambda members: [str(m) for m in members])


_Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only an INTEGER PRIMARY KEY
_NullableJSON = JSON(none_as_null=True)


class Base(MappedAsDataclass, DeclarativeBase):
    """Rows with typed columns; they are read and written as tables (SQLAlchemy Core), without a session."""

    metadata = metadata
    type_annotation_map: ClassVar[dict[Any, Any]] = {float: Float(), str: Text()}


class Study(Base, kw_only=True):
    """A row of `studies`: the columns, their types and the values that a new study begins with."""

    __tablename__ = "studies"
    __table_args__ = (
        Index("studies_queue", "state", "priority", "number"),
        Index("studies_job", "job"),
        Index("studies_notice", "notice_due"),
        Index("studies_extends", "extends"),
        {"sqlite_autoincrement": True},
    )

    number: Mapped[int] = mapped_column(_Number, primary_key=True, autoincrement=True)
    """The order in which studies were submitted."""
    id: Mapped[str] = mapped_column(String(128), unique=True)
    name: Mapped[str] = mapped_column(String(64))
    owner: Mapped[str] = mapped_column(String(64))
    state: Mapped[State] = mapped_column(_words(State, 16), insert_default=State.QUEUED)
    reason: Mapped[str] = mapped_column(insert_default="")
    state_since: Mapped[float]
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    priority: Mapped[int]
    max_concurrent_trials: Mapped[int | Literal["auto"]] = mapped_column(NumberOrAuto)
    spec: Mapped[dict[str, Any]] = mapped_column(JSON, default_factory=dict, compare=False, repr=False)
    """Long, and seldom needed: empty unless it was read too (`store.studies.with_spec`)."""
    archived: Mapped[bool] = mapped_column(insert_default=False, server_default=false())
    """Whether lists leave it out."""
    labels: Mapped[list[str]] = mapped_column(Words, default_factory=list, server_default="")
    extends: Mapped[str | None] = mapped_column(String(128))
    """The id of the study that its spec extends; that one may have been deleted since."""
    revision: Mapped[int] = mapped_column(insert_default=1)
    """Counts the changes that a reader can see."""
    events: Mapped[int] = mapped_column(insert_default=0)
    """How many rows of `events` it has."""

    # what the dispatcher knows
    job: Mapped[Job] = mapped_column(_words(Job, 16), insert_default=Job.NONE)
    wanted: Mapped[Wanted] = mapped_column(_words(Wanted, 8), insert_default=Wanted.RUN)
    attempt: Mapped[int] = mapped_column(insert_default=0)
    """Counts its jobs."""
    setbacks: Mapped[int] = mapped_column(insert_default=0)
    """Jobs in a row that died without finishing an epoch."""
    lost_jobs: Mapped[int] = mapped_column(insert_default=0, server_default="0")
    """Jobs in a row that Ray lost before they finished an epoch."""
    retry_at: Mapped[float] = mapped_column(insert_default=0.0)
    notice_due: Mapped[float | None]
    """When its end is to be sent to whom the service notifies; null: it has not ended, or that was sent."""
    notice_attempts: Mapped[int] = mapped_column(insert_default=0, server_default="0")
    waiting_noticed: Mapped[float | None]
    """Since when it waited as that was sent."""
    epochs_at_start: Mapped[int] = mapped_column(insert_default=0)
    """`epochs_done` when its latest job began."""

    # what its journal says
    journal_events: Mapped[int] = mapped_column(insert_default=0)
    """How many of the journal's events are copied."""
    trials_total: Mapped[int]
    trials_started: Mapped[int] = mapped_column(insert_default=0)
    trials_finished: Mapped[int] = mapped_column(insert_default=0)
    trials_pruned: Mapped[int] = mapped_column(insert_default=0)
    trials_failed: Mapped[int] = mapped_column(insert_default=0)
    epochs_total: Mapped[int]
    epochs_done: Mapped[int] = mapped_column(insert_default=0)
    cost: Mapped[dict[str, Any] | None] = mapped_column(_NullableJSON)
    best: Mapped[dict[str, Any] | None] = mapped_column(_NullableJSON)
    mlflow_run: Mapped[dict[str, str] | None] = mapped_column(_NullableJSON)
    """The ids of its run and of the experiment; where MLflow is the settings say, when a link is shown."""

    mlflow_url: ClassVar[None] = None
    """Made of `mlflow_run` for who reads it (service.api.links)."""

    def __post_init__(self) -> None:
        """Say of the best configuration what is true now: its column was written while the study ran."""
        if self.best and self.best["status"] != "finished":
            self.best = {**self.best, "status": self.unended}

    @property
    def etag(self) -> str:
        """Its entity tag, which differs after each change that a reader can see."""
        return f'"{self.revision}"'

    @property
    def unended(self) -> Literal["running", "unfinished"]:
        """What its trials and configurations are that have begun and not ended."""
        return unended(self.state)

    @property
    def legal(self) -> list[Action]:
        """What may be asked of it now."""
        return legal(self.state, self.wanted)

    @property
    def progress(self) -> "Study":
        """Its columns of that kind, where lncis.api.StudySummary looks for them."""
        return self

    @property
    def last_event(self) -> int:
        """The number of its latest event."""
        return self.events


studies: Table = inspect(Study).local_table  # type: ignore[assignment]

trials = Table(
    "trials",
    metadata,
    Column("study", ForeignKey("studies.number"), primary_key=True),
    Column("number", Integer, primary_key=True),  # the order in which they were started, from 1
    Column("name", String(64), nullable=False),
    Column("configuration", Integer, nullable=False),
    Column("label", Text, nullable=False),
    Column("overrides", JSON, nullable=False),
    Column("baseline", Text),
    Column("seed", BigInteger, nullable=False),
    Column("noise_seed", BigInteger),
    Column("fold", Integer),
    Column("state", String(16), nullable=False),  # running: not ended (findings.trials_of); finished, pruned, failed
    Column("reason", Text, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("stages", JSON, nullable=False),  # keys, in order
    Column("epochs", Integer, nullable=False),  # asked for
    Column("epoch", Integer, nullable=False),  # finished
    Column("metrics", JSON, nullable=False),  # of the last epoch, and of the last evaluation before it
    Column("objective", Float),  # of the last evaluation
    Column("stopped_by", String(64)),  # the user who asked for it to end; it ends when its driver has read that
    UniqueConstraint("study", "name"),
)

stages = Table(
    "stages",
    metadata,
    Column("study", ForeignKey("studies.number"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("key", String(128), nullable=False),
    Column("after", String(128)),  # the key of the stage that it forks from
    Column("first_epoch", Integer, nullable=False),
    Column("last_epoch", Integer, nullable=False),
    Column("reused", Boolean, nullable=False),  # found finished, from an earlier study
    Column("epoch", Integer, nullable=False),  # finished
    UniqueConstraint("study", "key"),
)

stage_uses = Table(
    "stage_uses",
    metadata,
    Column("study", ForeignKey("studies.number"), primary_key=True),
    Column("stage", Integer, primary_key=True),
    Column("trial", Integer, primary_key=True),
)

events = Table(
    "events",
    metadata,
    Column("study", ForeignKey("studies.number"), primary_key=True),
    Column("number", Integer, primary_key=True),  # from 1, without gaps: the id of a server-sent event
    Column("at", Float, nullable=False),
    Column("type", String(16), nullable=False),  # state, trial_started, epoch_finished, trial_ended, trial_retried
    Column("trial", Integer),
    Column("data", JSON, nullable=False),
    Index("events_of_trial", "study", "trial"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("key", String(200), primary_key=True),
    Column("study", ForeignKey("studies.number"), nullable=False),
    Column("request", JSON, nullable=False),
)

worker_hours = Table(
    "worker_hours",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("day", Integer, primary_key=True),  # since 1970, in UTC
    Column("hours", Float, nullable=False),  # for which studies of the owner held workers, deleted ones too
)

ended_passes = Table(
    "ended_passes",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("until", Float, nullable=False),  # when it would have ended by itself: then the row is not needed
)

dispatcher = Table(
    "dispatcher",
    metadata,
    Column("id", Integer, primary_key=True),  # one row: 1
    Column("holder", Text, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("ray_ok", Boolean, nullable=False),
    Column("ray_detail", Text, nullable=False),
    Column("ray_since", Float, nullable=False),
)
