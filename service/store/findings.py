"""What running studies found, from the database: trials, stages, events, page by page."""

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.store import tables
from service.store.studies import Study
from service.times import iso, time_of

SHOWN_USERS = 100


def trials(connection: Connection, study: Study, *, after: int, limit: int) -> list[tuple[int, dict[str, Any]]]:
    """Return up to `limit` trials, each with its number, those after a number."""
    columns = tables.trials.c
    rows = connection.execute(
        sa.select(tables.trials)
        .where(columns.study == study.number, columns.number > after)
        .order_by(columns.number)
        .limit(limit)
    )
    return [
        (
            row.number,
            {
                "name": row.name,
                "configuration": row.configuration,
                "label": row.label,
                "overrides": row.overrides,
                "baseline": row.baseline,
                "seed": row.seed,
                "noise_seed": row.noise_seed,
                "state": row.state,
                "reason": row.reason,
                "started_at": iso(row.started_at),
                "ended_at": time_of(row.ended_at),
                "epoch": row.epoch,
                "epochs": row.epochs,
                "objective": row.objective,
                "metrics": row.metrics,
                "stages": row.stages,
            },
        )
        for row in rows
    ]


def stages(connection: Connection, study: Study, *, after: int, limit: int) -> list[tuple[int, dict[str, Any]]]:
    """Return up to `limit` stages, each with its number, those after a number; parents stand before children."""
    columns, uses = tables.stages.c, tables.stage_uses.c
    rows = connection.execute(
        sa.select(tables.stages)
        .where(columns.study == study.number, columns.number > after)
        .order_by(columns.number)
        .limit(limit)
    ).all()
    found = []
    for row in rows:
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
        document = {
            "key": row.key,
            "after": row.after,
            "first_epoch": row.first_epoch,
            "last_epoch": row.last_epoch,
            "epoch": row.epoch,
            "reused": row.reused,
            "users_total": number,
            "users": list(users),
        }
        found.append((row.number, document))
    return found


def events(connection: Connection, study: Study, *, after: int, limit: int) -> list[tuple[int, str, dict[str, Any]]]:
    """Return up to `limit` events after a number: number, type, data with its time."""
    columns = tables.events.c
    rows = connection.execute(
        sa.select(columns.number, columns.type, columns.at, columns.data)
        .where(columns.study == study.number, columns.number > after)
        .order_by(columns.number)
        .limit(limit)
    )
    return [(row.number, row.type, {"at": iso(row.at), **row.data}) for row in rows]


def compact(document: Any) -> str:
    """Return JSON without spaces."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False)
