"""The worker groups of a study: as many as its tasks can use and the cluster has room for, from moment to moment."""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from lncis.execution import cluster
from lncis.execution import worker_groups as training
from lncis.execution.queue import IDLE_SECONDS, Outlook
from lncis.execution.worker_groups import WorkerGroup
from lncis.studies.journal import Journal, WorkerGroupsUp
from lncis.studies.spec import StudySpec

LOOK_SECONDS = 2.0
"""Between two looks at what there is to do."""

MAX_LOST = 5
"""When none is left and so many worker groups could not go on, no more are started."""


def to_start(*, tasks: int, up: int, coming: int, most: int, room: int | None, grows: bool) -> int:
    """Return how many worker groups to start now, for the `tasks` there are; some are `up`, some `coming`.

    Where their number is fixed (`room` is None) all that have a task are started, up to `most`, and wait for their
    places. With auto it is those that there is `room` for. Where the cluster `grows`, one more comes when there is no
    room: what it waits for is what an autoscaler sees; on a full cluster it waits, and harms nobody.
    """
    missing = min(tasks, most) - up - coming
    if room is not None:
        missing = min(missing, max(room - coming, int(_one_more(up, grows) and coming == 0)))
    return max(missing, 0)


def to_follow(*, up: int, coming: int, most: int, room: int | None, grows: bool) -> int:
    """Return how many trials to follow at once: one for each group; with auto one more, to see whether it is ready."""
    if room is None:
        return most
    return min(most, up + max(coming, room, int(_one_more(up, grows))))


def _one_more(up: int, grows: bool) -> bool:
    return grows or up == 0


def idle_seconds() -> float:
    """Return how long a worker group may be idle: for ever on a Ray of our own, where none else has use for it."""
    return IDLE_SECONDS if cluster.grows() else math.inf


class WorkerPool:
    """The worker groups of one session of a study; `attend` starts them; idle ones leave (execution.queue)."""

    def __init__(
        self, spec: StudySpec, study_id: str, trials: int, journal: Journal, on_note: Callable[[str], None]
    ) -> None:
        self._workers, self._study_id, self._journal, self._on_note = spec.resources, study_id, journal, on_note
        self._auto, self._grows = spec.resources.max_concurrent_trials == "auto", cluster.grows()
        self._limit = spec.resources.at_a_time(trials)
        # a pruner waits for all seeds of a configuration, so they must be able to run beside others
        self._beside = 0 if spec.pruner.type == "none" else len(spec.replicates) - 1
        self._worker_groups: list[WorkerGroup] = []
        self._started = self._lost = 0
        self._up: int | None = None
        self._unheard = ""
        self._next_look = 0.0
        self.at_once = 1
        """How many trials to follow now."""

    def begin(self, queue: Any) -> None:
        """Start the first ones, before any trial has asked the queue, an actor with a TaskQueue, for anything."""
        self._attend(queue, Outlook(up=frozenset(), tasks=self._limit))

    def attend(self, queue: Any) -> None:
        """See what there is to do, now and then however often this is called, and start missing worker groups."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            with suppress(RayError):  # whatever befell the queue, those who wait for it meet it too
                self._attend(queue, ray.get(queue.outlook.remote()))

    def stop(self, queue: Any) -> None:
        """Send all home."""
        training.stop_worker_groups(queue, self._worker_groups)

    def _attend(self, queue: Any, outlook: Outlook) -> None:
        ended = [worker_group for worker_group in self._worker_groups if not worker_group.is_alive()]
        self._worker_groups = [worker_group for worker_group in self._worker_groups if worker_group not in ended]
        lost = [worker_group.lost for worker_group in ended if worker_group.lost]
        self._lost += len(lost)
        if lost and not self._worker_groups and self._lost >= min(self._limit, MAX_LOST):
            queue.close.remote(lost[-1])
            return
        up = sum(worker_group.name in outlook.up for worker_group in self._worker_groups)
        self._note(up)
        if outlook.unheard and not self._unheard:
            self._on_note(f"{outlook.unheard}; the study goes on waiting")
        self._unheard = outlook.unheard
        room = cluster.room(self._workers) if self._auto else None
        coming, most = len(self._worker_groups) - up, self._limit - self._lost
        for _ in range(to_start(tasks=outlook.tasks, up=up, coming=coming, most=most, room=room, grows=self._grows)):
            self._worker_groups.append(
                training.start_worker_group(f"{self._study_id}-{self._started}", queue, self._workers)
            )
            self._started += 1
            coming += 1
        self.at_once = self._beside + to_follow(up=up, coming=coming, most=self._limit, room=room, grows=self._grows)

    def _note(self, up: int) -> None:
        if up != self._up:
            self._up = up
            self._journal.append(WorkerGroupsUp(worker_groups=up))
