import subprocess
import sys

import pytest
import ray

from lncis.config import Workers
from lncis.errors import StudyError
from lncis.execution import cluster, worker_groups


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Ray that other tests share stays as it is."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)


@pytest.mark.parametrize(("address", "place"), [(None, "on this machine"), ("10.0.0.1:6379", "RAY_ADDRESS=10.0.0.1")])
def test_a_ray_that_does_not_start_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, address: str | None, place: str
) -> None:
    """Ray raises a plain Exception where a process of its own was killed while it started."""

    def init(**options: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with (
        pytest.raises(StudyError, match=f"{place}.*timed out during startup"),
        cluster.connected(Workers(), worker_groups=1),
    ):
        pass


def test_a_local_ray_that_did_not_come_up_is_started_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine its first process may need longer than the 30 s that Ray gives it."""
    attempts: list[object] = []

    def init(**options: object) -> None:
        attempts.append(options["address"])
        if len(attempts) == 1:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0, cluster.TRIAL_DRIVER: 1000.0})
    with cluster.connected(Workers(), worker_groups=1):
        assert attempts == ["local", "local"]


@pytest.mark.parametrize(
    ("workers", "free", "groups"),
    [
        (Workers(), {"CPU": 3.0}, 3),
        (Workers(cpus_per_worker=0.1), {"CPU": 0.3}, 3),
        (Workers(num_workers=2), {"CPU": 3.0}, 1),
        (Workers(gpus_per_worker=0.5), {"CPU": 16.0, "GPU": 1.0}, 2),
        (Workers(gpus_per_worker=0.5), {"CPU": 1.0, "GPU": 4.0}, 1),
        (Workers(num_workers=2, gpus_per_worker=2), {"CPU": 16.0, "GPU": 9.0}, 2),
        (Workers(gpus_per_worker=1), {"CPU": 16.0}, 0),
        (Workers(), {}, 0),
    ],
)
def test_there_is_room_for_as_many_as_each_resource_allows(
    monkeypatch: pytest.MonkeyPatch, workers: Workers, free: dict[str, float], groups: int
) -> None:
    monkeypatch.setattr(ray, "available_resources", lambda: free)
    assert cluster.room(workers) == groups


def test_two_worker_groups_may_share_a_gpu() -> None:
    each = worker_groups.scaling(Workers(gpus_per_worker=0.5)).total_resources
    assert each == {"CPU": 1, "GPU": 0.5}
    assert worker_groups.scaling(Workers(num_workers=2, gpus_per_worker=1)).total_resources == {"CPU": 2, "GPU": 2}
    assert "GPU" not in worker_groups.scaling(Workers()).total_resources


SHUT_DOWN_AMONG_GARBAGE = """
import gc, threading, time
import ray
from lncis.execution import cluster
from lncis.config import Workers

gc.set_threshold(1)
over = threading.Event()

def litter():
    while references and not over.is_set():
        cycle = [references.pop()]
        cycle.append(cycle)
        del cycle
        time.sleep(0.005)

with cluster.connected(Workers(), worker_groups=1):
    references = [ray.put(0) for _ in range(4000)]
    thread = threading.Thread(target=litter)
    thread.start()
assert references, "too few to last until Ray had gone"
assert gc.isenabled()
over.set()
thread.join()
print("alive")
"""


@pytest.mark.ray
def test_a_thread_that_collects_garbage_while_ray_shuts_down_does_not_end_the_process() -> None:
    """MLflow's thread once did: Ray ended the process with code 1, after the training and before the report."""
    script = subprocess.run(
        [sys.executable, "-c", SHUT_DOWN_AMONG_GARBAGE], capture_output=True, text=True, timeout=240, check=False
    )
    assert (script.returncode, script.stdout) == (0, "alive\n"), script.stderr
