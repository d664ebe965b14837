"""Files and folders that are there whole or not at all, and locks that a killed process does not keep."""

import hashlib
import os
import posixpath
import secrets
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file to write; at the end of the block it is on the disk, and takes the place of `path` at once.

    Until then readers of `path` find the old file whole; it stays if the block, or the process, breaks off.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def replace(path: Path, content: str | bytes) -> None:
    """Give `path` a new content at once."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Yield a new folder to fill; at the end of the block it takes the name `folder` at once, or else it vanishes.

    Raises OSError where it cannot be written, or where a folder of that name holds something already.
    """
    folder = folder.absolute()  # `.` has no name
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def lock(path: Path, *, timeout_seconds: float = 0) -> FileLock:
    """Return a lock for a `with` block, in which no other process holds it; entering raises TimeoutError if one does.

    It is the kernel's own (flock), so it ends with its process, however that ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, timeout=timeout_seconds, fallback_to_soft=False, preserve_lock_file=True)


Stamp = tuple[int, int, int]
"""Size in bytes; times of the last change of the content and of the entry, ns, of which nobody sets the second."""


def stamp(path: Path) -> Stamp:
    """Return what differs after a file has changed, without reading it."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def digest_once(path: Path) -> str:
    """Return the SHA-256 of a file's content, read again by this process only where the stamp has changed."""
    return _digest_at(path, stamp(path))


@cache
def _digest_at(path: Path, stamp: Stamp) -> str:
    return digest(path)


def spelt(name: str) -> str:
    """Return a name in a data set in the one spelling in which names are compared: `a/1.png` for `./a\\1.png`."""
    return posixpath.normpath(unicodedata.normalize("NFC", name.replace("\\", "/")))


def find(folder: Path, name: str) -> Path:
    """Return the file that a name in a data set means: as it is written, else as other systems would have written it.

    Backslashes of Windows are slashes; a Mac stores letters with accents in two parts. Where nothing is found, the path
    as it is written.
    """
    slashed = name.replace("\\", "/")
    spellings = (name, slashed, *(unicodedata.normalize(form, slashed) for form in ("NFC", "NFD")))
    for spelling in dict.fromkeys(spellings):
        with suppress(OSError):  # a name too long, for one
            if (folder / spelling).is_file():
                return folder / spelling
    return folder / name


def cache_directory() -> Path:
    """Return where what can be made again is kept from run to run: `$LNCIS_CACHE`, or `~/.cache/lncis`."""
    return Path(os.environ.get("LNCIS_CACHE") or Path.home() / ".cache" / "lncis")
