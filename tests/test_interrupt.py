"""Ctrl-C, really sent: the study ends, its processes are gone, and MLflow knows."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import psutil

STUDY = """
name: long
base:
  dataset: {name: digits, train_scenes: 8, val_scenes: 4, test_scenes: 4}
  schedule: {epochs: 100000}
search:
  loss.gamma: {type: categorical, choices: [6.0]}
resources: {max_concurrent_trials: 1}
"""


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
