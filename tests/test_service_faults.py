"""`python -m service` itself, killed with -9 at random moments, twice on one database, and without what it needs."""

import json
import os
import random
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_ray import SPEC, FakeRay
from served import Service, eventually

pytestmark = pytest.mark.processes

ROUNDS = int(os.environ.get("LNCIS_SERVICE_KILLS", "8"))


@pytest.fixture
def ray(ray: FakeRay) -> FakeRay:
    ray.epoch_seconds = 0.05
    return ray


@pytest.fixture
def make(tmp_path: Path, ray: FakeRay) -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def service(**environment: str) -> Service:
        made.append(Service(tmp_path, ray.address, **environment))
        return made[-1]

    yield service
    for one in made:
        one.kill()


def test_killed_at_any_moment_it_loses_no_study_and_runs_none_twice(make, ray):
    """Clients repeat each request until it is answered, as they should; the service dies under them all the while."""
    service, draw = make(), random.Random(0)
    service.start()
    answered: dict[str, Any] = {}

    def client(number: int) -> None:
        key = f"key-{number}"
        answered[key] = eventually(lambda: service.ask("POST", "/studies", SPEC, **{"Idempotency-Key": key}))

    clients = []
    for number in range(ROUNDS):
        clients += [threading.Thread(target=client, args=(2 * number + n,)) for n in range(2)]
        for thread in clients[-2:]:
            thread.start()
        # queueing, submitting, polling, copying: whatever it is at by then
        if number % 2:
            service.ready()
        time.sleep(draw.uniform(0, 1.0))
        service.kill()
        service.start()
    for thread in clients:
        thread.join()
    ids = {study["id"] for study in answered.values()}
    assert len(ids) == 2 * ROUNDS

    def over() -> bool:
        page = service.ask("GET", "/studies?limit=200&state=succeeded")
        return page is not None and len(page["studies"]) == len(ids)

    eventually(over, seconds=300)
    page = service.ask("GET", "/studies?limit=200")
    assert {study["id"] for study in page["studies"]} == ids
    assert sorted(ray.submissions) == sorted(ids)  # once each
    assert set(ray.trained.values()) == {1}
    assert len(ray.trained) == 24 * len(ids)
    for study in page["studies"]:
        assert study["progress"]["epochs_done"] == 24


def test_the_head_of_ray_is_killed_and_restarted_under_it(make, ray):
    service = make().start().ready()
    ray.hold_after = 5
    study = service.ask("POST", "/studies", SPEC)
    path = study["links"]["self"]
    eventually(lambda: service.ask("GET", path)["progress"]["epochs_done"] == 5)
    ray.kill_head()
    ray.hold_after = None
    waits = eventually(lambda: s if (s := service.ask("GET", path))["state"] == "queued" else None)
    assert "Ray is away" in waits["reason"]
    why = service.ask("GET", "/queue")["studies"][0]["why"]
    assert why.startswith("Ray is away: ")
    assert service.ask("POST", "/studies", SPEC)["state"] == "queued"  # accepted all the same
    ray.start()
    eventually(lambda: len(service.ask("GET", "/studies?state=succeeded")["studies"]) == 2)
    assert set(ray.trained.values()) == {1}


def test_of_two_services_on_a_database_one_acts_and_the_other_takes_over(make, ray):
    first, second = make().start().ready(), make().start().ready()
    ray.hold_after = 5
    studies = [service.ask("POST", "/studies", SPEC) for service in (first, second, first, second)]
    eventually(lambda: first.ask("GET", "/queue")["ray"]["ok"])
    eventually(lambda: second.ask("GET", studies[0]["links"]["self"])["state"] == "running")  # the second sees all
    first.kill()
    ray.hold_after = None
    eventually(lambda: len(second.ask("GET", "/studies?state=succeeded")["studies"]) == 4)
    assert sorted(ray.submissions) == sorted(study["id"] for study in studies)
    assert set(ray.trained.values()) == {1}


def test_it_serves_without_ray_and_mlflow_and_ends_on_sigterm(make):
    service = make(RAY_ADDRESS="", MLFLOW_TRACKING_URI="http://127.0.0.1:9").start().ready()
    assert service.ask("POST", "/studies", SPEC)["state"] == "queued"
    eventually(lambda: "does not answer" in service.ask("GET", "/readyz")["mlflow"]["detail"])
    ready = service.ask("GET", "/readyz")
    assert ready["ready"]
    assert ready["ray"]["detail"] == "RAY_ADDRESS is not set"
    service.kill(signal.SIGTERM)
    assert "Traceback" not in service.log


@pytest.mark.parametrize(
    ("environment", "code", "said"),
    [
        ({"LNCIS_HOST": "0.0.0.0"}, 2, "must be a loopback address"),
        ({"LNCIS_PORT": "many"}, 2, "LNCIS_PORT: must be a valid integer"),
        ({"LNCIS_TOKENS": "anna:write:short"}, 2, "LNCIS_TOKENS: token 1 must be user:scope:secret"),
        ({"LNCIS_DATABASE_URL": "sqlite:////no/such/folder/x.db"}, 1, "unable to open database file"),
        ({"LNCIS_STORAGE": "s3://key:short@bucket/x"}, 2, "LNCIS_STORAGE: must be without credentials"),
        ({"RAY_ADDRESS": "127.0.0.1:6379"}, 2, "must be the http address of Ray's dashboard"),
    ],
)
def test_settings_that_do_not_do_are_named(make, environment, code, said):
    service = make(**environment).start()
    assert service.process is not None
    assert service.process.wait(60) == code
    assert said in service.log
    assert "Traceback" not in service.log
    assert "short" not in service.log.replace("at least", "")


def test_tokens_are_in_no_log(make):
    service = make(LNCIS_TOKENS="anna:write:very-secret-token").start()
    eventually(lambda: service.ask("GET", "/healthz"))
    bearer = {"Authorization": "Bearer very-secret-token"}
    assert service.ask("POST", "/studies", SPEC, **bearer)["owner"] == "anna"
    assert service.ask("GET", "/studies", Authorization="Bearer wrong-secret-token") is None
    service.kill(signal.SIGTERM)
    assert "secret-token" not in service.log


def test_a_full_disk_is_said_and_passes(make, small_disk):
    subprocess.run(["mount", "-o", "remount,size=600k", small_disk], check=True)
    service = make(LNCIS_DATABASE_URL=f"sqlite:///{small_disk / 'lncis.db'}", RAY_ADDRESS="").start().ready()
    kept = []
    while (study := service.ask("POST", "/studies", {**SPEC, "question": "?" * 5000})) is not None:
        kept.append(study["id"])
    request = urllib.request.Request(
        f"{service.address}/studies",
        data=json.dumps({**SPEC, "question": "?" * 50_000}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == 503
    assert "full" in json.load(caught.value)["detail"]
    service.kill()
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    service.start().ready()
    assert {s["id"] for s in service.ask("GET", "/studies?limit=200")["studies"]} == set(kept)
    assert service.ask("POST", "/studies", SPEC)["state"] == "queued"
