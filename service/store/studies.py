"""Studies in the database: what requests read and write, each as a function of a connection."""

import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from lncis.errors import LncisError
from service.store import tables
from service.store.states import ENDED, Action, Job, State, Wanted, legal

ACTIVE = (State.QUEUED, State.RUNNING, State.PAUSED)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A row of `studies`; service.store.tables says what its columns mean."""

    number: int
    id: str
    name: str
    owner: str
    state: State
    reason: str
    state_since: float
    created_at: float
    started_at: float | None
    finished_at: float | None
    priority: int
    max_concurrent_trials: int | Literal["auto"]
    revision: int
    events: int
    job: Job
    wanted: Wanted
    attempt: int
    setbacks: int
    retry_at: float
    epochs_at_start: int
    journal_events: int
    trials_total: int
    trials_started: int
    trials_finished: int
    trials_pruned: int
    trials_failed: int
    epochs_total: int
    epochs_done: int
    cost: dict[str, Any] | None
    best: dict[str, Any] | None
    mlflow_url: str | None

    @property
    def etag(self) -> str:
        """Its entity tag: another one for each change that a reader can see."""
        return f'"{self.revision}"'


class UnknownStudy(LncisError):
    """There is no study of that id."""


class IllegalAction(LncisError):
    """A study cannot do what was asked in its state."""

    def __init__(self, study: Study, action: Action) -> None:
        self.study, self.action = study, action
        self.legal = legal(study.state, study.wanted)
        asked = f" and being {_UNDER_WAY[study.wanted]}" if study.wanted is not Wanted.RUN else ""
        now = ", ".join(self.legal) or "nothing: it is over"
        super().__init__(f"study {study.id} is {study.state}{asked}, so it cannot {action}; legal now: {now}")


_UNDER_WAY = {Wanted.PAUSE: "paused", Wanted.CANCEL: "cancelled"}


class StaleRevision(LncisError):
    """A study was changed since its entity tag was read."""


class KeyTaken(LncisError):
    """An idempotency key belongs to another request."""

    def __init__(self, study_id: str, earlier: Any, now: Any) -> None:
        self.study_id, self.earlier, self.now = study_id, earlier, now
        super().__init__(f"this Idempotency-Key came before, with another body, and made study {study_id}")


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
    """Its body."""


def create(connection: Connection, new: NewStudy) -> tuple[Study, bool]:
    """Return the study that a request made, and whether it was now; KeyTaken where its key was another request's."""
    if new.key is not None:
        found = connection.execute(
            sa.select(*_COLUMNS, tables.idempotency_keys.c.request)
            .join(tables.idempotency_keys, tables.idempotency_keys.c.study == tables.studies.c.number)
            .where(tables.idempotency_keys.c.owner == new.owner, tables.idempotency_keys.c.key == new.key)
        ).first()
        if found is not None:
            columns = dict(found._mapping)
            earlier = columns.pop("request")
            if earlier != new.request:
                raise KeyTaken(found.id, earlier, new.request)
            return _of(columns), False
    now = time.time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    columns = {
        "id": f"{new.name}-{stamp}-{secrets.token_hex(5)}",
        "name": new.name,
        "owner": new.owner,
        "state": State.QUEUED,
        "reason": "",
        "state_since": now,
        "created_at": now,
        "started_at": None,
        "finished_at": None,
        "priority": new.priority,
        "max_concurrent_trials": new.max_concurrent_trials,
        "revision": 1,
        "events": 1,
        "job": Job.NONE,
        "wanted": Wanted.RUN,
        "attempt": 0,
        "setbacks": 0,
        "retry_at": 0.0,
        "epochs_at_start": 0,
        "journal_events": 0,
        "trials_total": new.trials_total,
        "trials_started": 0,
        "trials_finished": 0,
        "trials_pruned": 0,
        "trials_failed": 0,
        "epochs_total": new.epochs_total,
        "epochs_done": 0,
        "cost": None,
        "best": None,
        "mlflow_url": None,
    }
    number = int(connection.execute(_INSERT, {**columns, "spec": new.spec}).inserted_primary_key[0])  # type: ignore[index]
    event = {"study": number, "number": 1, "at": now, "type": "state", "data": {"state": State.QUEUED, "reason": ""}}
    connection.execute(_INSERT_EVENT, event)
    if new.key is not None:
        connection.execute(
            tables.idempotency_keys.insert(),
            {"owner": new.owner, "key": new.key, "study": number, "request": new.request},
        )
    return _of({"number": number, **columns}), True


_COLUMNS = [column for column in tables.studies.c if column.name != "spec"]  # long, and seldom needed
_INSERT = tables.studies.insert()
_INSERT_EVENT = tables.events.insert()
_BY_ID = sa.select(*_COLUMNS).where(tables.studies.c.id == sa.bindparam("study_id"))
_BY_ID_TO_CHANGE = _BY_ID.with_for_update()


def get(connection: Connection, study_id: str, *, to_change: bool = False) -> Study:
    """Return a study; UnknownStudy. One that is read `to_change` waits for others that change it."""
    row = connection.execute(_BY_ID_TO_CHANGE if to_change else _BY_ID, {"study_id": study_id}).first()
    if row is None:
        raise UnknownStudy(f"there is no study {study_id}; GET /studies lists those that are there")
    return _of(row._mapping)


def spec_of(connection: Connection, study: Study) -> dict[str, Any]:
    """Return a study's spec, a document."""
    column = tables.studies.c.spec
    return dict(connection.execute(sa.select(column).where(tables.studies.c.number == study.number)).scalar_one())


def page(
    connection: Connection, *, states: Collection[State], owner: str | None, before: int | None, limit: int
) -> list[Study]:
    """Return up to `limit` studies in some states, newest first, those older than number `before`."""
    query = sa.select(*_COLUMNS).order_by(tables.studies.c.number.desc()).limit(limit)
    if len(states) < len(State):
        query = query.where(tables.studies.c.state.in_(states))
    if owner is not None:
        query = query.where(tables.studies.c.owner == owner)
    if before is not None:
        query = query.where(tables.studies.c.number < before)
    return [_of(row._mapping) for row in connection.execute(query)]


def waiting(connection: Connection, limit: int) -> list[Study]:
    """Return up to `limit` studies that are not over, in the order of the queue: priority, then first come."""
    columns = tables.studies.c
    query = (
        sa.select(*_COLUMNS)
        .where(columns.state.in_(ACTIVE))
        .order_by(columns.priority.desc(), columns.number)
        .limit(limit)
    )
    return [_of(row._mapping) for row in connection.execute(query)]


def with_job(connection: Connection) -> list[Study]:
    """Return the studies that hold a place: those that have a job, or may have one."""
    query = sa.select(*_COLUMNS).where(tables.studies.c.job.in_((Job.SUBMITTING, Job.SUBMITTED)))
    return [_of(row._mapping) for row in connection.execute(query.order_by(tables.studies.c.number))]


def jobless(connection: Connection, study_ids: Collection[str]) -> dict[str, State]:
    """Return the states of those of some studies that have no job; studies that are not known are left out."""
    columns = tables.studies.c
    query = sa.select(columns.id, columns.state).where(columns.id.in_(study_ids), columns.job == Job.NONE)
    return {study_id: State(state) for study_id, state in connection.execute(query)}


def next_in_line(connection: Connection, *, without: Collection[str]) -> Study | None:
    """Return the study whose turn it is, not counting those of some owners."""
    columns = tables.studies.c
    row = connection.execute(
        sa.select(*_COLUMNS)
        .where(columns.state == State.QUEUED, columns.job == Job.NONE, columns.retry_at <= time.time())
        .where(columns.owner.not_in(without))
        .order_by(columns.priority.desc(), columns.number)
        .limit(1)
    ).first()
    return None if row is None else _of(row._mapping)


def counts(connection: Connection) -> dict[State, int]:
    """Return how many studies are in each state."""
    column = tables.studies.c.state
    found = connection.execute(sa.select(column, sa.func.count()).group_by(column))
    return dict.fromkeys(State, 0) | {State(state): int(number) for state, number in found}


def act(connection: Connection, study_id: str, action: Action) -> Study:
    """Return a study of which something was asked: what needs no job to stop is done, the rest wanted.

    Raises UnknownStudy, IllegalAction. Asking again for what is under way changes nothing.
    """
    study = get(connection, study_id, to_change=True)
    if action not in legal(study.state, study.wanted):
        raise IllegalAction(study, action)
    if action is Action.RESUME:
        return change(connection, study, state=State.QUEUED, reason="resumed", wanted=Wanted.RUN, setbacks=0)
    wanted = Wanted(action)
    if study.wanted is wanted:
        return study
    if action is Action.CANCEL and study.job is Job.NONE:
        return change(connection, study, state=State.CANCELLED, reason="cancelled", wanted=wanted)
    return change(connection, study, wanted=wanted, reason=f"is being {_UNDER_WAY[wanted]}")


def adjust(
    connection: Connection,
    study_id: str,
    etag: str,
    *,
    priority: int | None,
    max_concurrent_trials: int | Literal["auto"] | None,
) -> Study:
    """Return a study with another priority or number of trials at a time, which counts from its next start.

    Raises UnknownStudy; StaleRevision where the entity tag is no longer its own.
    """
    study = get(connection, study_id, to_change=True)
    if etag != "*" and study.etag not in [tag.strip() for tag in etag.split(",")]:
        raise StaleRevision(
            f"study {study_id} was changed since: its ETag is {study.etag}, If-Match says {etag}; GET it again"
        )
    given: dict[str, Any] = {"priority": priority, "max_concurrent_trials": max_concurrent_trials}
    changes = {name: value for name, value in given.items() if value not in (None, getattr(study, name))}
    if "max_concurrent_trials" in changes:
        spec = spec_of(connection, study)
        spec["resources"] = {**spec["resources"], "max_concurrent_trials": max_concurrent_trials}
        changes["spec"] = spec
    return change(connection, study, **changes) if changes else study


def change(connection: Connection, study: Study, **columns: Any) -> Study:
    """Return a study with columns changed; a new state or reason becomes an event, with its time."""
    now = time.time()
    changes = dict(columns)
    state, reason = changes.get("state", study.state), changes.get("reason", study.reason)
    if state != study.state:
        changes["state_since"] = now
        if state == State.RUNNING and study.started_at is None:
            changes["started_at"] = now
        if state in ENDED:
            changes["finished_at"] = now
    if (state, reason) != (study.state, study.reason):
        changes["events"] = study.events + 1
        event = {"state": state, "reason": reason}
        connection.execute(
            _INSERT_EVENT,
            {"study": study.number, "number": study.events + 1, "at": now, "type": "state", "data": event},
        )
    changes["revision"] = study.revision + 1
    connection.execute(tables.studies.update().where(tables.studies.c.number == study.number).values(**changes))
    changes.pop("spec", None)
    return _of({**study.__dict__, **changes})


def _of(columns: Mapping[Any, Any]) -> Study:
    values = dict(columns)
    kinds = {"state": State(values["state"]), "job": Job(values["job"]), "wanted": Wanted(values["wanted"])}
    return Study(**{**values, **kinds})
