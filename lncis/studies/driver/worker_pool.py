"""The worker groups of a study: as many as its tasks can use and the cluster has room for, from moment to moment."""

import math
import time
from typing import Any

import ray

from lncis.execution import cluster, worker_groups
from lncis.execution.queue import IDLE_TIMEOUT_SECONDS, QueueStatus
from lncis.execution.worker_groups import WorkerGroup
from lncis.studies.record.journal import WorkerGroupsUp
from lncis.studies.study_run import StudyRun

LOOK_SECONDS = 2.0
"""Between two looks at what there is to do."""

MAX_LOST = 5
"""When no worker group is left and groups were lost so many times, no more are started."""


def to_start(*, tasks: int, up: int, coming: int, most: int, room: int | None, grows: bool) -> int:
    """Return how many worker groups to start now, for the `tasks` there are; some are `up`, some `coming`.

    Where their number is fixed (`room` is None) all that have a task are started, up to `most`, and wait for their
    places. With auto it is those that there is `room` for. Where the cluster `grows`, one more comes when there is no
    room: what it waits for is what an autoscaler sees; on a full cluster it only waits.
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
    return IDLE_TIMEOUT_SECONDS if cluster.grows() else math.inf


class WorkerPool:
    """The worker groups of one session of a study; `attend` starts them; idle ones leave (execution.queue)."""

    def __init__(self, run: StudyRun, trials: int, queue: Any) -> None:
        """`queue` is the handle of a TaskQueue actor; up to so many trials train at a time."""
        self._run, self._queue, self._workers = run, queue, run.spec.resources
        self._auto, self._grows = run.spec.resources.max_concurrent_trials == "auto", cluster.grows()
        self._limit = run.spec.resources.at_a_time(trials)
        self._host = worker_groups.start_host(self._limit)
        # a pruner waits for all seeds of a configuration, so they must be able to run beside others
        self._beside = 0 if run.spec.pruner.type == "none" else len(run.spec.replicates) - 1
        self._worker_groups: list[WorkerGroup] = []
        self._started = self._lost = 0
        self._live: int | None = None
        self._silence = ""
        self._next_look = 0.0
        self.stop_seconds: float = worker_groups.STOP_TIMEOUT_SECONDS
        """How long groups at work may take to stop: they do so after an epoch."""
        self.trials_at_once = 1
        """How many trials to follow now."""

    def begin(self) -> None:
        """Start the first groups, before any trial is submitted."""
        self._attend(QueueStatus(live=frozenset(), tasks=self._limit))

    def attend(self) -> None:
        """See what there is to do, every LOOK_SECONDS however often this is called, and start missing groups."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._attend(ray.get(self._queue.status.remote()))

    def stop(self) -> None:
        """Stop all groups, and close the queue."""
        worker_groups.stop_worker_groups(self._host, self._queue, self._worker_groups, self.stop_seconds)

    def _attend(self, status: QueueStatus) -> None:
        ended = [group for group in self._worker_groups if not group.is_alive()]
        self._worker_groups = [group for group in self._worker_groups if group not in ended]
        lost = {group.name: reason for group in ended if (reason := group.lost())}
        for name, reason in lost.items():
            self._queue.worker_group_lost.remote(name, reason)
        self._lost += min(len(lost), 1)  # those that end together died of one cause, such as their host's death
        if lost and not self._worker_groups and self._lost >= min(self._limit, MAX_LOST):
            self._queue.close.remote(next(iter(lost.values())))
            return
        live = sum(group.name in status.live for group in self._worker_groups)
        if live != self._live:
            self._live = live
            self._run.journal.append(WorkerGroupsUp(worker_groups=live))
        if status.silence and not self._silence:
            self._run.note(f"{status.silence}; the study keeps waiting")
        self._silence = status.silence
        self._start_missing(live, status.tasks)

    def _start_missing(self, live: int, tasks: int) -> None:
        room = cluster.room(self._workers) if self._auto else None
        coming, most = len(self._worker_groups) - live, self._limit - self._lost
        for _ in range(to_start(tasks=tasks, up=live, coming=coming, most=most, room=room, grows=self._grows)):
            name = f"{self._run.study_id}-{self._started}"
            self._worker_groups.append(worker_groups.start_worker_group(self._host, name, self._queue, self._workers))
            self._started += 1
            coming += 1
        followed = to_follow(up=live, coming=coming, most=self._limit, room=room, grows=self._grows)
        self.trials_at_once = max(1, self._beside + followed)
