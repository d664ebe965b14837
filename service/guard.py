"""ASGI middleware before everything else: who may speak to a service without tokens, and headers on every answer."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import problems
from service.settings import is_loopback

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
"""On every answer that does not set its own."""

_SAFE = ("GET", "HEAD", "OPTIONS")


class Guard:
    """Refuses what a foreign web page makes a browser send, and names that lead strangers to this machine."""

    def __init__(self, app: ASGIApp, *, local_only: bool) -> None:
        self._app, self._local_only = app, local_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a problem, or let the app answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if complaint := self._complaint(scope["method"], Headers(scope=scope)):
            await problems.response(403, complaint)(scope, receive, with_headers)
        else:
            await self._app(scope, receive, with_headers)

    def _complaint(self, method: str, headers: Headers) -> str:
        host = headers.get("host", "")
        if self._local_only and not is_loopback(_name(host)):
            return f"without tokens this service answers to localhost only, not to {host[:80]!r}"
        origin = headers.get("origin")
        if origin is not None and method not in _SAFE and urlsplit(origin).netloc != host:
            return f"requests that change something must not come from pages of {origin[:80]!r}"
        return ""


def _name(host: str) -> str:
    """Return a Host header without its port."""
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
