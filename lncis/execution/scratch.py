"""A worker's local copies of stages that are published at a URL (lncis.execution.storage).

They lie on the node's own disk, in `$LNCIS_SCRATCH` or the folder for temporary files. Copies of a process that was
killed are removed by the next process.
"""

import os
import secrets
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from lncis import files
from lncis.errors import StorageError
from lncis.execution import objects, storage
from lncis.execution.tasks import Task

KEPT_STAGES = 3
"""The stage in work, the one that it forks from, and the one before."""


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A local copy of a stage, from which its training can continue."""

    directory: Path
    fork_from: Path | None
    """The stage whose end it starts from; None if it has epochs of its own, or nothing comes before it."""
    epoch: int
    """Finished epochs, those of the stages before it included."""


class Scratch:
    """The copies of this process; their folder is created with the first one."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._lock: FileLock | None = None  # the kernel holds it until the process ends
        self._used: dict[str, Path] = {}  # by key, the latest last

    def copy(self, task: Task) -> Copy:
        """Return a copy of the published state of a task, or, before its first epoch, of the task before it.

        Local epochs that were not published are dropped. Raises StorageError where the task before it is not published
        to its end.
        """
        directory = self._directory(task.key)
        epoch = storage.fetch(task.shared, directory)
        if epoch is not None or task.after is None:
            return Copy(directory=directory, fork_from=None, epoch=epoch or 0)
        origin = self._directory(task.after.key)
        found = storage.fetch(task.after.shared, origin)
        if found != task.after.until:
            raise StorageError(
                f"{objects.shown(task.after.shared)} holds {found or 'no'} epochs where {task.after.until} were "
                "published; run the failed trials again, and those that are missing are trained"
            )
        return Copy(directory=directory, fork_from=origin, epoch=found)

    def close(self) -> None:
        """Remove all copies."""
        if self._folder and self._lock:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._lock.release()
        self._folder, self._lock, self._used = None, None, {}

    def _directory(self, key: str) -> Path:
        if self._folder is None:
            self._folder, self._lock = _claim_folder(_root())
        self._used[key] = self._used.pop(key, self._folder / key)
        for old in list(self._used)[:-KEPT_STAGES]:
            shutil.rmtree(self._used.pop(old), ignore_errors=True)
        return self._used[key]


def _root() -> Path:
    place = os.environ.get("LNCIS_SCRATCH")
    return Path(place, "lncis") if place else Path(tempfile.gettempdir(), f"lncis-{os.getuid()}")


def _claim_folder(root: Path) -> tuple[Path, FileLock]:
    """Return a new folder and its lock; folders of processes that ended are removed."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with files.lock(root / ".lock", timeout_seconds=-1):  # or another process would remove a folder not yet locked
            for folder in (path for path in root.iterdir() if (path / ".lock").exists()):
                _remove_abandoned(folder)
            mine = root / f"{os.getpid()}-{secrets.token_hex(4)}"
            mine.mkdir()
            lock = files.lock(mine / ".lock")
            lock.acquire()
            return mine, lock
    except OSError as error:
        raise StorageError(f"{root} cannot be written: {error}; name another folder: LNCIS_SCRATCH") from error


def _remove_abandoned(folder: Path) -> None:
    with suppress(TimeoutError), files.lock(folder / ".lock"):  # its process lives
        shutil.rmtree(folder, ignore_errors=True)
