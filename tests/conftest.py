"""What tests share: a cache of composed digits, a training small enough for seconds, one local Ray for all.

Imports what is slow to load where it is needed: the process that hands tests to others needs none of it.
"""

from __future__ import annotations

import functools
import gc
import multiprocessing.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from browser import Browser
    from fake_ray import FakeRay
    from small_study import Watch

    from lncis.client import Client
    from lncis.config import TrainConfig
    from lncis.studies.report.result import StudyResult
    from lncis.studies.spec import StudySpec
    from service.store.database import Database

os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"  # how soon it sees that a worker began, ended or died
os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: it holds unix sockets
signal.signal(signal.SIGINT, signal.default_int_handler)  # else what a shell starts in the background ignores Ctrl-C

STARTS_PROCESSES = {"local_ray", "small_disk", "tab"}
"""Fixtures whose tests are marked `processes`: Ray's, mount's, the browser's."""

platform.processor()  # is a process (uname), which MLflow asks for sooner or later, once
processes_allowed = True

gc.disable()  # until all is imported: nothing of that is garbage


def pytest_configure(config: pytest.Config) -> None:
    """Train as a worker with one CPU does, in the processes that run tests."""
    if hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None):
        import torch

        torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start processes by a fixture, and those that are nothing but that."""
    for item in items:
        starts = STARTS_PROCESSES.intersection(getattr(item, "fixturenames", ()))
        if "local_ray" in starts:
            item.add_marker(pytest.mark.ray)
        if starts or any(map(item.get_closest_marker, ("ray", "torture", "cluster"))):
            item.add_marker(pytest.mark.processes)


def pytest_collection_finish() -> None:
    """Collect garbage from here on, without looking through all that was imported each time."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Let everything go as it does without that, for those who look at what is left."""
    gc.unfreeze()


def _refuse_processes(event: str, arguments: tuple[object, ...]) -> None:
    if not processes_allowed and event in ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"):
        pytest.fail(f"a test that starts a process needs @pytest.mark.processes: {event} {arguments[:2]}")


sys.addaudithook(_refuse_processes)


_spawn = multiprocessing.util.spawnv_passfds


def _spawn_where_allowed(path: str, arguments: list[str], passed: list[int]) -> int:
    _refuse_processes("subprocess.Popen", (path, arguments))
    return _spawn(path, arguments, passed)


multiprocessing.util.spawnv_passfds = _spawn_where_allowed  # no audit hook hears of it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Let a test and its fixtures start processes only where it is marked so; `make quick` leaves the marked out."""
    with _processes_as_marked(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """As for its fixtures."""
    with _processes_as_marked(item):
        return (yield)


@contextmanager
def _processes_as_marked(item: pytest.Item) -> Iterator[None]:
    global processes_allowed
    processes_allowed = item.get_closest_marker("processes") is not None
    try:
        yield
    finally:
        processes_allowed = True


@pytest.fixture(scope="session", autouse=True)
def digits_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LNCIS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def certificates_are_read_once() -> Iterator[None]:
    """In place of once a client, 20 ms each: no test speaks TLS."""
    import httpcore2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore2, "default_ssl_context", functools.cache(httpcore2.default_ssl_context))
        yield


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a test leaves in its working directory stays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("LNCIS_STORAGE", raising=False)


@pytest.fixture
def journal_in_memory_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of lines, and no power cut."""
    from lncis.studies.record import journal

    monkeypatch.setattr(journal.os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One small Ray for the whole run; what `cluster.connected` meets already running, it leaves running."""
    from lncis.config import Workers
    from lncis.execution import cluster

    with cluster.connected(Workers(num_workers=2), worker_groups=1):
        yield
    shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def small(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    """The small study, finished, in a folder of runs with a store: to be read, and to go on from."""
    import small_study

    return run_in(tmp_path_factory.mktemp("small"), small_study.spec(), study_id="small")


@pytest.fixture(scope="session")
def watched(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResult, Watch]:
    """A study with baselines that fail, finished, with what its observer saw: to be read."""
    import small_study
    import yaml

    from lncis import documents
    from lncis.studies.spec import StudySpec

    watch = small_study.Watch()
    spec = documents.parse(StudySpec, yaml.safe_load(small_study.WHOLE), source="test")
    return run_in(tmp_path_factory.mktemp("whole"), spec, observers=[watch]), watch


def run_in(folder: Path, spec: StudySpec, **options: Any) -> StudyResult:
    """Return what a study found that ran in a folder of its own, with an MLflow of its own."""
    from lncis.studies.run import run_study

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/tracking.db")
        patch.delenv("LNCIS_STORAGE", raising=False)
        return run_study(spec, runs=folder / "runs", **options)


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


@pytest.fixture(scope="session")
def tiny() -> TrainConfig:
    """Four epochs of eight scenes, a second each; the loss switches after two.

    The learning rate is so low that the class logits stay as random as they began: then each role has its samples.
    """
    from lncis.config import AdamWOptimizer, DigitsData, DigitsRCNN, LncisLoss, Schedule, TrainConfig

    return TrainConfig(
        dataset=DigitsData(train_scenes=8, val_scenes=4, test_scenes=4),
        model=DigitsRCNN(min_size=64, max_size=64),
        loss=LncisLoss(gamma=2.4),
        schedule=Schedule(epochs=4),
        optimizer=AdamWOptimizer(lr=1e-5),
    )


@pytest.fixture(scope="session")
def trained(tiny: TrainConfig, digits_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of `tiny` from begin to end: to be read."""
    from lncis import datasets
    from lncis.detection import engine

    folder = tmp_path_factory.mktemp("trained") / "undisturbed"
    engine.train(tiny, datasets.load(tiny), folder)
    return folder


@pytest.fixture
def ray(tmp_path: Path) -> Iterator[FakeRay]:
    """What answers as Ray's dashboard does, for the service."""
    from fake_ray import FakeRay

    fake = FakeRay(tmp_path / "runs")
    yield fake
    fake.kill_head()


@pytest.fixture
def url(tmp_path: Path, database: Database, ray: FakeRay) -> Iterator[str]:
    """A service whose studies run on `ray`."""
    from served import served

    with served(tmp_path, database, ray_address=ray.address) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    """Of the service at `url`."""
    from lncis.client import Client

    with Client(url) as made:
        yield made


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with the latest tables: to be copied."""
    from service.store.database import Database

    path = tmp_path_factory.mktemp("migrated") / "lncis.db"
    Database(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def database(tmp_path: Path, migrated: Path) -> Iterator[Database]:
    from service.store.database import Database

    made = Database(f"sqlite:///{shutil.copy(migrated, tmp_path)}")
    yield made
    made.close()


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    """A tab of a real Chromium; where there is none, skip."""
    import browser as chromium
    from browser import Browser

    if chromium.BINARY is None:
        pytest.skip("no chromium, google-chrome or chromium-browser here")
    opened = Browser()
    yield opened
    opened.close()


@pytest.fixture
def browser(tab: Browser) -> Iterator[Browser]:
    tab.call("Network.clearBrowserCookies")
    tab.complaints.clear()
    yield tab
    tab.open("about:blank")
