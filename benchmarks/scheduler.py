"""What the engine itself costs a trial: 1,000 trials of 6 epochs whose training is simulated by threads.

All else is real: Optuna proposes, Tune relays follow, the queue's actor hands out, the journal is written to disk.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

import ray

from lncis.config import Schedule, TrainConfig, Workers
from lncis.execution import cluster
from lncis.execution.worker_groups import start_queue
from lncis.studies import folders
from lncis.studies.driver import follow
from lncis.studies.journal import Journal
from lncis.studies.search import Suggester
from lncis.studies.spec import StudySpec
from lncis.studies.spec.samplers import OptunaSampler
from lncis.studies.spec.space import Range
from lncis.studies.stages import StageTree
from lncis.studies.study_run import StudyRun
from lncis.studies.trials import TrialScheduler
from lncis.studies.tuning import StudyQueue, TuneTrials

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
        worker_groups = [
            threading.Thread(target=_simulate, args=(str(n), queue.actor), daemon=True) for n in range(WORKER_GROUPS)
        ]
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


def _simulate(worker_group: str, queue: ray.actor.ActorHandle) -> None:
    while (task := ray.get(queue.take.remote(worker_group))) != "stop":
        if task == "wait":
            time.sleep(0.01)
            continue
        for epoch in range(task.after.until if task.after else 0, task.until):
            record = {"epoch": epoch + 1.0, "seconds": 0.0, "val/segm_AP": task.config.loss.gamma}
            ray.get(queue.report.remote(task.key, record))
        ray.get(queue.finish.remote(task.key))


if __name__ == "__main__":
    main()
