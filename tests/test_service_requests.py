"""What users ask of a study that runs: a pause once its running trials have ended, and the end of one trial."""

from pathlib import Path
from typing import Any

import pytest
from fake_ray import SPEC, FakeRay
from served import eventually as within

from lncis.client import Client
from lncis.errors import ServiceError
from lncis.studies.record.requests import REQUESTS, Requests, read_requests, write_requests


def eventually(look: Any) -> Any:
    return within(look, seconds=30)


def running(client: Client, ray: FakeRay, *, epochs: int) -> Any:
    """Return a study whose driver waits after so many epochs."""
    ray.hold_after = epochs
    study = client.submit(SPEC)
    return eventually(lambda: (now := client.get(study.id)).progress.epochs_done == epochs and now)


def test_a_drained_study_ends_its_running_trials_and_pauses(client: Client, ray: FakeRay, tmp_path: Path) -> None:
    study = running(client, ray, epochs=5)  # of the second trial
    asked = client.drain(study.id)
    assert (asked.state, asked.reason) == ("running", "finishes the trials that run, and starts no other")
    assert client.drain(study.id).last_event == asked.last_event  # again: nothing changes
    eventually(lambda: read_requests(tmp_path / "runs" / study.id).drain)
    ray.hold_after = None
    eventually(lambda: client.get(study.id).state == "paused")
    paused = client.get(study.id)
    assert (paused.progress.trials_finished, paused.progress.trials_started) == (2, 2)
    client.resume(study.id)
    done = eventually(lambda: (now := client.get(study.id)).over and now)
    assert (done.state, done.progress.trials_finished) == ("succeeded", 6)
    assert not read_requests(tmp_path / "runs" / study.id).drain
    assert len(ray.submissions) == 2


def test_a_study_that_drains_can_still_be_paused_and_cancelled(client: Client, ray: FakeRay) -> None:
    study = running(client, ray, epochs=5)
    client.drain(study.id)
    client.pause(study.id)
    eventually(lambda: client.get(study.id).state == "paused")
    with pytest.raises(ServiceError, match="is paused, so it cannot drain") as refused:
        client.drain(study.id)
    assert refused.value.legal == ["cancel", "resume"]
    client.resume(study.id)
    eventually(lambda: client.get(study.id).state == "running")
    client.drain(study.id)
    client.cancel(study.id)
    eventually(lambda: client.get(study.id).state == "cancelled")


def test_one_trial_is_stopped_and_the_others_go_on(client: Client, ray: FakeRay, tmp_path: Path) -> None:
    study = running(client, ray, epochs=5)
    ended, runs = client.trials(study.id)
    assert client.stop_trial(study.id, runs.name).name == runs.name
    client.stop_trial(study.id, runs.name)  # again: nothing changes
    eventually(lambda: [trial.state for trial in client.trials(study.id)][1] == "failed")
    ray.hold_after = None
    done = eventually(lambda: (now := client.get(study.id)).over and now)
    assert (done.state, done.progress.trials_failed, done.progress.trials_finished) == ("succeeded", 1, 5)
    stopped = list(client.trials(study.id))[1]
    assert (stopped.name, stopped.reason, stopped.epoch) == (runs.name, "stopped by local", 1)
    for name, why in ((ended.name, "is finished; only one that runs can be stopped"), ("none", "has no trial 'none'")):
        with pytest.raises(ServiceError, match=why):
            client.stop_trial(study.id, name)


def test_only_a_trial_that_runs_is_stopped(client: Client, ray: FakeRay) -> None:
    study = running(client, ray, epochs=5)
    ended = next(client.trials(study.id))
    with pytest.raises(ServiceError, match="is finished; only one that runs can be stopped") as refused:
        client.stop_trial(study.id, ended.name)
    assert refused.value.status == 409


def test_requests_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_requests(tmp_path) == Requests()
    write_requests(tmp_path, Requests())
    assert not (tmp_path / REQUESTS).exists()  # nothing is asked: no file
    asked = Requests(drain=True, stop={"0001-seed0": "anna"})
    write_requests(tmp_path, asked)
    assert read_requests(tmp_path) == asked
    (tmp_path / REQUESTS).write_text("half of i")
    assert read_requests(tmp_path) == Requests()
