"""What a look at a COCO file found."""

from dataclasses import dataclass
from typing import Literal

from lncis.errors import printable

EXAMPLES_SHOWN = 3

Severity = Literal["error", "warning", "note"]
"""error: the file cannot be trained on, or not rightly; warning: it can, but is perhaps not what was meant; note:
the file says something in another way than COCO does, and it is read as it is meant."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of fault or oddity in a file."""

    severity: Severity
    what: str
    """What is so, and the remedy, to be read after the count."""
    where: list[str]
    """The entries that are so, all of them."""

    def __str__(self) -> str:
        shown = ", ".join(map(printable, self.where[:EXAMPLES_SHOWN])) + (
            ", ..." if len(self.where) > EXAMPLES_SHOWN else ""
        )
        return f"{len(self.where)} {self.what} ({shown})"


def error(what: str, where: list[str]) -> Finding:
    """Return a finding of this severity."""
    return Finding(severity="error", what=what, where=where)


def warning(what: str, where: list[str]) -> Finding:
    """Return a finding of this severity."""
    return Finding(severity="warning", what=what, where=where)


def note(what: str, where: list[str]) -> Finding:
    """Return a finding of this severity."""
    return Finding(severity="note", what=what, where=where)


class Tally:
    """Entries by what is so about them, in the order in which it was first seen."""

    def __init__(self) -> None:
        self._found: dict[tuple[Severity, str], dict[int, str]] = {}

    def add(self, severity: Severity, what: str, entry: object, where: str) -> None:
        """Count an entry, once for each kind."""
        self._found.setdefault((severity, what), {})[id(entry)] = where

    def findings(self) -> list[Finding]:
        """Return one finding for each kind."""
        return [
            Finding(severity=severity, what=what, where=[*found.values()])
            for (severity, what), found in self._found.items()
        ]
