"""/studies/{id}/...: what a study found, finished or so far."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from sqlalchemy.engine import Connection

from lncis import documents
from lncis.studies.spec import StudySpec
from service.api.problems import Problem, documented
from service.api.runtime import At, Reader, Runtime
from service.api.schemas import Best, StagePage, TrialPage
from service.api.studies import Cursor, Limit, StudyId
from service.store import findings
from service.store import studies as store
from service.store.best import as_yaml, best, of_rank
from service.store.states import ENDED

router = APIRouter(prefix="/studies/{study_id}", tags=["results"])

_EVENT = {"type": "object", "properties": {name: {"type": "string"} for name in ("event", "data", "id")}}
EVENTS_AT_ONCE = 500
EVENT_PAUSE, KEEP_ALIVE = 0.5, 15.0
"""Seconds between two looks for events; between two signs of life where there are none."""


@router.get("/trials", response_model=TrialPage, responses=documented(404, 422))
async def trials(study_id: StudyId, runtime: At, caller: Reader, cursor: Cursor = None, limit: Limit = 50) -> Response:
    """Return the trials of a study, in the order in which they were started."""
    return await _page("trials", findings.trials, study_id, runtime, cursor, limit)


@router.get("/stages", response_model=StagePage, responses=documented(404, 422))
async def stages(study_id: StudyId, runtime: At, caller: Reader, cursor: Cursor = None, limit: Limit = 50) -> Response:
    """Return the stage tree: what was trained once for several trials, and which ones use it."""
    return await _page("stages", findings.stages, study_id, runtime, cursor, limit)


async def _page(name: str, rows: Any, study_id: str, runtime: Runtime, cursor: str | None, limit: int) -> Response:
    def look(connection: Connection) -> list[tuple[int, dict[str, Any]]]:
        study = store.get(connection, study_id)
        found: list[tuple[int, dict[str, Any]]] = rows(
            connection, study, after=min(int(cursor or 0), 2**31 - 1), limit=limit + 1
        )
        return found

    found = await runtime.read(look)
    more = str(found[limit - 1][0]) if len(found) > limit else None
    return JSONResponse({name: [row for _, row in found[:limit]], "next_cursor": more})


@router.get(
    "/best",
    response_model=Best,
    responses={
        200: {"content": {"application/yaml": {"schema": {"type": "object", "title": "TrainConfig"}}}},
        **documented(404, 409, 422),
    },
)
async def best_configurations(
    study_id: StudyId,
    runtime: At,
    caller: Reader,
    top: Annotated[int, Query(ge=1, le=100)] = 3,
    format: Annotated[
        Literal["json", "yaml"], Query(description="yaml: the one of `rank`, as a file that `lncis train` runs.")
    ] = "json",
    rank: Annotated[int, Query(ge=1, le=2**31 - 1, description="Which one, as YAML.")] = 1,
) -> Response:
    """Return the best configurations so far: those that finished, then what still runs, each marked as such."""

    def look(connection: Connection) -> tuple[store.Study, StudySpec, list[dict[str, Any]]]:
        study = store.get(connection, study_id)
        spec = documents.parse(StudySpec, store.spec_of(connection, study), source=study_id)
        if format == "json":
            return study, spec, best(connection, study, spec, top)
        one = of_rank(connection, study, spec, rank)
        return study, spec, [one] if one else []

    study, spec, entries = await runtime.read(look)
    if format == "json":
        objective = documents.dump(spec.objective)
        return JSONResponse(
            {"study": study.id, "state": study.state, "objective": objective, "configurations": entries}
        )
    if not entries:
        there = f"has no configuration of rank {rank}" if rank > 1 else "has evaluated no configuration yet"
        raise Problem(409, f"study {study.id} is {study.state} and {there}")
    return Response(as_yaml(study, spec, entries[0]), media_type="application/yaml")


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events: state, trial_started, epoch_finished, trial_ended, trial_retried; at last end",
            "content": {"text/event-stream": {"schema": _EVENT}},
        },
        204: {"description": "The study is over and Last-Event-ID was its last event: do not come back"},
        **documented(404, 422, 429),
    },
)
async def events(
    study_id: StudyId,
    request: Request,
    runtime: At,
    caller: Reader,
    last_event_id: Annotated[
        str | None, Header(pattern=r"^[0-9]{1,9}$", description="Go on after this one; without it from the first.")
    ] = None,
) -> Response:
    """Follow a study as it happens."""
    after = int(last_event_id or 0)
    study = await runtime.read(lambda connection: store.get(connection, study_id))
    if study.state in ENDED and after >= study.events:
        return Response(status_code=204)
    if runtime.streams >= runtime.settings.max_event_streams:
        raise Problem(
            429, f"{runtime.streams} event streams are open, which is the most", headers={"Retry-After": "10"}
        )
    return StreamingResponse(_stream(study, after, runtime), media_type="text/event-stream")


async def _stream(study: store.Study, after: int, runtime: Runtime) -> AsyncIterator[bytes]:
    runtime.streams += 1
    runtime.metrics.streams.set(runtime.streams)
    until, said = time.monotonic() + runtime.settings.event_stream_seconds, time.monotonic()
    try:
        while not runtime.stopping:

            def look(connection: Connection, after: int = after) -> Any:
                now = store.get(connection, study.id)
                return now, findings.events(connection, now, after=after, limit=EVENTS_AT_ONCE)

            now, found = await runtime.read(look)
            for after, kind, data in found:
                yield format_sse_event(data_str=findings.compact(data), event=kind, id=str(after))
            if found:
                said = time.monotonic()
            elif now.state in ENDED:
                yield format_sse_event(data_str=findings.compact({"state": now.state}), event="end")
                return
            elif time.monotonic() > until:
                return
            else:
                if time.monotonic() - said > KEEP_ALIVE:
                    yield KEEPALIVE_COMMENT
                    said = time.monotonic()
                await asyncio.sleep(EVENT_PAUSE)
    finally:
        runtime.streams -= 1
        runtime.metrics.streams.set(runtime.streams)
