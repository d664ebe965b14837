"""The Ray Tune side of a trial: a light process that passes on what the training lanes report.

Its own module because Tune starts processes for it: they load neither torch nor MLflow.
"""

import time
from typing import Any

import ray
from ray import tune

from lncis.tasks import Progress, State

POLL_SECONDS = 0.2


class Relay(tune.Trainable):
    """A Tune trial whose steps are the epochs that a queue reports for the owner named in its config.

    Each step returns `record`, the epoch's metrics; the last returns `done`, with a `reason` if the trial failed.
    """

    def setup(self, config: dict[str, Any], queue: Any = None) -> None:
        """Begin with a trial; `queue` is the handle of a TaskQueue actor."""
        self._queue = queue
        self.reset_config(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        """Begin with another trial in the same process."""
        self._owner: str = config["owner"]
        self._passed_on = 0
        return True

    def step(self) -> dict[str, Any]:
        """Return the next epoch as soon as there is one."""
        while True:
            progress: Progress = ray.get(self._queue.progress.remote(self._owner))
            if len(progress.records) > self._passed_on:
                self._passed_on += 1
                finished = progress.state is State.DONE and self._passed_on == len(progress.records)
                return {"record": progress.records[self._passed_on - 1], "done": finished}
            if progress.state in (State.DONE, State.FAILED):
                return {"done": True, "reason": progress.reason}
            time.sleep(POLL_SECONDS)
