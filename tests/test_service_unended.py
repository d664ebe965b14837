"""What a study left that does not run: its trials and configurations are unfinished, wherever they are shown."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from fake_ray import SPEC, FakeRay
from served import eventually

from lncis.client import Client
from lncis.errors import ServiceError

EPOCHS = 14
"""Epochs after which the driver waits: three trials of four ended, the fourth, of the second configuration, has two."""


def states(client: Client, study_id: str) -> list[str]:
    return [trial.state for trial in client.trials(study_id)]


def shown(url: str, study_id: str, state: str) -> int:
    """Return how many trials the page shows of a state that it was asked for."""
    page = httpx2.get(f"{url}/ui/studies/{study_id}?state={state}", trust_env=False)
    assert page.status_code == 200
    assert '<p class="why">cancelled</p>' not in page.text  # its state says so
    rows = page.text.count('<tr id="trial-')
    assert page.text.count(f'<td><span class="badge {state}">') >= rows
    return rows


@pytest.fixture
def half(client: Client, ray: FakeRay) -> Any:
    """A study whose fourth trial has half of its epochs."""
    ray.hold_after = EPOCHS
    study = client.submit(SPEC)
    eventually(lambda: client.get(study.id).progress.epochs_done == EPOCHS)
    assert states(client, study.id) == ["finished"] * 3 + ["running"]
    assert [entry.status for entry in client.best(study.id)] == ["finished", "running"]
    return study


def cancelled(client: Client, ray: FakeRay, study_id: str) -> None:
    client.cancel(study_id)


def paused(client: Client, ray: FakeRay, study_id: str) -> None:
    client.pause(study_id)


def failed(client: Client, ray: FakeRay, study_id: str) -> None:
    """As the command of a study ends that another attempt would not help, also where its budget is spent."""
    job = ray.job(study_id)
    job.logs, job.exit_code = "error: it cannot go on", 2
    job.status = "FAILED"
    eventually(lambda: client.get(study_id).over)
    job.stopped.set()


@pytest.mark.parametrize("end", [cancelled, paused, failed])
def test_what_did_not_end_is_unfinished(
    client: Client, url: str, ray: FakeRay, half: Any, end: Callable[[Client, FakeRay, str], None]
) -> None:
    end(client, ray, half.id)
    study = eventually(lambda: (now := client.get(half.id)).state == end.__name__ and now)
    assert states(client, half.id) == ["finished"] * 3 + ["unfinished"]
    assert [entry.status for entry in client.best(half.id)] == ["finished", "unfinished"]
    assert study.best
    assert study.best.status == "finished"
    assert {state: shown(url, half.id, state) for state in ("running", "unfinished", "finished")} == {
        "running": 0,
        "unfinished": 1,
        "finished": 3,
    }
    name = list(client.trials(half.id))[3].name
    with pytest.raises(ServiceError, match=f"is unfinished, as its study is {end.__name__}; only one that runs"):
        client.stop_trial(half.id, name)


def test_a_best_configuration_that_did_not_end_is_unfinished_in_lists_too(client: Client, ray: FakeRay) -> None:
    ray.hold_after = 2
    study = client.submit(SPEC)
    eventually(lambda: (best := client.get(study.id).best) and best.status == "running")
    client.pause(study.id)
    eventually(lambda: client.get(study.id).state == "paused")
    (listed,) = client.list()
    assert (listed.best.status, client.get(study.id).best.status) == ("unfinished", "unfinished")
    client.resume(study.id)  # the driver waits again at once
    eventually(lambda: client.get(study.id).state == "running")
    (listed,) = client.list()
    assert listed.best.status == "running"
    assert states(client, study.id) == ["running"]
