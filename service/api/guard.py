"""ASGI middleware before all endpoints: refuses foreign web pages and long bodies, and sets security headers."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import problems
from service.api.methods import head_as_get
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
    """Refuses requests that a foreign web page makes a browser send, and host names that are not this machine's."""

    def __init__(self, app: ASGIApp, *, root_path: str, local_only: bool, max_body_bytes: int) -> None:
        self._app, self._root_path, self._local_only, self._max_body_bytes = app, root_path, local_only, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a problem, or let the app answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        inner = head_as_get(self._below_root(scope))

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                if "route" in inner:
                    scope["route"] = inner["route"]  # for what is outside of this, which counts answers by route
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length) > self._max_body_bytes:
            detail = f"the body has {length[:20]} bytes, and this service reads at most {self._max_body_bytes}"
            await problems.response(413, detail, headers={"Connection": "close"})(scope, receive, with_headers)
        elif complaint := self._complaint(scope["method"], headers):
            await problems.response(403, complaint)(scope, receive, with_headers)
        else:
            await self._app(inner, self._counted(receive), with_headers)

    def _below_root(self, scope: Scope) -> Scope:
        """Return a request with the prefix of the service in its path, which a proxy may have taken away."""
        root, path = self._root_path, scope["path"]
        there = not root or path.startswith(f"{root}/")
        return {**scope, "root_path": root, "path": path if there else f"{root}{path}"}

    def _counted(self, receive: Receive) -> Receive:
        """Return a `receive` that fails beyond the limit; not every body announces its length."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise HTTPException(413, f"the body is longer than the {self._max_body_bytes} bytes that are read here")
            return message

        return counted

    def _complaint(self, method: str, headers: Headers) -> str:
        host = headers.get("host", "")
        if self._local_only and not is_loopback(_name(host)):
            return f"without tokens this service answers to localhost only, not to {host[:80]!r}"
        origin = headers.get("origin")
        if origin is not None and method not in _SAFE and urlsplit(origin).netloc != host:
            return (
                f"requests that change something must not come from pages of {origin[:80]!r}, as this is "
                f"{host[:80]!r}; a proxy before the service must pass on the Host that the browser sent"
            )
        return ""


def _name(host: str) -> str:
    """Return a Host header without its port."""
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
