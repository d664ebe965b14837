"""What `lncis suspects` leaves: the files of a list, and what it prints."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rich.table import Table

from lncis import files
from lncis.errors import ConfigError, printable
from lncis.terminal import console_of_plain_text

if TYPE_CHECKING:
    from lncis.suspects.report.assessment import Assessment
    from lncis.suspects.tables import SuspectList

SUSPECTS, TABLE, ASSESSMENT, REPORT = "suspects.json", "suspects.csv", "assessment.json", "report.html"
SHOWN = 10


def require_new(out: Path) -> None:
    """Raise ConfigError where a folder holds something, or cannot be made: before the work, not after it."""
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(str(out), ["holds something already; name a new folder"])
        parent = out.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        TemporaryDirectory(prefix=f".{out.name}.", dir=parent).cleanup()
    except OSError as error:
        raise _unwritable(out, error) from error


def write_found(out: Path, whole: "SuspectList", assessed: "Assessment", title: str, remark: str) -> None:
    """Write a list, its report and its figures into a folder that appears whole; ConfigError where it cannot."""
    from lncis.suspects import tables
    from lncis.suspects.report import html

    try:
        with files.appearing(out) as folder:
            with (folder / SUSPECTS).open("w", encoding="utf-8") as file:
                file.writelines(tables.json_texts(whole))
            with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
                file.writelines(tables.csv_texts(whole))
            (folder / ASSESSMENT).write_text(_json(asdict(assessed)), encoding="utf-8")
            page = html.report_html(title, whole.suspects, assessed, remark)
            (folder / REPORT).write_text(page, encoding="utf-8")
    except OSError as error:
        raise _unwritable(out, error) from error


def _unwritable(out: Path, error: OSError) -> ConfigError:
    return ConfigError(str(out), [f"cannot be written: {error.strerror}; name another folder"])


def print_found(whole: "SuspectList", assessed: "Assessment", remark: str) -> None:
    """Print the first of a list, the noise, the plan of review, and how right the list is where that is known."""
    listed = whole.suspects
    console = console_of_plain_text(width=120)
    table = Table("rank", "annotation", "image", "given", "suggested", "wrong with")
    for suspect in listed[:SHOWN]:
        named = (str(suspect.annotation_id), suspect.file_name, suspect.given, suspect.suggested)
        table.add_row(str(suspect.rank), *map(printable, named), f"{suspect.wrong_probability:.1%}")
    console.print(table)
    low, high = assessed.rate_interval
    console.print(
        f"estimated noise: {assessed.rate:.1%} of {len(listed):,} labels are wrong (95 % CI {low:.1%} to {high:.1%})"
    )
    if truth := assessed.truth:
        console.print(f"known noise: {truth.errors / truth.labels:.1%} of {truth.labels:,} labels")
    console.print(str(assessed.plan))
    if remark:
        console.print(f"note: {remark}")
    if truth:
        figures = Table("score", "AUROC", "AUPRC", "precision at the errors", *(f"of the first {n}" for n in (50, 100)))
        for name, ranking in truth.rankings.items():
            firsts = [f"{ranking.precision_at[n]:.3f}" if n in ranking.precision_at else "" for n in (50, 100)]
            figures.add_row(
                name, f"{ranking.auroc:.3f}", f"{ranking.auprc:.3f}", f"{ranking.precision_at_errors:.3f}", *firsts
            )
        console.print(figures)
        console.print(
            f"calibration error {truth.calibration_error:.3f}; the suggestion is right for "
            f"{truth.suggestion_right:.1%} of the errors, the best class but the given one for {truth.other_right:.1%}"
        )


def _json(value: Any) -> str:
    import numpy as np

    def plain(some: Any) -> Any:
        if isinstance(some, dict):
            return {str(key): plain(inner) for key, inner in some.items()}
        if isinstance(some, list | tuple):
            return [plain(inner) for inner in some]
        if isinstance(some, np.ndarray):
            return plain(some.tolist())
        return None if isinstance(some, float) and not math.isfinite(some) else some

    return json.dumps(plain(value), indent=1)
