"""Folders published at a URL that a whole cluster reaches (lncis.execution.objects).

A published folder is the state of a training after an epoch: an object for each file, and a manifest that names them
with their digests. The manifest is written last, and that one write is the commit. Each epoch has names of its own, so
a late process cannot put an earlier epoch in the place of a later one. Readers take the latest epoch; earlier ones are
removed afterwards.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lncis import files
from lncis.errors import StorageError
from lncis.execution import objects

MANIFEST = "manifest.json"

REREAD_SECONDS = (0.2, 1.0, 3.0)
"""Pauses between readings of a folder whose objects are gone or differ: another process may be replacing it."""


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """The object that holds a file, with its digest and size."""

    object: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class _Manifest:
    epoch: int
    files: dict[str, _Entry]


def publish(folder: Path, url: str, epoch: int) -> bool:
    """Publish the files of `folder` as the state after `epoch`; say whether that is now the published state.

    It is not where a later epoch is published already, which stays. Repeated it has the same effect. Raises
    StorageError where the storage refuses, StorageAwayError where it stays away.
    """
    place, entries = objects.place_at(url), dict[str, _Entry]()
    if max(objects.with_retries(place.url, partial(_epochs, place)), default=0) > epoch:
        return False
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            entry = _Entry(object=_named(epoch, f"{path.name}.{digest[:16]}"), sha256=digest, bytes=content.tell())
            objects.with_retries(place.url, partial(objects.put, place, entry.object, content))
        entries[path.name] = entry
    manifest = TypeAdapter(_Manifest).dump_json(_Manifest(epoch=epoch, files=entries), indent=1)
    objects.with_retries(place.url, partial(objects.put, place, _named(epoch, MANIFEST), BytesIO(manifest)))
    with suppress(objects.Away):  # the next epoch removes what is left
        for earlier, names in _listed(place).items():
            for name in names if earlier < epoch else ():
                objects.delete(place, name)
    return True


def published_epoch(url: str) -> int | None:
    """Return the epoch after which a folder was published at `url`; None where none is. Raises StorageError."""
    place = objects.place_at(url)
    return max(objects.with_retries(place.url, partial(_epochs, place)), default=None)


def fetch(url: str, folder: Path, only: Collection[str] | None = None) -> int | None:
    """Make the files of `folder` those that are published at `url`, and return the epoch; None, and no files, without.

    With `only`, just these files are fetched, if published, and others stay as they are. Each file appears whole or not
    at all; one that is the same already is not fetched again. Raises StorageAwayError where the storage stays away,
    StorageError where it refuses, an object is damaged, or `folder` cannot be written.
    """
    place = objects.place_at(url)
    for pause in (*REREAD_SECONDS, None):
        epoch = published_epoch(url)
        try:
            entries = _manifest(place, epoch).files if epoch is not None else {}
            if only is None:
                _remove_all_but(entries, folder)
            for name in entries if only is None else entries.keys() & only:
                if not _is(folder / name, entries[name]):
                    objects.with_retries(place.url, partial(_bring, place, entries[name], folder / name))
            return epoch
        except objects.Unlike as error:
            if pause is None:
                raise StorageError(
                    f"{objects.shown(url)}: {error}; delete what lies below that URL, and it is trained again"
                ) from error
            time.sleep(pause)
        except OSError as error:
            raise StorageError(
                f"{folder} cannot be written: {error}; free some room there, or name another folder: LNCIS_SCRATCH"
            ) from error
    raise AssertionError("the last pause is None")


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A published file, open: it can be read from any byte on, until a later epoch takes its place."""

    epoch: int
    sha256: str
    bytes: int
    content: Any
    """With seek, read and close."""


def open_published(url: str, name: str) -> PublishedFile | None:
    """Return a file of the folder that is published at `url`, open; None where there is none of that name.

    For those who wait: without the retries of `fetch`. Raises StorageAwayError, StorageError.
    """
    place = objects.place_at(url)
    for pause in (*REREAD_SECONDS, None):
        try:
            epoch = max(_epochs(place), default=None)
            entry = _manifest(place, epoch).files.get(name) if epoch is not None else None
            if epoch is None or entry is None:
                return None
            return PublishedFile(
                epoch=epoch, sha256=entry.sha256, bytes=entry.bytes, content=objects.opened(place, entry.object)
            )
        except objects.Away as error:
            raise objects.unusable(url, error) from None
        except objects.Unlike as error:  # a later epoch takes its place just now
            if pause is None:
                raise StorageError(f"{objects.shown(url)}: {error}; delete what lies below that URL") from error
            time.sleep(pause)
    raise AssertionError("the last pause is None")


def check(url: str) -> None:
    """Raise StorageError, saying why, unless objects can be written, listed, read and deleted at `url`."""
    place, name = objects.place_at(url), f"probe-{secrets.token_hex(8)}"
    try:
        objects.with_retries(url, partial(objects.put, place, name, BytesIO(name.encode())))
        objects.with_retries(url, partial(_listed, place))
        same = objects.with_retries(url, partial(objects.read, place, name)) == name.encode()
        objects.with_retries(url, partial(objects.delete, place, name))
    except objects.Unlike:  # it is gone
        same = False
    if not same:
        raise StorageError(f"{objects.shown(url)} does not give back what was written there; name another storage")


def _named(epoch: int, what: str) -> str:
    return f"{epoch:06d}-{what}"


def _listed(place: objects.Place) -> dict[int, list[str]]:
    """Return the names of all objects there, by epoch."""
    names: dict[int, list[str]] = {}
    for name in objects.listed(place):
        if epoch := re.match(r"(\d{6,})-", name):
            names.setdefault(int(epoch[1]), []).append(name)
    return names


def _epochs(place: objects.Place) -> list[int]:
    """Return the epochs that are published."""
    return [epoch for epoch, names in _listed(place).items() if _named(epoch, MANIFEST) in names]


def _manifest(place: objects.Place, epoch: int) -> _Manifest:
    try:
        content = objects.with_retries(place.url, partial(objects.read, place, _named(epoch, MANIFEST)))
        manifest = TypeAdapter(_Manifest).validate_json(content)
    except ValidationError as error:
        raise objects.Unlike(f"{_named(epoch, MANIFEST)} is damaged") from error
    if strange := [name for name in manifest.files if Path(name).name != name]:
        raise objects.Unlike(f"{_named(epoch, MANIFEST)} names a file outside of its folder, {strange[0]!r}")
    return manifest


def _bring(place: objects.Place, entry: _Entry, target: Path) -> None:
    digest, size = hashlib.sha256(), 0
    with files.replacing(target) as file:
        for chunk in objects.chunks(place, entry.object):
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
        if size != entry.bytes:
            raise objects.Unlike(f"{entry.object} is damaged: it has {size} bytes, and had {entry.bytes}")
        if digest.hexdigest() != entry.sha256:
            raise objects.Unlike(f"{entry.object} is damaged: it is not what was published (its sha256 differs)")


def _is(path: Path, entry: _Entry) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes and files.digest(path) == entry.sha256


def _remove_all_but(names: Collection[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_file() and path.name not in names and not path.name.startswith("."):
            path.unlink()
