"""The loop of a lane's workers in this process, with a queue of its own and no Ray."""

import itertools
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from object_store import ObjectStore, serving

from lncis import datasets, engine, storage, training
from lncis.config import TrainConfig
from lncis.errors import StorageAwayError
from lncis.metrics import Record
from lncis.scratch import Scratch
from lncis.tasks import MAX_RETURNS, Progress, State, Task, TaskQueue


@pytest.fixture
def s3():
    with serving() as store:
        yield store


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> TaskQueue:
    """A queue that is asked directly, by a worker which is the only one of its lane and closes it when all is done."""
    made = TaskQueue()
    alone = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(training.ray.train, "get_context", lambda: alone)
    monkeypatch.setattr(training, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(training, "_ask", lambda method, *arguments: method(*arguments))
    return made


def train(queue: TaskQueue, task: Task, pause: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Progress:
    """Return how far a lane comes that calls `pause` where it would sleep."""
    queue.submit("anna", [task])

    def sleep(seconds: float) -> None:
        pause()
        if queue.outlook().tasks == 0:
            queue.close()

    monkeypatch.setattr(training, "time", SimpleNamespace(sleep=sleep, monotonic=training.time.monotonic))
    with closing(Scratch()) as scratch:
        training._work_on({"lane": "lane", "queue": queue, "threads": 1, "loading_processes": 0}, scratch)
    return queue.progress("anna")


def stage(s3: ObjectStore, config: TrainConfig) -> Task:
    return Task(key="stage", config=config, until=3, directory=Path("stage"), shared=s3.url("lncis/stage"))


def test_a_bucket_that_is_away_for_longer_than_it_is_insisted_costs_one_epoch_and_no_trial(
    tiny: TrainConfig, s3: ObjectStore, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PAUSES", ())
    trained, epoch, away = [], engine.train_epoch, ExitStack()

    def then_away(*arguments: Any, **options: Any) -> Any:
        trained.append(arguments[5] + 1)
        result = epoch(*arguments, **options)
        if trained == [1, 2]:
            away.enter_context(s3.failing(501))
        return result

    monkeypatch.setattr(engine, "train_epoch", then_away)
    pauses = itertools.count(1)

    def back_after_the_second_pause() -> None:
        if next(pauses) == 2:
            away.close()

    progress = train(queue, stage(s3, tiny), back_after_the_second_pause, monkeypatch)
    assert trained == [1, 2, 2, 3], "what could not be published is trained again, once there is where to publish it"
    assert [record["epoch"] for record in progress.records] == [1, 2, 3]
    assert progress.state is not State.FAILED
    data = datasets.load(tiny)
    undisturbed = engine.train(tiny, data, Path("undisturbed"), until=3)
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
    assert len(asked) == MAX_RETURNS
    assert progress.state is State.FAILED
    assert progress.reason == "s3://bucket/lncis cannot be used: as told; see that it can be reached"
