"""Which notices are due: of studies that ended, and of those that wait too long."""

import time
from collections.abc import Sequence

from sqlalchemy.engine import Connection

from lncis.api import State
from service.store import tables
from service.store.studies import studies_where
from service.store.tables import Study

_MINE = tables.studies.c


def due_ends(connection: Connection, limit: int) -> Sequence[Study]:
    """Return up to `limit` studies that ended, of which that is still to be said."""
    return studies_where(connection, _MINE.notice_due <= time.time(), order=_MINE.notice_due, limit=limit)


def due_waits(connection: Connection, seconds: float, limit: int) -> Sequence[Study]:
    """Return up to `limit` studies that have been in the queue for so long, each once for each time that it waits."""
    waits = (_MINE.state == State.QUEUED) & (_MINE.state_since <= time.time() - seconds)
    new = _MINE.waiting_noticed.is_(None) | (_MINE.waiting_noticed != _MINE.state_since)
    return studies_where(connection, waits & new, order=_MINE.number, limit=limit)


def note_end_sent(connection: Connection, study: Study) -> None:
    """Note that somebody knows of an end, or that it is given up."""
    _update(connection, study, notice_due=None)


def note_wait_sent(connection: Connection, study: Study) -> None:
    """Note that somebody knows that a study waits."""
    _update(connection, study, waiting_noticed=study.state_since)


def postpone_end(connection: Connection, study: Study, seconds: float) -> None:
    """Say it again later."""
    _update(connection, study, notice_due=time.time() + seconds, notice_attempts=study.notice_attempts + 1)


def forget_old_ends(connection: Connection, seconds: float) -> None:
    """Say nothing of what ended so long ago, as when nobody was to be notified."""
    old = _MINE.notice_due < time.time() - seconds
    connection.execute(tables.studies.update().where(old).values(notice_due=None))


def _update(connection: Connection, study: Study, **columns: object) -> None:
    """Change what no reader of a study sees."""
    connection.execute(tables.studies.update().where(_MINE.number == study.number).values(**columns))
