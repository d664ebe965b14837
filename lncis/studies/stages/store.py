"""The stage store: finished stages of all studies, which later studies reuse (rules in docs/store.md).

A stage is there whole or not at all. In a folder the store holds hard links to a study's files: they take no disk
space of their own, and a study keeps its files when the store deletes a stage. At a URL the store is where workers
publish; there nothing is deleted, which is for the bucket's own lifecycle rules.
"""

import math
import os
import secrets
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from lncis.errors import StorageError
from lncis.execution import objects, storage
from lncis.execution.tasks import Task
from lncis.studies.stages.tree import STAGES

ABANDONED_SECONDS = 3600
"""Age at which an unfinished copy counts as left by a process that was killed."""


LISTED_AGAIN_SECONDS = 60.0
"""While its stages fit, a store is listed so often at most, to see what other studies added: a listing reads each."""


class StageStore:
    """The stages in `folder`, up to `limit_bytes`: the least recently used are deleted first."""

    def __init__(self, folder: Path, limit_bytes: float) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes
        self._bytes, self._listed = 0, -math.inf  # at the last listing, with what was added since; when that was

    def publish(self, task: Task) -> None:
        """Add a finished stage; one that is there stays. On a full disk nothing is added, and no error raised."""
        if (self._folder / task.key).exists():
            return
        with suppress(OSError):
            _link_folder(task.directory, self._folder / task.key)
            self._bytes += _size(self._folder / task.key)
            if self._bytes > self._limit_bytes or time.monotonic() - self._listed > LISTED_AGAIN_SECONDS:
                self._trim()

    def reuse(self, task: Task) -> bool:
        """Put a stage into the folder where its study expects it; say whether the store had it."""
        kept = self._folder / task.key
        if task.directory.exists() or not kept.exists():
            return False
        try:
            _link_folder(kept, task.directory)
            os.utime(kept)  # the time of its last use
        except OSError:  # another study deletes it just now, or the disk is full: it can be trained
            return False
        return True

    def _trim(self) -> None:
        for leftover in filter(_unfinished, self._folder.iterdir()):
            if time.time() - leftover.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(leftover)
        stages = sorted((stage for stage in self._folder.iterdir() if not _unfinished(stage)), key=_last_used)
        sizes = [_size(stage) for stage in stages]
        self._bytes, self._listed = sum(sizes), time.monotonic()
        for stage, size in zip(stages, sizes, strict=True):
            if self._bytes <= self._limit_bytes:
                return
            hidden = stage.with_name(f".{stage.name}.{secrets.token_hex(4)}")
            stage.rename(hidden)  # so that other studies never see a part of it
            shutil.rmtree(hidden)
            self._bytes -= size


def url_of_stages(url: str, study_id: str, *, sharing: bool) -> str:
    """Return the URL below which the stages of a study are published: for all studies, or, without sharing, its own."""
    return objects.below(objects.resolved(url), STAGES if sharing else study_id)


class PublishedStages:
    """The stages that workers publish below `url`; a study fetches the files `read`, and whole stages on demand."""

    def __init__(self, url: str, read: Collection[str], *, reused: bool) -> None:
        """Without `reused` no earlier study's stages are used; StorageError where `url` cannot be used."""
        storage.check(url)
        self.url, self._read, self._reused = url, read, reused

    def publish(self, task: Task) -> None:
        """Fetch the files `read` of a stage that a worker has published, if it is the last stage of a trial."""
        if task.completes:
            with suppress(StorageError):  # a plot will lack it; the checkpoint stays at the URL
                storage.fetch(task.shared, task.directory, only=self._read)

    def reuse(self, task: Task) -> bool:
        """Say whether a stage is published to its end; a worker will fetch it."""
        with suppress(StorageError):  # away; a worker that finds the stage later reuses it all the same
            return self._reused and storage.published_epoch(task.shared) == task.until
        return False

    def fetch_stage(self, stage: Path) -> None:
        """Fetch a whole stage into the folder `stage`; StorageError where that cannot be done."""
        at = objects.below(self.url, stage.name)
        if storage.fetch(at, stage) is None:
            raise StorageError(
                f"{objects.shown(at)} holds nothing any more; restore it, or run the study again as a new one"
            )


def _link_folder(source: Path, target: Path) -> None:
    """Make `target` a folder of hard links to the files of `source`, or of copies on another file system.

    Raises OSError where `source` is deleted meanwhile. That begins by renaming it, so a source that is still the same
    folder at the end was whole when its files were listed.
    """
    before = source.stat()
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
        if not os.path.samestat(before, source.stat()):
            raise FileNotFoundError(f"{source} was deleted, and published again")
        with suppress(OSError):  # another study was faster
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unfinished(stage: Path) -> bool:
    return stage.name.startswith(".")


def _last_used(stage: Path) -> float:
    with suppress(FileNotFoundError):
        return stage.stat().st_mtime
    return 0.0


def _size(stage: Path) -> int:
    return sum(file.stat().st_size for file in stage.iterdir())
