"""Folders published at a URL that a whole cluster reaches: `s3://`, `file://`, and others that pyarrow.fs knows.

A published folder is the state of a training after an epoch: an object for each file, and a manifest that names them
with their digests. The manifest is written last, and that one write is the commit. Each epoch has names of its own, so
a late process cannot put an earlier epoch in the place of a later one. Readers take the latest epoch; earlier ones are
removed afterwards.
"""

import hashlib
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from lncis import files
from lncis.errors import StorageAwayError, StorageError

MANIFEST = "manifest.json"

BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
"""Pauses between attempts while a storage is away, and so their number: an outage of half a minute costs nothing."""

REREAD_SECONDS = (0.2, 1.0, 3.0)
"""Pauses between readings of a folder whose objects are gone or differ: another process may be replacing it."""

CHUNK_BYTES = 2**24
"""What one request to an object store reads or writes."""

OBJECT_STORES = ("s3", "gcs", "abfs")
"""File systems of pyarrow where a file appears only once it is whole."""

REMEDIES = (
    (("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "HTTP status 400"),  # 401, 403: denied
     "give this process credentials that may list, read, write and delete there"),
    (("HTTP status 301",), "name the bucket's region: ?region=... in the URL, or AWS_DEFAULT_REGION"),
    (("NO_SUCH_BUCKET", "Bucket not found", "Bucket '", "bucket does not exist"),
     "make the bucket, or correct the URL"),
    (("Permission denied", "Read-only file system", "Not a directory"), "name a folder that may be written to"),
    (("No space left", "Disk quota exceeded"), "free some room there"),
)  # fmt: skip
"""Parts of error messages that another attempt does not change -> the remedy."""


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


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A folder of a file system."""

    url: str
    file_system: Any
    path: str

    def at(self, name: str) -> str:
        return f"{self.path}/{name}"


class _Away(Exception):
    """A request to the storage failed; another attempt may succeed."""


class _Unlike(Exception):
    """An object is gone, or is not what its manifest says."""


def publish(folder: Path, url: str, epoch: int) -> bool:
    """Publish the files of `folder` as the state after `epoch`; say whether that is now the published state.

    It is not where a later epoch is published already, which stays. Repeated it has the same effect. Raises
    StorageError where the storage refuses, StorageAwayError where it stays away.
    """
    place, entries = _place(url), dict[str, _Entry]()
    if max(_with_retries(place.url, partial(_epochs, place)), default=0) > epoch:
        return False
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            entry = _Entry(object=_named(epoch, f"{path.name}.{digest[:16]}"), sha256=digest, bytes=content.tell())
            _with_retries(place.url, partial(_put, place, entry.object, content))
        entries[path.name] = entry
    manifest = TypeAdapter(_Manifest).dump_json(_Manifest(epoch=epoch, files=entries), indent=1)
    _with_retries(place.url, partial(_put, place, _named(epoch, MANIFEST), BytesIO(manifest)))
    with suppress(_Away):  # the next epoch removes what is left
        for earlier, names in _listed(place).items():
            for name in names if earlier < epoch else ():
                _delete(place, name)
    return True


def published_epoch(url: str) -> int | None:
    """Return the epoch after which a folder was published at `url`; None where none is. Raises StorageError."""
    place = _place(url)
    return max(_with_retries(place.url, partial(_epochs, place)), default=None)


def fetch(url: str, folder: Path, only: Collection[str] | None = None) -> int | None:
    """Make the files of `folder` those that are published at `url`, and return the epoch; None, and no files, without.

    With `only`, just these files are fetched, if published, and others stay as they are. Each file appears whole or not
    at all; one that is the same already is not fetched again. Raises StorageAwayError where the storage stays away,
    StorageError where it refuses, an object is damaged, or `folder` cannot be written.
    """
    place = _place(url)
    for pause in (*REREAD_SECONDS, None):
        epoch = published_epoch(url)
        try:
            entries = _manifest(place, epoch).files if epoch is not None else {}
            if only is None:
                _remove_all_but(entries, folder)
            for name in entries if only is None else entries.keys() & only:
                if not _is(folder / name, entries[name]):
                    _with_retries(place.url, partial(_bring, place, entries[name], folder / name))
            return epoch
        except _Unlike as error:
            if pause is None:
                raise StorageError(
                    f"{shown(url)}: {error}; delete what lies below that URL, and it is trained again"
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
    place = _place(url)
    for pause in (*REREAD_SECONDS, None):
        try:
            epoch = max(_epochs(place), default=None)
            entry = _manifest(place, epoch).files.get(name) if epoch is not None else None
            if epoch is None or entry is None:
                return None
            return PublishedFile(
                epoch=epoch, sha256=entry.sha256, bytes=entry.bytes, content=_open(place, entry.object)
            )
        except _Away as error:
            raise _unusable(url, error) from None
        except _Unlike as error:  # a later epoch takes its place just now
            if pause is None:
                raise StorageError(f"{shown(url)}: {error}; delete what lies below that URL") from error
            time.sleep(pause)
    raise AssertionError("the last pause is None")


def check(url: str) -> None:
    """Raise StorageError, saying why, unless objects can be written, listed, read and deleted at `url`."""
    place, name = _place(url), f"probe-{secrets.token_hex(8)}"
    try:
        _with_retries(url, partial(_put, place, name, BytesIO(name.encode())))
        _with_retries(url, partial(_listed, place))
        same = _with_retries(url, partial(_read, place, name)) == name.encode()
        _with_retries(url, partial(_delete, place, name))
    except _Unlike:  # it is gone
        same = False
    if not same:
        raise StorageError(f"{shown(url)} does not give back what was written there; name another storage")


def resolved(url: str) -> str:
    """Return the URL of a storage, given as a URL or as the path of a folder."""
    return url if "://" in url else Path(url).absolute().as_uri()


def below(url: str, *names: str) -> str:
    """Return the URL of `names` below `url`; the query stays at the end."""
    place, question, query = url.partition("?")
    return "/".join([place.rstrip("/"), *map(quote, names)]) + question + query


def shown(url: str) -> str:
    """Return a URL that may be printed: without user, password and query, which can be secrets."""
    scheme, separator, rest = url.partition("?")[0].partition("://")
    return scheme + separator + rest.rpartition("@")[2]


@lru_cache(maxsize=16)
def _place(url: str) -> _Place:
    file_system, path = _with_retries(url, partial(_opened, url))
    return _Place(url=url, file_system=file_system, path=path.rstrip("/"))


def _opened(url: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem

    try:
        opened: tuple[Any, str] = FileSystem.from_uri(resolved(url))
        return opened
    except (ValueError, ImportError, pa.ArrowException) as error:
        reason = _cause(url, error)
        remedy = "name a URL such as s3://bucket/folder or file:///folder"
        raise StorageError(f"{shown(url)} cannot be used: {reason}; {remedy}") from None  # it may show the password
    except OSError as error:  # S3 was asked for the region of the bucket
        raise _Away(_cause(url, error)) from None


def _named(epoch: int, what: str) -> str:
    return f"{epoch:06d}-{what}"


def _listed(place: _Place) -> dict[int, list[str]]:
    """Return the names of all objects there, by epoch."""
    from pyarrow.fs import FileSelector

    with _requests(place):
        found = place.file_system.get_file_info(FileSelector(place.path, allow_not_found=True))
    names: dict[int, list[str]] = {}
    for info in found:
        if epoch := re.match(r"(\d{6,})-", info.base_name):
            names.setdefault(int(epoch[1]), []).append(info.base_name)
    return names


def _epochs(place: _Place) -> list[int]:
    """Return the epochs that are published."""
    return [epoch for epoch, names in _listed(place).items() if _named(epoch, MANIFEST) in names]


def _manifest(place: _Place, epoch: int) -> _Manifest:
    try:
        content = _with_retries(place.url, partial(_read, place, _named(epoch, MANIFEST)))
        manifest = TypeAdapter(_Manifest).validate_json(content)
    except ValidationError as error:
        raise _Unlike(f"{_named(epoch, MANIFEST)} is damaged") from error
    if strange := [name for name in manifest.files if Path(name).name != name]:
        raise _Unlike(f"{_named(epoch, MANIFEST)} names a file outside of its folder, {strange[0]!r}")
    return manifest


def _put(place: _Place, name: str, content: BinaryIO) -> None:
    """Write an object; readers see the old or the new content, never a part."""
    from pyarrow.fs import LocalFileSystem

    content.seek(0)
    path = place.at(name)
    with _requests(place):
        if isinstance(place.file_system, LocalFileSystem):
            with files.replacing(Path(path)) as file:
                shutil.copyfileobj(content, file, CHUNK_BYTES)
            return
        written = path if place.file_system.type_name in OBJECT_STORES else f"{path}.{secrets.token_hex(4)}"
        with place.file_system.open_output_stream(written) as stream:
            while chunk := content.read(CHUNK_BYTES):
                stream.write(chunk)
        if written != path:
            place.file_system.move(written, path)


def _open(place: _Place, name: str) -> Any:
    with _requests(place):
        try:
            return place.file_system.open_input_file(place.at(name))
        except FileNotFoundError:
            raise _Unlike(f"{name} is gone") from None


def _chunks(place: _Place, name: str) -> Iterator[bytes]:
    with _requests(place), _open(place, name) as stream:
        try:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk
        except FileNotFoundError:
            raise _Unlike(f"{name} is gone") from None


def _read(place: _Place, name: str) -> bytes:
    return b"".join(_chunks(place, name))


def _delete(place: _Place, name: str) -> None:
    with _requests(place), suppress(FileNotFoundError):
        place.file_system.delete_file(place.at(name))


def _bring(place: _Place, entry: _Entry, target: Path) -> None:
    digest, size = hashlib.sha256(), 0
    with files.replacing(target) as file:
        for chunk in _chunks(place, entry.object):
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
        if size != entry.bytes:
            raise _Unlike(f"{entry.object} is damaged: it has {size} bytes, and had {entry.bytes}")
        if digest.hexdigest() != entry.sha256:
            raise _Unlike(f"{entry.object} is damaged: it is not what was published (its sha256 differs)")


def _is(path: Path, entry: _Entry) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes and files.digest(path) == entry.sha256


def _remove_all_but(names: Collection[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_file() and path.name not in names and not path.name.startswith("."):
            path.unlink()


@contextmanager
def _requests(place: _Place) -> Iterator[None]:
    """Within the block errors become _Away."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise _Away(_cause(place.url, error)) from None


T = TypeVar("T")


def _with_retries(url: str, ask: Callable[[], T]) -> T:
    """Return what `ask` returns, repeated while the storage is away; StorageAwayError after the last attempt."""
    for pause in (*BACKOFF_SECONDS, None):
        try:
            return ask()
        except _Away as error:
            if pause is None or _remedy(error):
                raise _unusable(url, error) from None
            time.sleep(pause)
    raise AssertionError("the last pause is None")


def _unusable(url: str, error: Exception) -> StorageError:
    message = f"{shown(url)} cannot be used: {error}"
    if remedy := _remedy(error):
        return StorageError(f"{message}; {remedy}")
    return StorageAwayError(f"{message}; check that it can be reached from here, and try again")


def _remedy(error: Exception) -> str:
    return next((remedy for parts, remedy in REMEDIES if any(part in str(error) for part in parts)), "")


def _cause(url: str, error: Exception) -> str:
    """Return the first line of an error's message, without the secrets of a URL."""
    secret = url.partition("://")[2].partition("?")[0].rpartition("@")[0]
    message = (str(error).splitlines() or [type(error).__name__])[0].replace(url, shown(url))
    return message.replace(secret, "***") if secret else message
