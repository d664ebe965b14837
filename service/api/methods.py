"""HTTP methods: HEAD wherever there is GET, and the Allow header of a refusal."""

from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute, APIRouter
from starlette.routing import Match
from starlette.types import Scope

_HEAD = "lncis.head"


def include(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Add routers to an app, and remember their operations for `allowed`."""
    app.state.routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    for router in routers:
        app.include_router(router)


def head_as_get(scope: Scope) -> Scope:
    """Return what the app sees of a request: HEAD is answered as GET, and the server leaves out the body."""
    return {**scope, "method": "GET", _HEAD: True} if scope["method"] == "HEAD" else scope


def is_head(request: Request) -> bool:
    """Return whether a GET was sent as HEAD, so that no body is needed."""
    return _HEAD in request.scope


def allowed(request: Request) -> str:
    """Return the methods of a path, for Allow; Starlette names those of the first operation only."""
    routes: list[APIRoute] = request.app.state.routes
    found = (route.methods or () for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    methods = set[str]().union(*found) or {"GET"}  # /openapi.json, which is FastAPI's own
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))
