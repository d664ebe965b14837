"""Load on the service: the figures of docs/service.md, on this machine.

    python benchmarks/service_load.py [--studies 10000] [--trials 100000] [--seconds 10]

Fills a fresh database, starts `python -m service` on it, without Ray, and asks from fifty clients on one event loop of
their own process. POST is measured twice: clients that wait a second between requests, as programs that submit studies
do, and clients that never wait, which shows what the service can take at all.
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

from service_fill import fill

from service.store.database import Database

ROOT = Path(__file__).parents[1]
CLIENTS = 50
SPEC = json.dumps(
    {
        "name": "load",
        "search": {"loss.gamma": {"type": "categorical", "choices": [4.0, 5.0, 6.0, 7.0, 8.0]}},
        "seeds": [0, 1, 2],
    }
).encode()


class Connection:
    """A client that keeps its connection; the load itself should cost little, as it shares the machine."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(self) -> "Connection":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return int(answer[9:12]), await self._reader.readexactly(int(length.split(b":")[1]))


async def load(
    port: int, asked: list[tuple[str, str, bytes]], clients: int, seconds: float, think: float
) -> list[float]:
    """Return the seconds that each request took; the clients take turns with what is asked."""
    took: list[float] = []
    until = time.perf_counter() + seconds

    async def client(number: int) -> None:
        connection = await Connection(port).open()
        await asyncio.sleep(think * number / clients)
        turn = number
        while time.perf_counter() < until:
            started = time.perf_counter()
            status, _ = await connection.ask(*asked[turn % len(asked)])
            took.append(time.perf_counter() - started)
            assert status < 300, status
            turn += clients
            if think:
                await asyncio.sleep(max(0.0, think - took[-1]))

    await asyncio.gather(*(client(number) for number in range(clients)))
    return sorted(took)


def line(what: str, wanted: str, took: list[float], seconds: float) -> str:
    p50, p99 = (1000 * took[min(len(took) - 1, int(len(took) * share))] for share in (0.5, 0.99))
    return f"{what:<44} p50 {p50:6.1f} ms  p99 {p99:6.1f} ms  {len(took) / seconds:6.0f}/s   {wanted}"


def start(folder: str, port: int) -> tuple["subprocess.Popen[bytes]", float]:
    """Start the service; return it, and the seconds until it was ready."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LNCIS_PORT": str(port),
        "LNCIS_DATABASE_URL": os.environ.get("LNCIS_DATABASE_URL", f"sqlite:///{folder}/lncis.db"),
        "LNCIS_RUNS": f"{folder}/runs",
        "RAY_ADDRESS": "",
    }
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "service"], cwd=folder, env=environment, stdout=subprocess.DEVNULL
    )
    while True:
        try:
            with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as answer:
                assert answer.status == 200
                return process, time.perf_counter() - started
        except OSError:
            time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    asked = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        database = Database(os.environ.get("LNCIS_DATABASE_URL", f"sqlite:///{folder}/lncis.db"))
        fill(database, asked.studies, asked.trials)
        database.close()
        print(f"{platform.machine()}, {os.cpu_count()} cores; {asked.studies} studies, {asked.trials} trials")
        start(folder, port)[0].kill()  # what is compiled once is no part of a restart
        process, ready = start(folder, port)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process, ready = start(folder, port)
        print(f"{'ready after kill -9':<44} {ready:6.2f} s                                  at most 2 s")
        try:
            with urlopen(f"http://127.0.0.1:{port}/studies?limit=200") as answer:
                ids = [study["id"] for study in json.load(answer)["studies"]]
            gets = [("GET", f"/studies/{study_id}", b"") for study_id in ids]
            pages = [("GET", f"/studies?cursor={asked.studies * part // 20}", b"") for part in range(1, 21)]
            posts = [("POST", "/studies", SPEC)]
            for what, wanted, requests, clients, think in (
                ("GET /studies/{id}, 10 clients, 100/s", "p99 at most 25 ms", gets, 10, 0.1),
                ("GET /studies (50 a page), 1 client", "at most 30 ms", pages, 1, 0.0),
                ("POST /studies, 50 clients, one a second each", "p99 at most 50 ms", posts, CLIENTS, 1.0),
                ("POST /studies, 50 clients that never wait", "p99 at most 50 ms", posts, CLIENTS, 0.0),
                ("GET /studies/{id}, 50 clients that never wait", "", gets, CLIENTS, 0.0),
            ):
                took = asyncio.run(load(port, requests, clients, asked.seconds, think))
                print(line(what, wanted, took, asked.seconds), flush=True)
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
