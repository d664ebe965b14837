"""Copies of annotation files: whole or not at all, never over their input, over another file with --force alone."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lncis import files
from lncis.errors import DataError


def check_target(target: Path, *, inputs: list[Path], force: bool) -> None:
    """Raise DataError where `target` cannot be written, is an input, or is there already without `force`."""
    try:
        if not (target.exists() or target.is_symlink()):
            if not target.parent.is_dir():
                raise DataError(f"{target} cannot be written: {target.parent} is no folder; create it")
            return
        # the same file also by another name: a symbolic or a hard link
        if same := next((path for path in inputs if path.exists() and target.exists() and target.samefile(path)), None):
            raise DataError(f"{target} is the input {same}, which is never written to; name another file")
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror}; name another file") from error
    if not force:
        raise DataError(f"{target} exists already; name another file, or replace it by --force")
    if target.exists() and not target.is_file():
        raise DataError(f"{target} is no regular file; name another one")


def write_together(texts: dict[Path, Iterable[str]]) -> None:
    """Write all files, each whole, and none before all are complete; the last one takes its place last."""
    try:
        with ExitStack() as stack:
            for path, parts in reversed(texts.items()):  # the stack unwinds: the first takes its place first
                file = stack.enter_context(files.replacing(path))
                file.writelines(part.encode() for part in parts)
                file.flush()
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}; free some room, or name another file") from error


def counted(parts: Iterable[str], total: int, show: Callable[[str, int, int], None], what: str) -> Iterator[str]:
    """Yield parts, and show how many there were, of `total`."""
    for done, part in enumerate(parts, start=1):
        show(what, min(done, total), total)
        yield part


def entries_of(document: Mapping[str, Any]) -> int:
    """Return how many entries the lists of a document have: about the parts in which it is written."""
    return sum(len(value) for value in document.values() if isinstance(value, list))


def a_field_a_line(manifest: dict[str, Any]) -> str:
    """Return JSON whose matrices do not take a line for each number."""
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in manifest.items())
    return f"{{\n{lines}\n}}\n"
