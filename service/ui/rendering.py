"""How pages are made: templates, their headers, and what stands in place of a page that cannot be shown."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy.engine import Connection

import lncis
from lncis.errors import LncisError
from service.api.runtime import Runtime, caller_of_request, root_of
from service.store.database import DatabaseAway
from service.store.findings import UnknownTrial
from service.store.studies import UnknownStudy
from service.times import iso
from service.ui import curves

CONTENT = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
HEADERS = {
    "Content-Security-Policy": f"{CONTENT}form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser hides the origin of a form, which the guard checks
}

FOLDER = Path(__file__).parent


def _duration(seconds: float) -> str:
    """Return a duration in its two largest units: 4 min 10 s."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    left, parts = round(seconds), list[str]()
    for name, length in units:
        if left >= length or parts or length == 1:
            parts.append(f"{left // length} {name}")
            left %= length
    return " ".join(parts[:2])


_templates = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {"iso": iso, "duration": _duration}
_templates.globals |= {"version": lncis.__version__, "box": (curves.WIDTH, curves.HEIGHT)}


def render(request: Request, name: str, *, status: int = 200, **values: Any) -> Response:
    """Return a page made from a template."""
    text = _templates.get_template(name).render(root=root_of(request), **values)
    return Response(text, status_code=status, media_type="text/html", headers=HEADERS)


async def render_page(
    request: Request, runtime: Runtime, name: str, look: Callable[[Connection], dict[str, Any]]
) -> Response:
    """Return the page of what a function reads, or the sign-in form, or a page with the error."""
    try:
        caller = await caller_of_request(request)
    except DatabaseAway as error:
        return error_page(request, error, 503)
    if caller is None:
        query = f"?{request.url.query}" if request.url.query else ""
        return signin_page(request, f"{request.scope['path']}{query}", status=401)
    shown: dict[str, Any] = {"user": caller.user if runtime.settings.tokens else None, "form_key": caller.form_key}
    try:
        return await runtime.read(lambda connection: render(request, name, **shown, **look(connection)))
    except (UnknownStudy, UnknownTrial) as error:
        return error_page(request, error, 404)
    except DatabaseAway as error:
        return error_page(request, error, 503)


def error_page(request: Request, error: LncisError, status: int, *, back: str = "") -> Response:
    """Return a page that says what is wrong, and leads `back`."""
    return render(request, "error.html.j2", status=status, user=None, problem=str(error), back=back)


def signin_page(request: Request, then: str, *, status: int, complaint: str = "") -> Response:
    """Return the form for a token; after it a browser goes on to the path `then`."""
    shown = own(then, root_of(request))
    return render(request, "signin.html.j2", status=status, user=None, then=shown, complaint=complaint)


def own(path: str, root: str) -> str:
    """Return a path of this service, or its first one for any other.

    To a browser `//host` and `/\\host` are other hosts.
    """
    inner = path.isascii() and path.isprintable() and path.startswith(f"{root}/") and not path.startswith(("//", "/\\"))
    return path if inner else f"{root}/"
