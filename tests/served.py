"""The service for tests, in this process or in one of its own, on a free port of loopback."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import uvicorn
from fake_ray import SPEC

from lncis.client import Client
from service.app import create_app
from service.connections import LimitedProtocol
from service.dispatch import waiting
from service.dispatch.jobs import RayJobs
from service.settings import Settings
from service.store.database import Database

ROOT = Path(__file__).parents[1]


def filler() -> ModuleType:
    """Return benchmarks/service_fill.py."""
    spec = importlib.util.spec_from_file_location("service_fill", ROOT / "benchmarks" / "service_fill.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def served(folder: Path, database: Database, **changes: Any) -> Iterator[str]:
    """Within the block a service answers on a database; yields its address."""
    settings = Settings(**{"runs": folder / "runs", "presets": ROOT / "studies", "poll_seconds": 0.05, **changes})
    app = create_app(settings, database, RayJobs(settings))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            port=0,
            http=LimitedProtocol,
            log_level="error",
            timeout_keep_alive=1,
            timeout_graceful_shutdown=1,
        )
    )
    thread = threading.Thread(target=server.run)
    begun = time.time()  # before: the first turn may come at once, and the next one takes a heartbeat
    thread.start()

    def looked() -> bool:
        """Its dispatcher has taken its first turn: till then nobody could say whether Ray is there."""
        assert thread.is_alive()
        return server.started and database.read(waiting.load_status).seen_at >= begun

    eventually(looked)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


class Service:
    """A service as a process; started again it listens on the same port."""

    def __init__(self, folder: Path, ray_address: str, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("LNCIS_", "MLFLOW_"))},
            "PYTHONPATH": str(ROOT),
            "LNCIS_PORT": str(self.port),
            "LNCIS_DATABASE_URL": f"sqlite:///{folder / 'lncis.db'}",
            "LNCIS_RUNS": str(folder / "runs"),
            "LNCIS_POLL_SECONDS": "0.05",
            "LNCIS_RAY_GRACE_SECONDS": "0.2",
            "LNCIS_MAX_RUNNING": "4",
            "LNCIS_MAX_RUNNING_PER_USER": "4",
            "RAY_ADDRESS": ray_address,
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Service":
        with (self._folder / f"{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service"], cwd=self._folder, env=self._environment, stdout=log, stderr=log
            )
        return self

    @property
    def log(self) -> str:
        return (self._folder / f"{self.port}.log").read_text()

    def ready(self) -> "Service":
        eventually(lambda: self.ask("GET", "/healthz"))
        return self

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(60)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Return an answer; None where there was none, for whatever reason."""
        request = urllib.request.Request(
            f"{self.address}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **headers},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except (OSError, ValueError):
            return None


def eventually(look: Callable[[], Any], *, seconds: float = 300.0) -> Any:
    """Return the first true answer."""
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, "it did not come to that in time"
        time.sleep(0.02)
    return found


def finished(client: Client, spec: Any = SPEC, **more: Any) -> Any:
    """Return a study that was submitted, once it is over."""
    study = client.submit(spec, **more)
    return eventually(lambda: (now := client.get(study.id)).over and now)
