"""Finished studies extended at the service: against the library, what is refused, and what the pages say of it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fake_ray import SPEC, FakeRay
from served import eventually, finished, served
from study_command import one_line, run

from lncis import documents
from lncis.client import Client
from lncis.errors import ServiceError
from lncis.studies.extension import extend
from service.api.submission import plans
from service.settings import Settings
from service.store.database import Database

SEEDS = {"seeds": [0, 1, 2]}


@pytest.fixture(autouse=True)
def planned_in_this_process(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    async def run_here(self: Any, make: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.to_thread(make, *given)

    if request.node.get_closest_marker("processes") is None:
        monkeypatch.setattr(plans._Process, "run", run_here)
        monkeypatch.setattr(plans, "estimate", lambda found, runs: Settings())  # which would train a few steps


def post(url: str, study_id: str, body: Any, **more: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/studies/{study_id}/extend", json=body, trust_env=False, timeout=60, **more)


def test_an_extension_is_the_one_of_the_library_and_takes_its_turn(
    url: str, client: Client, tmp_path: Path, ray: FakeRay
) -> None:
    parent = finished(client)
    files = {path: path.read_bytes() for path in (tmp_path / "runs" / parent.id).glob("*")}
    plan = client.plan_extension(parent.id, SEEDS)
    assert [(field.path, field.earlier, field.now) for field in plan.differences] == [("seeds", [0, 1], [0, 1, 2])]
    ours = extend(parent.id, tmp_path / "runs", SEEDS)
    assert (plan.parent, plan.epochs_taken_over, plan.epochs_to_train) == (parent.id, ours.trained, ours.to_train)
    assert plan.trials_total == 9
    assert ray.submissions == [parent.id], "a dry run queues nothing"
    made = client.extend(parent.id, SEEDS)
    assert made.spec == documents.plain(documents.dump(ours.spec))
    assert (made.extends, made.owner, made.progress.trials_total) == (parent.id, parent.owner, 9)
    assert eventually(lambda: client.get(made.id).over)
    now = client.get(parent.id)
    assert (now.state, now.extends, now.best) == ("succeeded", None, parent.best)
    assert {path: path.read_bytes() for path in files} == files
    children = httpx2.get(f"{url}/studies", params={"extends": parent.id}, trust_env=False).json()["studies"]
    assert [child["id"] for child in children] == [made.id]
    # and once more, from there
    again = client.extend(made.id, {"sampler": {"type": "random", "configurations": 3}})
    assert again.extends == made.id
    assert [point["loss.gamma"] for point in again.spec["sampler"]["first"]] == [4.0, 6.0, 8.0]
    page = httpx2.get(f"{url}/ui/studies/{made.id}", trust_env=False).text
    for relative in (parent.id, again.id):
        assert f'<a href="/ui/studies/{relative}">{relative}</a>' in page


def test_a_key_makes_one_study_also_when_its_parent_is_gone(url: str, client: Client, ray: FakeRay) -> None:
    parent, key = finished(client), {"Idempotency-Key": "once"}
    first = post(url, parent.id, {"set": SEEDS}, headers=key)
    assert first.status_code == 201
    made = first.json()["id"]
    assert first.headers["location"] == f"/studies/{made}"
    other = post(url, parent.id, {"set": {"seeds": [0, 1, 3]}}, headers=key)
    assert (other.status_code, other.json()["differing"][0]["path"]) == (409, "set.seeds")
    eventually(lambda: client.get(made).over)
    client.delete(parent.id)
    again = post(url, parent.id, {"set": SEEDS}, headers=key)
    assert (again.status_code, again.json()["id"]) == (200, made)
    page = httpx2.get(f"{url}/ui/studies/{made}", trust_env=False).text
    assert f"<code>{parent.id}</code>, which was deleted" in page


def test_a_parent_is_kept_while_its_extension_is_not_over(client: Client, ray: FakeRay) -> None:
    parent = finished(client)
    ray.hold_after = 0
    made = client.extend(parent.id, SEEDS)
    with pytest.raises(ServiceError, match=f"is extended by study {made.id}, which is not over") as refused:
        client.delete(parent.id)
    assert refused.value.status == 409


REFUSED = [
    ({"set": {"noise.rate": 0.3}}, "base.noise"),
    ({"set": {}}, "nothing differs from the finished study"),
    ({"set": {"seeds": [1, 2]}}, "seeds: must keep [0], which the study was trained with; add to them"),
    ({"set": {"folds": 5}}, "folds: was None, now 5: trials would be judged on another val"),
    ({"set": {"seds": [0]}}, "set.seds: names no field of a study or of a training"),
    ({"set": {"seeds": list(range(300))}}, "must have at most 200 entries here but has 300"),
    ({"set": {"seeds": list(range(90))}}, "asks for 270 trials, and this service takes at most 200"),
    ({"set": {"schedule.epochs": 30}}, "schedule.epochs: must be at most 20 here but got 30"),
    ({"set": {"model.weights": "/etc/passwd"}}, "may name files below no folder"),
    ({"set": [1]}, "set: must be a mapping of dotted paths to values but got [1]"),
    ({"sett": SEEDS}, "sett: no such field; known is set"),
]
"""Body, and what is said of it, in a service that takes 200 trials of 20 epochs and no files."""


def test_what_is_no_extension_here_is_refused_and_nothing_is_queued(
    tmp_path: Path, database: Database, ray: FakeRay
) -> None:
    settings = {"ray_address": ray.address, "max_trials": 200, "max_epochs": 20}
    with served(tmp_path, database, **settings) as url, Client(url) as client:
        parent = finished(client)
        for body, said in REFUSED:
            answer = post(url, parent.id, body)
            assert answer.status_code == 422, body
            problems = [": ".join(filter(None, error.values())) for error in answer.json()["errors"]]
            assert any(said in line for line in problems), (body, problems)
        assert [study.id for study in client.list()] == [parent.id]


def test_only_a_study_that_succeeded_is_extended(url: str, client: Client, ray: FakeRay) -> None:
    ray.hold_after = 0
    running = client.submit(SPEC)
    with pytest.raises(ServiceError, match=r"only a study that succeeded is extended; wait until it has succeeded"):
        client.extend(running.id, SEEDS)
    client.cancel(running.id)
    eventually(lambda: client.get(running.id).over)
    with pytest.raises(ServiceError, match=r"is cancelled, .* submit its spec as a new study"):
        client.plan_extension(running.id, SEEDS)
    assert post(url, "never", {"set": SEEDS}).status_code == 404
    named = client.submit  # a spec may name a parent itself, if that is a study of this service
    for study_id, said in (("../secrets", "extends.study"), ("never", "must be the id of an earlier study here")):
        with pytest.raises(ServiceError, match=said):
            named({**SPEC, "extends": {"study": study_id}})


def test_the_command_says_what_differs_and_queues(url: str, client: Client) -> None:
    parent = finished(client)
    asked = run("submit", "--extends", parent.id, "--set", "seeds=[0,1,2]", "--dry-run", "--service", url)
    assert asked.exit_code == 0, asked.output
    assert asked.stdout == (
        f"extends {parent.id}:\n  seeds: was [0, 1], now [0, 1, 2]\n16 epochs are taken over from it, 8 are to train\n"
    )
    made = run("submit", "--extends", parent.id, "--set", "seeds=[0,1,2]", "--service", url)
    assert client.get(made.stdout.split()[0]).extends == parent.id
    assert "needs one of a YAML file, --preset NAME and --extends STUDY_ID" in one_line(run("submit"))
    assert "--dry-run: needs --extends" in one_line(run("submit", "--preset", "first", "--dry-run"))


@pytest.mark.processes
def test_a_plan_is_made_in_a_process_of_its_own(client: Client) -> None:
    parent = finished(client)
    assert client.plan_extension(parent.id, SEEDS).estimate["seconds"] is not None
