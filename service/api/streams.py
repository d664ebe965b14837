"""Streams of server-sent events: how many may be open, how long, and what they send while nothing happens."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.types import Receive, Scope, Send

from lncis.api import State
from lncis.errors import LncisError
from service.api.methods import is_head
from service.api.problems import Problem
from service.api.runtime import Runtime

log = logging.getLogger("lncis.service")

POLL_SECONDS = 0.5
KEEP_ALIVE_SECONDS = 15.0
"""A stream without events sends a comment so often; lncis.client waits three times as long."""

MEDIA_TYPE = "text/event-stream"
EVENT_CONTENT: dict[str, Any] = {
    MEDIA_TYPE: {
        "itemSchema": {"type": "object", "properties": {name: {"type": "string"} for name in ("event", "data", "id")}}
    }
}
"""OpenAPI's entry for a stream; `schema` would be the answer as a whole, which generated clients then read as JSON."""


def streamed(request: Request, runtime: Runtime, events: Callable[[], AsyncIterator[bytes]]) -> Response:
    """Return a stream as an answer; Problem 429 where too many are open."""
    if runtime.streams >= runtime.settings.max_event_streams:
        raise Problem(
            429, f"{runtime.streams} event streams are open, which is the most", headers={"Retry-After": "10"}
        )
    return Response(media_type=MEDIA_TYPE) if is_head(request) else _Stream(_while_there(events()), runtime)


async def _while_there(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield events until their study is deleted, or cannot be read: who comes back is told that with a status."""
    try:
        async for event in events:
            yield event
    except LncisError as error:
        log.info("a stream of events ended: %s", error)


class _Stream(StreamingResponse):
    """A stream of events, which counts from the request on: others may ask before it sends its first event."""

    def __init__(self, events: AsyncIterator[bytes], runtime: Runtime) -> None:
        super().__init__(events, media_type=MEDIA_TYPE)
        self._runtime = runtime
        self._count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self._runtime.streams += change
        self._runtime.metrics.streams.set(self._runtime.streams)


class Pace:
    """When a stream looks again, and when it ends."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._until, self._sent = time.monotonic() + runtime.settings.event_stream_seconds, time.monotonic()
        self.goes_on = not runtime.stopping
        """Whether it is neither over nor is the service about to stop."""

    def sent(self) -> None:
        """Note that events were sent."""
        self._sent = time.monotonic()
        self.goes_on = not self._runtime.stopping

    async def wait(self) -> AsyncIterator[bytes]:
        """Wait for the next look; yield a comment where nothing was sent for long."""
        if time.monotonic() > self._until:
            self.goes_on = False
            return
        if time.monotonic() - self._sent > KEEP_ALIVE_SECONDS:
            yield KEEPALIVE_COMMENT
            self._sent = time.monotonic()
        await asyncio.sleep(POLL_SECONDS)
        self.goes_on = not self._runtime.stopping


def end_of_stream(state: State) -> bytes:
    """Return the last event of a study that is over."""
    return format_sse_event(data_str=compact({"state": state}), event="end")


def compact(document: Any) -> str:
    """Return a document as JSON without spaces."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False)
