"""The service for tests, answering on a free port of loopback, with a database filled without Ray."""

import importlib.util
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import uvicorn

from service.app import create_app
from service.database import Database
from service.jobs import RayJobs
from service.settings import Settings

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
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    until = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < until
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
