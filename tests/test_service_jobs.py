import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from served import served

from lncis.errors import ConfigError
from lncis.studies.folders import MLFLOW_RUN
from service.dispatch.jobs import RayAway, RayJobs
from service.dispatch.progress import run_of
from service.settings import from_environment
from service.store.database import Database


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


@pytest.mark.parametrize(
    ("answer", "ok", "detail"),
    [
        (lambda request: ok_answer(request), True, "answers"),
        (cut(200), False, "does not answer: "),
        (lambda request: request.send_error(401), False, "does not answer: "),
    ],
)
def test_the_health_of_mlflow_is_asked_without_a_login(
    tmp_path: Path, database: Database, answer: Callable[[BaseHTTPRequestHandler], None], ok: bool, detail: str
) -> None:
    asked: list[tuple[str, str | None]] = []

    def noted(request: BaseHTTPRequestHandler) -> None:
        asked.append((request.path, request.headers["Authorization"]))
        answer(request)

    with server(noted) as address, served(tmp_path, database, mlflow_tracking_uri=address) as url:
        mlflow = httpx2.get(f"{url}/readyz", trust_env=False, timeout=60).json()["mlflow"]
    assert (mlflow["ok"], mlflow["detail"].startswith(detail)) == (ok, True)
    assert asked == [("/health", None)]


def ok_answer(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    request.wfile.write(b"OK")


def test_the_ids_of_a_run_are_read_where_its_driver_left_them(tmp_path: Path) -> None:
    (tmp_path / MLFLOW_RUN).write_text('{"experiment_id": "12", "run_id": "a/b"}')
    assert run_of(tmp_path) == {"experiment_id": "12", "run_id": "a/b"}
    for content in ("", "[]", "{}", '{"experiment_id": 1, "run_id": null}'):
        (tmp_path / MLFLOW_RUN).write_text(content)
        assert run_of(tmp_path) is None
    (tmp_path / MLFLOW_RUN).unlink()
    assert run_of(tmp_path) is None


def test_a_job_is_given_the_storage_and_the_mlflow_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(RayJobs, "_ask", lambda self, *call: asked.append(call))
    given = {
        "LNCIS_STORAGE": "s3://bucket/a:b@c?endpoint_override=http%3A%2F%2F10.0.0.5%3A9000&scheme=http&region=us-east-1",
        "MLFLOW_TRACKING_URI": "http://host:5000/of@team",
        "LNCIS_DATA_ROOTS": "/tmp:/usr",
    }
    RayJobs(from_environment(given)).submit("study-1", attempt=1)
    RayJobs(from_environment({})).submit("study-1", attempt=1)
    (_, _, job), (_, _, other) = asked
    assert job["runtime_env"]["env_vars"].items() >= given.items()
    assert job["entrypoint"] == other["entrypoint"]
    assert not given.keys() & other["runtime_env"]["env_vars"].keys()


@pytest.mark.parametrize("url", ["abfss://container@account.dfs.core.windows.net/x", "file:///a/b:c@d", "/a:b@c"])
def test_what_only_looks_like_a_password_may_be_a_storage(url: str) -> None:
    assert from_environment({"LNCIS_STORAGE": url}).storage == url


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("LNCIS_STORAGE", "s3://user:hunter2@bucket/lncis"),
        ("LNCIS_STORAGE", "s3://user:x12/hunter2+/@bucket/lncis"),
        ("LNCIS_STORAGE", "abfs://:hunter2@account/container"),
        ("LNCIS_STORAGE", "fsspec+s3://bucket/lncis?region=x&access_key=user&secret_key=hunter2"),
        ("LNCIS_STORAGE", "abfs://container@account/x?sig=hunter2"),
        ("MLFLOW_TRACKING_URI", "https://user:hunter2@mlflow.example"),
        ("MLFLOW_TRACKING_URI", "postgresql://user:hunter2@host:5432/mlflow"),
    ],
)
def test_credentials_in_what_jobs_are_given_are_refused_and_not_printed(variable: str, url: str) -> None:
    with pytest.raises(ConfigError, match=f"^environment: {variable}: must be without credentials") as caught:
        from_environment({variable: url})
    assert "in the environment of the cluster" in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_each_variable_with_credentials_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        from_environment({"LNCIS_STORAGE": "s3://a:b@c/d", "MLFLOW_TRACKING_URI": "http://a:b@c"})
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["LNCIS_STORAGE", "MLFLOW_TRACKING_URI"]
