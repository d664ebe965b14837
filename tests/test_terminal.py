"""What commands print: text as it is, on consoles that cannot print all of it, too."""

import io
import os
import subprocess
import sys

import pytest
import yaml
from rich.live import Live
from rich.table import Table

from lncis.terminal import clear_errors, console_of_plain_text

TEXTS = [
    "runs/[x]/best.yaml",
    "[bold]data[/bold]",
    "a [/] b",
    ":warning: and :x:",
    "[link=http://x]y[/link]",
    "50 % ± 2",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_printed_as_it_is(capsys, text):
    console_of_plain_text(width=100).print(text, soft_wrap=True)
    assert capsys.readouterr().out == f"{text}\n"


@pytest.mark.parametrize("text", TEXTS)
def test_so_it_is_in_tables_and_above_them(capsys, text):
    table = Table("folder", title=text)
    table.add_row(text)
    console = console_of_plain_text(width=100)
    with Live(table, console=console) as live:
        live.console.print(f"note: {text}")
    shown = capsys.readouterr().out
    assert shown.count(text) == 3


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "50 % \\xb1 2 \\u2014 \\u732b"), ("latin-1", "50 % ± 2 \\u2014 \\u732b")]
)
def test_what_a_console_cannot_encode_is_escaped(monkeypatch, encoding, shown):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    with clear_errors():
        console_of_plain_text(width=100).print("50 % ± 2 — 猫")
        print("50 % ± 2 — 猫")
        sys.stdout.flush()
    assert written.getvalue().decode(encoding).splitlines() == [shown, shown]


@pytest.mark.processes
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_plan_is_printed_on_any_console(tmp_path, encoding):
    study = {
        "name": "s",
        "question": "does [x] 猫 matter?",
        "base": {"schedule": {"epochs": 2, "stage1_epochs": 1}},
        "search": {"loss.gamma": {"type": "categorical", "choices": [6.0]}},
        "seeds": [0, 1],
    }
    file = tmp_path / "study [x] 猫.yaml"
    file.write_text(yaml.safe_dump(study), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "lncis", "study", "run", str(file), "--dry-run"],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert "does [x] " in done.stdout.decode(encoding)


@pytest.mark.processes
@pytest.mark.parametrize("stdout", ["/dev/full", "closed"])
def test_an_output_that_cannot_be_written_ends_in_one_line(stdout):
    program = "from lncis.terminal import *\nwith clear_errors():\n    console_of_plain_text().print('done')"
    redirect = ">&-" if stdout == "closed" else f">{stdout}"
    command = ["bash", "-c", f'"$0" -c "$1" {redirect}', sys.executable, program]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == (0 if stdout == "closed" else 1)
    said = "error: the output cannot be written: No space left on device; make room, or send it elsewhere\n"
    assert ran.stderr == ("" if stdout == "closed" else said)
