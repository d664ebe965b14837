"""/studies/{id}/...: what a study found, finished or so far."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response, StreamingResponse
from fastapi.sse import format_sse_event
from sqlalchemy.engine import Connection

from lncis import documents
from lncis.api import ENDED, BestConfigurations, Event, StagePage, TrialPage
from lncis.studies.spec import StudySpec
from service.api.endpoints.studies import Cursor, Limit, StudyId
from service.api.problems import Problem, documented
from service.api.runtime import At, Reader, Runtime
from service.api.streams import EVENT_CONTENT, Pace, compact, end_of_stream, streamed
from service.store import findings
from service.store import studies as store
from service.store.best import best_configurations, configuration_of_rank, configuration_yaml
from service.store.tables import Study

router = APIRouter(prefix="/studies/{study_id}", tags=["results"])

EVENTS_BATCH_SIZE = 500

Part = TypeVar("Part")


@router.get("/trials", responses=documented(404))
async def get_trials(
    study_id: StudyId, runtime: At, caller: Reader, cursor: Cursor = None, limit: Limit = 50
) -> TrialPage:
    """Return the trials of a study, in the order in which they were started."""
    trials, more = await _page(findings.list_trials, study_id, runtime, cursor, limit)
    return TrialPage(trials=trials, next_cursor=more)


@router.get("/stages", responses=documented(404))
async def get_stages(
    study_id: StudyId, runtime: At, caller: Reader, cursor: Cursor = None, limit: Limit = 50
) -> StagePage:
    """Return the stage tree: the stages that several trials share, and the trials that use each."""
    stages, more = await _page(findings.list_stages, study_id, runtime, cursor, limit)
    return StagePage(stages=stages, next_cursor=more)


async def _page(
    list_parts: Callable[..., list[tuple[int, Part]]], study_id: str, runtime: Runtime, cursor: str | None, limit: int
) -> tuple[list[Part], str | None]:
    """Return a page, and the cursor of the next one."""

    def read(connection: Connection) -> list[tuple[int, Part]]:
        study = store.load_study(connection, study_id)
        return list_parts(connection, study, after=min(int(cursor or 0), 2**31 - 1), limit=limit + 1)

    found = await runtime.read(read)
    more = str(found[limit - 1][0]) if len(found) > limit else None
    return [part for _, part in found[:limit]], more


@router.get(
    "/best",
    response_model=BestConfigurations,
    responses={
        200: {"content": {"application/yaml": {"schema": {"type": "object", "title": "TrainConfig"}}}},
        **documented(404, 409),
    },
)
async def get_best(
    study_id: StudyId,
    runtime: At,
    caller: Reader,
    top: Annotated[
        int, Query(ge=1, le=100, description="So many finished configurations, and so many unfinished ones.")
    ] = 3,
    format: Annotated[
        Literal["json", "yaml"], Query(description="yaml: the one with rank `rank`, as a file for `lncis train`.")
    ] = "json",
    rank: Annotated[int, Query(ge=1, le=2**31 - 1, description="Rank of the configuration that YAML shows.")] = 1,
) -> Any:
    """Return the best configurations so far: finished ones first, then unfinished ones, each marked as such."""

    def read(connection: Connection) -> BestConfigurations | str:
        study = store.load_study(connection, study_id)
        spec = documents.parse(StudySpec, store.load_spec(connection, study), source=study_id)
        if format == "json":
            found = best_configurations(connection, study, spec, top)
            objective = documents.dump(spec.objective)
            return BestConfigurations(study=study.id, state=study.state, objective=objective, configurations=found)
        one = configuration_of_rank(connection, study, spec, rank)
        if one is None:
            there = f"has no configuration of rank {rank}" if rank > 1 else "has evaluated no configuration yet"
            raise Problem(409, f"study {study.id} is {study.state} and {there}")
        return configuration_yaml(study, spec, one)

    found = await runtime.read(read)
    return Response(found, media_type="application/yaml") if isinstance(found, str) else found


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events: state, trial_started, epoch_finished, trial_ended, trial_retried; at last end",
            "content": EVENT_CONTENT,
        },
        204: {"description": "The study is over and Last-Event-ID was its last event: do not come back"},
        **documented(404, 429),
    },
)
async def follow_events(
    request: Request,
    study_id: StudyId,
    runtime: At,
    caller: Reader,
    last_event_id: Annotated[
        str | None,
        Header(pattern=r"^[0-9]{1,9}$", description="Begin after this event; without it at the first one."),
    ] = None,
) -> Response:
    """Follow a study as it happens."""
    after = int(last_event_id or 0)
    study = await runtime.read(lambda connection: store.load_study(connection, study_id))
    if study.state in ENDED and after >= study.events:
        return Response(status_code=204)
    return streamed(request, runtime, lambda: _events(study.id, after, runtime))


async def _events(study_id: str, after: int, runtime: Runtime) -> AsyncIterator[bytes]:
    pace = Pace(runtime)
    while pace.goes_on:

        def read(connection: Connection, after: int = after) -> tuple[Study, list[Event]]:
            study = store.load_study(connection, study_id)
            return study, findings.list_events(connection, study, after=after, limit=EVENTS_BATCH_SIZE)

        study, found = await runtime.read(read)
        for event in found:
            yield format_sse_event(data_str=compact(event.data), event=event.type, id=str(event.number))
            after = event.number
        if found:
            pace.sent()
        elif study.state in ENDED:
            yield end_of_stream(study.state)
            return
        else:
            async for comment in pace.wait():
                yield comment
