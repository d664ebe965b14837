"""`make serve`: what it starts ends with it, however it ends. Small programs stand for Ray and MLflow here."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from served import ROOT, eventually

from lncis.errors import StudyError
from service import serve

pytestmark = pytest.mark.processes

PARENT = """
import sys, time
from pathlib import Path
from service import serve
Path("runs").mkdir(exist_ok=True)
with serve._running([sys.executable, "program.py"], "program", "", []):
    Path("started").touch()
    time.sleep(600)
"""
PROGRAM = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("pids", "w").write(f"{os.getpid()} {child.pid}")
os.rename("pids", "all_pids")
time.sleep(600)
"""
SERVER = """
import time
from http.server import HTTPServer, SimpleHTTPRequestHandler
time.sleep(2)
HTTPServer(("127.0.0.1", {port}), SimpleHTTPRequestHandler).serve_forever()
"""


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("number", "program"),
    [
        (signal.SIGKILL, PROGRAM),
        (signal.SIGTERM, PROGRAM),
        (signal.SIGHUP, PROGRAM),
        (signal.SIGINT, PROGRAM),
        (signal.SIGKILL, f"import signal; signal.signal(15, signal.SIG_IGN)\n{PROGRAM}"),
    ],
)
def test_what_was_started_ends_with_who_started_it(tmp_path: Path, number: int, program: str) -> None:
    """Also a child of it, and where it does not listen."""
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=tmp_path, env=environment, start_new_session=True)
    try:
        eventually(lambda: (tmp_path / "all_pids").exists() and (tmp_path / "started").exists(), seconds=60)
        pids = [int(pid) for pid in (tmp_path / "all_pids").read_text().split()]
        assert all(map(runs, pids))
        parent.send_signal(number)
        parent.wait(60)
        eventually(lambda: not any(map(runs, pids)), seconds=60)
    finally:
        parent.kill()


def test_a_program_that_ends_before_it_begins_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "runs").mkdir()
    command = [sys.executable, "-c", "print('no room'); raise SystemExit(3)"]
    with (
        pytest.raises(StudyError, match=r"program ended with code 3 before it began; runs/program\.log says why"),
        serve._running(command, "program", "", ["http://127.0.0.1:9/"]) as program,
    ):
        program.wait()
    assert "no room" in (tmp_path / "runs" / "program.log").read_text()


def test_programs_start_side_by_side_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Each takes two seconds until it answers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "runs").mkdir()
    ports = [serve._free(0), serve._free(0)]
    commands = [[sys.executable, "-c", SERVER.format(port=port)] for port in ports]
    begun = time.monotonic()
    with (
        serve._running(commands[0], "one", "", [f"http://127.0.0.1:{ports[0]}"]) as one,
        serve._running(commands[1], "two", "", [f"http://127.0.0.1:{ports[1]}"]) as two,
    ):
        serve._wait_for([one, two])
        assert time.monotonic() - begun < 15
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [f"starting {name}, its log is runs/{name}.log ..." for name in ("one", "two")]
    assert [line.partition(",")[0] for line in said[2:]] == ["one answers", "two answers"]
