"""A gallery as a service shows it: to look at, without a decision."""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

from lncis.errors import DataError

SCRIPT = Path(__file__).parent / "gallery.js"
CHUNK_BYTES = 1 << 20
HEAD_BYTES = 2000
"""What stands before the style of a gallery fits in it."""
BEGIN, BEGIN_READ_ONLY = b'<html lang="en">', b'<html lang="en" data-read-only>'


def script_digest() -> str:
    """Return the digest of the gallery's script, as a content security policy names it."""
    return base64.b64encode(hashlib.sha256(SCRIPT.read_text("utf-8").encode()).digest()).decode()


def read_only_parts(page: Path) -> Iterator[bytes]:
    """Return a gallery in parts, marked as read-only; DataError where this version did not make the file.

    Its own script alone can run in a page with `script_digest` as policy, whatever else stands in the file.
    """
    with page.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if BEGIN not in head or f"'sha256-{script_digest()}'".encode() not in head:
        raise DataError(f"{page.name} is no gallery of this version; have `lncis suspects gallery` write it again")
    return _parts(page)


def _parts(page: Path) -> Iterator[bytes]:
    with page.open("rb") as file:
        part = file.read(CHUNK_BYTES).replace(BEGIN, BEGIN_READ_ONLY, 1)
        while part:
            yield part
            part = file.read(CHUNK_BYTES)
