import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from served import eventually

from service.database import Database
from service.jobs import RayAway, RayJobs
from service.mlflow import Mlflow
from service.settings import from_environment


@contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Within the block something answers every request as it is told; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self)

        def log_message(self, *said: Any) -> None:
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{serving.server_address[1]}"
    finally:
        serving.shutdown()
        serving.server_close()


def cut(code: int) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return what answers as a server does that dies in the middle of it."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"40\r\n[{")

    return answer


@pytest.mark.parametrize("code", [200, 500])
def test_a_head_that_dies_in_mid_answer_is_away(code: int) -> None:
    with server(cut(code)) as address, pytest.raises(RayAway, match=address):
        RayJobs(from_environment({"RAY_ADDRESS": address})).reports()


def test_an_mlflow_that_dies_in_mid_answer_is_asked_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.mlflow.PAUSE", 0.01)
    asked: list[str] = []
    monkeypatch.setattr("service.mlflow._without_link", lambda connection: [(1, "sweep", "sweep-1")])

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        if request.path != "/health" and len(asked) < 3:
            cut(200)(request)
            return
        request.send_response(200)
        request.end_headers()
        request.wfile.write(b"{}")

    with server(answer) as address:
        mlflow = Mlflow(address, database)
        mlflow.start()
        eventually(lambda: mlflow.ok, seconds=10)
        mlflow.stop()
        mlflow._thread.join(10)
    assert asked[:3] == ["/health", "/api/2.0/mlflow/experiments/search", "/health"]


def test_a_job_is_given_the_storage_of_the_service_and_it_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(RayJobs, "_ask", lambda self, *call: asked.append(call))
    settings = from_environment({"LNCIS_STORAGE": "s3://key:secret@bucket/lncis"})
    RayJobs(settings).submit("study-1", attempt=1)
    RayJobs(from_environment({})).submit("study-1", attempt=1)
    (_, _, job), (_, _, other) = asked
    assert job["runtime_env"]["env_vars"]["LNCIS_STORAGE"] == "s3://key:secret@bucket/lncis"
    assert job["entrypoint"] == other["entrypoint"]
    assert "LNCIS_STORAGE" not in other["runtime_env"]["env_vars"]
    assert "secret" not in repr(settings)
