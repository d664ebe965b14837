"""The Ray Tune side of a trial: a light process that passes on the epochs that worker groups report.

Its own module because Tune starts processes for it: they load neither torch nor MLflow.
"""

import time
from collections import deque
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError

from lncis.execution.queue import POLL_SECONDS, Progress, State
from lncis.metrics import Record


class Relay(tune.Trainable):
    """A Tune trial whose steps are the epochs that a queue reports for the owner named in its config.

    Each step returns `record`, the epoch's metrics, and whether it was `reused`; the last returns `done`, with a
    `reason` if the trial failed, and `closed` if the study was ended before it.
    """

    def setup(self, config: dict[str, Any], queue: Any = None) -> None:
        """Begin with a trial; `queue` is the handle of a TaskQueue actor."""
        self._queue = queue
        self.reset_config(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        """Begin with another trial in the same process."""
        self._owner: str = config["owner"]
        self._passed_on = 0
        self._next: deque[Record] = deque()
        return True

    def step(self) -> dict[str, Any]:
        """Return the next epoch as soon as there is one."""
        while True:
            try:
                progress: Progress = ray.get(
                    self._queue.progress.remote(self._owner, self._passed_on + len(self._next))
                )
            except RayActorError as error:
                return {"done": True, "reason": f"the study's queue died ({error.__class__.__name__})", "closed": True}
            self._next.extend(progress.records)
            if self._next:
                self._passed_on += 1
                record = self._next.popleft()
                reused, done = record["epoch"] in progress.reused, progress.state is State.DONE and not self._next
                return {"record": record, "reused": reused, "done": done}
            if progress.state in (State.DONE, State.FAILED, State.CLOSED):
                return {"done": True, "reason": progress.reason, "closed": progress.state is State.CLOSED}
            time.sleep(POLL_SECONDS)
