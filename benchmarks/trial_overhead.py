"""Seconds that a trial costs beyond its training: on lncis's worker groups, and with a TorchTrainer for each.

The second is the form that Ray's documentation gives: a Tune function that builds a TorchTrainer. Both train the same
configs with the same engine, one worker, one trial at a time.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.train
from ray import tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from lncis import datasets
from lncis.config import DigitsData, Schedule, TrainConfig, Workers
from lncis.detection import engine
from lncis.execution import cluster
from lncis.studies.record.journal import EpochFinished, TrialEnded, read
from lncis.studies.run import run_study
from lncis.studies.spec import Resources, StudySpec
from lncis.studies.spec.space import Categorical

BASE = TrainConfig(
    dataset=DigitsData(train_scenes=8, val_scenes=4, test_scenes=4), schedule=Schedule(epochs=2, stage1_epochs=0)
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20, help="on worker groups")
    parser.add_argument("--peers", type=int, default=4, help="with a TorchTrainer each")
    arguments = parser.parse_args()
    datasets.load(BASE)
    with tempfile.TemporaryDirectory() as folder, cluster.connected(Workers(num_workers=2), worker_groups=1):
        ours = on_worker_groups(arguments.trials, Path(folder))
        theirs = with_a_trainer_each(arguments.peers, Path(folder))
    print(f"worker groups: {ours:.2f} s a trial beyond its training ({arguments.trials} trials)")
    print(f"a TorchTrainer each: {theirs:.1f} s a trial beyond its training ({arguments.peers} trials)")


def on_worker_groups(trials: int, folder: Path) -> float:
    """Return the seconds beyond training of a trial, once the worker group is up."""
    gammas = [4.0 + 0.01 * number for number in range(trials + 1)]
    spec = StudySpec(
        name="overhead",
        base=BASE,
        search={"loss.gamma": Categorical(choices=gammas)},
        resources=Resources(max_concurrent_trials=1),
        sensitivity_check=False,
    )
    result = run_study(spec, runs=folder)
    events = read(result.directory)
    ends = [event.time for event in events if isinstance(event, TrialEnded)]
    epochs = [e for e in events if isinstance(e, EpochFinished) and e.trial != result.trials[0].trial.name]
    training = sum(event.record["seconds"] for event in epochs)
    return (ends[-1] - ends[0] - training) / trials  # from the end of the first, which waited for the worker group


def with_a_trainer_each(trials: int, folder: Path) -> float:
    """Return the same for a Tune function that builds a TorchTrainer."""
    started = time.monotonic()
    results = tune.Tuner(
        tune.with_resources(_build_a_trainer, {"CPU": 0, cluster.TRIAL_DRIVER: 1}),
        param_space={"gamma": tune.grid_search([4.0 + 0.01 * number for number in range(trials)]), "folder": folder},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(name="peer", storage_path=str(folder / "tune"), verbose=0),
    ).fit()
    training = sum(result.metrics["training_seconds"] for result in results)
    return (time.monotonic() - started - training) / trials


def _build_a_trainer(config: dict[str, Any]) -> None:
    TorchTrainer(
        _train,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(
            name=f"gamma-{config['gamma']}",
            storage_path=str(config["folder"] / "train"),
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def _train(config: dict[str, Any]) -> None:
    trained = replace(BASE, loss=replace(BASE.loss, gamma=config["gamma"]))
    records = engine.train(trained, datasets.load(trained), config["folder"] / f"peer-{config['gamma']}")
    ray.train.report({"training_seconds": sum(record["seconds"] for record in records)})


if __name__ == "__main__":
    main()
