"""The queue, the presets, and whether the service works."""

from functools import lru_cache
from pathlib import Path

import httpx2
from fastapi import APIRouter, Request, Response
from sqlalchemy.engine import Connection

from lncis.api import Dependency, Preset, Presets, Queue, Readiness, State
from lncis.documents import plain
from service.api.problems import documented, refusals
from service.api.runtime import At, Reader, Runtime, caller_of_token
from service.api.submission.presets import Stamps, presets, stamps_of
from service.dispatch import waiting
from service.store import studies as store
from service.store.database import DatabaseAway
from service.store.worker_hours import owners_over_quota

router = APIRouter(tags=["service"])

QUEUE_SHOWN = 500


@router.get("/queue", responses=documented())
async def get_queue(runtime: At, caller: Reader) -> Queue:
    """Return the studies that are not over, in their order, and why each one is not running: the first 500."""

    def read(connection: Connection) -> Queue:
        studies = store.list_active_studies(connection, QUEUE_SHOWN)
        running = store.list_studies_with_job(connection)
        status, settings = runtime.heartbeats.load(connection), runtime.settings
        return waiting.describe_queue(studies, running, status, settings, owners_over_quota(connection, settings))

    return await runtime.read(read)


@router.get("/presets", response_model=Presets, responses=documented())
async def get_presets(runtime: At, caller: Reader) -> Response:
    """Return the shipped studies, for `{"preset": NAME, "set": {...}}`."""
    folder = runtime.settings.presets
    content = await runtime.judge(lambda: _presets(folder, stamps_of(folder)), large=False)
    return Response(content, media_type="application/json")


@lru_cache(maxsize=4)
def _presets(folder: Path, stamps: Stamps) -> str:
    """Return the answer as JSON; it is made again after a file of the folder has changed."""
    found = [
        Preset(name=name, question=str(spec.get("question", "")), spec=plain(spec))
        for name, spec in presets(folder).items()
    ]
    return Presets(presets=found).model_dump_json()


@router.get("/healthz", responses=refusals(403, 422))
async def healthz() -> dict[str, bool]:
    """Answer: the process runs."""
    return {"alive": True}


@router.get(
    "/readyz",
    responses={**refusals(403, 422), 503: {"model": Readiness, "description": "No database: not ready"}},
)
async def readyz(request: Request, response: Response, runtime: At) -> Readiness:
    """Say whether database, Ray and MLflow answer; studies are accepted as long as the database does.

    What is wrong, and where they are, is for those who show a token.
    """
    database, status = Dependency(ok=True, detail="answers"), waiting.NEVER_SEEN
    try:
        status = await runtime.read(runtime.heartbeats.load)
    except DatabaseAway:
        database = Dependency(ok=False, detail="does not answer; the log says more")
        response.status_code = 503
    ray, mlflow = waiting.ray_dependency(status), await check_mlflow(runtime)
    if caller_of_token(request) is None:
        ray, mlflow = (Dependency(ok=it.ok, detail="answers" if it.ok else "does not answer") for it in (ray, mlflow))
    return Readiness(ready=database.ok, database=database, ray=ray, mlflow=mlflow)


async def check_mlflow(runtime: Runtime) -> Dependency:
    """Return whether the MLflow server answers; its /health needs no login."""
    uri = runtime.settings.mlflow_tracking_uri.rstrip("/")
    if not uri.startswith(("http://", "https://")):
        return Dependency(ok=bool(uri), detail="a database, not a server" if uri else "is not set")
    try:
        (await runtime.http.get(f"{uri}/health")).raise_for_status()
    except httpx2.HTTPError as error:
        return Dependency(ok=False, detail=f"does not answer: {error or type(error).__name__}")
    return Dependency(ok=True, detail="answers")


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **documented()},
)
async def metrics(runtime: At, caller: Reader) -> Response:
    """Return figures for Prometheus."""

    def read(connection: Connection) -> tuple[dict[State, int], waiting.DispatcherStatus]:
        return store.count_studies(connection), runtime.heartbeats.load(connection)

    counts, status = await runtime.read(read)
    text = runtime.metrics.text(counts, ray_ok=status.ray_ok, seen_at=status.seen_at)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
