"""Logs by the API, by the client and on the page: parts, streams, and what is in them that must not be obeyed."""

import json
import threading
import time
from pathlib import Path

import httpx2
import pytest
from fake_ray import SPEC, FakeRay
from served import eventually, finished, served

from lncis.client import Client
from lncis.errors import ServiceError
from lncis.studies.record.logs import DRIVER, LOGS, Log
from service.store.database import Database


def log_of(tmp_path: Path, study_id: str, name: str = DRIVER) -> Log:
    return Log(tmp_path / "runs" / study_id / LOGS, name)


def test_a_log_comes_part_by_part(url: str, client: Client, tmp_path: Path) -> None:
    study = finished(client)
    lines = [f"line {number:04d}\n" for number in range(500)]
    log_of(tmp_path, study.id).write("".join(lines))
    at, found = 0, ""
    while True:
        answer = httpx2.get(timeout=60, url=f"{url}/studies/{study.id}/log", params={"offset": at, "limit": 1024})
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert int(answer.headers["log-offset"]) == at
        assert answer.headers["log-end"] == "5000"
        if not answer.text:
            break
        at, found = int(answer.headers["log-next"]), found + answer.text
    assert found == "".join(lines)
    assert httpx2.get(timeout=60, url=f"{url}/studies/{study.id}/log", params={"limit": 1024}).text == "".join(
        lines[-102:]
    )
    assert "".join(client.log(study.id)) == found


def test_the_log_of_a_trial_is_that_of_its_stages(url: str, client: Client, tmp_path: Path) -> None:
    study = finished(client)
    trial = next(client.trials(study.id))
    assert len(trial.stages) > 1
    for number, key in enumerate(trial.stages):
        log_of(tmp_path, study.id, key).write(f"stage {number}\n")
    wanted = "".join(f"stage {number}\n" for number in range(len(trial.stages)))
    assert "".join(client.log(study.id, trial.name)) == wanted
    assert "".join(client.follow_log(study.id, trial.name)) == wanted
    with pytest.raises(ServiceError, match=r"has no trial 'none'; GET /studies/.*/trials lists them") as refused:
        list(client.log(study.id, "none"))
    assert refused.value.status == 404
    with pytest.raises(ServiceError, match="no study"):
        list(client.log("none"))


def test_a_study_without_a_log_has_an_empty_one(url: str, client: Client) -> None:
    study = finished(client)
    answer = httpx2.get(timeout=60, url=f"{url}/studies/{study.id}/log")
    assert (answer.status_code, answer.text, answer.headers["log-end"]) == (200, "", "0")
    assert list(client.follow_log(study.id)) == []


def test_a_log_is_followed_as_it_grows_and_to_the_end_of_the_study(
    client: Client, tmp_path: Path, ray: FakeRay
) -> None:
    ray.hold_after = 1
    study = client.submit(SPEC)
    eventually(lambda: client.get(study.id).progress.epochs_done)
    log, found = log_of(tmp_path, study.id), []
    log.write("first\n")

    def follow() -> None:
        found.extend(client.follow_log(study.id))

    thread = threading.Thread(target=follow)
    thread.start()
    eventually(lambda: found == ["first\n"])
    log.write("second\n")
    eventually(lambda: found == ["first\n", "second\n"])
    ray.hold_after = None
    thread.join(60)
    assert not thread.is_alive()


def test_a_stream_goes_on_after_its_last_event(url: str, client: Client, tmp_path: Path) -> None:
    study = finished(client)
    log_of(tmp_path, study.id).write("first\nsecond\n")
    with httpx2.stream(
        "GET", timeout=60, url=f"{url}/studies/{study.id}/log/follow", headers={"Last-Event-ID": "6"}
    ) as answer:
        events = [(event.event, event.id, json.loads(event.data)) for event in httpx2.EventSource(answer)]
    assert events == [
        ("lines", "13", {"offset": 6, "text": "second\n"}),
        ("end", "13", {"state": "succeeded"}),
    ]


def test_no_reader_obeys_what_stands_in_a_log(url: str, client: Client, tmp_path: Path) -> None:
    study = finished(client)
    log_of(tmp_path, study.id).write("good\n")
    (file,) = (tmp_path / "runs" / study.id / LOGS / DRIVER).iterdir()
    file.write_bytes(b"\x1b[2J<script>alert(1)</script>\x07 \xff\n")  # as another program might write it
    answer = httpx2.get(timeout=60, url=f"{url}/studies/{study.id}/log")
    assert answer.text == "<script>alert(1)</script>\ufffd \ufffd\n"
    assert answer.headers["x-content-type-options"] == "nosniff"
    page = httpx2.get(timeout=60, url=f"{url}/ui/studies/{study.id}/log")
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\ufffd" in page.text


def test_what_a_job_printed_before_it_died_is_in_the_log(client: Client, ray: FakeRay) -> None:
    ray.exits[1] = (2, "Traceback ...\nerror: \x1b[31mno such file\n")
    study = finished(client)
    assert study.state == "failed"
    log = "".join(client.log(study.id))
    assert log.endswith("failed; the end of what it printed:\nTraceback ...\nerror: no such file\n")
    ray.kill_head()
    assert "".join(client.log(study.id)) == log  # the cluster is gone


def test_the_page_of_a_log_shows_its_end_and_leads_to_its_begin(url: str, client: Client, tmp_path: Path) -> None:
    study = finished(client)
    lines = [f"line {number:06d}\n" for number in range(20_000)]
    log = log_of(tmp_path, study.id)
    for begin in range(0, len(lines), 1000):
        log.write("".join(lines[begin : begin + 1000]))
    page = httpx2.get(timeout=60, url=f"{url}/ui/studies/{study.id}/log").text
    assert lines[-1] in page
    assert lines[0] not in page
    assert "?offset=0" in page
    first = httpx2.get(timeout=60, url=f"{url}/ui/studies/{study.id}/log?offset=0").text
    assert lines[0] in first
    trial = next(client.trials(study.id))
    log_of(tmp_path, study.id, trial.stages[-1]).write("of the trial\n")
    assert "of the trial" in httpx2.get(timeout=60, url=f"{url}/ui/studies/{study.id}/log?trial={trial.name}").text
    assert (
        f"/ui/studies/{study.id}/log?trial={trial.name}"
        in httpx2.get(timeout=60, url=f"{url}/ui/studies/{study.id}").text
    )
    assert httpx2.get(timeout=60, url=f"{url}/ui/studies/{study.id}/log?trial=none").status_code == 404


def test_a_reader_needs_a_token(tmp_path: Path, database: Database, ray: FakeRay) -> None:
    from service.auth import parse_tokens

    with served(tmp_path, database, ray_address=ray.address, tokens=parse_tokens("anna:write:secret-of-anna")) as url:
        for path in ("log", "log/follow", "trials/x/log", "trials/x/log/follow"):
            assert httpx2.get(timeout=60, url=f"{url}/studies/x/{path}").status_code == 401
        started = time.monotonic()
        assert httpx2.get(timeout=60, url=f"{url}/ui/studies/x/log").status_code == 401
        assert time.monotonic() - started < 5
