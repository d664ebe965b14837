"""Ctrl-C, really sent: the study ends, its processes are gone, and MLflow knows."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import psutil
import pytest

STUDY = """
name: long
base:
  dataset: {type: digits, train_scenes: 8, val_scenes: 4, test_scenes: 4}
  schedule: {epochs: 100000}
search:
  loss.gamma: {type: categorical, choices: [6.0]}
resources: {max_concurrent_trials: 1}
"""


@pytest.mark.ray
def test_ctrl_c_ends_a_study_and_all_its_processes() -> None:
    Path("long.yaml").write_text(STUDY)
    study = subprocess.Popen(
        [sys.executable, "-m", "lncis", "study", "run", "long.yaml"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    processes = psutil.Process(study.pid)
    try:
        deadline = time.monotonic() + 240
        while not list(Path().glob("runs/*/stages/*/checkpoint.pt")):
            assert study.poll() is None, study.stderr and study.stderr.read()
            assert time.monotonic() < deadline, "the training did not begin"
            time.sleep(0.2)
        started = processes.children(recursive=True)
        os.kill(study.pid, signal.SIGINT)
        _, stderr = study.communicate(timeout=60)
    finally:
        study.kill()
    assert study.returncode == 130
    assert stderr.decode().splitlines()[-1] == "interrupted"
    assert len(started) > 5
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive
    client = mlflow.MlflowClient("sqlite:///mlflow.db")
    experiment = client.get_experiment_by_name("long")
    assert {run.info.status for run in client.search_runs([experiment.experiment_id])} == {"KILLED"}


LEFT_AT_WORK = """
import threading, time
from pathlib import Path
import ray
from lncis.execution import cluster, worker_groups
from lncis.config import DigitsData, DigitsRCNN, Schedule, TrainConfig, Workers
from lncis.execution.tasks import Task

worker_groups.STOP_TIMEOUT_SECONDS = 3
large = TrainConfig(  # an epoch takes minutes
    dataset=DigitsData(train_scenes=80, val_scenes=4, test_scenes=4),
    model=DigitsRCNN(min_size=1000, max_size=1000),
    schedule=Schedule(epochs=2),
)
for again in range(2):
    with cluster.connected(Workers(), worker_groups=1):
        queue, host = worker_groups.start_queue(scaled=True), worker_groups.start_host(2)
        folder = Path(f"{again}").absolute()
        ray.get(queue.submit.remote("owner", [Task(key="long", config=large, until=2, directory=folder)]))
        groups = [worker_groups.start_worker_group(host, "at work", queue, Workers())]
        groups.append(worker_groups.start_worker_group(host, "in wait", queue, Workers(cpus_per_worker=100)))
        while not (folder / ".trainer").exists():
            time.sleep(0.1)
        started = time.monotonic()
        worker_groups.stop_worker_groups(host, queue, groups)
        assert not any(group.is_alive() for group in groups)
        assert time.monotonic() - started < 10
print("alive")
"""


@pytest.mark.slow
@pytest.mark.processes
def test_worker_groups_that_do_not_go_home_are_gone_before_ray_is() -> None:
    """One that waits for Ray while Ray shuts down may end the process with code 1; the next Ray would hang, or too."""
    script = subprocess.run([sys.executable, "-c", LEFT_AT_WORK], capture_output=True, text=True, timeout=400)
    assert (script.returncode, script.stdout.splitlines()[-1:]) == (0, ["alive"]), script.stderr
