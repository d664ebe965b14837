"""A download that goes on where it broke off, and is compared with its digest."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import httpx2

from lncis import files
from lncis.backoff import backoff
from lncis.errors import ServiceError

BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Before the next attempt to go on."""

Ask = Callable[[Mapping[str, str]], AbstractContextManager[httpx2.Response]]
"""Request headers -> the answer, a successful one or 416, to be read as it comes."""


def download(ask: Ask, path: Path, *, source: str, timeout: float) -> Path:
    """Return `path` once it holds what `ask` answers with, whose entity tag is its SHA-256.

    What has come lies beside it, under a hidden name with the digest, so a later call need not receive it again.
    Raises ServiceError, naming the `source`, where nothing has come for `timeout` seconds, or where it is not what was
    announced.
    """
    pauses, last_came = backoff(BACKOFF_SECONDS), time.monotonic()
    part, digest = path, ""
    while True:
        have = part.stat().st_size if digest and part.exists() else 0
        go_on = {"Range": f"bytes={have}-", "If-Range": f'"{digest}"'} if have else {}
        try:
            with ask(go_on) as answer:
                if answer.status_code != 416:  # which says that all has come
                    digest = answer.headers.get("ETag", "").strip('"')
                    part = path.with_name(f".{path.name}.{digest[:16]}.part")
                    if not have and part.exists() and part.stat().st_size:
                        continue  # of an earlier call
                    with part.open("ab" if answer.status_code == 206 else "wb") as file:
                        for chunk in answer.iter_bytes():
                            file.write(chunk)
                            pauses, last_came = backoff(BACKOFF_SECONDS), time.monotonic()
        except httpx2.TransportError as error:
            if time.monotonic() - last_came > timeout:
                raise ServiceError(f"{source} sends nothing of it any more ({error}); try again later") from error
            time.sleep(next(pauses))
            continue
        if files.digest(part) != digest:
            part.unlink()
            raise ServiceError(f"what {source} sent is not what it announced (its SHA-256 differs); try again")
        return part.replace(path)
