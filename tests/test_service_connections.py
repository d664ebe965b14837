"""Clients that open connections and leave it at that: the others are answered."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
from served import eventually, served

from service import connections
from service.store.database import Database

HALF = b"POST /studies HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
Connect = Callable[[bytes], socket.socket]


@pytest.fixture
def url(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(connections, "ARRIVAL_SECONDS", 1.0)
    with served(tmp_path, database) as address:
        yield address


@pytest.fixture
def connect(url: str) -> Iterator[Connect]:
    """Opens a connection and sends something."""
    with ExitStack() as stack:

        def open_one(content: bytes) -> socket.socket:
            parts = httpx2.URL(url)
            opened = stack.enter_context(socket.create_connection((parts.host, parts.port), timeout=10))
            opened.sendall(content)
            return opened

        yield open_one


def ended(opened: socket.socket) -> bool:
    """Return whether the other side has closed a connection, after what it sent."""
    opened.settimeout(0.01)
    try:
        return not opened.recv(2**20)
    except TimeoutError:
        return False
    except OSError:
        return True


def test_a_request_that_does_not_arrive_ends_its_connection(connect):
    contents = [b"", b"GE", HALF, HALF + b"\r\n{", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /heal"]
    begun = time.monotonic()
    opened = [connect(content) for content in contents]
    while time.monotonic() - begun < 0.8:
        assert not any(map(ended, opened)) or time.monotonic() - begun > 0.8
    eventually(lambda: all(map(ended, opened)), seconds=10)


def test_a_request_that_comes_in_pieces_is_answered(connect):
    opened = connect(b"GET /healthz HTTP/1.1\r\n")
    for part in (b"Host: 127.0.0.1\r\n", b"Connection: close\r\n", b"\r\n"):
        time.sleep(0.2)
        opened.sendall(part)
    assert opened.recv(1000).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("path", ["/studies", "/ui/signin"])
def test_who_goes_away_in_the_middle_of_a_body_is_no_error_of_the_service(url, connect, caplog, path):
    connect(HALF.replace(b"/studies", path.encode()) + b"\r\n{").close()
    answers = f'lncis_http_requests_total{{method="POST",route="{path}",status="%d"}}'
    text = eventually(lambda: path in (text := httpx2.get(f"{url}/metrics", trust_env=False).text) and text, seconds=10)
    assert answers % 400 in text
    assert answers % 500 not in text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_stream_outlives_the_time_for_a_request(url, connect):
    from fake_ray import SPEC

    path = httpx2.post(f"{url}/studies", json=SPEC, trust_env=False).json()["links"]["events"]
    stream = connect(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    time.sleep(2)
    assert not ended(stream)
    for _ in range(50):
        connect(HALF)
    assert not ended(stream), "a request that is here stays"


def test_half_open_connections_take_no_place_from_others(url, connect):
    """A hundred where twenty may be: the oldest ones go, and everybody else is answered at once."""
    opened = []
    for number in range(100):
        opened.append(connect(HALF))
        if number % 10 == 0:
            begun = time.monotonic()
            assert httpx2.get(f"{url}/healthz", trust_env=False).status_code == 200
            assert time.monotonic() - begun < 1
    assert sum(map(ended, opened)) >= 80
    eventually(lambda: all(map(ended, opened)), seconds=10)
