"""The whole way, once: a real Ray head and MLflow, `python -m service`, a tiny study on digits, its best trains."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from served import Service, eventually

from lncis.client import Client
from lncis.studies import trained
from service import serve
from service.dispatch.jobs import RayJobs
from service.settings import Settings

pytestmark = pytest.mark.processes

TINY = {
    "name": "tiny",
    "base": {
        "dataset": {"type": "digits", "train_scenes": 8, "val_scenes": 4, "test_scenes": 4},
        "schedule": {"epochs": 2, "stage1_epochs": 1},
    },
    "search": {"loss.gamma": {"type": "categorical", "choices": [4.0, 8.0]}},
    "sensitivity_check": False,
    "resources": {"max_concurrent_trials": 1},
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_goes_through_ray_and_mlflow_and_its_best_trains(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with serve.mlflow(tmp_path / "mlflow.db") as mlflow, serve.ray(cpus=2) as ray:
        cache = os.environ["LNCIS_CACHE"]
        service = Service(tmp_path, ray, MLFLOW_TRACKING_URI=mlflow, LNCIS_CACHE=cache, LNCIS_POLL_SECONDS="0.5")
        try:
            service.start().ready()
            study = service.ask("POST", "/studies", TINY)
            path = study["links"]["self"]
            eventually(lambda: service.ask("GET", path)["state"] != "queued", seconds=120)
            service.kill()  # what it started goes on without it
            service.start().ready()

            def over() -> bool:
                return service.ask("GET", path)["state"] in ("succeeded", "failed")

            eventually(over, seconds=500)
            done = service.ask("GET", path)
            assert (done["state"], done["reason"]) == ("succeeded", "")
            assert done["progress"]["trials_finished"] == 2
            assert done["cost"]["trained"] == 3  # of 4: stage 1 is shared
            url = eventually(lambda: service.ask("GET", path)["mlflow_url"])
            assert url.startswith(mlflow)
            best = service.ask("GET", f"{path}/best?top=1")["configurations"][0]
            eventually(lambda: RayJobs(Settings(ray_address=ray)).reports() == {})  # it is over, and forgotten
            with urllib.request.urlopen(f"{service.address}{path}/best?format=yaml", timeout=30) as answer:
                (tmp_path / "best.yaml").write_bytes(answer.read())
            with Client(service.address) as client:
                log = "".join(client.log(study["id"]))
                of_trial = "".join(client.log(study["id"], best["trials"][0]))
                client.checkpoint(study["id"], tmp_path / "best.pt")
        finally:
            service.kill()
    assert best["status"] == "finished"
    assert "drives 2 trials" in log
    assert log.endswith("nothing is left to do\n")
    assert "epoch 2: train/loss" in of_trial
    assert trained.find(tmp_path / "best.pt", tmp_path / "best.yaml").state.epoch == 2
    command = [sys.executable, "-m", "lncis", "train", "best.yaml", "--out", "best", "--num-workers", "0"]
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "best" / "checkpoint.pt").exists()
