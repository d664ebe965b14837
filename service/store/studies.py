"""Studies in the database: what requests and the dispatcher read and write, each as a function of a connection."""

import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from lncis.api import ENDED, Action, State
from lncis.errors import LncisError
from service.store import tables
from service.store.states import Job, Wanted
from service.store.tables import Study

ACTIVE = (State.QUEUED, State.RUNNING, State.PAUSED)


class UnknownStudy(LncisError):
    """There is no study with that id."""


class IllegalAction(LncisError):
    """The state of a study does not allow an action."""

    def __init__(self, study: Study, action: Action) -> None:
        self.study, self.action = study, action
        self.legal = study.legal
        asked = (
            f" and being {_UNDER_WAY[study.wanted]}"
            if study.wanted is not Wanted.RUN and study.state not in (*ENDED, State.PAUSED)
            else ""
        )
        over = "raising its budget" if study.state is State.SPENT else "nothing: it is over"
        now = ", ".join(self.legal) or over
        super().__init__(f"study {study.id} is {study.state}{asked}, so it cannot {action}; legal now: {now}")


_UNDER_WAY = {Wanted.PAUSE: "paused", Wanted.CANCEL: "cancelled", Wanted.DRAIN: "drained"}
DRAINING = "finishes the trials that run, and starts no other"


class StudyOver(LncisError):
    """A study that is over cannot be changed."""

    def __init__(self, study: Study) -> None:
        self.study = study
        remedy = "raise its budget" if study.state is State.SPENT else "submit it anew"
        super().__init__(f"study {study.id} is {study.state}, so it cannot be changed; {remedy}")


class NotOver(LncisError):
    """A study is not over, or is still needed, so it cannot be put away."""

    def __init__(self, study: Study, what: str, why: str = "") -> None:
        self.study = study
        why = why or f"is {study.state}; only one that is over can be {what}: cancel it first"
        super().__init__(f"study {study.id} {why}")


class StaleRevision(LncisError):
    """A study was changed since its entity tag was read."""


class KeyTaken(LncisError):
    """An idempotency key belongs to another request."""

    def __init__(self, study_id: str, earlier: Any, now: Any) -> None:
        self.study_id, self.earlier, self.now = study_id, earlier, now
        super().__init__(f"this Idempotency-Key was sent before, with another request, for study {study_id}")


@dataclass(frozen=True, kw_only=True)
class NewStudy:
    """What is needed to queue a study."""

    name: str
    owner: str
    spec: dict[str, Any]
    priority: int
    max_concurrent_trials: int | Literal["auto"]
    trials_total: int
    epochs_total: int
    key: str | None
    """The request's Idempotency-Key."""
    request: Any
    """Its body, and what else of it decides what the study is."""


_COLUMNS = [column for column in tables.studies.c if column.name != "spec"]
_STUDIES = sa.select(*_COLUMNS)
_BY_ID = _STUDIES.where(tables.studies.c.id == sa.bindparam("study_id"))
_BY_ID_TO_CHANGE = _BY_ID.with_for_update()
_SPEC = sa.select(tables.studies.c.spec).where(tables.studies.c.number == sa.bindparam("number_"))
_BY_KEY = _STUDIES.add_columns(tables.idempotency_keys.c.request).join(
    tables.idempotency_keys, tables.idempotency_keys.c.study == tables.studies.c.number
)
_INSERT = tables.studies.insert().returning(*_COLUMNS)
_UPDATE = tables.studies.update().returning(*_COLUMNS)
_INSERT_EVENT = tables.events.insert()


def create_study(connection: Connection, new: NewStudy) -> tuple[Study, bool]:
    """Return the study of a request, and whether it is new; KeyTaken if another request had the same key."""
    if (earlier := study_of_key(connection, new.owner, new.key, new.request)) is not None:
        return earlier, False
    now = time.time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    columns = {
        "id": f"{new.name}-{stamp}-{secrets.token_hex(5)}",
        "name": new.name,
        "owner": new.owner,
        "state_since": now,
        "created_at": now,
        "priority": new.priority,
        "max_concurrent_trials": new.max_concurrent_trials,
        "spec": new.spec,
        "extends": (new.spec.get("extends") or {}).get("study"),
        "events": 1,
        "trials_total": new.trials_total,
        "epochs_total": new.epochs_total,
    }
    study = Study(**connection.execute(_INSERT, columns).one()._mapping)
    event = {"state": study.state, "reason": study.reason}
    connection.execute(_INSERT_EVENT, {"study": study.number, "number": 1, "at": now, "type": "state", "data": event})
    if new.key is not None:
        key = {"owner": new.owner, "key": new.key, "study": study.number, "request": new.request}
        connection.execute(tables.idempotency_keys.insert(), key)
    return study, True


def study_of_key(connection: Connection, owner: str, key: str | None, request: Any) -> Study | None:
    """Return the study that an owner's earlier request with this key made; KeyTaken if that was another request."""
    keys = tables.idempotency_keys.c
    found = None if key is None else connection.execute(_BY_KEY.where(keys.owner == owner, keys.key == key)).first()
    if found is None:
        return None
    columns = dict(found._mapping)
    if (earlier := columns.pop("request")) != request:
        raise KeyTaken(found.id, earlier, request)
    return Study(**columns)


def load_study(connection: Connection, study_id: str, *, to_change: bool = False) -> Study:
    """Return a study, without its spec; UnknownStudy if there is none.

    With `to_change` it waits for other transactions that change the study, and makes later ones wait.
    """
    row = connection.execute(_BY_ID_TO_CHANGE if to_change else _BY_ID, {"study_id": study_id}).first()
    if row is None:
        raise UnknownStudy(f"there is no study {study_id}; GET /studies lists all studies")
    return Study(**row._mapping)


def load_spec(connection: Connection, study: Study) -> dict[str, Any]:
    """Return a study's spec, a document."""
    return dict(connection.execute(_SPEC, {"number_": study.number}).scalar_one())


def with_spec(connection: Connection, study: Study) -> Study:
    """Return a study with its spec."""
    return replace(study, spec=load_spec(connection, study))


@dataclass(frozen=True, kw_only=True)
class Which:
    """Which studies a list has."""

    states: Collection[State] = tuple(State)
    owner: str | None = None
    archived: bool = False
    """Those that are archived, in place of the others."""
    text: str = ""
    """Part of the name, the id, the owner or a label; in any case."""
    extends: str | None = None
    """Those that extend the study with this id."""
    label: str | None = None
    """One of its labels, whole; in any case."""

    def of(self, query: sa.Select[Any]) -> sa.Select[Any]:
        """Return a query of studies for these alone."""
        columns = tables.studies.c
        query = query.where(columns.archived.is_(self.archived))
        if len(self.states) < len(State):
            query = query.where(columns.state.in_(self.states))
        if self.owner is not None:
            query = query.where(columns.owner == self.owner)
        if self.extends is not None:
            query = query.where(columns.extends == self.extends)
        if self.text:
            texts = (columns.name, columns.id, columns.owner, columns.labels.cast(sa.Text))
            query = query.where(sa.or_(*(column.icontains(self.text, autoescape=True) for column in texts)))
        if self.label is not None:
            query = query.where(columns.labels.cast(sa.Text).icontains(f"\n{self.label}\n", autoescape=True))
        return query


ALL = Which()


def list_studies(connection: Connection, which: Which = ALL, *, before: int | None, limit: int) -> list[Study]:
    """Return up to `limit` studies, newest first, those older than number `before`."""
    query = which.of(_STUDIES).order_by(tables.studies.c.number.desc()).limit(limit)
    if before is not None:
        query = query.where(tables.studies.c.number < before)
    return _studies(connection, query)


def list_active_studies(connection: Connection, limit: int, which: Which = ALL) -> list[Study]:
    """Return up to `limit` studies that are not over, in the order of the queue: by priority, then first come."""
    columns = tables.studies.c
    query = which.of(_STUDIES).where(columns.state.in_(ACTIVE)).order_by(columns.priority.desc(), columns.number)
    return _studies(connection, query.limit(limit))


def list_studies_with_job(connection: Connection) -> list[Study]:
    """Return the studies that have a job, or may have one: each counts against `max_running`."""
    columns = tables.studies.c
    query = _STUDIES.where(columns.job.in_((Job.SUBMITTING, Job.SUBMITTED))).order_by(columns.number)
    return _studies(connection, query)


def studies_without_job(connection: Connection, study_ids: Collection[str]) -> dict[str, Study]:
    """Return, of some studies, those without a job by their ids; unknown ids are left out."""
    columns = tables.studies.c
    query = _STUDIES.where(columns.id.in_(study_ids), columns.job == Job.NONE)
    return {study.id: study for study in _studies(connection, query)}


def next_queued_study(connection: Connection, *, without_owners: Collection[str]) -> Study | None:
    """Return the study that is next to start, leaving out those of some owners; None if no study waits."""
    columns = tables.studies.c
    query = (
        _STUDIES.where(columns.state == State.QUEUED, columns.job == Job.NONE, columns.retry_at <= time.time())
        .where(columns.owner.not_in(without_owners))
        .order_by(columns.priority.desc(), columns.number)
        .limit(1)
    )
    return next(iter(_studies(connection, query)), None)


def begin_next_study(connection: Connection, without_owners: Collection[str]) -> Study | None:
    """Return the next queued study, its row now "submitting"; None if no study waits."""
    found = next_queued_study(connection, without_owners=without_owners)
    study = found and load_study(connection, found.id, to_change=True)
    if study is None or study.state is not State.QUEUED or study.job is not Job.NONE:  # cancelled just now
        return None
    return update_study(
        connection,
        study,
        job=Job.SUBMITTING,
        attempt=study.attempt + 1,
        epochs_at_start=study.epochs_done,
        reason="is being submitted to Ray",
    )


def count_studies(connection: Connection, which: Which | None = None) -> dict[State, int]:
    """Return how many studies are in each state, of some or of all."""
    column = tables.studies.c.state
    query = sa.select(column, sa.func.count()).group_by(column)
    found = connection.execute(query if which is None else which.of(query))
    return dict.fromkeys(State, 0) | {state: int(number) for state, number in found}


def request_action(connection: Connection, study_id: str, action: Action) -> Study:
    """Return a study after a user's action: done at once if no job has to stop, else noted as wanted.

    Raises UnknownStudy, IllegalAction. Asking again for an action that is under way changes nothing.
    """
    study = load_study(connection, study_id, to_change=True)
    if action not in study.legal:
        raise IllegalAction(study, action)
    if action is Action.RESUME:
        anew = {"wanted": Wanted.RUN, "setbacks": 0, "lost_jobs": 0}
        return update_study(connection, study, state=State.QUEUED, reason="resumed", **anew)
    wanted = Wanted(action)
    if study.wanted is wanted:
        return study
    if action is Action.CANCEL and study.job is Job.NONE:
        return update_study(connection, study, state=State.CANCELLED, reason="", wanted=wanted)
    reason = DRAINING if wanted is Wanted.DRAIN else f"is being {_UNDER_WAY[wanted]}"
    return update_study(connection, study, wanted=wanted, reason=reason)


def archive_study(connection: Connection, study_id: str, *, archived: bool) -> Study:
    """Return a study that lists leave out from now on, or show again; UnknownStudy, NotOver."""
    study = load_study(connection, study_id, to_change=True)
    if archived and (study.state not in ENDED or study.job is not Job.NONE):
        raise NotOver(study, "archived")
    return study if study.archived is archived else update_study(connection, study, archived=archived)


def label_study(connection: Connection, study_id: str, labels: Collection[str]) -> Study:
    """Return a study with other labels; UnknownStudy."""
    study = load_study(connection, study_id, to_change=True)
    ordered = sorted(set(labels))
    return study if study.labels == ordered else update_study(connection, study, labels=ordered)


def update_study(connection: Connection, study: Study, **columns: Any) -> Study:
    """Return a study with columns changed; a new state or reason becomes an event, with its time."""
    now = time.time()
    changes = dict(columns)
    state, reason = changes.get("state", study.state), changes.get("reason", study.reason)
    if state != study.state:
        changes["state_since"] = now
        if state == State.RUNNING and study.started_at is None:
            changes["started_at"] = now
        if state in ENDED:
            changes |= {"finished_at": now, "notice_due": now}
    if (state, reason) != (study.state, study.reason):
        changes["events"] = study.events + 1
        event = {"state": state, "reason": reason}
        connection.execute(
            _INSERT_EVENT,
            {"study": study.number, "number": study.events + 1, "at": now, "type": "state", "data": event},
        )
    changes["revision"] = study.revision + 1
    query = _UPDATE.where(tables.studies.c.number == study.number).values(**changes)
    return Study(**connection.execute(query).one()._mapping)


def studies_where(connection: Connection, condition: sa.ColumnElement[bool], *, order: Any, limit: int) -> list[Study]:
    """Return up to `limit` studies of which a condition holds, in some order."""
    return _studies(connection, _STUDIES.where(condition).order_by(order).limit(limit))


def _studies(connection: Connection, query: sa.Select[Any]) -> list[Study]:
    return [Study(**row._mapping) for row in connection.execute(query)]
