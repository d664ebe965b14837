"""What follows for a study whose job is over: it ended, it failed, or it continues with another job."""

import time
from itertools import islice
from typing import NotRequired, TypedDict

from lncis.api import State
from lncis.backoff import backoff
from lncis.errors import BudgetError
from service.dispatch.jobs import JobReport, JobStatus
from service.settings import Settings
from service.store.states import Wanted
from service.store.tables import Study

USER_MISTAKE = 2
"""The exit code of `lncis` for a wrong input: another attempt would end the same way."""
BUDGET_SPENT = BudgetError.exit_code
BACKOFF_SECONDS = (2.0, 10.0, 30.0)
"""Before the next attempt, after one setback, two, more."""

STOPPED_SECONDS = 10.0
"""Before the next attempt, after somebody stopped the job in Ray's dashboard."""
LOST_SECONDS = (10.0, 30.0, 120.0, 600.0)
"""Before the next attempt, after one job that Ray lost, two, more; a head that restarted is asked at once."""


class Outcome(TypedDict):
    """Columns of the study to change."""

    state: State
    reason: str
    setbacks: NotRequired[int]
    lost_jobs: NotRequired[int]
    retry_at: NotRequired[float]


def outcome(
    study: Study,
    report: JobReport | None,
    message: str,
    *,
    complete: bool,
    progressed: bool,
    settings: Settings,
    spent: str = "",
    raised: bool = False,
    held: str = "",
) -> Outcome:
    """Return what to change of a study; `report` is None if Ray no longer knows its job.

    `complete`: its journal says that nothing is left to train. Only a job that succeeded has also written the report
    and sent all runs to MLflow; if it did not, another job does. `progressed`: this attempt finished an epoch.
    `message`: the error that the job printed. `spent`: the limits that its budget reached; `raised`: whether a user has
    given it another budget since that job began. `held`: why its owner's studies have to wait.
    """
    if report is not None and report.status is JobStatus.SUCCEEDED:
        failed = study.trials_failed
        some = f"{failed} of {study.trials_total} trials failed; GET .../trials says why" if failed else ""
        return {"state": State.SUCCEEDED, "reason": some}
    if study.wanted is Wanted.CANCEL:
        return {"state": State.CANCELLED, "reason": ""}
    if report is not None and report.exit_code == BUDGET_SPENT:
        if raised:
            return {"state": State.QUEUED, "reason": "its budget was raised"}
        return {"state": State.SPENT, "reason": f"its budget is spent ({spent}); with a larger one it goes on"}
    why = message or (report.message if report is not None else "") or "its job ended without a message"
    hopeless = complete and (study.best is None or study.best["status"] != "finished")  # no result to report
    if report is not None and (hopeless or report.exit_code == USER_MISTAKE):
        return {"state": State.FAILED, "reason": why}
    if study.wanted in (Wanted.PAUSE, Wanted.DRAIN):
        return {"state": State.PAUSED, "reason": ""}
    if held and report is not None:
        return {"state": State.QUEUED, "reason": held}
    rest = "its report is still to be written" if complete else "it continues after its last epochs"
    if report is not None and report.status is JobStatus.STOPPED and report.exit_code is None:
        reason = f"its job was stopped ({why}); {rest}"
        return {"state": State.QUEUED, "reason": reason, "retry_at": time.time() + STOPPED_SECONDS}
    if report is None or report.exit_code is None:  # its process did not end by itself, or never began
        return _lost(study, report, why, rest, progressed=progressed, settings=settings)
    setbacks, lost = (1, 0) if progressed else (study.setbacks + 1, study.lost_jobs)
    if setbacks >= settings.max_setbacks:
        return {"state": State.FAILED, "reason": f"its job died {setbacks} times in a row without progress: {why}"}
    pause = next(islice(backoff(BACKOFF_SECONDS), setbacks - 1, None))
    return {
        "state": State.QUEUED,
        "reason": f"its job died ({why}); {rest}",
        "setbacks": setbacks,
        "lost_jobs": lost,
        "retry_at": time.time() + pause,
    }


def _lost(
    study: Study, report: JobReport | None, why: str, rest: str, *, progressed: bool, settings: Settings
) -> Outcome:
    """Return what follows for a study whose job Ray lost: with its node, by its own OOM killer, or by a restart.

    That may be the study's doing or not, so it has more attempts than after setbacks, and they become rarer.
    """
    lost, most = 1 if progressed else study.lost_jobs + 1, settings.max_lost_jobs
    said = "Ray no longer knows its job; was the head restarted?" if report is None else f"Ray ended its job ({why})"
    if lost >= most:
        remedy = "Ray's logs on the head node say more; submit the study again, which uses finished stages again"
        reason = f"its job was lost {lost} times in a row before it finished an epoch: {said}; {remedy}"
        return {"state": State.FAILED, "reason": reason}
    pause = 0.0 if report is None and lost == 1 else next(islice(backoff(LOST_SECONDS), lost - 1, None))
    times = "" if lost == 1 else f"; lost {lost} times in a row without an epoch, and given up after {most}"
    return {
        "state": State.QUEUED,
        "reason": f"{said}; {rest}{times}",
        "setbacks": 0 if progressed else study.setbacks,
        "lost_jobs": lost,
        "retry_at": time.time() + pause if pause else 0.0,
    }
