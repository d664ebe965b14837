"""/, /docs and /ui/...: pages for browsers. They are rendered here and can be read without a script.

Everything that a page loads comes from this service, not from a CDN. If the service has tokens, a browser signs in with
a form and gets a pass (service.ui.signing).
"""

import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, Response
from sqlalchemy.engine import Connection

from lncis.api import ENDED, State
from service.api.endpoints.studies import StudyId
from service.api.endpoints.system import check_mlflow
from service.api.problems import Problem
from service.api.runtime import At, Reader, root_of
from service.store import studies as store
from service.store.trial_table import Asked
from service.ui import overview as overviews
from service.ui import views
from service.ui.overview import Wanted
from service.ui.rendering import FOLDER, HEADERS, render_page
from service.ui.views import StudyPage

router = APIRouter(include_in_schema=False)

REPORT_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'"
}
"""A report contains its style and pictures, and has no script."""

_SWAGGER_UI = Path(str(files("fastapi_offline"))) / "static"
ASSETS = {
    **{name: FOLDER / "assets" / name for name in ("page.css", "live.js", "plot.js", "parallel.js")},
    "uplot.js": FOLDER / "vendor" / "uplot" / "uPlot.iife.min.js",
    "uplot.css": FOLDER / "vendor" / "uplot" / "uPlot.min.css",
    **{name: _SWAGGER_UI / name for name in ("swagger-ui.css", "swagger-ui-bundle.js")},
}


@router.get("/")
async def overview(
    request: Request,
    runtime: At,
    state: Annotated[State | None, Query()] = None,
    text: Annotated[str, Query(max_length=100)] = "",
    label: Annotated[str | None, Query(max_length=40)] = None,
    archived: bool = False,
    before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
) -> Response:
    """Return the page of all studies, or of those that are looked for."""
    shown = state if state in ENDED else None
    wanted = Wanted(state=shown, text=text.strip(), label=label or None, archived=archived, before=before)
    mlflow = await check_mlflow(runtime)

    def look(connection: Connection) -> dict[str, Any]:
        return overviews.overview(connection, runtime.settings, runtime.heartbeats.load(connection), mlflow, wanted)

    return await render_page(request, runtime, "overview.html.j2", look)


@router.get("/ui/studies/{study_id}")
async def study(
    study_id: StudyId,
    request: Request,
    runtime: At,
    page: Annotated[int, Query(ge=1, le=10**6)] = 1,
    sort: Annotated[str, Query(max_length=100)] = "number",
    order: Literal["asc", "desc"] = "asc",
    state: Literal["", "running", "unfinished", "finished", "pruned", "failed"] = "",
    text: Annotated[str, Query(max_length=100)] = "",
    curves: Annotated[str, Query(pattern=r"^([0-9]{1,9}(,[0-9]{1,9}){0,11})?$")] = "",
    metric: Annotated[str, Query(pattern=r"^[A-Za-z0-9_/]{0,64}$")] = "",
) -> Response:
    """Return the page of a study: one page of its trials, sorted and filtered, and the curves that are picked."""
    table = Asked(sort=sort, descending=order == "desc", state=state or None, text=text)
    numbers = tuple(sorted({int(number) for number in curves.split(",") if number}))
    asked = StudyPage(page=page, table=table, curves=numbers, metric=metric or None)

    def look(connection: Connection) -> dict[str, Any]:
        return views.study(connection, runtime.settings, runtime.heartbeats.load(connection), study_id, asked)

    return await render_page(request, runtime, "study.html.j2", look)


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
