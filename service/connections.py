"""Connections: how many may be open, and how long a request may take to arrive.

uvicorn has no such limits: a client that opens connections and sends half a request, or nothing, would keep them for
ever, and with a thousand of them nobody else could connect.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

MAX_CONNECTIONS = 500
"""A process may open 1,024 files on most systems; the database and studies' files need some."""
ARRIVAL_SECONDS = 15.0
"""For a request to arrive whole, from the opening of its connection or from its first byte."""

_Protocol: Any = object if TYPE_CHECKING else AutoHTTPProtocol


class LimitedProtocol(_Protocol):  # type: ignore[misc]
    """uvicorn's HTTP protocol within both limits.

    Beyond MAX_CONNECTIONS the one goes whose request has been arriving for longest; only if all requests are here, and
    are being answered, the new one.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin a connection, and end another one if there are too many."""
        super().connection_made(transport)
        self._expect()
        if len(self.connections) > MAX_CONNECTIONS:
            waiting = (one for one in self.connections if one._late is not None)
            min(waiting, key=lambda one: one._late.when(), default=self)._end()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        if self._arrived():
            self._cancel()
        elif self._late is None:
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        self._cancel()
        super().connection_lost(exc)

    def _arrived(self) -> bool:
        """Return whether a request is here and not answered yet; after an answer the data are of the next one."""
        return self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete

    def _expect(self) -> None:
        self._late = asyncio.get_running_loop().call_later(ARRIVAL_SECONDS, self._end)

    def _cancel(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _end(self) -> None:
        self._cancel()
        self.connections.discard(self)  # at once: whether another one must go is asked before this one is lost
        self.transport.abort()
