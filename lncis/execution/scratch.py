"""A process's own copies of the stages that it works on, while what counts of them is published (execution.storage).

They lie on the node's own disk, in `$LNCIS_SCRATCH` or the folder for temporary files. What a process that was killed
left there is removed by the next one.
"""

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lncis.errors import StorageError
from lncis.execution import storage
from lncis.execution.queue import Task

LATEST = 3
"""Stages that are kept: the one in work, the one that it forks from, and the one before."""


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A stage, ready to be gone on with."""

    directory: Path
    fork_from: Path | None
    """Where it begins, if it was not begun."""
    epoch: int
    """Epochs that are finished, those of the stage before it included."""


class Scratch:
    """The copies of this process; their folder is made when the first one is needed."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._lock: IO[str] | None = None  # held as long as the process lives, by the kernel
        self._used: dict[str, Path] = {}  # by key, the latest last

    def copy(self, task: Task) -> Copy:
        """Return a copy of what is published of a task, or of the one that it comes after.

        What is published counts: what this process had finished beyond that is dropped. Raises StorageError where the
        stage that it comes after is not published to its end.
        """
        directory = self._directory(task.key)
        epoch = storage.fetch(task.shared, directory)
        if epoch is not None or task.after is None:
            return Copy(directory=directory, fork_from=None, epoch=epoch or 0)
        origin = self._directory(task.after.key)
        found = storage.fetch(task.after.shared, origin)
        if found != task.after.until:
            raise StorageError(
                f"{storage.shown(task.after.shared)} holds {found or 'no'} epochs where {task.after.until} were "
                "published; run the failed trials again, and those that are missing are trained"
            )
        return Copy(directory=directory, fork_from=origin, epoch=found)

    def close(self) -> None:
        """Remove all copies."""
        if self._folder and self._lock:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._lock.close()
        self._folder, self._lock, self._used = None, None, {}

    def _directory(self, key: str) -> Path:
        if self._folder is None:
            self._folder, self._lock = _claim(_root())
        self._used[key] = self._used.pop(key, self._folder / key)
        for old in list(self._used)[:-LATEST]:
            shutil.rmtree(self._used.pop(old), ignore_errors=True)
        return self._used[key]


def _root() -> Path:
    place = os.environ.get("LNCIS_SCRATCH")
    return Path(place, "lncis") if place else Path(tempfile.gettempdir(), f"lncis-{os.getuid()}")


def _claim(root: Path) -> tuple[Path, IO[str]]:
    """Return a new folder and its lock; folders whose processes are gone go too."""
    try:
        with _alone(root):
            for folder in (path for path in root.iterdir() if (path / ".lock").exists() and _forsaken(path)):
                shutil.rmtree(folder, ignore_errors=True)
            mine = root / f"{os.getpid()}-{secrets.token_hex(4)}"
            mine.mkdir()
            lock = (mine / ".lock").open("w")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return mine, lock
    except OSError as error:
        raise StorageError(f"{root} cannot be written: {error}; name another place: LNCIS_SCRATCH") from error


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Within the block no other process looks for forsaken folders: they would take a new one for such."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _forsaken(folder: Path) -> bool:
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
