"""What the study engine itself costs a trial, whose training is simulated: epochs that sleep, on so many worker groups.

    python benchmarks/scheduler.py                                                              # 1,000 trials, 8 groups
    python benchmarks/scheduler.py --groups 16 --trials 10000 --epochs 1 --epoch-seconds 1 --tune

All else is real: Optuna proposes, Tune relays follow, the queue's actor hands out, the journal is written to disk.
`--tune` runs as many trainables that sleep on Ray Tune alone, with as many at a time, after that. The least time is
that of the epochs alone. Memory is what each process shares with no other one (USS).
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import tune

from lncis.config import Schedule, TrainConfig
from lncis.execution import cluster
from lncis.execution.queue import POLL_SECONDS
from lncis.execution.tasks import Task
from lncis.execution.worker_groups import start_queue
from lncis.metrics import Record
from lncis.studies import folders
from lncis.studies.driver.loop import ahead, follow
from lncis.studies.driver.tuning import StudyQueue, TuneTrials
from lncis.studies.record.journal import EpochFinished, Journal, TrialEnded
from lncis.studies.search import Suggester
from lncis.studies.spec import StudySpec
from lncis.studies.spec.samplers import OptunaSampler
from lncis.studies.spec.space import Range
from lncis.studies.stages.tree import StageTree
from lncis.studies.study_run import StudyRun
from lncis.studies.trials import TrialScheduler
from lncis.testing import SimulatedWorkerGroup

GROUPS_A_PROCESS = 64
"""Simulated groups are threads of processes of their own, as real ones are not the driver's work."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--epoch-seconds", type=float, default=0.0)
    parser.add_argument("--sampler", choices=["random", "tpe"], default="random")
    parser.add_argument("--tune", action="store_true", help="and Ray Tune alone")
    asked = parser.parse_args()
    os.environ |= {"RAY_AUTH_MODE": "disabled", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    # a CPU for each slot: so Tune alone knows how many there are, and Ray starts so many processes at once
    slots: dict[str, Any] = {"num_cpus": asked.groups, "resources": {cluster.TRIAL_DRIVER: 1000}}
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    ray.init(object_store_memory=256 * 2**20, **slots, **quiet)
    with counted("lncis", asked):
        run_study(asked)
    if asked.tune:
        with counted("Ray Tune alone", asked):
            run_tune(asked)
    ray.shutdown()


def run_study(asked: argparse.Namespace) -> None:
    schedule = Schedule(epochs=asked.epochs, stage1_epochs=asked.epochs // 2)
    spec = StudySpec(
        name="simulated",
        base=TrainConfig(schedule=schedule),
        search={"loss.gamma": Range(type="float", low=2, high=9), "loss.A": Range(type="float", low=-9, high=-1)},
        sampler=OptunaSampler(type=asked.sampler, configurations=asked.trials),
    )
    with tempfile.TemporaryDirectory() as runs:
        folder = folders.claim_folder(Path(runs), "simulated", spec)
        journal, queue = Journal(folder), StudyQueue()
        tree = StageTree(spec, folder / "stages")
        run = StudyRun(spec=spec, folder=folder, tree=tree, journal=journal, observers=[], published=None)
        trials = TrialScheduler(run, Suggester(spec), queue)
        trials.resume()
        queue.actor = start_queue()
        hosts = [
            SimulatedHost.remote(queue.actor, min(GROUPS_A_PROCESS, asked.groups - first), first, asked.epoch_seconds)
            for first in range(0, asked.groups, GROUPS_A_PROCESS)
        ]
        ended = [host.run.remote() for host in hosts]
        followed = TuneTrials(queue.actor, "simulated", asked.trials)
        looked = threading.Event()

        def attend() -> tuple[int, int]:
            if trials.unfinished <= asked.trials // 8 and not looked.is_set():  # behind those whose time is taken
                looked.set()
                memory()
            return asked.groups, ahead(run, asked.groups)

        follow(trials, followed, attend)
        assert trials.unfinished == 0
        steady(journal, asked)
        ray.get(queue.actor.close.remote())
        followed.stop()
        ray.get(ended)


@ray.remote(num_cpus=0, resources={cluster.TRIAL_DRIVER: 1})
class SimulatedHost:
    """A process of simulated worker groups, each a thread."""

    def __init__(self, queue: Any, groups: int, first: int, epoch_seconds: float) -> None:
        self._groups = [
            SimulatedWorkerGroup(str(first + number), partial(_ask, queue), partial(_train, epoch_seconds))
            for number in range(groups)
        ]

    def run(self) -> None:
        """Work until the queue says stop."""
        threads = [threading.Thread(target=group.run, args=(POLL_SECONDS,)) for group in self._groups]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _ask(queue: Any, method: str, *arguments: Any) -> Any:
    return ray.get(getattr(queue, method).remote(*arguments))


def _train(seconds: float, task: Task, epoch: int) -> Record:
    time.sleep(seconds)
    return {"epoch": float(epoch), "seconds": seconds, "val/segm_AP": task.config.loss.gamma}


class Sleeping(tune.Trainable):
    """A trial of Tune's own that sleeps."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        self._epochs, self._seconds, self._gamma, self._epoch = config["epochs"], config["seconds"], config["gamma"], 0
        return True

    def step(self) -> dict[str, Any]:
        time.sleep(self._seconds)
        self._epoch += 1
        return {"val/segm_AP": self._gamma, "done": self._epoch == self._epochs}


def run_tune(asked: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as storage:
        tune.Tuner(
            tune.with_resources(Sleeping, {"CPU": 1}),
            param_space={"gamma": tune.uniform(2, 9), "epochs": asked.epochs, "seconds": asked.epoch_seconds},
            tune_config=tune.TuneConfig(num_samples=asked.trials, reuse_actors=True),
            run_config=tune.RunConfig(
                name="peer",
                storage_path=storage,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()


@contextmanager
def counted(name: str, asked: argparse.Namespace) -> Iterator[None]:
    """Say how long the block takes, by the clock and on all cores, beside the time of the epochs alone."""
    least = asked.trials * asked.epochs * asked.epoch_seconds / asked.groups
    begun, busy = time.monotonic(), cpu_seconds()
    yield
    seconds, busy = time.monotonic() - begun, cpu_seconds() - busy
    each, busy_each = (1000 * whole / asked.trials for whole in (seconds, busy))
    what = f"{asked.trials} trials of {asked.epochs} epochs of {asked.epoch_seconds:g} s, {asked.groups} at a time"
    took = f"{seconds:.0f} s of at least {least:.0f} s, {each:.0f} ms a trial, {busy_each:.0f} ms of CPU"
    print(f"{name}: {what}: {took}", flush=True)


def steady(journal: Journal, asked: argparse.Namespace) -> None:
    """Say how long the middle half of the trials took: without the start of processes, and without the last trials."""
    ends = [event.time for event in journal.events if isinstance(event, TrialEnded)]
    part = ends[len(ends) // 4 : 3 * len(ends) // 4 + 1]
    least = (len(part) - 1) * asked.epochs * asked.epoch_seconds / asked.groups
    epochs = sum(isinstance(event, EpochFinished) for event in journal.events)
    took = part[-1] - part[0]
    print(f"  the middle {len(part) - 1} trials: {took:.1f} s of at least {least:.1f} s; {epochs} epochs", flush=True)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of all that it has started, Ray's and those that ended among them."""
    me = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in [me, *me.children(recursive=True)])


def memory() -> None:
    """Say how much memory of their own, which they share with none, this process and those that it started have."""
    found: dict[str, list[int]] = {"driver": [psutil.Process().memory_full_info().uss]}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it ends just now
            name = (process.cmdline() or [process.name()])[0].rpartition("/")[2]
            found.setdefault(name.removeprefix("ray::").partition(".")[0], []).append(process.memory_full_info().uss)
    parts = (f"{name} {len(all_) if len(all_) > 1 else ''} {sum(all_) / 2**20:.0f} MiB" for name, all_ in found.items())
    print("  " + ", ".join(" ".join(part.split()) for part in parts), flush=True)


if __name__ == "__main__":
    main()
