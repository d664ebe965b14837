"""How long the studies of each owner held workers, by day: what a quota counts, also after a study was deleted."""

import time

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.settings import Settings
from service.store import tables

DAY_SECONDS = 24 * 3600
_MINE = tables.worker_hours.c


def add_worker_hours(connection: Connection, owner: str, hours: float) -> None:
    """Count hours of an owner's studies for today."""
    day = int(time.time() // DAY_SECONDS)
    today = (_MINE.owner == owner) & (_MINE.day == day)
    counted = tables.worker_hours.update().where(today).values(hours=_MINE.hours + hours)
    if connection.execute(counted).rowcount == 0:
        connection.execute(tables.worker_hours.insert(), {"owner": owner, "day": day, "hours": hours})


def owners_over_quota(connection: Connection, settings: Settings) -> dict[str, str]:
    """Return the owners who have used up their worker-hours, each with why their studies wait; none without a quota."""
    most, days = settings.max_worker_hours_per_user, settings.worker_hours_days
    if most is None:
        return {}
    used = sa.func.sum(_MINE.hours)
    since = int(time.time() // DAY_SECONDS) - days + 1
    query = sa.select(_MINE.owner, used).where(_MINE.day >= since).group_by(_MINE.owner).having(used >= most)
    window = "today" if days == 1 else f"in the last {days} days"
    return {
        owner: f"{owner} has used {hours:.1f} worker-hours {window}, the limit per user is {most:g}; it goes on when "
        "earlier hours no longer count, or the operator raises LNCIS_MAX_WORKER_HOURS_PER_USER"
        for owner, hours in connection.execute(query)
    }
