"""The whole way: a real Ray and MLflow, `python -m service`, a tiny study on digits, its best trains; real kills."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

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


def supervisor_of(study_id: str) -> int | None:
    """Return the process of Ray that watches the job of a study: an ancestor of its driver."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--resume" not in command or study_id.encode() not in command:
            continue
        above = int(process.name)
        while above > 1:
            try:
                if b"ray::JobSupervisor" in Path(f"/proc/{above}/cmdline").read_bytes():
                    return above
                above = int(Path(f"/proc/{above}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                break
    return None


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_study_whose_supervisor_is_killed_goes_on_or_fails_with_the_reason(tmp_path: Path) -> None:
    """Ray ends a job without an exit code. One study loses one after an epoch, the other every one before."""
    long = {**TINY, "base": {**TINY["base"], "schedule": {"epochs": 30, "stage1_epochs": 15}}}  # type: ignore[dict-item]
    (tmp_path / "runs").mkdir()
    with serve.ray(cpus=2) as ray:
        environment = {"LNCIS_CACHE": os.environ["LNCIS_CACHE"], "LNCIS_MAX_LOST_JOBS": "2", "LNCIS_MAX_SETBACKS": "1"}
        service = Service(tmp_path, ray, LNCIS_POLL_SECONDS="0.5", **environment).start().ready()

        def now(study: Any) -> Any:
            return service.ask("GET", study["links"]["self"])

        try:
            lucky = service.ask("POST", "/studies", long)
            eventually(lambda: now(lucky)["progress"]["epochs_done"] >= 1)
            os.kill(supervisor_of(lucky["id"]), signal.SIGKILL)  # type: ignore[arg-type]
            waits = eventually(lambda: s if (s := now(lucky))["reason"].startswith("Ray ended its job (") else None)
            before = waits["progress"]["epochs_done"]
            eventually(lambda: now(lucky)["progress"]["epochs_done"] > before)
            service.ask("POST", f"{lucky['links']['self']}/cancel")
            eventually(lambda: now(lucky)["state"] == "cancelled")
            doomed = service.ask("POST", "/studies", long)
            killed: set[int] = set()
            for _ in range(2):
                found = eventually(lambda: p if (p := supervisor_of(doomed["id"])) not in {None, *killed} else None)
                os.kill(found, signal.SIGKILL)
                killed.add(found)
            failed = eventually(lambda: s if (s := now(doomed))["state"] == "failed" else None)
        finally:
            service.kill()
    assert failed["reason"].startswith(
        "its job was lost 2 times in a row before it finished an epoch: Ray ended its job"
    )
    assert failed["progress"]["epochs_done"] == 0
    assert "Traceback" not in service.log
