"""Large files as answers: whole or from some byte on, so that a download that broke off can go on (RFC 9110, RFC 9530).

One range a request: several at once are answered with the whole file, which the standard allows.
"""

import re
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from service.api.methods import is_head
from service.api.problems import Problem
from service.api.runtime import Runtime

CHUNK_BYTES = 2**20
MEDIA_TYPE = "application/octet-stream"

_RANGE = re.compile(r"bytes=(?P<first>\d{0,18})-(?P<last>\d{0,18})")


class Content(Protocol):
    """An open file."""

    def seek(self, offset: int, /) -> object:
        """Go to a byte."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""

    def close(self) -> None:
        """Give it back."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """An open file that is sent: it stays what it is, although another may take its place meanwhile."""

    name: str
    """For the one who saves it: ASCII without quotes."""
    size: int
    sha256: str
    content: Content

    @property
    def etag(self) -> str:
        """Its entity tag: the digest, so it is the same wherever the same file lies."""
        return f'"{self.sha256}"'


def wanted(header: str | None, size: int) -> range | None:
    """Return the bytes that a Range header asks for, None for all of them; Problem 416 where there are none such.

    What is not a range of bytes, and several ranges, are not looked at.
    """
    found = _RANGE.fullmatch((header or "").strip())
    if found is None or not (found["first"] or found["last"]):
        return None
    if not found["first"]:
        first, last = max(0, size - int(found["last"])), size - 1
    else:
        first, last = int(found["first"]), int(found["last"] or size - 1)
        if last < first and found["last"]:
            return None
    if first >= size:
        raise Problem(
            416, f"the file has {size} bytes, so none from {first} on", headers={"Content-Range": f"bytes */{size}"}
        )
    return range(first, min(last, size - 1) + 1)


def answer(request: Request, runtime: Runtime, download: Download) -> Response:
    """Return a file, or the part of it that is asked for; 304 for one that is known. It is closed at the end."""
    headers = {
        "ETag": download.etag,
        "Accept-Ranges": "bytes",
        "Repr-Digest": f"sha-256=:{b64encode(bytes.fromhex(download.sha256)).decode()}:",
        "Content-Disposition": f'attachment; filename="{download.name}"',
    }
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if download.etag in known or known == ["*"]:
        download.content.close()
        return Response(status_code=304, headers=headers)
    same = request.headers.get("if-range", download.etag) == download.etag
    try:
        part = wanted(request.headers.get("range"), download.size) if same else None
    except Problem:
        download.content.close()
        raise
    sent = part or range(download.size)
    headers["Content-Length"] = str(len(sent))
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{download.size}"
    status = 200 if part is None else 206
    if is_head(request):
        download.content.close()
        return Response(status_code=status, headers=headers, media_type=MEDIA_TYPE)
    return StreamingResponse(_chunks(runtime, download, sent), status, headers, media_type=MEDIA_TYPE)


async def _chunks(runtime: Runtime, download: Download, sent: range) -> AsyncIterator[bytes]:
    content, left = download.content, len(sent)
    try:
        await runtime.look(lambda: content.seek(sent.start))
        while left > 0:
            size = min(CHUNK_BYTES, left)
            chunk = await runtime.look(lambda size=size: content.read(size))  # type: ignore[misc]
            if not chunk:  # the connection breaks, as fewer bytes come than were announced
                raise EOFError(f"{download.name} ends {left} bytes early")
            left -= len(chunk)
            yield chunk
    finally:
        content.close()


_HEADERS: dict[str, Any] = {
    name: {"schema": {"type": "string"}, "description": text}
    for name, text in {
        "ETag": "The SHA-256 of the whole file, in quotes: send it as If-Range to go on",
        "Repr-Digest": "The same as RFC 9530 writes it",
        "Content-Disposition": "The name of the file",
        "Accept-Ranges": "bytes",
    }.items()
}
_BYTES = {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}
FILE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file", "content": _BYTES, "headers": _HEADERS},
    206: {"description": "The bytes that Range asks for", "content": _BYTES, "headers": _HEADERS},
    304: {"description": "The file of If-None-Match"},
}
"""OpenAPI's entries for a download; 416 is a problem document."""
