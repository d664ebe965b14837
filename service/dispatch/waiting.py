"""The queue as users see it: which study is next, and why each one is not running."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from lncis.api import Dependency, Queue, QueueEntry, State
from service.settings import Settings
from service.store import tables
from service.store.states import Job, Wanted
from service.store.tables import Study
from service.times import iso

DISPATCHER_TIMEOUT_SECONDS = 15.0
"""A dispatcher without a heartbeat for so long is gone, or stuck."""
FIRST_EPOCH_SECONDS = 60.0
"""A study that runs so long without a finished epoch says what it may wait for."""


@dataclass(frozen=True, kw_only=True)
class DispatcherStatus:
    """The latest heartbeat of the dispatcher, in this service or in another one on the same database."""

    holder: str
    """Host and process."""
    seen_at: float
    ray_ok: bool
    ray_detail: str
    ray_since: float
    silent: bool = False
    """Whether it is gone or stuck, as far as a HeartbeatWatch knows; not stored."""


NEVER_SEEN = DispatcherStatus(
    holder="", seen_at=0.0, ray_ok=False, ray_detail="has not been asked yet", ray_since=0.0, silent=True
)


def load_status(connection: Connection) -> DispatcherStatus:
    """Return the dispatcher's latest heartbeat."""
    row = connection.execute(sa.select(tables.dispatcher)).first()
    if row is None:
        return NEVER_SEEN
    return DispatcherStatus(**{name: value for name, value in row._mapping.items() if name != "id"})


def save_status(connection: Connection, status: DispatcherStatus) -> None:
    """Write the dispatcher's heartbeat."""
    values = {name: value for name, value in status.__dict__.items() if name != "silent"}
    if connection.execute(tables.dispatcher.update().values(**values)).rowcount == 0:
        connection.execute(tables.dispatcher.insert().values(id=1, **values))


class HeartbeatWatch:
    """Says whether the dispatcher is silent, by the clock of this process: that of the dispatcher's machine may differ.

    A heartbeat counts from the moment at which it was first seen here.
    """

    def __init__(self) -> None:
        self._seen_at: float | None = None
        self._changed = time.monotonic()

    def load(self, connection: Connection) -> DispatcherStatus:
        """Return the dispatcher's latest heartbeat, and whether it is silent."""
        status = load_status(connection)
        if status.seen_at != self._seen_at:
            self._seen_at, self._changed = status.seen_at, time.monotonic()
        never = not status.holder
        return replace(status, silent=never or time.monotonic() - self._changed >= DISPATCHER_TIMEOUT_SECONDS)


def describe_queue(
    studies: Sequence[Study],
    running: Sequence[Study],
    status: DispatcherStatus,
    settings: Settings,
    over_quota: Mapping[str, str],
) -> Queue:
    """Return the queue: `studies` are not over, in their order; `running` are those with a job.

    `over_quota` says of some owners why their studies wait.
    """
    by_owner = Counter(study.owner for study in running)
    entries, position = [], 0
    for study in studies:
        waits = study.state is State.QUEUED and study.job is Job.NONE
        position += waits
        entries.append(
            QueueEntry(
                position=position if waits else None,
                id=study.id,
                name=study.name,
                owner=study.owner,
                state=study.state,
                priority=study.priority,
                waiting_since=_time(study.state_since),
                why=why_not_running(
                    study,
                    status,
                    settings,
                    len(running),
                    by_owner[study.owner],
                    position,
                    over_quota.get(study.owner, ""),
                ),
            )
        )
    return Queue(
        ray=ray_dependency(status),
        max_running=settings.max_running,
        max_running_per_user=settings.max_running_per_user,
        running=len(running),
        studies=entries,
    )


def ray_dependency(status: DispatcherStatus) -> Dependency:
    """Return whether Ray answers the dispatcher."""
    detail = _silent(status) if status.silent else status.ray_detail
    return Dependency(ok=status.ray_ok and not status.silent, detail=detail, since=_time(status.ray_since))


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def why_not_running(
    study: Study,
    seen: DispatcherStatus,
    settings: Settings,
    running: int,
    of_owner: int,
    position: int,
    over_quota: str = "",
) -> str:
    """Return why a study is not running, or has not yet done what was asked; empty if it runs normally."""
    now = time.time()
    if study.state is State.RUNNING or study.wanted is Wanted.CANCEL:
        begins = study.state is State.RUNNING and study.epochs_done == study.epochs_at_start
        if begins and not study.reason and now - study.state_since > FIRST_EPOCH_SECONDS:
            return "no epoch is finished yet: its workers train the first one, or wait for room in the cluster"
        return study.reason
    if study.state is State.PAUSED:
        return "paused until a user resumes it"
    if seen.silent:
        return _silent(seen)
    if not seen.ray_ok:
        return f"Ray is away: {seen.ray_detail} (since {iso(seen.ray_since)}); it starts when Ray answers"
    if study.job is not Job.NONE:
        return study.reason or "is being submitted to Ray"
    if over_quota:
        return over_quota
    if study.retry_at > now:
        return f"{study.reason}; tried again at {iso(study.retry_at)}"
    ahead = f", {position - 1} waiting before it" if position > 1 else ""
    if of_owner >= settings.max_running_per_user:
        limit = settings.max_running_per_user
        return f"{of_owner} studies of {study.owner} have a job already, the limit per user is {limit}"
    if running >= settings.max_running:
        return f"{running} studies have a job already, the limit is {settings.max_running}{ahead}"
    return f"starts as soon as it is its turn{ahead}"


def _silent(seen: DispatcherStatus) -> str:
    if not seen.holder:
        return "no service has started to dispatch studies yet"
    since = iso(seen.seen_at)
    return f"the service that dispatches studies ({seen.holder}) was last seen at {since}; is it stuck or gone?"
