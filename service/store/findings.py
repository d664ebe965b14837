"""What studies found, from the database: trials, stages, events, page by page."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from lncis import api
from lncis.api import State
from lncis.errors import LncisError
from service.store import tables
from service.store.tables import Study
from service.times import iso

SHOWN_USERS = 100


def trials_of(study: Study) -> sa.Select[Any]:
    """Return the query of a study's trials, each with the state that is true now.

    A journal says what began and what ended: what has not ended runs only while the study does.
    """
    columns = tables.trials.c
    state = sa.case((columns.state == "running", sa.literal(study.unended)), else_=columns.state).label("state")
    others = [column for column in columns if column.name != "state"]
    return sa.select(*others, state).where(columns.study == study.number)


def list_trials(connection: Connection, study: Study, *, after: int, limit: int) -> list[tuple[int, api.Trial]]:
    """Return up to `limit` trials, each with its number, those after a number."""
    number = tables.trials.c.number
    rows = connection.execute(trials_of(study).where(number > after).order_by(number).limit(limit))
    return [(row.number, api.Trial.model_validate(row)) for row in rows]


class UnknownTrial(LncisError):
    """A study has no trial of that name."""


def load_trial(connection: Connection, study: Study, name: str) -> api.Trial:
    """Return a trial by its name; UnknownTrial where it has not begun, or there is none of that name."""
    row = connection.execute(trials_of(study).where(tables.trials.c.name == name)).first()
    if row is None:
        raise UnknownTrial(f"study {study.id} has no trial {name!r}; GET /studies/{study.id}/trials lists them")
    return api.Trial.model_validate(row)


class NotRunning(LncisError):
    """A trial does not run, so it cannot be stopped."""


def stop_trial(connection: Connection, study: Study, name: str, user: str) -> None:
    """Note that a user wants a trial to end; UnknownTrial, NotRunning. Asking again changes nothing."""
    trial = load_trial(connection, study, name)
    if trial.state != "running":
        state = f"unfinished, as its study is {study.state}" if trial.state == "unfinished" else trial.state
        raise NotRunning(f"trial {name} of study {study.id} is {state}; only one that runs can be stopped")
    columns = tables.trials.c
    mine = (columns.study == study.number) & (columns.name == name) & columns.stopped_by.is_(None)
    connection.execute(tables.trials.update().where(mine).values(stopped_by=user))


def trials_to_stop(connection: Connection, study: Study) -> dict[str, str]:
    """Return the trials that are to end and still run, each with the user who asked for it."""
    columns = tables.trials.c
    query = sa.select(columns.name, columns.stopped_by).where(
        columns.study == study.number, columns.state == "running", columns.stopped_by.is_not(None)
    )
    return {row.name: row.stopped_by for row in connection.execute(query)}


def stage_of_epoch(connection: Connection, study: Study, keys: Sequence[str], epoch: int) -> list[str]:
    """Return the key of the one of some stages that has an epoch; none before the first one."""
    columns = tables.stages.c
    query = sa.select(columns.key).where(
        columns.study == study.number,
        columns.key.in_(keys),
        columns.first_epoch <= epoch,
        columns.last_epoch >= epoch,
    )
    return list(connection.execute(query).scalars())


def list_stages(connection: Connection, study: Study, *, after: int, limit: int) -> list[tuple[int, api.Stage]]:
    """Return up to `limit` stages, each with its number, those after a number; parents come before children."""
    found = []
    for row in connection.execute(_page(tables.stages, study, after, limit)).all():
        uses = tables.stage_uses.c
        used = sa.and_(uses.study == study.number, uses.stage == row.number)
        number = connection.execute(sa.select(sa.func.count()).select_from(tables.stage_uses).where(used)).scalar_one()
        users = connection.execute(
            sa.select(tables.trials.c.name)
            .join(
                tables.stage_uses,
                sa.and_(uses.study == tables.trials.c.study, uses.trial == tables.trials.c.number),
            )
            .where(used)
            .order_by(uses.trial)
            .limit(SHOWN_USERS)
        ).scalars()
        document = {**row._mapping, "users_total": number, "users": list(users)}
        found.append((row.number, api.Stage.model_validate(document)))
    return found


def list_events(connection: Connection, study: Study, *, after: int, limit: int) -> list[api.Event]:
    """Return up to `limit` events after a number, each with its time in its data."""
    rows = connection.execute(_page(tables.events, study, after, limit))
    return [api.Event(number=row.number, type=row.type, data={"at": iso(row.at), **row.data}) for row in rows]


PACE_EVENTS = 400
"""The latest events of a study, by which its pace is told."""


def seconds_an_epoch(connection: Connection, study: Study) -> float | None:
    """Return the time from one epoch to the next, all trials together, since a study last began to run.

    By the times of its journal: those of the database's states begin anew when Ray was away for a while, and include
    the start of its workers. None before its second epoch.
    """
    events = tables.events.c
    latest = (
        sa.select(events.type, events.at, events.data)
        .where(events.study == study.number)
        .order_by(events.number.desc())
        .limit(PACE_EVENTS)
    )
    times = []
    for event in connection.execute(latest):
        if event.type == "state" and event.data["state"] != State.RUNNING:
            break  # it was paused or in the queue
        if event.type == "epoch_finished":
            times.append(event.at)
    return (times[0] - times[-1]) / (len(times) - 1) if len(times) > 1 and times[0] > times[-1] else None


def _page(table: sa.Table, study: Study, after: int, limit: int) -> sa.Select[Any]:
    return (
        sa.select(table)
        .where(table.c.study == study.number, table.c.number > after)
        .order_by(table.c.number)
        .limit(limit)
    )
