"""/, /docs and /ui/...: pages for browsers. They are rendered here, can be read without a script, and change nothing.

Everything that a page loads comes from this service, not from a CDN. If the service has tokens, a browser signs in with
a form and gets a pass (service.auth).
"""

import math
import re
import time
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy.engine import Connection

import lncis
from lncis.api import ENDED, State
from lncis.errors import LncisError
from service.api.endpoints.studies import StudyId
from service.api.endpoints.system import check_mlflow
from service.api.problems import Problem
from service.api.runtime import At, Reader, caller_of_request, root_of
from service.auth import PASS_COOKIE, PASS_SECONDS, caller_of_pass, new_pass
from service.store import studies as store
from service.store.database import DatabaseAway
from service.store.passes import end_pass
from service.store.studies import UnknownStudy
from service.times import iso
from service.ui import curves, views

router = APIRouter(include_in_schema=False)

CONTENT = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
HEADERS = {
    "Content-Security-Policy": f"{CONTENT}form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser hides the origin of a form, which the guard checks
}
REPORT_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'"
}
"""A report contains its style and pictures, and has no script."""

_FOLDER = Path(__file__).parent
_SWAGGER_UI = Path(str(files("fastapi_offline"))) / "static"
ASSETS = {
    **{name: _FOLDER / "assets" / name for name in ("page.css", "live.js")},
    **{name: _SWAGGER_UI / name for name in ("swagger-ui.css", "swagger-ui-bundle.js")},
}


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
    loader=FileSystemLoader(_FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {"iso": iso, "duration": _duration}
_templates.globals |= {"version": lncis.__version__, "box": (curves.WIDTH, curves.HEIGHT)}


def _render(request: Request, name: str, *, status: int = 200, **values: Any) -> Response:
    text = _templates.get_template(name).render(root=root_of(request), **values)
    return Response(text, status_code=status, media_type="text/html", headers=HEADERS)


async def _page(request: Request, runtime: At, name: str, look: Callable[[Connection], dict[str, Any]]) -> Response:
    """Return the page of what a function reads, or the sign-in form, or a page with the error."""
    try:
        caller = await caller_of_request(request)
    except DatabaseAway as error:
        return _error_page(request, error, 503)
    if caller is None:
        query = f"?{request.url.query}" if request.url.query else ""
        return _signin(request, f"{request.scope['path']}{query}", status=401)
    user = caller.user if runtime.settings.tokens else None
    try:
        return await runtime.read(lambda connection: _render(request, name, user=user, **look(connection)))
    except UnknownStudy as error:
        return _error_page(request, error, 404)
    except DatabaseAway as error:
        return _error_page(request, error, 503)


def _error_page(request: Request, error: LncisError, status: int) -> Response:
    return _render(request, "error.html.j2", status=status, user=None, problem=str(error))


@router.get("/")
async def overview(
    request: Request,
    runtime: At,
    state: Annotated[State | None, Query()] = None,
    before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
) -> Response:
    """Return the page of all studies."""
    states = [state] if state in ENDED else ENDED
    mlflow = await check_mlflow(runtime)

    def look(connection: Connection) -> dict[str, Any]:
        status = runtime.heartbeats.load(connection)
        found = views.overview(connection, runtime.settings, status, mlflow, states, before)
        return {**found, "state": state if state in ENDED else None, "before": before, "ended_states": ENDED}

    return await _page(request, runtime, "overview.html.j2", look)


@router.get("/ui/studies/{study_id}")
async def study(
    study_id: StudyId, request: Request, runtime: At, page: Annotated[int, Query(ge=1, le=10**6)] = 1
) -> Response:
    """Return the page of a study, with one page of its trials."""

    def look(connection: Connection) -> dict[str, Any]:
        return views.study(connection, runtime.settings, runtime.heartbeats.load(connection), study_id, page)

    return await _page(request, runtime, "study.html.j2", look)


@router.get("/ui/studies/{study_id}/{name}")
async def file(study_id: StudyId, name: str, runtime: At, caller: Reader) -> Response:
    """Return one of the files in a study's folder that are served."""
    path = await runtime.read(
        lambda connection: views.path_of(runtime.settings, store.load_study(connection, study_id), name)
    )
    if path is None:
        raise Problem(404, f"study {study_id} has no {name[:80]!r}; there may be {', '.join(views.FILES)}")
    headers = REPORT_HEADERS if path.suffix == ".html" else {}
    return FileResponse(path, media_type=views.FILES[path.name], headers=headers)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Return the API's reference: FastAPI's Swagger page, with its two files from here instead of a CDN.

    Its policy allows the page's one inline script by its hash. Swagger UI sets styles inline.
    """
    root = root_of(request)
    page = get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title="lncis API",
        swagger_js_url=f"{root}/ui/swagger-ui-bundle.js",
        swagger_css_url=f"{root}/ui/swagger-ui.css",
        swagger_favicon_url="data:,",
        swagger_ui_parameters={"validatorUrl": None},  # else it sends the document to validator.swagger.io
    )
    (script,) = re.findall(rb"<script>(.*?)</script>", bytes(page.body), flags=re.DOTALL)
    digest = b64encode(sha256(script).digest()).decode()
    policy = HEADERS["Content-Security-Policy"].replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
    policy = policy.replace("script-src 'self'", f"script-src 'self' 'sha256-{digest}'")
    page.headers.update({**HEADERS, "Content-Security-Policy": policy})
    return page


@router.get("/ui/{name}")
async def asset(name: str) -> Response:
    """Return a style or a script of the pages."""
    if name not in ASSETS:
        raise Problem(404, "there is no such page; start at /")
    return FileResponse(ASSETS[name])


@router.post("/ui/signin")
async def signin(request: Request, runtime: At) -> Response:
    """Give a browser a pass for its token, and send it back to the page that it asked for."""
    try:
        form = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=10)
    except ValueError:
        return _signin(request, "/", status=422, complaint="This is not what the form below sends.")
    secret, then = form.get("token", [""])[0], form.get("then", ["/"])[0]
    address = request.client.host if request.client else ""
    if (wait := runtime.signins.wait_seconds(address)) > 0:
        refusal = _signin(
            request, then, status=429, complaint="There were too many wrong tokens; try again in a minute."
        )
        refusal.headers["Retry-After"] = str(math.ceil(wait))
        return refusal
    made = new_pass(secret, runtime.settings.tokens)
    if made is None:
        runtime.signins.note_wrong(address)
        return _signin(request, then, status=401, complaint="This is not a token of this service.")
    answer = RedirectResponse(_own(then, root_of(request)), status_code=303)
    secure = request.url.scheme == "https"
    answer.set_cookie(
        PASS_COOKIE,
        made,
        max_age=PASS_SECONDS,
        path=f"{root_of(request)}/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )
    return answer


@router.post("/ui/signout")
async def signout(request: Request, runtime: At) -> Response:
    """End a browser's pass, also for who has a copy of it."""
    if caller := caller_of_pass(request.cookies.get(PASS_COOKIE), runtime.settings.tokens):
        until = time.time() + PASS_SECONDS
        await runtime.write(lambda connection: end_pass(connection, caller.pass_id, until))
    home = f"{root_of(request)}/"
    answer = RedirectResponse(home, status_code=303)
    answer.delete_cookie(PASS_COOKIE, path=home, httponly=True, samesite="strict")
    return answer


def _signin(request: Request, then: str, *, status: int, complaint: str = "") -> Response:
    shown = _own(then, root_of(request))
    return _render(request, "signin.html.j2", status=status, user=None, then=shown, complaint=complaint)


def _own(path: str, root: str) -> str:
    """Return a path of this service, or its first one for any other.

    To a browser `//host` and `/\\host` are other hosts.
    """
    inner = path.isascii() and path.isprintable() and path.startswith(f"{root}/") and not path.startswith(("//", "/\\"))
    return path if inner else f"{root}/"
