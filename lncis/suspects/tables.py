"""The list of suspects as files: JSON, which every other command reads, and CSV for a spreadsheet.

The JSON file::

    {"lncis_suspects": 1,                 the version of this format
     "digest": "9f2c...",                 SHA-256 of the rows' ids, classes and order
     "annotations": "train.json",         name of the file that was scored
     "classes": ["cat", "dog"],           of the model: a review chooses among them
     "suspects": [{"rank": 1, "annotation_id": 17, "image_id": 3, "given": "cat", "suggested": "dog", ...}]}

A row has the fields of `Suspect`; what it does not know is null.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from lncis import documents
from lncis.errors import ConfigError, DataError
from lncis.spreadsheet import cell
from lncis.suspects.suspect import Suspect

FORMAT = "lncis_suspects"
VERSION = 1
COLUMNS = tuple(field.name for field in fields(Suspect))
PROBABILITIES = ("wrong_probability", "given_probability")


@dataclass(frozen=True, kw_only=True)
class SuspectList:
    """A ranked list, with what a review needs besides the images."""

    annotations: str
    """Name of the file that was scored."""
    classes: list[str]
    """Of the model, in its order."""
    suspects: list[Suspect]
    """By rank."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of ids, classes and order: the same list has the same one wherever it is written."""
        content = sha256()
        for row in self.suspects:
            content.update(json.dumps([row.image_id, row.annotation_id, row.given, row.suggested]).encode())
        return content.hexdigest()


def json_texts(listed: SuspectList) -> Iterator[str]:
    """Yield the JSON file part by part, a row a line; ValueError where a figure is NaN or infinite."""
    head = {
        FORMAT: VERSION,
        "digest": listed.digest,
        "annotations": listed.annotations,
        "classes": listed.classes,
    }
    yield json.dumps(head, ensure_ascii=False)[:-1] + ', "suspects": ['
    for number, row in enumerate(listed.suspects):
        yield (",\n" if number else "\n") + json.dumps(asdict(row), ensure_ascii=False, allow_nan=False)
    yield "\n]}\n"


def csv_texts(listed: SuspectList) -> Iterator[str]:
    """Yield the CSV file (RFC 4180, UTF-8) part by part, a row a line, the names of the fields first.

    It is for people: names that would be formulas begin with an apostrophe there, and control characters are `?`.
    """
    line = io.StringIO(newline="")
    writer = csv.writer(line)
    for cells in ([*COLUMNS], *([getattr(row, name) for name in COLUMNS] for row in listed.suspects)):
        writer.writerow(map(cell, cells))  # csv writes None as nothing
        yield line.getvalue()
        line.seek(0)
        line.truncate()


def read_list(path: Path) -> SuspectList:
    """Return the list in a JSON file; DataError where it is none, or has been changed since it was written."""
    document = require_format(documents.read_json(path), path, FORMAT, "list of suspects; `lncis suspects` writes one")
    try:
        listed = documents.parse(
            SuspectList, {f.name: document[f.name] for f in fields(SuspectList) if f.name in document}, source=str(path)
        )
    except ConfigError as error:
        raise DataError(f"{path}: {error.problems[0]}; have the list written again") from error
    listed = SuspectList(
        annotations=listed.annotations, classes=listed.classes, suspects=sorted(listed.suspects, key=lambda s: s.rank)
    )
    if [row.rank for row in listed.suspects] != list(range(1, len(listed.suspects) + 1)):
        raise DataError(f"{path}: the ranks are not 1, 2, 3, ...; have the list written again")
    for row in listed.suspects:
        for name in PROBABILITIES:
            if not 0 <= getattr(row, name) <= 1:
                raise DataError(
                    f"{path}: suspects[{row.rank - 1}].{name}: must be between 0 and 1 but got {getattr(row, name)}; "
                    "have the list written again"
                )
    if document.get("digest") != listed.digest:
        raise DataError(f"{path}: ids, classes or order are not those it was written with; have it written again")
    return listed


def require_format(document: Any, path: Path, key: str, what: str) -> dict[str, Any]:
    """Return a document that says by `key` that it is one of ours, of a version that we read; else DataError."""
    if not isinstance(document, dict) or key not in document:
        raise DataError(f"{path}: {key} is missing: this is no {what}")
    if document[key] != VERSION:
        raise DataError(f"{path}: {key} must be {VERSION} but got {document[key]!r:.40}; write it with this lncis")
    return document
