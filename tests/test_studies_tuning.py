"""Relays that are held back: real Tune, a real queue, worker groups made of threads."""

import logging
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from lncis.config import Schedule, TrainConfig
from lncis.execution.tasks import Task
from lncis.execution.worker_groups import start_queue
from lncis.metrics import Record
from lncis.studies.driver.loop import follow
from lncis.studies.driver.tuning import StudyQueue, TuneTrials
from lncis.studies.record.journal import End, EpochFinished, Journal
from lncis.studies.search import Suggester
from lncis.studies.spec import StudySpec
from lncis.studies.spec.space import Categorical
from lncis.studies.stages.tree import StageTree
from lncis.studies.study_run import Observer, StudyRun
from lncis.studies.trials import TrialScheduler
from lncis.testing import SimulatedWorkerGroup

pytestmark = pytest.mark.usefixtures("local_ray")

TRIALS = 6
SECONDS = 0.5
"""For each task."""


class Held(Observer):
    """One trial at a time until two have ended, then three; sees how many there were."""

    def __init__(self) -> None:
        self.at_once = 1
        self.looks = self.running = self.ended = 0
        self.most: dict[int, int] = {1: 0, 3: 0}

    def attend(self) -> tuple[int, int]:
        self.looks += 1
        return self.at_once, 0

    def on_trial_start(self, trial: object, tasks: object) -> None:
        self.running += 1
        self.most[self.at_once] = max(self.most[self.at_once], self.running)

    def on_trial_end(self, trial: object, end: End, reason: str) -> None:
        assert not reason
        self.running -= 1
        self.ended += 1
        self.at_once = 1 if self.ended < 2 else 3


def ask(queue: Any, method: str, *arguments: Any) -> Any:
    return ray.get(getattr(queue, method).remote(*arguments))


def train(task: Task, epoch: int) -> Record:
    time.sleep(SECONDS)
    return {"epoch": float(epoch), "seconds": SECONDS}


def first_epoch(task: Task) -> list[Record]:
    return [{"epoch": 1.0, "seconds": SECONDS}]


def test_trials_that_are_held_back_are_asked_for_again(tmp_path: Path) -> None:
    """A searcher's None is no end, no busy loop and no line in the log."""
    spec = StudySpec(
        name="held",
        base=TrainConfig(schedule=Schedule(epochs=2, stage1_epochs=0)),
        search={"loss.gamma": Categorical(choices=[1.0 + n for n in range(TRIALS)])},
    )
    held, queue = Held(), StudyQueue()
    queue.actor = start_queue()
    journal = Journal(tmp_path)
    tree = StageTree(spec, tmp_path)
    run = StudyRun(spec=spec, folder=tmp_path, tree=tree, journal=journal, observers=[held], published=None)
    trials = TrialScheduler(run, Suggester(spec), queue)
    trials.resume()
    simulated = [
        SimulatedWorkerGroup(f"{n}", partial(ask, queue.actor), train, found=first_epoch, published=True)
        for n in range(4)
    ]
    worker_groups = [threading.Thread(target=each.run, args=(0.05,), daemon=True) for each in simulated]
    for thread in worker_groups:
        thread.start()
    said: list[logging.LogRecord] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = said.append  # type: ignore[method-assign]
    logging.getLogger("ray").addHandler(listener)
    started = time.monotonic()
    try:
        tune = TuneTrials(queue.actor, "held", TRIALS)
        follow(trials, tune, held.attend)
    finally:
        logging.getLogger("ray").removeHandler(listener)
        ray.get(queue.actor.close.remote())
        tune.stop()
    seconds = time.monotonic() - started
    for thread in worker_groups:
        thread.join(10)
    journal.close()
    assert (trials.unfinished, held.ended) == (0, TRIALS)
    told = [(e.record["epoch"], e.reused) for e in journal.events if isinstance(e, EpochFinished)]
    assert sorted(told) == TRIALS * [(1.0, True)] + TRIALS * [(2.0, False)], "who found an epoch said so"
    assert held.most == {1: 1, 3: 3}
    assert [record.getMessage() for record in said] == []
    assert 2 < held.looks < 50 * seconds
