"""The logs of a study, in `runs/<study id>/logs`: one of its driver, and one of each stage. Bounded, and plain text.

A log is a folder of files that are named by the offset at which each begins: `driver/000000000000.log`, then
`driver/000000262140.log`. The oldest go when there are too many, so an offset means the same for ever, and a reader
sees what is gone. One process writes: the driver of the study, which also gets the lines of its workers.
"""

import io
import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOGS = "logs"
"""The folder of a study that holds its logs."""
DRIVER = "driver"
"""The name of the driver's log; a stage's log has the name of its key."""

FILE_BYTES, FILES = 256 * 1024, 4
"""A file of a log is so long, a line more or less, and a log has so many: 1 MiB at most."""
MAX_LINE_CHARACTERS = 4000

_FILE = re.compile(r"\d{12}\.log")
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_OBEYED = (*range(9), *range(11, 32), *range(127, 160), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROLS = dict.fromkeys(_OBEYED, "\N{REPLACEMENT CHARACTER}")
"""All control characters but tab and newline, and those that turn the direction of writing."""


def plain_text(text: str) -> str:
    """Return text without what a terminal would obey: escape sequences go, other control characters are replaced."""
    return _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).translate(_CONTROLS)


class Log(io.TextIOBase):
    """A log to write to; a stream of text, so that what is printed can go there too.

    A disk that is full, or gone, costs lines of the log and nothing else.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder / name
        self._lock = threading.RLock()
        self._unfinished = ""
        files = _files(self._folder)
        self._begin, self._size = (files[-1][0], files[-1][1].stat().st_size) if files else (0, 0)
        if files and self._size and not _ends_a_line(files[-1][1]):  # its process was killed
            self._append(b"\n")

    def line(self, text: str) -> None:
        """Write a line with the time; later lines of the text are indented."""
        first, *more = plain_text(text).splitlines() or [""]
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._write_lines([f"{stamp} {first}", *(f"    {line}" for line in more)])

    def writable(self) -> bool:
        """Return that it is."""
        return True

    def write(self, text: str) -> int:
        """Take what is printed, without a time; it is written line by line."""
        with self._lock:
            *lines, self._unfinished = plain_text(self._unfinished + text).split("\n")
            if len(self._unfinished) > MAX_LINE_CHARACTERS:
                lines, self._unfinished = [*lines, self._unfinished], ""
            self._write_lines(lines)
        return len(text)

    def close(self) -> None:
        """Write what is left of a line; the log may be opened again."""
        if not self.closed:
            with self._lock:
                if self._unfinished:
                    self._write_lines([self._unfinished])
                    self._unfinished = ""
        super().close()

    def _write_lines(self, lines: Sequence[str]) -> None:
        content = "".join(f"{line[:MAX_LINE_CHARACTERS]}\n" for line in lines).encode(errors="replace")
        if content:
            with self._lock:
                self._append(content)

    def _append(self, content: bytes) -> None:
        with suppress(OSError):
            if self._size and self._size + len(content) > FILE_BYTES:
                self._begin, self._size = self._begin + self._size, 0
                for _, path in _files(self._folder)[: -(FILES - 1) or None]:
                    path.unlink(missing_ok=True)
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                self._size += file.write(content) or 0

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._begin:012d}.log"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a log, in whole lines where it can be."""

    offset: int
    """Where it begins, in bytes from the beginning of the log."""
    content: bytes
    """UTF-8."""
    first: int
    """Where the log begins now: what was before is gone."""
    end: int
    """Where the log ends now."""

    @property
    def next(self) -> int:
        """Where the next part begins."""
        return self.offset + len(self.content)

    @property
    def text(self) -> str:
        """Its text, which no terminal and no page obeys whoever wrote it."""
        return plain_text(self.content.decode(errors="replace"))


def read(folder: Path, names: Sequence[str], *, offset: int | None, limit: int) -> Part:
    """Return up to `limit` bytes from an offset on, or the last ones where it is None.

    Several logs are read as one, in their order: those of a trial's stages. What begins before the log does begins
    with it; nothing is there beyond its end. Raises OSError.
    """
    try:
        return _read(folder, names, offset, limit)
    except FileNotFoundError:  # its oldest file went just now
        return _read(folder, names, offset, limit)


def _read(folder: Path, names: Sequence[str], offset: int | None, limit: int) -> Part:
    pieces = _pieces(folder, names)
    first, end = (pieces[0][0], pieces[-1][0] + pieces[-1][2]) if pieces else (0, 0)
    begin = max(first, end - limit) if offset is None else min(max(offset, first), end)
    content = b""
    for start, path, size in pieces:
        if start + size <= begin or len(content) >= limit:
            continue
        if not content:
            begin = max(begin, start)
        elif start != begin + len(content):
            break  # what was between them is gone: the next part begins after it
        skipped = begin + len(content) - start
        content += _bytes_of(path, skipped, min(size - skipped, limit - len(content)))
    if offset is None and begin > first and (cut := content.find(b"\n") + 1):
        begin, content = begin + cut, content[cut:]
    if begin + len(content) < end and (cut := content.rfind(b"\n") + 1):
        content = content[:cut]
    return Part(offset=begin, content=content, first=first, end=end)


def _pieces(folder: Path, names: Sequence[str]) -> list[tuple[int, Path, int]]:
    """Return the files of some logs, each with its offset in all of them together and its size."""
    found, base = list[tuple[int, Path, int]](), 0
    for name in names:
        files = [(offset, path, path.stat().st_size) for offset, path in _files(folder / name)]
        found += [(base + offset, path, size) for offset, path, size in files]
        base += files[-1][0] + files[-1][2] if files else 0
    return found


def _files(folder: Path) -> list[tuple[int, Path]]:
    """Return the files of a log with their offsets, in order."""
    try:
        return sorted((int(path.stem), path) for path in folder.iterdir() if _FILE.fullmatch(path.name))
    except FileNotFoundError:
        return []


def _bytes_of(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _ends_a_line(path: Path) -> bool:
    return _bytes_of(path, path.stat().st_size - 1, 1) == b"\n"
