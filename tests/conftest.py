"""What tests share: a cache of composed digits, a training small enough for seconds, one local Ray for all."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from fake_ray import FakeRay

from lncis.config import AdamWOptimizer, DigitsData, LncisLoss, Schedule, TrainConfig, Workers
from service.store.database import Database

os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: it holds unix sockets
torch.set_num_threads(1)  # as a worker with one CPU has
signal.signal(signal.SIGINT, signal.default_int_handler)  # else what a shell starts in the background ignores Ctrl-C


@pytest.fixture(scope="session", autouse=True)
def digits_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LNCIS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a test leaves in its working directory stays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("LNCIS_STORAGE", raising=False)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One small Ray for the whole run; what `cluster.connected` meets already running, it leaves running."""
    from lncis.execution import cluster

    with cluster.connected(Workers(num_workers=2), worker_groups=1):
        yield
    shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)


@contextmanager
def disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """Within the block `folder` is a file system of its own, which really fills up; where none can be had, skip."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk(tmp_path / "disk", kilobytes=100):
        yield tmp_path / "disk"


@pytest.fixture
def tiny() -> TrainConfig:
    """Four epochs of eight scenes, a second each; the loss switches after two.

    The learning rate is so low that the class logits stay as random as they began: then each role has its samples.
    """
    return TrainConfig(
        dataset=DigitsData(train_scenes=8, val_scenes=4, test_scenes=4),
        loss=LncisLoss(gamma=2.4),
        schedule=Schedule(epochs=4),
        optimizer=AdamWOptimizer(lr=1e-5),
    )


@pytest.fixture
def ray(tmp_path: Path) -> Iterator[FakeRay]:
    """What answers as Ray's dashboard does, for the service."""
    fake = FakeRay(tmp_path / "runs")
    yield fake
    fake.kill_head()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'lncis.db'}")
    yield made
    made.close()
