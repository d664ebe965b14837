"""What a relay reports of the trials that it follows. Tune and Ray are not there."""

from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from lncis.config import Schedule, TrainConfig
from lncis.execution.queue import TaskQueue
from lncis.execution.tasks import Task
from lncis.studies.driver import relay
from lncis.studies.driver.relay import Relay


class Handle:
    """A queue whose methods are called as those of an actor; `ray.get` returns what they return."""

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue

    def __getattr__(self, method: str) -> Any:
        class Method:
            remote = staticmethod(getattr(self._queue, method))

        return Method


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> TaskQueue:
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    monkeypatch.setattr(relay, "POLL_SECONDS", 0.0)
    return TaskQueue()


def new_relay(queue: TaskQueue) -> Relay:
    made = Relay.__new__(Relay)
    made.setup({"relay": "relay 0"}, Handle(queue))
    return made


def submit(queue: TaskQueue, *owners: str) -> None:
    config = TrainConfig(schedule=Schedule(epochs=2, stage1_epochs=0))
    for owner in owners:
        queue.submit(owner, [Task(key=owner, config=config, until=2, directory=Path(owner))])
        queue.follow(owner)


def train(queue: TaskQueue, key: str, *epochs: int, found: bool = False) -> None:
    queue.take("group")
    for epoch in epochs:
        queue.report(key, {"epoch": float(epoch)}, found)
        if epoch == 2:
            queue.finish(key)


def epochs(trial: str, *numbers: int, reused: bool = False) -> list[dict[str, Any]]:
    return [{"trial": trial, "record": {"epoch": float(number)}, "reused": reused} for number in numbers]


def end(trial: str, reason: str = "") -> dict[str, Any]:
    return {"trial": trial, "ended": True, "reason": reason}


def test_a_relay_reports_what_is_new_of_several_trials(queue):
    submit(queue, "a", "b")
    train(queue, "a", 1, found=True)
    one = new_relay(queue)
    assert one.step() == {"reports": epochs("a", 1, reused=True)}
    queue.report("a", {"epoch": 2.0})
    queue.finish("a")
    train(queue, "b", 1)
    assert one.step() == {"reports": [*epochs("a", 2), end("a"), *epochs("b", 1)]}
    queue.report("b", {"epoch": 2.0})
    queue.finish("b")
    assert one.step() == {"reports": [*epochs("b", 2), end("b")]}
    queue.close("the end")
    assert one.step() == {"closed": "the end", "done": True}


def test_a_relay_that_replaces_another_reports_its_trials_again(queue):
    submit(queue, "a")
    train(queue, "a", 1, 2)
    everything = {"reports": [*epochs("a", 1, 2), end("a")]}
    assert new_relay(queue).step() == new_relay(queue).step() == everything


def test_a_trial_that_fails_is_followed_again_where_it_is_retried(queue):
    submit(queue, "a")
    train(queue, "a", 1)
    queue.fail("a", "the disk is full")
    one = new_relay(queue)
    assert one.step() == {"reports": [*epochs("a", 1), end("a", "the disk is full")]}
    config = TrainConfig(schedule=Schedule(epochs=1, stage1_epochs=0))
    queue.submit("a", [Task(key="again", config=config, until=1, directory=Path("again"))])
    queue.follow("a")
    queue.take("group")
    queue.report("again", {"epoch": 1.0})
    assert one.step() == {"reports": epochs("a", 1)}
    queue.finish("again")
    assert one.step() == {"reports": [end("a")]}


def test_a_relay_ends_with_its_queue_in_the_middle_of_a_trial(queue):
    submit(queue, "a")
    train(queue, "a", 1)
    one = new_relay(queue)
    assert one.step() == {"reports": epochs("a", 1)}
    queue.close("no worker is left")
    assert one.step() == {"closed": "no worker is left", "done": True}


def test_a_relay_ends_with_the_process_of_its_queue(queue, monkeypatch):
    def dead(answer: object) -> None:
        raise RayActorError

    one = new_relay(queue)
    monkeypatch.setattr(ray, "get", dead)
    assert one.step() == {"closed": "the study's queue died (RayActorError)", "done": True}
