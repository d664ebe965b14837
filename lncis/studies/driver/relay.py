"""The Ray Tune side of trials: a light process that passes on the epochs that worker groups report.

Its own module because Tune starts processes for it: they load neither torch nor MLflow.
"""

import time
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError

from lncis.execution.queue import POLL_SECONDS
from lncis.execution.tasks import Progress, State


class Relay(tune.Trainable):
    """A Tune trial that follows trials of the study, as the queue hands them out.

    Each step returns `reports`, the fields of one or more Reports (lncis.studies.driver.tuning); the last one why the
    queue was `closed`.
    """

    def setup(self, config: dict[str, Any], queue: Any = None) -> None:
        """Begin with no trial; `queue` is the handle of a TaskQueue actor."""
        self._queue, self._name = queue, config["relay"]
        self._seen: dict[str, int] = {}  # trial -> how many of its epochs were reported
        self._ended: list[str] = []  # trials whose ends were reported by the last step

    def step(self) -> dict[str, Any]:
        """Return what is new of the trials that it follows, as soon as there is something."""
        try:
            while True:
                news, closed = ray.get(self._queue.news_for.remote(self._name, self._seen, self._ended))
                self._ended = []
                if reports := [report for trial, progress in news.items() for report in self._reports(trial, progress)]:
                    return {"reports": reports}
                if closed:
                    return {"closed": closed, "done": True}
                time.sleep(POLL_SECONDS)
        except RayActorError as error:
            return {"closed": f"the study's queue died ({error.__class__.__name__})", "done": True}

    def _reports(self, trial: str, progress: Progress) -> list[dict[str, Any]]:
        reports: list[dict[str, Any]] = [
            {"trial": trial, "record": record, "reused": record["epoch"] in progress.reused}
            for record in progress.records
        ]
        self._seen[trial] = self._seen.get(trial, 0) + len(reports)
        if progress.state in (State.DONE, State.FAILED):
            reports.append({"trial": trial, "ended": True, "reason": progress.reason})
            self._ended.append(trial)
            del self._seen[trial]
        return reports
