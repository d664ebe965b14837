"""Real Ray Train workers: two-process DDP, a worker group that serves several tasks, a worker killed in the middle."""

import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from lncis import datasets, documents
from lncis.config import AdamWOptimizer, Schedule, TrainConfig, Workers
from lncis.detection import checkpoint, engine
from lncis.detection.engine import CHECKPOINT
from lncis.errors import ConfigError, StudyError
from lncis.execution.worker_groups import fit
from lncis.metrics import TEST_METRICS

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def lasting(tiny: TrainConfig) -> TrainConfig:
    """So long that what happens after its second epoch happens in mid-training, however slow the hand that does it."""
    return replace(tiny, schedule=Schedule(epochs=14, stage1_epochs=3, evaluate_every=14))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / CHECKPOINT).model


def worker_pids() -> list[int]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # another one that ends just now
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


def test_a_worker_killed_mid_training_is_replaced_and_nothing_changes(lasting: TrainConfig) -> None:
    engine.train(lasting, datasets.load(lasting), Path("undisturbed"))
    killed: list[int] = []
    epochs_at_kill: list[int] = []

    def kill_after_second_epoch(record: dict[str, float]) -> None:
        if record["epoch"] == 2 and not killed:
            killed.extend(worker_pids())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            epochs_at_kill.append(checkpoint.load(Path("disturbed") / CHECKPOINT).epoch)

    history = fit(lasting, Path("disturbed"), on_epoch=kill_after_second_epoch)
    assert len(killed) == 1
    assert epochs_at_kill[0] < lasting.schedule.epochs, "it was still training"
    assert [record["epoch"] for record in history] == list(range(1, 15))
    disturbed, undisturbed = weights(Path("disturbed")), weights(Path("undisturbed"))
    assert all(torch.equal(disturbed[key], undisturbed[key]) for key in undisturbed)


def test_two_workers_share_each_batch_and_go_on_where_they_stopped(lasting: TrainConfig) -> None:
    """Interrupted and resumed, DDP ends with the weights of the undisturbed run."""
    both = Workers(num_workers=2)
    history = fit(lasting, Path("undisturbed"), both)
    assert set(TEST_METRICS) <= history[-1].keys()
    # two ranks with half a batch each make the same number of steps as one with whole batches
    steps = checkpoint.load(Path("undisturbed") / CHECKPOINT).optimizer["state"][0]["step"]
    assert int(steps) == lasting.schedule.epochs * (lasting.dataset.train_scenes // lasting.batch_size)

    def stop_after_second_epoch(record: dict[str, float]) -> None:
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(lasting, Path("resumed"), both, on_epoch=stop_after_second_epoch)
    assert checkpoint.load(Path("resumed") / CHECKPOINT).epoch < lasting.schedule.epochs
    fit(lasting, Path("resumed"), both)
    resumed, undisturbed = weights(Path("resumed")), weights(Path("undisturbed"))
    assert all(torch.equal(resumed[key], undisturbed[key]) for key in undisturbed)


def test_a_folder_that_holds_another_training_is_refused(tiny: TrainConfig) -> None:
    Path("taken").mkdir()
    Path("taken/config.yaml").write_text(documents.to_yaml(tiny))
    with pytest.raises(ConfigError, match=r"taken: holds the training of another config"):
        fit(replace(tiny, seed=1), Path("taken"))


def test_a_training_that_diverges_fails_with_its_reason(tiny: TrainConfig) -> None:
    with pytest.raises(StudyError, match=r"the loss is .* in epoch 1.*lower optimizer.lr"):
        fit(replace(tiny, optimizer=AdamWOptimizer(lr=1e30)), Path("diverged"))
