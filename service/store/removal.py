"""Deleting a study from the database, and what other studies have to do with it."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from lncis.api import ENDED
from service.store import tables
from service.store.states import Job
from service.store.studies import ACTIVE, NotOver, load_study
from service.store.tables import Study


@dataclass(frozen=True, kw_only=True)
class Stages:
    """How many stages a study has, and how many of them other studies of this database use too."""

    total: int
    shared: int


def check_removable(connection: Connection, study_id: str) -> tuple[Study, Stages]:
    """Return a study that may be deleted, and its stages; UnknownStudy, NotOver."""
    study = load_study(connection, study_id)
    if study.state not in ENDED or study.job is not Job.NONE:
        raise NotOver(study, "deleted")
    columns = tables.studies.c
    begins_with = columns.spec["sampler"]["warm_start"].as_string()
    waits = sa.select(columns.id).where(columns.state.in_(ACTIVE), columns.extends == study_id).limit(1)
    if child := connection.execute(waits).scalar():
        raise NotOver(study, "deleted", f"is extended by study {child}, which is not over; wait for that one")
    waiting = sa.select(columns.id).where(columns.state.in_(ACTIVE), begins_with == study_id).limit(1)
    if needed_by := connection.execute(waiting).scalar():
        raise NotOver(study, "deleted", f"is where study {needed_by} begins (sampler.warm_start); wait for that one")
    return study, _stages(connection, study)


def remove_study(connection: Connection, study_id: str) -> None:
    """Delete every row of a study; UnknownStudy, NotOver."""
    study, _ = check_removable(connection, study_id)
    for table in (tables.events, tables.stage_uses, tables.stages, tables.trials, tables.idempotency_keys):
        connection.execute(table.delete().where(table.c.study == study.number))
    connection.execute(tables.studies.delete().where(tables.studies.c.number == study.number))


def _stages(connection: Connection, study: Study) -> Stages:
    mine, others = tables.stages.alias(), tables.stages.alias()
    count = sa.select(sa.func.count(mine.c.key.distinct())).where(mine.c.study == study.number)
    shared = count.join(others, sa.and_(others.c.key == mine.c.key, others.c.study != mine.c.study))
    return Stages(total=connection.execute(count).scalar_one(), shared=connection.execute(shared).scalar_one())
