"""Objects in a folder of some file system, named by a URL: `s3://`, `file://`, and others that pyarrow.fs knows.

An object appears only once it is whole. What fails for a while is asked again.
"""

import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

import pyarrow as pa

from lncis import files
from lncis.errors import StorageAwayError, StorageError

BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
"""Pauses between attempts while a storage is away, and so their number: an outage of half a minute costs nothing."""

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
class Place:
    """A folder of a file system."""

    url: str
    file_system: Any
    path: str

    def at(self, name: str) -> str:
        """Return the path of an object."""
        return f"{self.path}/{name}"


class Away(Exception):
    """A request to the storage failed; another attempt may succeed."""


class Unlike(Exception):
    """An object is gone, or is not what it should be."""


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
def place_at(url: str) -> Place:
    """Return the folder at a URL. Raises StorageError."""
    file_system, path = with_retries(url, partial(_file_system, url))
    return Place(url=url, file_system=file_system, path=path.rstrip("/"))


def _file_system(url: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem

    try:
        found: tuple[Any, str] = FileSystem.from_uri(resolved(url))
        return found
    except (ValueError, ImportError, pa.ArrowException) as error:
        reason = _cause(url, error)
        remedy = "name a URL such as s3://bucket/folder or file:///folder"
        raise StorageError(f"{shown(url)} cannot be used: {reason}; {remedy}") from None  # it may show the password
    except OSError as error:  # S3 was asked for the region of the bucket
        raise Away(_cause(url, error)) from None


def listed(place: Place) -> list[str]:
    """Return the names of all objects there."""
    from pyarrow.fs import FileSelector

    with _requests(place):
        found = place.file_system.get_file_info(FileSelector(place.path, allow_not_found=True))
    return [str(info.base_name) for info in found]


def put(place: Place, name: str, content: BinaryIO) -> None:
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


def opened(place: Place, name: str) -> Any:
    """Return an object, open for reading. Raises Unlike where it is gone."""
    with _requests(place):
        try:
            return place.file_system.open_input_file(place.at(name))
        except FileNotFoundError:
            raise Unlike(f"{name} is gone") from None


def chunks(place: Place, name: str) -> Iterator[bytes]:
    """Yield the content of an object. Raises Unlike where it is gone."""
    with _requests(place), opened(place, name) as stream:
        try:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk
        except FileNotFoundError:
            raise Unlike(f"{name} is gone") from None


def read(place: Place, name: str) -> bytes:
    """Return the content of an object. Raises Unlike where it is gone."""
    return b"".join(chunks(place, name))


def delete(place: Place, name: str) -> None:
    """Delete an object, if it is there."""
    with _requests(place), suppress(FileNotFoundError):
        place.file_system.delete_file(place.at(name))


@contextmanager
def _requests(place: Place) -> Iterator[None]:
    """Within the block errors become Away."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise Away(_cause(place.url, error)) from None


T = TypeVar("T")


def with_retries(url: str, ask: Callable[[], T]) -> T:
    """Return what `ask` returns, repeated while the storage is away; StorageAwayError after the last attempt."""
    for pause in (*BACKOFF_SECONDS, None):
        try:
            return ask()
        except Away as error:
            if pause is None or _remedy(error):
                raise unusable(url, error) from None
            time.sleep(pause)
    raise AssertionError("the last pause is None")


def unusable(url: str, error: Exception) -> StorageError:
    """Return what is said of a storage that cannot be used: a StorageAwayError where another attempt may help."""
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
