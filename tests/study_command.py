"""`lncis study ...`, as a user types it."""

from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from lncis.commands.app import app


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["study", *map(str, arguments)], env={"COLUMNS": "160"})


def one_line(asked: Result) -> str:
    """Return the line by which a mistake is answered."""
    assert asked.exit_code in (1, 2)
    (line,) = asked.stderr.splitlines()
    return line
