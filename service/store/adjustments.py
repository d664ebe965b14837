"""What users change of a study: priority, concurrent trials, budget; of one that is over, a spent budget alone."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from sqlalchemy.engine import Connection

from lncis.api import ENDED, State
from lncis.errors import ConfigError
from service.store.states import Wanted
from service.store.studies import StaleRevision, StudyOver, load_spec, load_study, update_study
from service.store.tables import Study

Limits = Mapping[str, float | None]
"""Of some fields of a budget; None takes a limit away."""


def adjust_study(
    connection: Connection,
    study_id: str,
    etag: str,
    *,
    priority: int | None = None,
    max_concurrent_trials: int | Literal["auto"] | None = None,
    budget: Limits | None = None,
) -> Study:
    """Return a study with another priority, or with other concurrent trials or another budget from its next start.

    One whose budget was spent goes back into the queue with a larger one. Raises UnknownStudy; StudyOver;
    StaleRevision if the study has another entity tag now; ConfigError for a budget that is of no use.
    """
    study = load_study(connection, study_id, to_change=True)
    if study.state in ENDED and not (study.state is State.SPENT and budget):
        raise StudyOver(study)
    if etag != "*" and study.etag not in [tag.strip() for tag in etag.split(",")]:
        raise StaleRevision(
            f"study {study_id} was changed since: its ETag is {study.etag}, If-Match says {etag}; GET it again"
        )
    given: dict[str, Any] = {"priority": priority, "max_concurrent_trials": max_concurrent_trials}
    changes = {name: value for name, value in given.items() if value not in (None, getattr(study, name))}
    if "max_concurrent_trials" in changes or budget:
        spec = load_spec(connection, study)
        at_once = max_concurrent_trials or study.max_concurrent_trials
        spec["resources"] = {**spec["resources"], "max_concurrent_trials": at_once}
        changes["spec"] = _with_budget(spec, budget, study.cost or {}) if budget else spec
    if study.state is State.SPENT:
        changes |= _GOES_ON
    return update_study(connection, study, **changes) if changes else study


_GOES_ON = {
    "state": State.QUEUED,
    "reason": "its budget was raised",
    "wanted": Wanted.RUN,
    "setbacks": 0,
    "lost_jobs": 0,
    "finished_at": None,
    "notice_due": None,
    "notice_attempts": 0,
    "archived": False,
}
"""Columns of a study that was over and goes on."""


def _with_budget(spec: Mapping[str, Any], limits: Limits, cost: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study, a document, with other limits; ConfigError where they end it at once, or mean nothing.

    `cost` is what it has cost so far (lncis.studies.report.cost).
    """
    budget = {**(spec.get("budget") or {}), **limits}
    if problems := list(_problems(spec, budget, cost)):
        raise ConfigError("budget", problems)
    return {**spec, "budget": budget}


def _problems(spec: Mapping[str, Any], budget: Limits, cost: Mapping[str, Any]) -> Iterator[str]:
    price = spec["resources"].get("price_per_worker_hour")
    if budget.get("money") is not None and price is None:
        yield "budget.money: the study has no resources.price_per_worker_hour; limit worker_hours"
    epochs = spec["base"]["schedule"]["epochs"]
    if (most := budget.get("epochs")) is not None and most < epochs:
        yield f"budget.epochs: must be {epochs} or more, the epochs of one trial, but got {most:g}"
    for name, used in _used(cost, price).items():
        if (most := budget.get(name)) is not None and most <= used:
            yield f"budget.{name}: must be more than {used:.4g}, which are spent already, but got {most:g}"


def _used(cost: Mapping[str, Any], price: float | None) -> dict[str, float]:
    if not cost:
        return {}
    worker_hours = cost["held_seconds"] / 3600
    spent = {"epochs": cost["trained"], "worker_hours": worker_hours, "hours": cost["seconds"] / 3600}
    return spent | ({"money": worker_hours * price} if price is not None else {})
