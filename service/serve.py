"""make serve: Ray, MLflow and the service on this machine, for one user.

Everything that it starts listens on loopback, and ends with it, also when its terminal is closed or it is killed.
Studies, the database and MLflow's runs stay, and the next `make serve` finds them again.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from lncis.errors import StudyError
from lncis.execution.cluster import TRIAL_DRIVER
from lncis.terminal import clear_errors
from service.__main__ import serve
from service.settings import from_environment

HOST = "127.0.0.1"
CURL = """curl -s {url}/studies -H 'Content-Type: application/yaml' --data-binary @studies/first.yaml"""
OBJECT_STORE_BYTES = 256 * 2**20  # what passes through it is small: records and configs
START_TIMEOUT_SECONDS = 300.0

_QUIET = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


def main() -> None:
    """Start Ray and MLflow unless the environment names them, print all addresses, and serve until Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)  # as Ctrl-C: every process that was started here must end
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))  # the terminal was closed
    with clear_errors(), contextlib.ExitStack() as stack:
        environment = {**os.environ, "LNCIS_HOST": HOST}
        Path("runs").mkdir(exist_ok=True)
        starting: list[_Program] = []
        if not environment.get("MLFLOW_TRACKING_URI"):
            starting.append(stack.enter_context(_mlflow(Path("mlflow.db"))))
            environment["MLFLOW_TRACKING_URI"] = starting[-1].address
        if not environment.get("RAY_ADDRESS"):
            starting.append(stack.enter_context(_ray()))
            environment["RAY_ADDRESS"] = starting[-1].address
        _wait_for(starting)
        environment.setdefault("LNCIS_PORT", str(_free(8000)))
        settings = from_environment(environment)
        url = f"http://{HOST}:{settings.port}"
        print(f"Ray:     {settings.ray_address}\nMLflow:  {settings.mlflow_tracking_uri}\nservice: {url}\n")
        print(f"try it:  {CURL.format(url=url)}\n", flush=True)
        serve(settings)


def _interrupt(*received: object) -> None:
    raise KeyboardInterrupt


def _wait_for(starting: "list[_Program]") -> None:
    begun = time.monotonic()
    for program in starting:
        print(f"starting {program.name}, its log is {program.log} ...", flush=True)
    for program in starting:
        program.wait()
        print(f"{program.name} answers, after {time.monotonic() - begun:.0f} s", flush=True)


@contextlib.contextmanager
def mlflow(database: Path) -> Iterator[str]:
    """Within the block an MLflow server runs on a database; yields its address."""
    with _mlflow(database) as program:
        program.wait()
        yield program.address


@contextlib.contextmanager
def ray(*, cpus: int | None = None) -> Iterator[str]:
    """Within the block a Ray head runs, with room for studies; yields the address of its dashboard."""
    with _ray(cpus=cpus) as program:
        program.wait()
        yield program.address


@contextlib.contextmanager
def _mlflow(database: Path) -> Iterator["_Program"]:
    port = _free(5000)
    address = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{database.absolute()}"]
    with _running(command, "mlflow", address, [f"{address}/health"]) as program:
        yield program


@contextlib.contextmanager
def _ray(*, cpus: int | None = None) -> Iterator["_Program"]:
    # ports of its own, as another Ray may run here; a head without an agent accepts no jobs
    dashboard, gcs, client, agent = _free(8265), _free(6379), _free(10001), _free(52365)
    # short, as it holds unix sockets
    with tempfile.TemporaryDirectory(prefix="lncis", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--include-dashboard=true"]
        command += [f"--port={gcs}", f"--node-ip-address={HOST}", f"--ray-client-server-port={client}"]
        command += [f"--dashboard-host={HOST}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}"]
        command += [f"--dashboard-agent-listen-port={agent}"]
        command += [f"--object-store-memory={OBJECT_STORE_BYTES}", f'--resources={{"{TRIAL_DRIVER}": 1000}}']
        command += [] if cpus is None else [f"--num-cpus={cpus}"]
        address = f"http://{HOST}:{dashboard}"
        urls = [f"{address}/api/jobs/", f"http://{HOST}:{agent}/api/local_raylet_healthz"]
        with _running(command, "ray", address, urls, **_QUIET) as program:
            yield program


@dataclass(frozen=True, kw_only=True)
class _Program:
    """A program that runs, and where it says that it does."""

    name: str
    address: str
    urls: list[str]
    log: Path
    process: "subprocess.Popen[Any]"

    def wait(self) -> None:
        """Return when it has answered at each of `urls`; StudyError if it ended, or takes too long."""
        for url in self.urls:
            _wait(self.process, self.name, url, self.log)


@contextlib.contextmanager
def _running(command: list[str], name: str, address: str, urls: list[str], **environment: str) -> Iterator[_Program]:
    """Within the block a program runs; it ends with this process, however that ends (service.kept)."""
    log = Path(f"runs/{name}.log")
    with log.open("ab") as output:
        process: subprocess.Popen[Any] = subprocess.Popen(
            [sys.executable, "-m", "service.kept", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    assert process.stdin
    try:
        yield _Program(name=name, address=address, urls=urls, log=log, process=process)
    finally:
        process.stdin.close()
        process.wait()


def _wait(process: "subprocess.Popen[Any]", name: str, url: str, log: Path) -> None:
    until = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise StudyError(f"{name} ended with code {process.returncode} before it began; {log} says why")
        try:
            httpx2.get(url, timeout=5, trust_env=False).raise_for_status()  # this machine needs no proxy
            return
        except httpx2.HTTPError:
            time.sleep(0.3)
    raise StudyError(f"{name} did not answer at {url} within {START_TIMEOUT_SECONDS:.0f} s; {log} may say why")


def _free(wanted: int) -> int:
    """Return a port that is free: the wanted one, else any."""
    for port in (wanted, 0):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((HOST, port))
            return int(tried.getsockname()[1])
    raise StudyError("no port of this machine is free")


if __name__ == "__main__":
    main()
