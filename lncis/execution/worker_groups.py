"""Training on groups of Ray Train workers.

Starting a Ray Train run takes tens of seconds, training a task may take less. So the workers of a run stay up and take
one task after another from a queue: they are a *worker group*. `fit` is a worker group with one task.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray import ObjectRef
from ray.exceptions import RayError
from ray.train.torch import TorchTrainer

from lncis import documents
from lncis.config import TrainConfig, Workers
from lncis.errors import StudyError
from lncis.execution.cluster import TRIAL_DRIVER
from lncis.execution.queue import POLL_SECONDS, TaskQueue
from lncis.execution.tasks import State, Task
from lncis.metrics import Record

STOP_TIMEOUT_SECONDS = 10
"""How long a worker group may take to stop by itself, and then to end when it is ended."""

UNLIMITED = -1
"""How often Ray Train replaces workers; a task that kills them again and again is given up (execution.queue)."""


def fit(
    config: TrainConfig,
    directory: Path,
    workers: Workers = Workers(),  # noqa: B008  (frozen)
    *,
    on_epoch: Callable[[Record], object] = lambda record: None,
) -> list[Record]:
    """Train a config on its own workers, going on from `directory` if it was begun there; return its records.

    Ray must be connected (`lncis.execution.cluster`). Raises StudyError with the reason where the training fails, and
    ConfigError where `directory` holds the training of another config.
    """
    documents.claim(directory, config)
    task = Task(key="fit", config=config, until=config.schedule.epochs, directory=directory.absolute())
    queue, host = start_queue(), start_host(1)
    ray.get(queue.submit.remote("fit", [task]))
    worker_group = start_worker_group(host, "fit", queue, workers)
    records: list[Record] = []
    try:
        while True:
            progress = ray.get(queue.progress.remote("fit", len(records)))
            for record in progress.records:
                on_epoch(record)
            records += progress.records
            if progress.state in (State.FAILED, State.CLOSED):
                raise StudyError(progress.reason)
            if progress.state is State.DONE:
                return records
            if reason := worker_group.lost():
                ray.get(queue.worker_group_lost.remote(worker_group.name, reason))  # closes the queue, or is too late
            time.sleep(POLL_SECONDS)
    finally:
        stop_worker_groups(host, queue, [worker_group])


def start_queue(**options: Any) -> Any:
    """Return the handle of a new TaskQueue actor; it lives where trials are driven, not on a worker that may go."""
    return ray.remote(num_cpus=0, resources={TRIAL_DRIVER: 1})(TaskQueue).remote(**options)


class Host:
    """The process in which the Ray Train runs of worker groups are driven, each by a thread.

    It is an actor, and not the process that drives the study, because Ray can kill an actor from outside, and with it
    all that the actor has started: worker groups in the middle of an epoch, and those that wait for a place.
    """

    def run(self, name: str, queue: Any, workers: Workers) -> str:
        """Train until the queue says stop, and return nothing; or return why that cannot go on."""
        # nothing of value goes through Ray Train's own storage: tasks keep their checkpoints where they say
        with tempfile.TemporaryDirectory(prefix="lncis-workers-") as storage:
            trainer = TorchTrainer(
                _train_tasks,
                train_loop_config={
                    "worker_group": name,
                    "queue": queue,
                    "threads": max(int(workers.cpus_per_worker), 1),
                    "loading_processes": workers.loading_processes,
                },
                scaling_config=scaling(workers),
                run_config=ray.train.RunConfig(
                    name=name, storage_path=storage, failure_config=ray.train.FailureConfig(max_failures=UNLIMITED)
                ),
            )
            try:
                trainer.fit()
            except Exception as error:
                message = str(error).splitlines() or [""]  # Ray goes on for many lines, which are in its log
                return f"the workers of group {name} stopped: {type(error).__name__}: {message[0]}"
        return ""


def _train_tasks(settings: dict[str, Any]) -> None:
    from lncis.execution.worker import train_tasks  # loads all that trains, which the host does not need

    train_tasks(settings)


def start_host(worker_groups: int) -> Any:
    """Return the handle of a new Host actor for so many worker groups at a time; it lives where trials are driven.

    Ray starts it again where it dies, without the groups that it had.
    """
    host = ray.remote(num_cpus=0, resources={TRIAL_DRIVER: 1})(Host)
    return host.options(max_concurrency=worker_groups, max_restarts=-1).remote()


@dataclass(frozen=True)
class WorkerGroup:
    """A Ray Train run that works on the tasks of a queue until the queue tells it to stop.

    A worker that dies is replaced, and the group goes on with the same task from its last finished epoch.
    """

    name: str
    run: ObjectRef[str]
    """Ready when the run is over: why it could not go on, or empty where the queue told it to stop."""

    def is_alive(self) -> bool:
        """Say whether the run goes on."""
        return not _over([self.run], timeout_seconds=0)

    def lost(self) -> str:
        """Return why the run ended without being told to; empty while it goes on and where it was told."""
        if self.is_alive():
            return ""
        try:
            return ray.get(self.run)
        except RayError as error:
            return f"worker group {self.name} ended: {type(error).__name__}"


def start_worker_group(host: Any, name: str, queue: Any, workers: Workers) -> WorkerGroup:
    """Return a worker group that has begun to start; its name must be new to this Ray."""
    return WorkerGroup(name, host.run.remote(name, queue, workers))


def stop_worker_groups(
    host: Any, queue: Any, worker_groups: Sequence[WorkerGroup], timeout_seconds: float = STOP_TIMEOUT_SECONDS
) -> None:
    """Close the queue, give the groups at work time to stop, and kill their host: none is left behind."""
    known = frozenset[str]()
    with suppress(RayError):  # the queue may be gone
        known = ray.get(queue.close.remote(), timeout=STOP_TIMEOUT_SECONDS)
    with suppress(RayError):  # where Ray is gone, so are they
        _over([group.run for group in worker_groups if group.name in known], timeout_seconds)
    with suppress(RayError):
        ray.kill(host)
        _over([group.run for group in worker_groups], STOP_TIMEOUT_SECONDS)


def _over(runs: list[ObjectRef[str]], timeout_seconds: float) -> list[ObjectRef[str]]:
    """Wait until runs are over, or for so long; return those that are."""
    return ray.wait(runs, num_returns=len(runs), timeout=timeout_seconds)[0] if runs else []


def scaling(workers: Workers) -> ray.train.ScalingConfig:
    """Return what Ray Train is to reserve for a worker group."""
    use_gpu = workers.gpus_per_worker > 0
    resources = {"CPU": workers.cpus_per_worker} | ({"GPU": workers.gpus_per_worker} if use_gpu else {})
    return ray.train.ScalingConfig(num_workers=workers.num_workers, use_gpu=use_gpu, resources_per_worker=resources)
