"""Processes of a study killed with SIGKILL at random moments: what it finds is what it finds undisturbed.

The short form, in `make test`, kills one process of each kind; `make torture` kills a hundred at random.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import psutil
import pytest
import torch
import yaml
from conftest import run_in
from small_study import WHOLE, Watch

from lncis import documents
from lncis.detection import checkpoint
from lncis.detection.engine import CHECKPOINT
from lncis.studies import folders
from lncis.studies.record import journal
from lncis.studies.record.journal import End, EpochFinished
from lncis.studies.report.result import StudyResult
from lncis.studies.spec import StudySpec

pytestmark = pytest.mark.processes

STUDY = """
name: tortured
base:
  dataset: {type: digits, train_scenes: 8, val_scenes: 4, test_scenes: 4}
  schedule: {epochs: 8, stage1_epochs: 3}
  optimizer: {type: adamw, lr: 1e-5}
search:
  loss.gamma: {type: categorical, choices: [2.4, 6.0]}
baselines:
  cross entropy: {loss: {type: cross_entropy}}
  diverging: {optimizer.lr: 1e30}
seeds: [0, 1]
"""
"""What processes are killed in for an hour; the short form has that of `small_study`, whose outcome others read too."""

HUNG_SECONDS = 300
"""A study that writes nothing into its journal for so long hangs; a start takes a minute on two busy cores."""

VICTIMS = {
    "worker": "RayTrainWorker",
    "relay": "ray::ResourceTrainable",  # Tune's name for it
    "queue": "TaskQueue",
    "controller": "TrainController",
    "host": "ray::Host",
    "raylet": "raylet/raylet",
    "gcs": "gcs/gcs_server",
}


@dataclass
class Study:
    """A study in its own process, begun and resumed as a user does it, and an MLflow server beside it."""

    name: str
    runs: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    server: subprocess.Popen[bytes] | None = None
    kills: list[str] = field(default_factory=list)

    def keep_alive(self) -> bool:
        """Start again what is dead; say whether the study is complete."""
        if self.server is None or self.server.poll() is not None:
            self.server = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
                    *("--backend-store-uri", f"sqlite:///{self.runs}/tracking.db", "--workers", "1"),
                    *("--artifacts-destination", str(self.runs / "artifacts")),
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        if self.process is not None and self.process.poll() is None:
            return False
        if self.process is not None and self.process.returncode == 0:
            return True
        if self.process is None and not self.mlflow_answers():
            return False  # else a slow start of MLflow, the first victim, could outlast the study
        ids = [path.parent.name for path in self.runs.glob("*/spec.yaml")]
        what = ["--resume", ids[0]] if ids else ["study.yaml"]
        with (self.runs / "output.txt").open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lncis", "study", "run", *what, "--runs", str(self.runs)],
                stdout=output,
                stderr=output,
                env=os.environ | {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.port}"},
            )
        return False

    def kill(self, victim: str, chance: random.Random) -> bool:
        """Kill one process of a kind, if there is one."""
        found: list[int] = []
        with suppress(psutil.NoSuchProcess):
            if victim == "driver" and self.process and self.process.poll() is None:
                found = [self.process.pid]
            elif victim == "mlflow" and self.server and self.mlflow_answers():
                found = [p.pid for p in psutil.Process(self.server.pid).children(recursive=True)] + [self.server.pid]
            elif victim in VICTIMS and self.process:
                tree = psutil.Process(self.process.pid).children(recursive=True)
                found = [p.pid for p in tree if VICTIMS[victim] in " ".join(p.cmdline())]
        if not found:
            return False
        for pid in found if victim == "mlflow" else [chance.choice(found)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.kills.append(victim)
        return True

    def mlflow_answers(self) -> bool:
        """Say whether MLflow has made its database: killed while it does, it cannot open that again itself."""
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    def journal_size(self) -> int:
        return sum(path.stat().st_size for path in self.runs.glob(f"*/{journal.JOURNAL}"))

    def result(self) -> StudyResult:
        (path,) = self.runs.glob("*/spec.yaml")
        return folders.read_result(self.runs, path.parent.name)

    def stop(self) -> None:
        for process in (self.process, self.server):
            if process is not None and process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
                process.kill()
                process.wait()


@contextmanager
def study(text: str, runs: Path) -> Iterator[Study]:
    Path("study.yaml").write_text(text)
    runs.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = Study(name=yaml.safe_load(text)["name"], runs=runs.absolute(), port=port)
    try:
        yield running
    finally:
        running.stop()


def run_to_its_end(running: Study, disturb: Callable[[Study], None] = lambda study: None) -> None:
    size, grown = 0, time.monotonic()
    while not running.keep_alive():
        disturb(running)
        time.sleep(0.1)
        if running.journal_size() != size:
            size, grown = running.journal_size(), time.monotonic()
        said = running.runs / "output.txt"
        assert time.monotonic() - grown < HUNG_SECONDS, f"{running.kills}: {said.read_text()[-2000:]}"


def figures(record: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in record.items() if key != "seconds"}


def assert_equal(disturbed: StudyResult, undisturbed: StudyResult) -> None:
    assert {t.trial.name: (t.end, t.reason) for t in disturbed.trials} == {
        t.trial.name: (t.end, t.reason) for t in undisturbed.trials
    }
    others = {t.trial.name: t for t in undisturbed.trials}
    for trial in disturbed.trials:
        other = others[trial.trial.name]
        assert [figures(r) for r in trial.records] == [figures(r) for r in other.records]
        if trial.end is End.FINISHED:
            one, two = (checkpoint.load(t.directory / CHECKPOINT).model for t in (trial, other))
            assert all(torch.equal(one[key], two[key]) for key in one)
    assert disturbed.best.trial.overrides == undisturbed.best.trial.overrides
    assert disturbed.complete


def assert_mlflow_knows_all(running: Study) -> None:
    result = running.result()
    client = mlflow.MlflowClient(f"sqlite:///{running.runs}/tracking.db")
    runs = client.search_runs([client.get_experiment_by_name(running.name).experiment_id])
    parts = [run.data.tags["lncis.part"] for run in runs if "lncis.part" in run.data.tags]
    assert len(parts) == len(set(parts)), "no trial is logged twice"
    by_trial = {run.data.tags.get("lncis.part"): run for run in runs}
    for trial in result.trials:
        run = by_trial[trial.trial.name]
        assert run.info.status == ("FINISHED" if trial.end is End.FINISHED else "FAILED")
        if trial.records:
            curve = client.get_metric_history(run.info.run_id, "train/loss")
            assert sorted({(p.step, p.value) for p in curve}) == [(r["epoch"], r["train/loss"]) for r in trial.records]
    (parent,) = (run for run in runs if "lncis.part" not in run.data.tags)
    assert parent.info.status == "FINISHED"
    assert list((running.runs / "artifacts").glob(f"*/{parent.info.run_id}/artifacts/best.yaml"))


def assert_the_user_saw_no_traceback(running: Study) -> None:
    assert "Traceback" not in (running.runs / "output.txt").read_text()


def assert_no_epoch_is_told_twice(result: StudyResult) -> None:
    epochs = [(e.trial, e.record["epoch"]) for e in journal.read(result.directory) if isinstance(e, EpochFinished)]
    assert len(epochs) == len(set(epochs))


@pytest.fixture(scope="module")
def undisturbed(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    spec = documents.parse(StudySpec, yaml.safe_load(STUDY), source="test")
    return run_in(tmp_path_factory.mktemp("undisturbed"), spec)


@pytest.mark.timeout(1500)
def test_a_study_of_which_one_process_of_each_kind_is_killed(watched: tuple[StudyResult, Watch]) -> None:
    chance = random.Random(0)
    left = ["mlflow", "worker", "relay", "driver", "queue"]
    kill_beyond = 1000

    def disturb(running: Study) -> None:
        """Kill whenever the journal has grown by an epoch or two, however long they take."""
        nonlocal kill_beyond
        if left and running.journal_size() > kill_beyond and running.kill(left[0], chance):
            left.pop(0)
            kill_beyond = running.journal_size() + 1000

    undisturbed, _ = watched
    with study(WHOLE, Path("runs")) as running:
        run_to_its_end(running, disturb)
        assert not left, f"{left} were never killed"
        assert_equal(running.result(), undisturbed)
        assert_no_epoch_is_told_twice(running.result())
        assert_mlflow_knows_all(running)
        assert_the_user_saw_no_traceback(running)


@pytest.mark.torture
@pytest.mark.timeout(4 * 3600)
def test_studies_of_which_processes_are_killed_at_random(undisturbed: StudyResult) -> None:
    """Kills come at any moment, start and end included; study after study until there were enough."""
    wanted, seed = int(os.environ.get("LNCIS_KILLS", "100")), int(os.environ.get("LNCIS_SEED", "0"))
    chance = random.Random(seed)
    weights = {"worker": 7, "driver": 3, "relay": 3, "mlflow": 3, "controller": 2, "queue": 1, "raylet": 1, "gcs": 1}
    kills: list[str] = []
    victim, not_before, not_after = "", 0.0, 0.0

    def disturb(running: Study) -> None:
        """Draw a kind of process, wait until there is one, and kill it; only then draw the next."""
        nonlocal victim, not_before, not_after
        now = time.monotonic()
        if now > not_after:
            (victim,) = chance.choices(list(weights), list(weights.values()))
            not_before, not_after = now + chance.uniform(0, 8), now + 90
        if len(kills) < wanted and now > not_before and running.kill(victim, chance):
            kills.append(victim)
            not_after = 0.0
            print(f"{len(kills)} of {wanted} kills: {victim}", flush=True)

    number = 0
    while len(kills) < wanted:
        number += 1
        with study(STUDY, Path(f"runs-{number}")) as running:
            run_to_its_end(running, disturb)
            assert_equal(running.result(), undisturbed)
            assert_no_epoch_is_told_twice(running.result())
            assert_mlflow_knows_all(running)
            assert_the_user_saw_no_traceback(running)
            cost = running.result().cost
            print(json.dumps({"study": number, "kills": running.kills, "so far": len(kills), "cost": vars(cost)}))
