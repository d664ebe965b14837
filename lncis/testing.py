"""Simulated worker groups: they take tasks from a TaskQueue as real ones do, and report made-up epochs.

For tests and benchmarks of whatever stands around the training. Without Ray and torch, and as fast as the queue.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

from lncis.errors import DivergedError
from lncis.execution.queue import TaskQueue
from lncis.execution.tasks import Task
from lncis.metrics import Record

PAUSE_SECONDS = 0.01
"""Between two questions of a worker group that has nothing to do."""


class Ask(Protocol):
    """Calls a method of a TaskQueue, which may be an actor, by its name."""

    def __call__(self, method: str, *arguments: Any) -> Any:
        """Return what the method returns."""


def directly(queue: TaskQueue) -> Ask:
    """Return what asks a queue of this process."""
    return partial(_call, queue)


def _call(queue: TaskQueue, method: str, *arguments: Any) -> Any:
    return getattr(queue, method)(*arguments)


def _none(task: Task) -> Sequence[Record]:
    return ()


@dataclass
class SimulatedWorkerGroup:
    """A worker group whose epochs are what `train` returns; a task fails where that raises DivergedError."""

    name: str
    ask: Ask
    train: Callable[[Task, int], Record]
    """Task, epoch -> its record."""
    found: Callable[[Task], Sequence[Record]] = _none
    """The epochs of a task that are finished when it is taken, as in a checkpoint; they are reported again."""
    published: bool = False
    """Whether those lay at a URL, where an earlier study had published them."""
    task: Task | None = field(default=None, init=False)
    _epoch: int = field(default=0, init=False)

    def step(self) -> Literal["trained", "wait", "stop"]:
        """Train one epoch of the present task, or of the next one; return what was done, or what to do instead."""
        if self.task is None:
            taken: Task | Literal["wait", "stop"] = self.ask("take", self.name)
            if not isinstance(taken, Task):
                return taken
            self._begin(taken)
        self._train_epoch()
        return "trained"

    def run(self, pause_seconds: float = PAUSE_SECONDS) -> None:
        """Work until the queue says stop: the body of a thread."""
        while (state := self.step()) != "stop":
            if state == "wait":
                time.sleep(pause_seconds)

    def _begin(self, task: Task) -> None:
        found = self.found(task)
        for record in found:
            self.ask("report", task.key, record, self.published)
        self.task, self._epoch = task, max(len(found), task.after.until if task.after else 0)

    def _train_epoch(self) -> None:
        assert self.task is not None
        task, wanted = self.task, True
        if self._epoch < task.until:
            try:
                record = self.train(task, self._epoch + 1)
            except DivergedError as error:
                self.ask("fail", task.key, str(error))
                self.task = None
                return
            self._epoch = int(record["epoch"])
            wanted = self.ask("report", task.key, record)
        if self._epoch >= task.until or not wanted:
            self.ask("finish", task.key)
            self.task = None
