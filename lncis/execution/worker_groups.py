"""Training on Ray Train workers.

Starting a Ray Train run costs tens of seconds, training a task may take less. So a run is a *worker group*: its
workers stay up and take one task after another from a queue. `fit` is a worker group with one task.
"""

import errno
import fcntl
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchTrainer, get_device

from lncis import datasets, documents, files
from lncis.config import TrainConfig, Workers
from lncis.datasets import Data
from lncis.detection import engine, histograms
from lncis.errors import DivergedError, LncisError, StorageAwayError, StudyError
from lncis.execution import storage
from lncis.execution.cluster import TRIAL_DRIVER
from lncis.execution.queue import POLL_SECONDS, State, Task, TaskQueue
from lncis.execution.scratch import Copy, Scratch
from lncis.metrics import Record

GOING_HOME_SECONDS = 10
ALIVE_EVERY_SECONDS = 15
FOR_EVER = -1
"""How often workers are replaced; a task that kills them again and again is given up (execution.queue)."""
AWAY_SECONDS = 60
"""Between two attempts at a task while its storage is away, each of which insists for about as long."""
PREDECESSOR_SECONDS = 120
"""How long a worker waits for one that trains the same task, left over from a study whose driver was killed."""
NOISE_MANIFEST = "noise.json"
"""What the label noise did, beside each checkpoint."""


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
    queue = start_queue()
    ray.get(queue.submit.remote("fit", [task]))
    worker_group = start_worker_group("fit", queue, workers)
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
            time.sleep(POLL_SECONDS)
    finally:
        stop_worker_groups(queue, [worker_group])


def start_queue(**options: Any) -> Any:
    """Return the handle of a new TaskQueue actor; it lives where trials are driven, not on a worker that may go."""
    return ray.remote(num_cpus=0, resources={TRIAL_DRIVER: 1})(TaskQueue).remote(**options)


class WorkerGroup(threading.Thread):
    """A Ray Train run that works on the tasks of a queue until the queue tells it to stop.

    A worker that dies is replaced, and the worker group goes on with the same task from its last finished epoch.
    """

    def __init__(self, name: str, queue: Any, workers: Workers) -> None:
        super().__init__(name=name, daemon=True)
        self._queue, self._workers = queue, workers
        self._called_off = threading.Event()
        self.lost = ""
        """Why it cannot go on; its task is left to the others."""

    def run(self) -> None:
        """Train until told to stop, or until that cannot go on."""
        try:
            _run_worker_group(self.name, self._queue, self._workers)
        except Exception as error:
            if self._called_off.is_set():  # Ray may be gone by now, and would start anew if asked for anything
                return
            said = str(error).splitlines() or [""]  # Ray goes on for many lines, which are in its log
            self.lost = f"the workers of worker group {self.name} could not go on: {type(error).__name__}: {said[0]}"
            with suppress(RayError):  # where the queue has gone too, those who wait know it
                ray.get(self._queue.worker_group_lost.remote(self.name, self.lost))

    def call_off(self) -> None:
        """End it whatever it does: in the middle of an epoch, or while it waits for a place."""
        self._called_off.set()
        controller = self._controller()
        if controller is not None:
            ray.kill(controller)

    def _controller(self) -> ActorHandle[Any] | None:
        """Return the actor that leads the workers.

        It alone can end a run from outside, and TorchTrainer.fit keeps it to itself: in a local variable.
        """
        frame = sys._current_frames().get(self.ident or 0)
        while frame is not None:
            for value in frame.f_locals.values():
                if isinstance(value, ActorHandle) and value is not self._queue:
                    return value
            frame = frame.f_back
        return None


def start_worker_group(name: str, queue: Any, workers: Workers) -> WorkerGroup:
    """Return a worker group that has begun to start; its name must be new to this Ray."""
    worker_group = WorkerGroup(name, queue, workers)
    worker_group.start()
    return worker_group


def stop_worker_groups(queue: Any, worker_groups: Sequence[WorkerGroup]) -> None:
    """Close the queue, give the worker groups at work time to go home, and call off those that do not.

    None is left behind: a thread that waits for Ray when ray.shutdown is called may end the process with code 1, or
    start another Ray.
    """
    known = frozenset[str]()
    with suppress(RayError):  # where Ray has gone already, so have they
        known = ray.get(queue.close.remote(), timeout=GOING_HOME_SECONDS)
    deadline = time.monotonic() + GOING_HOME_SECONDS
    for worker_group in worker_groups:
        if worker_group.name in known:
            worker_group.join(max(deadline - time.monotonic(), 0))
    deadline = time.monotonic() + GOING_HOME_SECONDS
    while (
        there := [worker_group for worker_group in worker_groups if worker_group.is_alive()]
    ) and time.monotonic() < deadline:
        for worker_group in there:
            with suppress(RayError):
                worker_group.call_off()
        there[0].join(POLL_SECONDS)


def scaling(workers: Workers) -> ray.train.ScalingConfig:
    """Return what Ray Train is to reserve for a worker group."""
    use_gpu = workers.gpus_per_worker > 0
    resources = {"CPU": workers.cpus_per_worker} | ({"GPU": workers.gpus_per_worker} if use_gpu else {})
    return ray.train.ScalingConfig(num_workers=workers.num_workers, use_gpu=use_gpu, resources_per_worker=resources)


def _run_worker_group(name: str, queue: Any, workers: Workers) -> None:
    # nothing of value goes through Ray Train's own storage: tasks keep their checkpoints where they say
    with tempfile.TemporaryDirectory(prefix="lncis-lane-") as storage:
        TorchTrainer(
            _work,
            train_loop_config={
                "worker_group": name,
                "queue": queue,
                "threads": max(int(workers.cpus_per_worker), 1),
                "loading_processes": workers.loading_processes,
            },
            scaling_config=scaling(workers),
            run_config=ray.train.RunConfig(
                name=name, storage_path=storage, failure_config=ray.train.FailureConfig(max_failures=FOR_EVER)
            ),
        ).fit()


@dataclass
class _Loaded:
    """The data that a worker read last: most tasks of a study share them."""

    config: TrainConfig | None = None
    data: Data | None = None

    def get(self, config: TrainConfig) -> Data:
        if self.config is None or _data_of(self.config) != _data_of(config):
            self.config, self.data = config, datasets.load(config)
        assert self.data is not None
        return self.data


def _data_of(config: TrainConfig) -> tuple[object, ...]:
    return config.dataset, config.noise, config.val_labels


def _work(worker_group: dict[str, Any]) -> None:
    """The loop of every worker of a worker group; rank 0 talks to the queue, all ranks do the same."""
    torch.set_num_threads(worker_group["threads"])
    alive = _said_to_live(worker_group["queue"], worker_group["worker_group"]) if _first_rank() else nullcontext()
    with alive, closing(Scratch()) as scratch:
        _work_on(worker_group, scratch)


@contextmanager
def _said_to_live(queue: Any, worker_group: str) -> Iterator[None]:
    """Within the block the queue hears every few seconds that this worker group lives."""
    over = threading.Event()

    def say() -> None:
        while not over.wait(ALIVE_EVERY_SECONDS):
            with suppress(RayError):
                queue.alive.remote(worker_group)

    threading.Thread(target=say, name="alive", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _work_on(worker_group: dict[str, Any], scratch: Scratch) -> None:
    queue, loaded = worker_group["queue"], _Loaded()
    while True:
        try:
            task = _from_rank_zero(partial(_ask, queue.take, worker_group["worker_group"]))
        except RayActorError:  # the study is over, its driver knows; a new worker would meet the same
            return
        if task == "stop":
            return
        if task == "wait":
            time.sleep(POLL_SECONDS)
            continue
        try:
            _do(task, queue, loaded, scratch, worker_group["loading_processes"])
        except DivergedError as error:  # agreed on by all ranks: the worker group goes on
            _from_rank_zero(partial(_ask, queue.fail, task.key, str(error)))
        except StorageAwayError as error:
            _ask(queue.put_off, task.key, str(error))
            time.sleep(AWAY_SECONDS)
            if ray.train.get_context().get_world_size() > 1:
                raise  # other ranks may be waiting for this one
        except Exception as error:
            reason = _reason(task, error)
            _ask(*((queue.note, task.key, repr(error)) if reason is None else (queue.fail, task.key, reason)))
            if reason is None or ray.train.get_context().get_world_size() > 1:
                raise  # other ranks may be waiting for this one, or the process may be damaged: all begin anew
            torch.cuda.empty_cache()


def _reason(task: Task, error: Exception) -> str | None:
    """Return why a task cannot be done, if the error says that; None for what may go well in a fresh process."""
    if isinstance(error, LncisError):
        return str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return f"out of memory; lower batch_size ({task.config.batch_size}) or the image size ({error})"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or task.directory} cannot be written: {error}; free some room on its disk, and retry"
    return None


def _do(task: Task, queue: Any, loaded: _Loaded, scratch: Scratch, loading_processes: int) -> None:
    data = loaded.get(task.config)
    if task.probe:
        record = engine.probe(task.config, data, get_device())
        _from_rank_zero(partial(_ask, queue.report, task.key, record))
    else:
        copy = _copy(task, scratch)
        with _sole_trainer(copy.directory) if _first_rank() else nullcontext():
            # the others wait for it: until rank 0 is alone there, a checkpoint may be replaced between their looks
            _from_rank_zero(partial(_write_manifest, data, copy.directory / NOISE_MANIFEST))
            engine.train(
                task.config,
                data,
                copy.directory,
                until=task.until,
                fork_from=copy.fork_from,
                device=get_device(),
                loading_processes=loading_processes,
                on_epoch=lambda record: bool(_from_rank_zero(partial(_epoch_finished, task, copy, queue, record))),
            )
    _from_rank_zero(partial(_ask, queue.finish, task.key))


def _copy(task: Task, scratch: Scratch) -> Copy:
    """Return where this rank trains a task: in the folder that all share, or in a copy of what is published."""
    if not task.shared:
        return Copy(directory=task.directory, fork_from=task.after.directory if task.after else None, epoch=0)
    copy = scratch.copy(task)
    first = _from_rank_zero(lambda: copy.epoch)
    if copy.epoch != first:  # in a new group of workers all find the same
        raise RuntimeError(
            f"{copy.epoch} epochs are published where rank 0 found {first}: another worker group is at it"
        )
    return copy


def _epoch_finished(task: Task, copy: Copy, queue: Any, record: Record) -> Any:
    """Publish an epoch that is new, and tell the queue, which then may hand out what comes after."""
    found = record["epoch"] <= copy.epoch
    if task.shared and not found:
        storage.publish(copy.directory, task.shared, int(record["epoch"]))
    return _ask(queue.report, task.key, record, found)


@contextmanager
def _sole_trainer(directory: Path) -> Iterator[None]:
    """Within the block no other process trains in a folder: a late one could replace a checkpoint by an older one."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".trainer").open("w") as file:
        deadline = time.monotonic() + PREDECESSOR_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise StudyError(f"{directory} is being trained by another process; stop that one") from error
                time.sleep(POLL_SECONDS)
        for name in (engine.CHECKPOINT, histograms.FILE):
            for leftover in directory.glob(f".{name}.*"):  # of a worker that was killed while it saved
                leftover.unlink()
        yield


def _write_manifest(data: Data, path: Path) -> None:
    if not path.exists():  # it may be a link into the store, which nobody writes through
        files.replace(path, json.dumps(data.manifests, indent=1))


def _first_rank() -> bool:
    return bool(ray.train.get_context().get_world_rank() == 0)


def _ask(method: Any, *arguments: Any) -> Any:
    return ray.get(method.remote(*arguments))


def _from_rank_zero(ask: Callable[[], Any]) -> Any:
    """Return on every rank what `ask` answers on rank 0, where alone it is called."""
    context = ray.train.get_context()
    answer = ask() if context.get_world_rank() == 0 else None
    return answer if context.get_world_size() == 1 else broadcast_from_rank_zero(answer)
