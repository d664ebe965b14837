"""What follows for a study whose job is over: it ended, it failed, or it continues with another job."""

import time
from itertools import islice
from typing import NotRequired, TypedDict

from lncis.api import State
from lncis.backoff import backoff
from service.dispatch.jobs import JobReport, JobStatus
from service.settings import Settings
from service.store.states import Wanted
from service.store.tables import Study

USER_MISTAKE = 2
"""The exit code of `lncis` for a wrong input: another attempt would end the same way."""
BACKOFF_SECONDS = (2.0, 10.0, 30.0)
"""Before the next attempt, after one setback, two, more."""

NOT_ITS_OWN_SECONDS = 10.0
"""Before the next attempt, after a job that its study did not end: Ray lost its node, or a user stopped it there."""


class Outcome(TypedDict):
    """Columns of the study to change."""

    state: State
    reason: str
    setbacks: NotRequired[int]
    retry_at: NotRequired[float]


def outcome(
    study: Study, report: JobReport | None, message: str, *, complete: bool, progressed: bool, settings: Settings
) -> Outcome:
    """Return what to change of a study; `report` is None if Ray no longer knows its job.

    `complete`: its journal says that nothing is left to train. Only a job that succeeded has also written the report
    and sent all runs to MLflow; if it did not, another job does. `progressed`: this attempt finished an epoch.
    `message`: the error that the job printed.
    """
    if report is not None and report.status is JobStatus.SUCCEEDED:
        failed = study.trials_failed
        some = f"{failed} of {study.trials_total} trials failed; GET .../trials says why" if failed else ""
        return {"state": State.SUCCEEDED, "reason": some}
    if study.wanted is Wanted.CANCEL:
        return {"state": State.CANCELLED, "reason": "cancelled"}
    why = message or (report.message if report is not None else "") or "its job ended without a message"
    hopeless = complete and (study.best is None or study.best["status"] != "finished")  # no result to report
    if report is not None and (hopeless or report.exit_code == USER_MISTAKE):
        return {"state": State.FAILED, "reason": why}
    if study.wanted in (Wanted.PAUSE, Wanted.DRAIN):
        return {"state": State.PAUSED, "reason": "paused"}
    rest = "its report is still to be written" if complete else "it continues after its last epochs"
    if report is None:
        why = "Ray no longer knows its job; was the head restarted?"
        return {"state": State.QUEUED, "reason": f"{why} {rest.capitalize()}", "retry_at": 0.0}
    if report.exit_code is None:  # its process did not end by itself, or never began: nothing that the study did
        ended = "its job was stopped" if report.status is JobStatus.STOPPED else "Ray ended its job"
        retry_at = time.time() + NOT_ITS_OWN_SECONDS
        return {"state": State.QUEUED, "reason": f"{ended} ({why}); {rest}", "retry_at": retry_at}
    setbacks = 1 if progressed else study.setbacks + 1
    if setbacks >= settings.max_setbacks:
        return {"state": State.FAILED, "reason": f"its job died {setbacks} times in a row without progress: {why}"}
    pause = next(islice(backoff(BACKOFF_SECONDS), setbacks - 1, None))
    return {
        "state": State.QUEUED,
        "reason": f"its job died ({why}); {rest}",
        "setbacks": setbacks,
        "retry_at": time.time() + pause,
    }
