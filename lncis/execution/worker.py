"""What every worker of a worker group does: take a task from the queue, train it, report, take the next."""

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.exceptions import RayActorError, RayError
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device

from lncis import datasets, files
from lncis.config import TrainConfig
from lncis.datasets import Data
from lncis.detection import engine, histograms, label_losses, probing
from lncis.errors import DivergedError, LncisError, StorageAwayError, StudyError
from lncis.execution import storage
from lncis.execution.queue import POLL_SECONDS
from lncis.execution.scratch import Copy, Scratch
from lncis.execution.task_log import log, shown_record, task_log
from lncis.execution.tasks import Task
from lncis.metrics import Record
from lncis.noise import NOISE_MANIFEST

HEARTBEAT_SECONDS = 15

MAX_PAUSE_SECONDS = 2.0
"""Between two questions of an idle worker group for a task, at most."""

STORAGE_RETRY_SECONDS = 60
"""Between two attempts at a task while its storage is away, each of which retries for about as long."""

PREDECESSOR_TIMEOUT_SECONDS = 120
"""How long a worker waits for one that trains the same task, left over from a study whose driver was killed."""


def train_tasks(settings: dict[str, Any]) -> None:
    """Take tasks until the queue says stop: the `train_loop_per_worker` of a worker group's Ray Train run.

    `settings` holds the `queue` (the handle of a TaskQueue actor), the name of the `worker_group`, the CPU `threads`
    and the `loading_processes` of each worker. Rank 0 talks to the queue; all ranks do the same.
    """
    torch.set_num_threads(settings["threads"])
    queue, name = settings["queue"], settings["worker_group"]
    heartbeat = _heartbeat(queue, name) if _rank() == 0 else nullcontext()
    with heartbeat, closing(Scratch()) as scratch:
        take_and_train(queue, name, scratch, settings["loading_processes"])


@contextmanager
def _heartbeat(queue: Any, worker_group: str) -> Iterator[None]:
    """Within the block the queue gets a sign of life every few seconds."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            with suppress(RayError):
                queue.heartbeat.remote(worker_group)

    threading.Thread(target=beat, name="heartbeat", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def pause_after(idle_seconds: float) -> float:
    """Return how many seconds a worker group that was idle for so long waits before it asks for a task again.

    Hundreds of groups that ask five times a second would keep the queue from answering others. A task that comes
    waits for up to a twentieth of the time that its group was idle.
    """
    return min(max(POLL_SECONDS, idle_seconds / 20), MAX_PAUSE_SECONDS)


def take_and_train(queue: Any, worker_group: str, scratch: Scratch, loading_processes: int) -> None:
    """Take tasks until the queue says stop, or is gone.

    A task that cannot be trained fails with its reason, and the group goes on. What may be a fault of this process is
    raised: Ray Train then replaces all workers of the group, who take the same task again.
    """
    loaded, alone = _LoadedData(), ray.train.get_context().get_world_size() == 1
    idle_since = time.monotonic()
    while True:
        try:
            task = _from_rank_zero(partial(_call, queue.take, worker_group))
        except RayActorError:  # the study is over, its driver knows; a new worker would meet the same
            return
        if task == "stop":
            return
        if task == "wait":
            time.sleep(pause_after(time.monotonic() - idle_since))
            continue
        context = ray.train.get_context()
        with task_log(partial(_send_line, queue, task), _rank(), context.get_world_size()):
            _take_through(task, queue, loaded, scratch, loading_processes, alone=alone)
        idle_since = time.monotonic()


def _send_line(queue: Any, task: Task, text: str) -> None:
    with suppress(RayError):
        _call(queue.log, "" if task.probe else task.key, text)


def _take_through(
    task: Task, queue: Any, loaded: "_LoadedData", scratch: Scratch, loading_processes: int, *, alone: bool
) -> None:
    """Train a task; tell the queue where it fails, and raise what this process or its group cannot go on after."""
    try:
        _train(task, queue, loaded, scratch, loading_processes)
    except DivergedError as error:  # agreed on by all ranks
        log.error("failed: %s", error)
        _from_rank_zero(partial(_call, queue.fail, task.key, str(error)))
    except StorageAwayError as error:
        log.warning("waits %d s: %s", STORAGE_RETRY_SECONDS, error)
        _call(queue.postpone, task.key, str(error))
        time.sleep(STORAGE_RETRY_SECONDS)
        if not alone:
            raise  # other ranks may be waiting for this one
    except Exception as error:
        reason = _why_untrainable(task, error)
        if reason is None:
            log.exception("stopped; new workers take it again")
            _call(queue.note, task.key, repr(error))
            raise
        log.error("failed: %s", reason)
        _call(queue.fail, task.key, reason)
        if not alone:
            raise  # other ranks may be waiting for this one
        torch.cuda.empty_cache()


def _why_untrainable(task: Task, error: Exception) -> str | None:
    """Return why a task cannot be trained, if the error says that; None for what may go well in a fresh process."""
    if isinstance(error, LncisError):
        return str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return f"out of memory; lower batch_size ({task.config.batch_size}) or the image size ({error})"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or task.directory} cannot be written: {error}; free some room on its disk, and retry"
    return None


@dataclass
class _LoadedData:
    """The data that a worker read last: most tasks of a study share them."""

    config: TrainConfig | None = None
    data: Data | None = None

    def get(self, config: TrainConfig) -> Data:
        if self.data is None or self.config is None or datasets.identity(self.config) != datasets.identity(config):
            self.config, self.data = config, datasets.load(config)
        return self.data


def _train(task: Task, queue: Any, loaded: _LoadedData, scratch: Scratch, loading_processes: int) -> None:
    """Train a task, or probe it, and tell the queue of each epoch and of the end."""
    first = task.after.until + 1 if task.after else 1
    what = "the check of its parameters" if task.probe else f"epochs {first} to {task.until}"
    log.info("%s, process %d on %s, %s", what, os.getpid(), socket.gethostname(), get_device())
    data = loaded.get(task.config)
    if task.probe:
        record = probing.probe(task.config, data, get_device())
        _from_rank_zero(partial(_call, queue.report, task.key, record))
    else:
        copy = _copy(task, scratch)
        with _sole_trainer(copy.directory) if _rank() == 0 else nullcontext():
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
    _from_rank_zero(partial(_call, queue.finish, task.key))


def _copy(task: Task, scratch: Scratch) -> Copy:
    """Return where this rank trains a task: in the folder that all share, or in a copy of what is published."""
    if not task.shared:
        return Copy(directory=task.directory, fork_from=task.after.directory if task.after else None, epoch=0)
    copy = scratch.copy(task)
    first = _from_rank_zero(lambda: copy.epoch)
    if copy.epoch != first:  # new workers will see the same
        raise RuntimeError(f"{copy.epoch} epochs are published where rank 0 saw {first}: another group trains this")
    return copy


def _epoch_finished(task: Task, copy: Copy, queue: Any, record: Record) -> Any:
    """Publish an epoch that is new, and tell the queue, which then may hand out what comes after."""
    found = record["epoch"] <= copy.epoch
    if task.shared and not found:
        storage.publish(copy.directory, task.shared, int(record["epoch"]))
    if task.after is None or record["epoch"] > task.after.until:  # the others are in the log of the stage before
        log.info("%s%s", shown_record(record), ", found finished" if found else "")
    return _call(queue.report, task.key, record, found)


@contextmanager
def _sole_trainer(directory: Path) -> Iterator[None]:
    """Within the block no other process trains in a folder: a late one could replace a checkpoint by an older one."""
    lock = files.lock(directory / ".trainer", timeout_seconds=PREDECESSOR_TIMEOUT_SECONDS)
    try:
        lock.acquire()
    except TimeoutError as error:
        raise StudyError(f"{directory} is being trained by another process; stop that one") from error
    try:
        for name in (engine.CHECKPOINT, histograms.FILE, label_losses.FILE):
            for leftover in directory.glob(f".{name}.*"):  # of a worker that was killed while it saved
                leftover.unlink()
        yield
    finally:
        lock.release()


def _write_manifest(data: Data, path: Path) -> None:
    if not path.exists():  # it may be a link into the store, which nobody writes through
        files.replace(path, json.dumps(data.manifests, indent=1))


def _rank() -> int:
    return int(ray.train.get_context().get_world_rank())


def _call(method: Any, *arguments: Any) -> Any:
    return ray.get(method.remote(*arguments))


def _from_rank_zero(answer: Callable[[], Any]) -> Any:
    """Return on every rank what `answer` returns on rank 0, where alone it is called."""
    context = ray.train.get_context()
    found = answer() if context.get_world_rank() == 0 else None
    return found if context.get_world_size() == 1 else broadcast_from_rank_zero(found)
