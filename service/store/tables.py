"""The database's tables. Times are seconds since 1970 in UTC; migrations/ holds how a database got here."""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
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
)

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


_Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only an INTEGER PRIMARY KEY

studies = Table(
    "studies",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=True),  # the order in which they came
    Column("id", String(128), nullable=False, unique=True),
    Column("name", String(64), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("state_since", Float, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("priority", Integer, nullable=False),
    Column("max_concurrent_trials", NumberOrAuto, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("revision", Integer, nullable=False),  # counts what a reader can see change; the ETag
    Column("events", Integer, nullable=False),  # how many rows of `events` it has
    # what the dispatcher knows
    Column("job", String(16), nullable=False),  # none, submitting, submitted
    Column("wanted", String(8), nullable=False),  # run, pause, cancel
    Column("attempt", Integer, nullable=False),  # counts its jobs
    Column("setbacks", Integer, nullable=False),  # jobs in a row that died without finishing an epoch
    Column("retry_at", Float, nullable=False),
    Column("epochs_at_start", Integer, nullable=False),  # epochs_done when the latest job began
    # what its journal says
    Column("journal_events", Integer, nullable=False),  # how many of the journal's events are in here
    Column("trials_total", Integer, nullable=False),
    Column("trials_started", Integer, nullable=False),
    Column("trials_finished", Integer, nullable=False),
    Column("trials_pruned", Integer, nullable=False),
    Column("trials_failed", Integer, nullable=False),
    Column("epochs_total", Integer, nullable=False),
    Column("epochs_done", Integer, nullable=False),
    Column("cost", JSON(none_as_null=True)),
    Column("best", JSON(none_as_null=True)),
    Column("mlflow_url", Text),
    Index("studies_queue", "state", "priority", "number"),
    Index("studies_job", "job"),
    sqlite_autoincrement=True,
)

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
    Column("state", String(16), nullable=False),  # running, finished, pruned, failed
    Column("reason", Text, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("stages", JSON, nullable=False),  # keys, in order
    Column("epochs", Integer, nullable=False),  # asked for
    Column("epoch", Integer, nullable=False),  # finished
    Column("metrics", JSON, nullable=False),  # of the last epoch, and of the last evaluation before it
    Column("objective", Float),  # of the last evaluation
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
