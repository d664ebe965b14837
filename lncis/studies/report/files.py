"""The files in a study's folder that people and programs read afterwards."""

import io
import json
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from lncis import files
from lncis.studies.report import html, plots, table
from lncis.studies.report.result import StudyResult, result_document

WIDTH = 160
"""Most characters in a line of table.txt."""


def write_report(result: StudyResult) -> list[Path]:
    """Write the files of a study's folder, each replaced whole, and return their paths.

    They are results.json, table.csv, table.txt, plot.png, report.html and best.yaml. Raises StudyError where no
    configuration finished, after writing all but best.yaml.
    """
    contents: dict[str, Callable[[], bytes]] = {
        "results.json": lambda: json.dumps(result_document(result), indent=1, allow_nan=False).encode(),
        "table.csv": lambda: table.trials_csv(result).encode(),
        "table.txt": lambda: _text(result).encode(),
        "plot.png": lambda: _plot(result),
        "report.html": lambda: html.report_html(result).encode(),
        "best.yaml": lambda: table.best_yaml(result).encode(),
    }
    for name, content in contents.items():
        files.replace(result.directory / name, content())
    return [result.directory / name for name in contents]


def _text(result: StudyResult) -> str:
    text = io.StringIO()
    Console(file=text, width=WIDTH, markup=False, emoji=False).print(table.result_table(result))
    shown = ("".join(c if c.isprintable() else "?" for c in line) for line in text.getvalue().split("\n"))
    return "".join(f"{line.rstrip()}\n" for line in shown).removesuffix("\n")


def _plot(result: StudyResult) -> bytes:
    picture = io.BytesIO()
    plots.overview(result).savefig(picture, format="png", dpi=110)
    return picture.getvalue()
