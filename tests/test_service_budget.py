"""Spent budgets and quotas at the service: what is shown, how a study goes on, whose studies wait."""

import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fake_ray import SPEC, FakeRay
from served import eventually, served
from study_command import one_line, run

from lncis.client import Client
from lncis.errors import ServiceError
from service.auth import parse_tokens
from service.settings import Settings
from service.store import tables
from service.store.database import Database
from service.store.worker_hours import DAY_SECONDS, add_worker_hours, owners_over_quota

FIVE = {**SPEC, "budget": {"epochs": 5}}


def ended(client: Client, study: Any, state: str) -> Any:
    return eventually(lambda: (now := client.get(study.id)).state == state and now)


def test_a_spent_budget_is_a_state_of_its_own_and_a_larger_one_goes_on(url: str, client: Client, ray: FakeRay) -> None:
    study = client.submit(FIVE)
    spent = ended(client, study, "spent")
    assert spent.reason == "its budget is spent (epochs: 5 of 5); with a larger one it goes on"
    assert spent.over
    assert spent.best is not None
    assert spent.legal == []
    assert [event.type for event in client.watch(study.id)][-1] == "end"
    page = httpx2.get(f"{url}/ui/studies/{study.id}", trust_env=False).text
    assert "its budget is spent (epochs: 5 of 5)" in page
    assert f"lncis study budget {study.id} epochs=MORE" in page
    for limits, said in (
        ({"epochs": 5}, r"budget.epochs: must be more than 5, which are spent already, but got 5"),
        ({"epochs": 3}, r"budget.epochs: must be 4 or more, the epochs of one trial, but got 3"),
        ({"money": 5.0}, r"budget.money: the study has no resources.price_per_worker_hour; limit worker_hours"),
        ({"days": 5.0}, r"days"),
    ):
        with pytest.raises(ServiceError, match=said) as refused:
            client.set_budget(study.id, limits)
        assert refused.value.status == 422
    with pytest.raises(ServiceError, match="it cannot resume; legal now: raising its budget"):
        client.resume(study.id)
    assert client.get(study.id).state == "spent"
    raised = client.set_budget(study.id, {"epochs": 100})
    assert (raised.state, raised.reason, raised.finished_at) == ("queued", "its budget was raised", None)
    done = ended(client, study, "succeeded")
    assert done.spec["budget"]["epochs"] == 100
    assert len(ray.trained) == 24
    assert set(ray.trained.values()) == {1}, "nothing is trained twice"


def test_the_budget_of_a_running_study_counts_from_its_next_start(client: Client, ray: FakeRay) -> None:
    ray.hold_after = 3
    study = client.submit(FIVE)
    eventually(lambda: client.get(study.id).progress.epochs_done == 3)
    assert client.set_budget(study.id, {"epochs": None, "hours": 9.0}).spec["budget"]["epochs"] is None
    ray.hold_after = None  # its driver stops at the five epochs that it began with
    assert ended(client, study, "succeeded").spec["budget"]["hours"] == 9.0
    reasons = [event.data["reason"] for event in client.watch(study.id) if event.type == "state"]
    assert "its budget was raised" in reasons
    assert "spent" not in [event.data["state"] for event in client.watch(study.id) if event.type == "state"]
    with pytest.raises(ServiceError, match="is succeeded, so it cannot be changed; submit it anew"):
        client.set_budget(study.id, {"epochs": 200})


def test_a_job_that_dies_before_it_begins_has_not_spent_the_larger_budget(client: Client, ray: FakeRay) -> None:
    study = client.submit(FIVE)
    ended(client, study, "spent")
    ray.exits = {2: (1, "error: no Ray on this machine")}  # the journal still says "spent"
    client.set_budget(study.id, {"epochs": 100})
    ended(client, study, "succeeded")
    states = [event.data["state"] for event in client.watch(study.id) if event.type == "state"]
    assert states.count("spent") == 1


def test_the_command_raises_a_budget(url: str, client: Client) -> None:
    study = client.submit(FIVE)
    ended(client, study, "spent")
    assert "budget: must be PATH=VALUE, such as epochs=120, but got 'epochs'" in one_line(
        run("budget", study.id, "epochs", "--service", url)
    )
    asked = run("budget", study.id, "epochs=50", "--service", url)
    assert asked.stdout == f"{study.id}: queued, its budget was raised\n"
    ended(client, study, "succeeded")


def test_hours_count_by_owner_and_day_once_and_stay_when_a_study_is_deleted(
    tmp_path: Path, database: Database, ray: FakeRay
) -> None:
    ray.held_hours = 2.0
    settings = {"ray_address": ray.address, "max_worker_hours_per_user": 1.5, "tokens": parse_tokens(TOKENS)}
    with served(tmp_path, database, **settings) as url, Client(url, "secret-of-anna") as anna:
        first = ended(anna, anna.submit(SPEC), "succeeded")
        waits = anna.submit(SPEC)
        anna.delete(first.id)
        said = (
            "anna has used 2.0 worker-hours in the last 30 days, the limit per user is 1.5; it goes on when earlier "
            "hours no longer count, or the operator raises LNCIS_MAX_WORKER_HOURS_PER_USER"
        )
        assert [entry.why for entry in anna.queue()] == [said]
        page = httpx2.get(f"{url}/ui/studies/{waits.id}", trust_env=False, headers=BEARER).text
        assert said in page
        with Client(url, "secret-of-bilal") as bilal:  # whose turn it is all the same
            ended(bilal, bilal.submit(SPEC), "succeeded")
        assert anna.get(waits.id).state == "queued"
        database.write(lambda c: c.execute(tables.worker_hours.update().values(day=tables.worker_hours.c.day - 30)))
        ended(anna, waits, "succeeded")


TOKENS = "anna:write:secret-of-anna,bilal:write:secret-of-bilal"
BEARER = {"Authorization": "Bearer secret-of-anna"}


def test_a_running_study_stops_when_its_owner_has_used_all_and_goes_on_later(
    tmp_path: Path, database: Database, ray: FakeRay
) -> None:
    ray.hold_after = 3
    settings = {"ray_address": ray.address, "max_worker_hours_per_user": 1.0}
    with served(tmp_path, database, **settings) as url, Client(url) as client:
        study = client.submit(SPEC)
        eventually(lambda: client.get(study.id).progress.epochs_done == 3)
        owner = client.get(study.id).owner
        database.write(lambda connection: add_worker_hours(connection, owner, 1.0))
        held = ended(client, study, "queued")
        assert "has used 1.0 worker-hours" in held.reason
        ray.hold_after = None
        database.write(lambda connection: connection.execute(tables.worker_hours.delete()))
        ended(client, study, "succeeded")
        assert set(ray.trained.values()) == {1}


def test_the_window_is_whole_days(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    noon = (int(time.time() // DAY_SECONDS) + 0.5) * DAY_SECONDS
    quota = Settings(max_worker_hours_per_user=3.0, worker_hours_days=2)

    def over(days_later: int) -> bool:
        monkeypatch.setattr(time, "time", lambda: noon + days_later * DAY_SECONDS)
        return "anna" in database.read(lambda connection: owners_over_quota(connection, quota))

    assert not over(0)
    for hours in (1.0, 0.5):
        database.write(lambda connection, hours=hours: add_worker_hours(connection, "anna", hours))
    assert not over(1)
    database.write(lambda connection: add_worker_hours(connection, "anna", 1.5))
    assert over(1)
    assert not over(2)
    assert database.read(lambda connection: owners_over_quota(connection, Settings())) == {}
