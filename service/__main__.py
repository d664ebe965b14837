"""python -m service: the service, with its settings from the environment (service.settings lists them)."""

import argparse
import logging
import os
import socket
import sys
from pathlib import Path

import uvicorn

from lncis.errors import ConfigError, StudyError
from lncis.terminal import clear_errors
from service.app import create_app
from service.connections import LimitedProtocol
from service.dispatch.jobs import RayJobs
from service.settings import Settings, from_environment
from service.store.database import Database

log = logging.getLogger("lncis.service")

SWITCH_SECONDS = 0.0005
"""How long another thread may keep the event loop waiting for the interpreter; Python's default is 5 ms."""
SHUTDOWN_SECONDS = 3
"""For open answers, such as event streams, to end."""


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; studies keep running, and the next service finds them again."""
    parser = argparse.ArgumentParser(
        prog="python -m service", description="Serve; docs/service.md lists the variables."
    )
    parser.add_argument("--root-path", metavar="/PREFIX", help="under which a proxy shows the service")
    given = parser.parse_args()
    with clear_errors():
        more = {} if given.root_path is None else {"LNCIS_ROOT_PATH": given.root_path}
        serve(from_environment({**os.environ, **more}))


def serve(settings: Settings) -> None:
    """Serve; StudyError if the address is taken, ConfigError if a setting or the database is not valid."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request, and Ray is asked once a second
    sys.setswitchinterval(SWITCH_SECONDS)
    _make_runs(settings.runs)
    if not settings.presets.is_dir():
        log.warning("there are no shipped studies: %s is no folder; LNCIS_PRESETS names another", settings.presets)
    listening = _listen(settings)
    database = Database(settings.database_url)
    try:
        app = create_app(settings, database, RayJobs(settings))
        host, port = listening.getsockname()[:2]
        name = f"[{host}]" if ":" in host else host
        print(f"lncis service: http://{name}:{port}", flush=True)
        config = uvicorn.Config(
            app,
            http=LimitedProtocol,
            log_level="warning",
            access_log=False,  # a request's address may be private; /metrics counts requests
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        database.close()
        listening.close()


def _make_runs(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        remedy = "name a folder that can be written"
        raise ConfigError("LNCIS_RUNS", [f"{folder} cannot be made: {error.strerror}; {remedy}"]) from error


def _listen(settings: Settings) -> socket.socket:
    """Return a bound socket; bound first, so that a second service on the port fails before it touches the database."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, number)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
    except socket.gaierror as error:
        raise ConfigError("LNCIS_HOST", [f"{settings.host!r} is not an address: {error.strerror}"]) from error
    except OSError as error:
        raise StudyError(
            f"{settings.host}:{settings.port} cannot be listened on: {error.strerror}; set LNCIS_PORT to another"
        ) from error
    return listening


if __name__ == "__main__":
    main()
