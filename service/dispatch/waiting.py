"""The queue as people see it: who is next, and why each study is not running."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.settings import Settings
from service.store import tables
from service.store.states import Job, State, Wanted
from service.store.studies import Study
from service.times import iso

SILENT_SECONDS = 15.0
"""A dispatcher that has not been seen for so long is gone, or stuck."""
PATIENCE_SECONDS = 60.0
"""Of a study that runs so long without an epoch, people ask why."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What the dispatcher, in this service or in another one on the same database, said last."""

    holder: str
    """Which service it is."""
    seen_at: float
    ray_ok: bool
    ray_detail: str
    ray_since: float


NOBODY = Outlook(holder="", seen_at=0.0, ray_ok=False, ray_detail="has not been asked yet", ray_since=0.0)


def outlook(connection: Connection) -> Outlook:
    """Return what the dispatcher said last."""
    row = connection.execute(sa.select(tables.dispatcher)).first()
    if row is None:
        return NOBODY
    return Outlook(**{name: value for name, value in row._mapping.items() if name != "id"})


def note_outlook(connection: Connection, outlook: Outlook) -> None:
    """Say what the dispatcher sees."""
    values = outlook.__dict__
    if connection.execute(tables.dispatcher.update().values(**values)).rowcount == 0:
        connection.execute(tables.dispatcher.insert().values(id=1, **values))


def queue(studies: Sequence[Study], running: Sequence[Study], seen: Outlook, settings: Settings) -> dict[str, Any]:
    """Return the queue: `studies` that are not over, in their order; `running` are those that hold a place."""
    by_owner = Counter(study.owner for study in running)
    entries, position = [], 0
    for study in studies:
        waits = study.state is State.QUEUED and study.job is Job.NONE
        position += waits
        entries.append(
            {
                "position": position if waits else None,
                "id": study.id,
                "name": study.name,
                "owner": study.owner,
                "state": study.state,
                "priority": study.priority,
                "waiting_since": iso(study.state_since),
                "why": why(study, seen, settings, len(running), by_owner[study.owner], position),
            }
        )
    alive = time.time() - seen.seen_at < SILENT_SECONDS
    return {
        "ray": {
            "ok": seen.ray_ok and alive,
            "detail": seen.ray_detail if alive else _silent(seen),
            "since": iso(seen.ray_since),
        },
        "max_running": settings.max_running,
        "max_running_per_user": settings.max_running_per_user,
        "running": len(running),
        "studies": entries,
    }


def why(study: Study, seen: Outlook, settings: Settings, running: int, of_owner: int, position: int) -> str:
    """Return why a study is not running, or not yet doing what was asked; empty where it runs as it should."""
    now = time.time()
    if study.state is State.RUNNING or study.wanted is Wanted.CANCEL:
        begins = study.state is State.RUNNING and study.epochs_done == study.epochs_at_start
        if begins and not study.reason and now - study.state_since > PATIENCE_SECONDS:
            return "no epoch is finished yet: its workers train the first one, or wait for room in the cluster"
        return study.reason
    if study.state is State.PAUSED:
        return "paused until someone resumes it"
    if now - seen.seen_at >= SILENT_SECONDS:
        return _silent(seen)
    if not seen.ray_ok:
        return f"Ray is away: {seen.ray_detail} (since {iso(seen.ray_since)}); it starts when Ray is back"
    if study.job is not Job.NONE:
        return study.reason or "is being submitted to Ray"
    if study.retry_at > now:
        return f"{study.reason}; tried again at {iso(study.retry_at)}"
    ahead = f", {position - 1} waiting before it" if position > 1 else ""
    if of_owner >= settings.max_running_per_user:
        limit = settings.max_running_per_user
        return f"{of_owner} studies of {study.owner} hold a place already, the limit per user is {limit}"
    if running >= settings.max_running:
        return f"{running} studies hold a place already, the limit is {settings.max_running}{ahead}"
    return f"starts as soon as it is its turn{ahead}"


def _silent(seen: Outlook) -> str:
    if not seen.holder:
        return "no service has begun to start studies yet"
    return f"the service that starts studies ({seen.holder}) was last seen at {iso(seen.seen_at)}; is it stuck or gone?"
