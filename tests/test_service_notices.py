"""Notices: a real server receives them, signed; one that fails gets them again; nobody else gets any."""

import hashlib
import hmac
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_ray import SPEC, FakeRay
from served import eventually as within
from served import served

from lncis.client import Client
from lncis.errors import ConfigError
from service.dispatch import notices
from service.settings import from_environment
from service.store import notices as stored
from service.store import tables
from service.store.database import Database

SECRET = "a-secret-of-the-tests"


def eventually(look: Any) -> Any:
    return within(look, seconds=60)


class Hook(http.server.ThreadingHTTPServer):
    """Where notices go; it answers with the next of `answers`, and then with 204."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"

    @property
    def events(self) -> list[tuple[str, str]]:
        return [(said["event"], said["study"]["id"]) for said in (json.loads(body) for _, body in self.received)]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 204)
        self.send_header("Location", f"{self.server.url}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *said: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def options(ray: FakeRay, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(notices, "BACKOFF_SECONDS", (0.05, 0.1))
    return {"ray_address": ray.address, "notify_url": hook.url, "notify_secret": SECRET}


def test_the_end_of_a_study_is_sent_once_and_signed(
    tmp_path: Path, database: Database, hook: Hook, options: dict[str, Any]
) -> None:
    with served(tmp_path, database, **options) as url, Client(url) as client:
        study = client.submit(SPEC)
        eventually(lambda: hook.received)
        headers, body = hook.received[0]
        said = json.loads(body)
        assert (said["event"], said["study"]["id"], said["study"]["state"]) == ("succeeded", study.id, "succeeded")
        assert said["study"]["best"]["label"] == "gamma = 6"
        at, _, given = headers["lncis-signature"].removeprefix("t=").partition(",v1=")
        assert given == hmac.new(SECRET.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
        assert headers["content-type"] == "application/json"
        other = client.submit({**SPEC, "name": "other"})
        eventually(lambda: len(hook.received) == 2)
        assert hook.events == [("succeeded", study.id), ("succeeded", other.id)]  # the first one not again


def test_a_notice_that_was_not_taken_is_sent_again_and_no_redirect_is_followed(
    tmp_path: Path, database: Database, hook: Hook, options: dict[str, Any]
) -> None:
    hook.answers = [500, 302, 404]
    with served(tmp_path, database, **options) as url, Client(url) as client:
        study = client.submit(SPEC)
        eventually(lambda: len(hook.received) == 4)
        assert hook.events == [("succeeded", study.id)] * 4
        assert len({headers["lncis-delivery"] for headers, _ in hook.received}) == 1
        revision = client.get(study.id).last_event
        eventually(lambda: not database.read(lambda c: stored.due_ends(c, 10)))
        assert client.get(study.id).last_event == revision


def test_failure_and_cancellation_are_sent_too(
    tmp_path: Path, database: Database, ray: FakeRay, hook: Hook, options: dict[str, Any]
) -> None:
    ray.exits[1] = (2, "error: no such file\n")
    with served(tmp_path, database, **options) as url, Client(url) as client:
        failed = client.submit(SPEC)
        eventually(lambda: hook.received)
        assert hook.events == [("failed", failed.id)]
        assert json.loads(hook.received[0][1])["study"]["reason"] == "no such file"


def test_a_study_that_waits_too_long_is_said_once(
    tmp_path: Path, database: Database, ray: FakeRay, hook: Hook, options: dict[str, Any]
) -> None:
    ray.go_away()
    hook.answers = [500]
    with served(tmp_path, database, notify_waiting_seconds=0.3, **options) as url, Client(url) as client:
        study = client.submit(SPEC)
        eventually(lambda: len(hook.received) == 2)  # the first was not taken
        client.cancel(study.id)
        eventually(lambda: len(hook.received) == 3)
        assert hook.events == [("waiting", study.id), ("waiting", study.id), ("cancelled", study.id)]


def test_what_was_given_up_or_is_old_is_not_sent(tmp_path: Path, database: Database, monkeypatch: Any) -> None:
    with served(tmp_path, database) as url, Client(url) as client:  # nobody is to be notified
        client.cancel(client.submit(SPEC).id)
    assert len(database.read(lambda c: stored.due_ends(c, 10))) == 1
    database.write(lambda c: stored.forget_old_ends(c, 60))
    assert len(database.read(lambda c: stored.due_ends(c, 10))) == 1
    database.write(lambda c: c.execute(tables.studies.update().values(notice_due=1.0)))
    database.write(lambda c: stored.forget_old_ends(c, 60))
    assert database.read(lambda c: stored.due_ends(c, 10)) == []


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"LNCIS_NOTIFY_URL": "ftp://x", "LNCIS_NOTIFY_SECRET": SECRET}, "notify_url must be an http address"),
        ({"LNCIS_NOTIFY_URL": "https://x"}, "notify_secret must have at least 16 characters"),
    ],
)
def test_notices_need_an_address_and_a_secret(environment: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        from_environment(environment)
