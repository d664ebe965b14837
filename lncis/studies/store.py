"""The stage store: finished stages of all studies in one place, for the next study that needs them.

A stage is there whole or not at all. In a folder its files are hard links: beside the study that trained a stage, or
those that reused it, the store takes no room, and what it lets go stays with those who use it. At a URL it is where
workers publish their stages, and nothing is let go: that is for the bucket's own rules.
"""

import os
import secrets
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from lncis.errors import StorageError
from lncis.execution import storage
from lncis.execution.queue import Task

ABANDONED_SECONDS = 3600


class StageStore:
    """The stages in `folder`; with `limit_bytes`, those used longest ago go first."""

    def __init__(self, folder: Path, limit_bytes: float) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes

    def publish(self, task: Task) -> None:
        """Keep a finished stage; one that is there already stays. A full disk keeps nothing, and hurts no one."""
        if (self._folder / task.key).exists():
            return
        with suppress(OSError):
            _link(task.directory, self._folder / task.key)
            self._trim()

    def reuse(self, task: Task) -> bool:
        """Put a stage into the place where its study expects it; say whether the store had it."""
        kept = self._folder / task.key
        if task.directory.exists() or not kept.exists():
            return False
        try:
            _link(kept, task.directory)
            os.utime(kept)  # used now
        except OSError:  # let go in this moment by another study, or the disk is full: it can be trained
            return False
        return True

    def _trim(self) -> None:
        for leftover in filter(_unfinished, self._folder.iterdir()):  # of a process that was killed
            if time.time() - leftover.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(leftover)
        stages = sorted((stage for stage in self._folder.iterdir() if not _unfinished(stage)), key=_last_used)
        sizes = [sum(file.stat().st_size for file in stage.iterdir()) for stage in stages]
        surplus = sum(sizes) - self._limit_bytes
        for stage, size in zip(stages, sizes, strict=True):
            if surplus <= 0:
                return
            doomed = stage.with_name(f".{stage.name}.{secrets.token_hex(4)}")
            stage.rename(doomed)  # gone at once for others, not file by file
            shutil.rmtree(doomed)
            surplus -= size


class PublishedStages:
    """The stages that workers publish below `url`; of these a study fetches what it reads, the files `read` first."""

    def __init__(self, url: str, read: Collection[str], *, reused: bool) -> None:
        """Without `reused` each study trains its own; StorageError where `url` cannot be used."""
        storage.check(url)
        self.url, self._read, self._reused = url, read, reused

    def publish(self, task: Task) -> None:
        """Fetch what the study reads of a stage that a worker has published; of a trial's last one alone."""
        if task.completes:
            with suppress(StorageError):  # a picture will lack it; the checkpoint is safe where it is
                storage.fetch(task.shared, task.directory, only=self._read)

    def reuse(self, task: Task) -> bool:
        """Say whether a stage is there to its end; a worker will find it."""
        with suppress(StorageError):  # away: a worker that finds the stage later takes it all the same
            return self._reused and storage.published_epoch(task.shared) == task.until
        return False

    def bring(self, stage: Path) -> None:
        """Put all of a stage where its study expects it; StorageError where that cannot be done."""
        at = storage.below(self.url, stage.name)
        if storage.fetch(at, stage) is None:
            raise StorageError(f"{storage.shown(at)} holds nothing any more; restore it, or run the study anew")


def _link(source: Path, target: Path) -> None:
    """Make `target` a folder of hard links to the files of `source`, or of copies where links cannot be had."""
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    try:
        for file in source.iterdir():
            if file.name.startswith("."):
                continue
            try:
                os.link(file, partial / file.name)
            except OSError:
                shutil.copy2(file, partial / file.name)
        with suppress(OSError):  # there already
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unfinished(stage: Path) -> bool:
    return stage.name.startswith(".")


def _last_used(stage: Path) -> float:
    with suppress(FileNotFoundError):
        return stage.stat().st_mtime
    return 0.0
