"""What becomes of a study whose job is over: it ended, it failed, or it is to go on."""

import time
from typing import NotRequired, TypedDict

from service.dispatch.jobs import Life, Report
from service.settings import Settings
from service.store.states import State, Wanted
from service.store.studies import Study

USER_MISTAKE = 2
"""With this exit code `lncis` says that its input must be mended: trying again would end the same way."""
PAUSES = (2.0, 10.0, 30.0)
"""Seconds before the next attempt, after one setback, two, more."""


class Outcome(TypedDict):
    """Columns of the study to change."""

    state: State
    reason: str
    setbacks: NotRequired[int]
    retry_at: NotRequired[float]


def outcome(
    study: Study, report: Report | None, words: str, *, complete: bool, progressed: bool, settings: Settings
) -> Outcome:
    """Return what becomes of a study; `report` is None where Ray no longer knows its job.

    `complete`: its journal says that nothing is left to train. That its report was written and MLflow told is said by a
    job that succeeded alone; another job does just that. `progressed`: this attempt finished an epoch. `words`: the
    job's own last ones.
    """
    if report is not None and report.life is Life.SUCCEEDED:
        failed = study.trials_failed
        some = f"{failed} of {study.trials_total} trials failed; GET .../trials says why" if failed else ""
        return {"state": State.SUCCEEDED, "reason": some}
    if study.wanted is Wanted.CANCEL:
        return {"state": State.CANCELLED, "reason": "cancelled"}
    why = words or (report.message if report is not None else "") or "its job ended without a word"
    hopeless = complete and (study.best is None or study.best["status"] != "finished")  # there is nothing to report
    if report is not None and (hopeless or report.exit_code == USER_MISTAKE):
        return {"state": State.FAILED, "reason": why}
    if study.wanted is Wanted.PAUSE:
        return {"state": State.PAUSED, "reason": "paused"}
    rest = "it has its report to write" if complete else "it goes on from its last epochs"
    if report is None:
        why = "Ray no longer knows its job; was the head restarted?"
        return {"state": State.QUEUED, "reason": f"{why} {rest.capitalize()}", "retry_at": 0.0}
    setbacks = 1 if progressed else study.setbacks + 1
    if setbacks >= settings.max_setbacks:
        return {"state": State.FAILED, "reason": f"its job died {setbacks} times in a row without progress: {why}"}
    pause = PAUSES[min(setbacks, len(PAUSES)) - 1]
    return {
        "state": State.QUEUED,
        "reason": f"its job died ({why}); {rest}",
        "setbacks": setbacks,
        "retry_at": time.time() + pause,
    }
