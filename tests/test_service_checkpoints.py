"""Checkpoints as downloads: whole, in parts, gone on with, from every place where a stage may lie."""

import hashlib
import http.server
import os
import socket
import threading
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fake_ray import SPEC, FakeRay
from object_store import KEY, SECRET, ObjectStore, serving
from served import finished, served

from lncis import downloads as client_downloads
from lncis.client import Client
from lncis.errors import ServiceError
from lncis.execution import objects, storage
from lncis.studies.stages.store import url_of_stages
from service.api import downloads
from service.api.problems import Problem
from service.store.database import Database

CONTENT = os.urandom(3_000_000)
OTHER = os.urandom(1_000_000)
ETAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'


def best_trial(client: Client, study: Any) -> Any:
    (best,) = client.best(study.id, top=1)
    return next(trial for trial in client.trials(study.id) if trial.name == best.trials[0])


def put(folder: Path, content: bytes = CONTENT) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint.pt").write_bytes(content)


@pytest.fixture
def study(client: Client, tmp_path: Path) -> Any:
    """A finished study whose best trial has its checkpoint in the study's folder."""
    found = finished(client)
    put(tmp_path / "runs" / found.id / "stages" / best_trial(client, found).stages[-1])
    return found


def test_the_best_checkpoint_comes_whole_with_its_digest(url: str, client: Client, study: Any) -> None:
    answer = httpx2.get(timeout=60, url=f"{url}/studies/{study.id}/checkpoint")
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["etag"] == ETAG
    assert b64decode(answer.headers["repr-digest"][len("sha-256=:") : -1]) == hashlib.sha256(CONTENT).digest()
    trial = best_trial(client, study)
    assert answer.headers["content-disposition"] == f'attachment; filename="{study.id}-{trial.name}.pt"'
    assert httpx2.get(timeout=60, url=f"{url}/studies/{study.id}/trials/{trial.name}/checkpoint").content == CONTENT
    head = httpx2.head(timeout=60, url=f"{url}/studies/{study.id}/checkpoint")
    assert (head.headers["etag"], head.headers["content-length"], head.content) == (ETAG, str(len(CONTENT)), b"")
    assert (
        httpx2.get(timeout=60, url=f"{url}/studies/{study.id}/checkpoint", headers={"If-None-Match": ETAG}).status_code
        == 304
    )


PARTS = {
    "bytes=0-0": (0, 0),
    "bytes=2999999-": (2_999_999, 2_999_999),
    "bytes=1000000-2500000": (1_000_000, 2_500_000),
    "bytes=1000000-9999999": (1_000_000, 2_999_999),
    "bytes=-10": (2_999_990, 2_999_999),
    "bytes=-9999999": (0, 2_999_999),
}


def test_a_part_comes_alone(url: str, study: Any) -> None:
    for asked, (first, last) in PARTS.items():
        answer = httpx2.get(timeout=60, url=f"{url}/studies/{study.id}/checkpoint", headers={"Range": asked})
        assert answer.status_code == 206, asked
        assert answer.headers["content-range"] == f"bytes {first}-{last}/3000000"
        assert answer.content == CONTENT[first : last + 1]


def test_a_range_counts_only_for_the_file_that_it_is_of(url: str, study: Any) -> None:
    address = f"{url}/studies/{study.id}/checkpoint"
    same = httpx2.get(timeout=60, url=address, headers={"Range": "bytes=10-", "If-Range": ETAG})
    other = httpx2.get(timeout=60, url=address, headers={"Range": "bytes=10-", "If-Range": '"other"'})
    assert (same.status_code, other.status_code) == (206, 200)
    assert other.content == CONTENT
    beyond = httpx2.get(timeout=60, url=address, headers={"Range": "bytes=3000000-"})
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == "bytes */3000000"
    assert beyond.json()["detail"] == "the file has 3000000 bytes, so none from 3000000 on"


@pytest.mark.parametrize(
    "header", [None, "", "bytes=", "bytes=-", "bytes=5-4", "bytes=0-1,4-5", "lines=0-5", "bytes=x"]
)
def test_what_is_no_range_is_not_looked_at(header: str | None) -> None:
    assert downloads.wanted(header, 100) is None


def test_the_last_none_of_no_bytes_cannot_be_had() -> None:
    with pytest.raises(Problem):
        downloads.wanted("bytes=-0", 100)
    with pytest.raises(Problem):
        downloads.wanted("bytes=0-", 0)


def test_a_training_that_goes_on_does_not_mix_two_checkpoints(
    url: str, client: Client, study: Any, tmp_path: Path
) -> None:
    stage = tmp_path / "runs" / study.id / "stages" / best_trial(client, study).stages[-1]
    with httpx2.stream("GET", timeout=60, url=f"{url}/studies/{study.id}/checkpoint") as answer:
        chunks = answer.iter_bytes()
        received = next(chunks)
        (stage / "new").write_bytes(OTHER)
        (stage / "new").replace(stage / "checkpoint.pt")
        received += b"".join(chunks)
    assert received == CONTENT
    assert httpx2.get(timeout=60, url=f"{url}/studies/{study.id}/checkpoint").content == OTHER


def test_one_that_the_study_dropped_comes_from_the_store(client: Client, tmp_path: Path) -> None:
    found = finished(client)
    put(tmp_path / "runs" / "stages" / best_trial(client, found).stages[-1])
    assert client.checkpoint(found.id, tmp_path / "best.pt").read_bytes() == CONTENT


def test_one_that_is_gone_is_no_earlier_one(url: str, client: Client, tmp_path: Path) -> None:
    found = finished(client)
    trial = best_trial(client, found)
    put(tmp_path / "runs" / found.id / "stages" / trial.stages[0], OTHER)  # of another epoch
    with pytest.raises(ServiceError, match="was deleted, as those of pruned trials") as refused:
        client.checkpoint(found.id, tmp_path / "best.pt")
    assert refused.value.status == 404
    assert list(tmp_path.glob("*.pt")) == []
    with pytest.raises(ServiceError, match="has no configuration of rank 9"):
        client.checkpoint(found.id, tmp_path / "best.pt", rank=9)
    with pytest.raises(ServiceError, match="has no trial 'none'"):
        client.checkpoint(found.id, tmp_path / "best.pt", trial="none")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A bucket whose key is in the environment: a service's URL has none."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with serving() as store:
        yield store


def url_of(store: ObjectStore) -> str:
    return store.url("lncis").replace(f"{KEY}:{SECRET}@", "")


@pytest.mark.parametrize("sharing", [True, False])
@pytest.mark.parametrize("kind", ["s3", "file"])
def test_checkpoints_come_from_a_storage_too(
    tmp_path: Path, database: Database, ray: FakeRay, s3: ObjectStore, kind: str, sharing: bool
) -> None:
    root = url_of(s3) if kind == "s3" else (tmp_path / "bucket").as_uri()
    with served(tmp_path, database, ray_address=ray.address, storage=root) as url, Client(url) as client:
        found = finished(client, {**SPEC, "sharing": sharing})
        trial = best_trial(client, found)
        put(tmp_path / "trained")
        stages = url_of_stages(root, found.id, sharing=sharing)
        storage.publish(tmp_path / "trained", objects.below(stages, trial.stages[-1]), epoch=4)
        assert client.checkpoint(found.id, tmp_path / "best.pt").read_bytes() == CONTENT
        part = httpx2.get(
            timeout=60, url=f"{url}/studies/{found.id}/checkpoint", headers={"Range": "bytes=-5", "If-Range": ETAG}
        )
        assert (part.status_code, part.content) == (206, CONTENT[-5:])


def test_a_storage_that_is_away_is_said(tmp_path: Path, database: Database, ray: FakeRay, s3: ObjectStore) -> None:
    with served(tmp_path, database, ray_address=ray.address, storage=url_of(s3)) as url, Client(url) as client:
        found = finished(client)
        with s3.failing(501):
            answer = httpx2.get(url=f"{url}/studies/{found.id}/checkpoint", timeout=60)
        assert answer.status_code == 503
        assert "cannot be used" in answer.json()["detail"]


class Breaks(http.server.ThreadingHTTPServer):
    """A proxy that breaks connections after some bytes, as networks do."""

    def __init__(self, target: str, after: int) -> None:
        self.target, self.after, self.requests = target, after, list[str | None]()
        super().__init__(("127.0.0.1", 0), _Breaking)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class _Breaking(http.server.BaseHTTPRequestHandler):
    server: Breaks

    def do_GET(self) -> None:
        self.server.requests.append(self.headers.get("Range"))
        headers = {name: self.headers[name] for name in ("Range", "If-Range") if name in self.headers}
        answer = httpx2.get(timeout=60, url=f"{self.server.target}{self.path}", headers=headers)
        self.send_response(answer.status_code)
        for name in ("content-length", "etag", "content-range", "content-type"):
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        self.end_headers()
        self.wfile.write(answer.content[: self.server.after])
        self.wfile.flush()
        if len(answer.content) > self.server.after:
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *said: Any) -> None:
        pass


def test_a_broken_download_goes_on_and_nothing_comes_twice(
    url: str, study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_downloads, "BACKOFF_SECONDS", (0.01,))
    proxy = Breaks(url, after=1_200_000)
    with Client(f"http://127.0.0.1:{proxy.server_address[1]}") as client:
        assert client.checkpoint(study.id, tmp_path / "best.pt").read_bytes() == CONTENT
    assert proxy.requests == [None, "bytes=1200000-", "bytes=2400000-"]
    assert [path.name for path in tmp_path.glob("*best.pt*")] == ["best.pt"]
    proxy.shutdown()
    proxy.server_close()


def test_what_an_earlier_call_received_is_not_received_again(
    url: str, client: Client, study: Any, tmp_path: Path
) -> None:
    part = tmp_path / f".best.pt.{ETAG[1:17]}.part"
    part.write_bytes(CONTENT[:2_000_000])
    assert client.checkpoint(study.id, tmp_path / "best.pt").read_bytes() == CONTENT
    part.write_bytes(CONTENT)
    assert client.checkpoint(study.id, tmp_path / "best.pt").read_bytes() == CONTENT
    part.write_bytes(OTHER)  # of another file
    with pytest.raises(ServiceError, match="its SHA-256 differs"):
        client.checkpoint(study.id, tmp_path / "best.pt")
    assert client.checkpoint(study.id, tmp_path / "best.pt").read_bytes() == CONTENT
