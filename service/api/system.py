"""The queue, the presets, and how the service is."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from sqlalchemy.engine import Connection

from lncis.documents import plain
from service.api.problems import documented
from service.api.runtime import At, Reader
from service.api.schemas import Presets, Queue
from service.api.submissions import presets
from service.dispatch import waiting
from service.store import studies as store
from service.store.database import DatabaseAway
from service.times import iso

router = APIRouter(tags=["service"])

QUEUE_SHOWN = 500


class Part(BaseModel):
    """One thing that the service needs."""

    ok: bool
    detail: str
    since: str | None = None


class Readiness(BaseModel):
    """What works: without the database nothing does, without Ray studies wait, without MLflow they have no links."""

    ready: bool
    database: Part
    ray: Part
    mlflow: Part


@router.get("/queue", response_model=Queue, responses=documented())
async def queue(runtime: At, caller: Reader) -> Response:
    """Return the studies that are not over, in their order, and why each one is not running: the first 500."""

    def look(connection: Connection) -> dict[str, Any]:
        studies, running = store.waiting(connection, QUEUE_SHOWN), store.with_job(connection)
        return waiting.queue(studies, running, waiting.outlook(connection), runtime.settings)

    return JSONResponse(await runtime.read(look))


@router.get("/presets", response_model=Presets, responses=documented())
async def shipped(runtime: At, caller: Reader) -> Response:
    """Return the shipped studies, for `{"preset": NAME, "set": {...}}`."""
    found = presets(runtime.settings.presets)
    listed = [
        {"name": name, "question": str(spec.get("question", "")), "spec": plain(spec)} for name, spec in found.items()
    ]
    return JSONResponse({"presets": listed})


@router.get("/healthz", response_model=dict[str, bool])
async def healthz() -> dict[str, bool]:
    """Answer: the process lives."""
    return {"alive": True}


@router.get(
    "/readyz", response_model=Readiness, responses={503: {"model": Readiness, "description": "No database: not ready"}}
)
async def readyz(runtime: At) -> Response:
    """Say of database, Ray and MLflow whether they answer; studies are accepted as long as the database does."""
    database = {"ok": True, "detail": "answers"}
    seen = waiting.NOBODY
    try:
        seen = await runtime.read(waiting.outlook)
    except DatabaseAway:
        database = {"ok": False, "detail": "does not answer; the log says more"}
    ray = waiting.queue([], [], seen, runtime.settings)["ray"]
    mlflow = {"ok": runtime.mlflow.ok, "detail": runtime.mlflow.detail, "since": iso(runtime.mlflow.since)}
    answer = {"ready": database["ok"], "database": database, "ray": ray, "mlflow": mlflow}
    return JSONResponse(answer, status_code=200 if database["ok"] else 503)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **documented()},
)
async def metrics(runtime: At, caller: Reader) -> Response:
    """Return figures for Prometheus."""

    def look(connection: Connection) -> tuple[dict[Any, int], waiting.Outlook]:
        return store.counts(connection), waiting.outlook(connection)

    counts, seen = await runtime.read(look)
    text = runtime.metrics.text(counts, ray_ok=seen.ray_ok, seen_at=seen.seen_at)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
