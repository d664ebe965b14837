"""What the engine itself costs a trial: 1,000 trials of 6 epochs whose training is simulated by threads.

All else is real: Optuna proposes, Tune relays follow, the queue's actor hands out, the journal is written to disk.
"""

import argparse
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import ray

from lncis.config import Schedule, TrainConfig, Workers
from lncis.execution import cluster
from lncis.execution.queue import Task
from lncis.execution.worker_groups import start_queue
from lncis.metrics import Record
from lncis.studies import folders
from lncis.studies.driver.loop import follow
from lncis.studies.driver.tuning import StudyQueue, TuneTrials
from lncis.studies.journal import Journal
from lncis.studies.search import Suggester
from lncis.studies.spec import StudySpec
from lncis.studies.spec.samplers import OptunaSampler
from lncis.studies.spec.space import Range
from lncis.studies.stages import StageTree
from lncis.studies.study_run import StudyRun
from lncis.studies.trials import TrialScheduler
from lncis.testing import SimulatedWorkerGroup

WORKER_GROUPS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sampler", choices=["random", "tpe"], default="random")
    arguments = parser.parse_args()
    spec = StudySpec(
        name="simulated",
        base=TrainConfig(schedule=Schedule(epochs=6, stage1_epochs=3)),
        search={"loss.gamma": Range(type="float", low=2, high=9), "loss.A": Range(type="float", low=-9, high=-1)},
        sampler=OptunaSampler(type=arguments.sampler, configurations=arguments.trials),
    )
    with tempfile.TemporaryDirectory() as runs, cluster.connected(Workers(), worker_groups=1):
        folder = folders.claim_folder(Path(runs), "simulated", spec)
        journal, queue = Journal(folder), StudyQueue()
        run = StudyRun(
            spec=spec,
            folder=folder,
            tree=StageTree(spec, folder / "stages"),
            journal=journal,
            observers=[],
            published=None,
        )
        trials = TrialScheduler(run, Suggester(spec), queue)
        trials.resume()
        queue.actor = start_queue()
        simulated = [SimulatedWorkerGroup(str(n), partial(_ask, queue.actor), _train) for n in range(WORKER_GROUPS)]
        worker_groups = [threading.Thread(target=each.run, daemon=True) for each in simulated]
        for worker_group in worker_groups:
            worker_group.start()
        started = time.monotonic()
        tune = TuneTrials(queue.actor, "simulated", arguments.trials)
        follow(trials, tune, lambda: WORKER_GROUPS)
        seconds = time.monotonic() - started
        ray.get(queue.actor.close.remote())
        tune.stop()
        for worker_group in worker_groups:
            worker_group.join()
        assert trials.unfinished == 0
    each = 1000 * seconds / arguments.trials
    sampled = f"{arguments.trials} trials ({arguments.sampler})"
    print(f"{sampled}, {WORKER_GROUPS} at a time: {seconds:.0f} s, {each:.0f} ms a trial")


def _ask(queue: ray.actor.ActorHandle, method: str, *arguments: Any) -> Any:
    return ray.get(getattr(queue, method).remote(*arguments))


def _train(task: Task, epoch: int) -> Record:
    return {"epoch": float(epoch), "seconds": 0.0, "val/segm_AP": task.config.loss.gamma}


if __name__ == "__main__":
    main()
