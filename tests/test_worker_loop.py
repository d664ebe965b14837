"""The loop of a worker group's workers in this process, with a queue of its own and no Ray."""

import fcntl
import itertools
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from object_store import ObjectStore, serving

from lncis import datasets
from lncis.config import Fold, TrainConfig
from lncis.detection import checkpoint, engine
from lncis.detection.checkpoint import Checkpoint
from lncis.errors import StorageAwayError
from lncis.execution import objects, storage, worker
from lncis.execution.queue import MAX_ATTEMPTS, TaskQueue
from lncis.execution.scratch import Scratch
from lncis.execution.tasks import Progress, State, Task
from lncis.metrics import Record
from lncis.studies.driver.log import DriverLog
from lncis.studies.record.logs import DRIVER, LOGS, read


@pytest.fixture
def s3():
    with serving() as store:
        yield store


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> TaskQueue:
    """A queue that is asked directly, by a worker which is the only one of its worker group."""
    made = TaskQueue()
    alone = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(worker.ray.train, "get_context", lambda: alone)
    monkeypatch.setattr(worker, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(worker, "_call", lambda method, *arguments: method(*arguments))
    return made


def train(queue: TaskQueue, task: Task, pause: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Progress:
    """Return how far a worker group comes that calls `pause` where it would sleep, and goes home when all is done."""
    queue.submit("anna", [task])

    def sleep(seconds: float) -> None:
        pause()
        if queue.status().tasks == 0:
            queue.close()

    monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=sleep, monotonic=worker.time.monotonic))
    with closing(Scratch()) as scratch:
        worker.take_and_train(queue, "worker_group", scratch, loading_processes=0)
    return queue.progress("anna")


def stage(s3: ObjectStore, config: TrainConfig) -> Task:
    return Task(key="stage", config=config, until=3, directory=Path("stage"), shared=s3.url("lncis/stage"))


def test_a_bucket_that_is_away_for_longer_than_it_is_insisted_costs_one_epoch_and_no_trial(
    tiny: TrainConfig, trained: Path, s3: ObjectStore, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "BACKOFF_SECONDS", ())
    begun, epoch, away = [], engine.train_epoch, ExitStack()

    def then_away(*arguments: Any, **options: Any) -> Any:
        begun.append(arguments[4] + 1)
        result = epoch(*arguments, **options)
        if begun == [1, 2]:
            away.enter_context(s3.failing(501))
        return result

    monkeypatch.setattr(engine, "train_epoch", then_away)
    pauses = itertools.count(1)

    def back_after_the_second_pause() -> None:
        if next(pauses) == 2:
            away.close()

    progress = train(queue, stage(s3, tiny), back_after_the_second_pause, monkeypatch)
    assert begun == [1, 2, 2, 3], "what could not be published is trained again, once there is where to publish it"
    assert [record["epoch"] for record in progress.records] == [1, 2, 3]
    assert progress.state is not State.FAILED
    undisturbed = checkpoint.load(trained / engine.CHECKPOINT).history[:3]
    assert [without_time(record) for record in progress.records] == [without_time(record) for record in undisturbed]
    assert queue.lost_seconds() > 0


def without_time(record: Record) -> Record:
    return {key: value for key, value in record.items() if key != "seconds"}


def test_a_bucket_that_stays_away_fails_the_task_in_the_end_and_the_worker_lives(
    tiny: TrainConfig, s3: ObjectStore, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def away(url: str, folder: Any) -> None:
        asked.append(url)
        raise StorageAwayError("s3://bucket/lncis cannot be used: as told; see that it can be reached")

    monkeypatch.setattr(storage, "fetch", away)
    progress = train(queue, stage(s3, tiny), lambda: None, monkeypatch)
    assert len(asked) == MAX_ATTEMPTS
    assert progress.state is State.FAILED
    assert progress.reason == "s3://bucket/lncis cannot be used: as told; see that it can be reached"


def test_a_worker_group_says_which_epochs_an_earlier_study_had_published(
    tiny: TrainConfig, s3: ObjectStore, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = train(queue, replace(stage(s3, tiny), until=1), lambda: None, monkeypatch)
    assert ([record["epoch"] for record in earlier.records], earlier.reused) == ([1], frozenset())
    later = train(TaskQueue(), replace(stage(s3, tiny), until=2), lambda: None, monkeypatch)
    assert ([record["epoch"] for record in later.records], later.reused) == ([1, 2], {1})


class Ranks:
    """Two ranks as threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._thread, self._meeting = threading.local(), threading.Barrier(2, timeout=60)
        self._said: list[Any] = [None, None]
        context = SimpleNamespace(get_world_rank=lambda: self.rank, get_world_size=lambda: 2)
        monkeypatch.setattr(worker.ray.train, "get_context", lambda: context)
        monkeypatch.setattr(worker, "broadcast_from_rank_zero", lambda answer: self._gathered(answer)[0])
        monkeypatch.setattr(engine, "_world", lambda: 2)
        monkeypatch.setattr(engine, "_rank", lambda: self.rank)
        monkeypatch.setattr(engine.dist, "all_gather_object", self._gather)
        self.raised: list[Exception | None] = [None, None]

    @property
    def rank(self) -> int:
        return int(self._thread.rank)

    def start(self, do: Callable[[], object]) -> list[threading.Thread]:
        threads = [threading.Thread(target=self._run, args=(rank, do)) for rank in (0, 1)]
        for thread in threads:
            thread.start()
        return threads

    def _run(self, rank: int, do: Callable[[], object]) -> None:
        self._thread.rank = rank
        try:
            do()
        except Exception as error:
            self.raised[rank] = error

    def _gathered(self, said: Any) -> list[Any]:
        self._said[self.rank] = said
        self._meeting.wait()
        answers = list(self._said)
        self._meeting.wait()
        return answers

    def _gather(self, answers: list[Any], said: Any) -> None:
        answers[:] = self._gathered(said)


@pytest.fixture
def ranks(queue: TaskQueue, monkeypatch: pytest.MonkeyPatch) -> Ranks:
    return Ranks(monkeypatch)


def test_a_worker_that_takes_one_fold_after_another_trains_each_on_its_own_images(
    tiny: TrainConfig, queue: TaskQueue, digits_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on: list[datasets.Data] = []
    monkeypatch.setattr(engine, "train", lambda config, data, folder, **options: trained_on.append(data))
    configs = [replace(tiny, fold=Fold(number=number, of=3)) for number in (0, 1, 1, 2)]
    loaded = worker._LoadedData()
    for number, config in enumerate(configs):
        task = Task(key=f"stage{number}", config=config, until=1, directory=Path(f"stage{number}"))
        task.directory.mkdir()
        queue.submit("anna", [task])
        queue.take("worker_group")
        worker._train(task, queue, loaded, Scratch(), 0)
    assert trained_on[1] is trained_on[2], "read once where all is the same"
    for config, data in zip(configs, trained_on, strict=True):
        wanted = datasets.load(config)
        assert data.train.document == wanted.train.document
        assert data.val.document == wanted.val.document


def test_no_rank_looks_for_the_checkpoint_while_a_predecessor_may_replace_it(
    tiny: TrainConfig, queue: TaskQueue, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task(key="stage", config=tiny, until=4, directory=Path("stage"))
    queue.submit("anna", [task])
    queue.take("worker_group")
    looking: list[int] = []
    monkeypatch.setattr(engine, "train", lambda *arguments, **options: looking.append(ranks.rank))
    datasets.load(tiny)  # composed once, not by both at a time
    Path("stage").mkdir()
    with Path("stage/.trainer").open("w") as predecessor:
        fcntl.flock(predecessor, fcntl.LOCK_EX)
        threads = ranks.start(lambda: worker._train(task, queue, worker._LoadedData(), Scratch(), 0))
        threads[1].join(0.5)
        assert looking == []
    for thread in threads:
        thread.join()
    assert ranks.raised == [None, None]
    assert sorted(looking) == [0, 1]


def test_ranks_that_see_different_checkpoints_begin_anew_and_the_task_has_not_failed(
    tiny: TrainConfig, queue: TaskQueue, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS, which may show a node what was there some seconds ago."""
    task = Task(key="stage", config=tiny, until=4, directory=Path("stage"))
    queue.submit("anna", [task])
    state = Checkpoint(model={}, optimizer={}, history=[{"epoch": 1.0}, {"epoch": 2.0}])
    Path("stage").mkdir()
    checkpoint.save(state, Path("stage") / engine.CHECKPOINT)
    load = checkpoint.load

    def late(path: Path) -> Checkpoint:
        found = load(path)
        return found if ranks.rank == 0 else Checkpoint(model={}, optimizer={}, history=found.history[:1])

    monkeypatch.setattr(checkpoint, "load", late)
    datasets.load(tiny)
    for thread in ranks.start(lambda: worker.take_and_train(queue, "worker_group", Scratch(), 0)):
        thread.join()
    assert all("see different checkpoints" in str(error) for error in ranks.raised)
    assert queue.progress("anna").state is State.RUNNING
    assert queue.take("worker_group") == task, "its new workers look again"
    for _ in range(MAX_ATTEMPTS):
        queue.take("worker_group")
    assert "share the folder between nodes: ['2 epochs', '1 epochs']" in queue.progress("anna").reason


def test_what_a_worker_does_is_in_the_log_of_its_task(
    tiny: TrainConfig, tmp_path: Path, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task(key="stage", config=tiny, until=1, directory=tmp_path / "stage")
    train(queue, task, lambda: None, monkeypatch)
    logged = queue.take_log()
    assert {key for key, _ in logged} == {"stage"}
    begun, epoch = [text for _, text in logged]
    assert "epochs 1 to 1, process" in begun
    assert "epoch 1: train/loss" in epoch
    assert queue.take_log() == []
    fork, later = Task(key="fork", config=tiny, until=2, directory=tmp_path / "fork", after=task), TaskQueue()
    later.submit("of the stage before", [task])
    train(later, fork, lambda: None, monkeypatch)
    begun, epoch = [text for key, text in later.take_log() if key == "fork"]  # the epoch before is in the other log
    assert "epochs 2 to 2, process" in begun
    assert "epoch 2: train/loss" in epoch


def test_the_log_of_a_task_has_the_traceback_of_a_fault(
    tiny: TrainConfig, tmp_path: Path, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("a fault of this process")

    monkeypatch.setattr(engine, "train_epoch", broken)
    task = Task(key="stage", config=tiny, until=1, directory=tmp_path / "stage")
    with pytest.raises(RuntimeError, match="a fault"):
        train(queue, task, lambda: None, monkeypatch)
    text = queue.take_log()[-1][1]
    assert "stopped; new workers take it again\nTraceback" in text
    assert "RuntimeError: a fault of this process" in text


def test_a_probe_logs_for_the_driver_and_for_no_stage(
    tiny: TrainConfig, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = Task(key="probe x = ../../y", config=tiny, until=1, directory=Path(), probe=True)
    train(queue, probe, lambda: None, monkeypatch)
    ((key, text),) = queue.take_log()
    assert key == ""
    assert "the check of its parameters, process" in text


def test_no_line_of_a_worker_leaves_the_folder_of_the_logs(tmp_path: Path) -> None:
    log = DriverLog(tmp_path / "study")
    sent = [("stage", "of a stage"), ("", "of none"), ("../../outside", "of elsewhere")]
    log.take(lambda: sent, at_once=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study"]
    logs = tmp_path / "study" / LOGS
    assert sorted(path.name for path in logs.iterdir()) == [DRIVER, "stage"]
    assert read(logs, [DRIVER], offset=0, limit=2000).text == "of none\nof elsewhere\n"


@pytest.mark.parametrize(("idle", "pause"), [(0, 0.2), (4, 0.2), (20, 1), (40, 2), (4000, 2)])
def test_an_idle_worker_group_asks_less_and_less_often(idle, pause):
    assert worker.pause_after(idle) == pause
