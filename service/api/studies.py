"""/studies: submit, list, look at, change."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi import Path as InPath
from fastapi.responses import JSONResponse, Response

from lncis import documents
from lncis.documents import plain
from lncis.studies.spec import StudySpec
from service.api import submissions
from service.api.openapi import STUDY_BODY
from service.api.problems import Problem, documented
from service.api.runtime import At, Reader, Writer
from service.api.schemas import Adjustment, Plan, StudyDocument, StudyPage, document, summary
from service.store import studies as store
from service.store.states import Action, State

router = APIRouter(tags=["studies"])

StudyId = Annotated[str, InPath(description="The id that POST /studies gave.", pattern=r"^[A-Za-z0-9._-]{1,128}$")]
Cursor = Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$", description="`next_cursor` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=200)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[\x21-\x7e]{1,200}$",
        description="Any text of your own: sent again with the same body it gives the same study, not another one.",
    ),
]

QUICK_TRIALS = 64
"""A study of more is checked in a thread: that takes longer than others should wait."""


@router.post(
    "/studies",
    status_code=201,
    response_model=StudyDocument,
    responses={
        200: {
            "model": StudyDocument | Plan,
            "description": "The study that the same Idempotency-Key made before, or the plan of a dry run",
        },
        201: {
            "description": "Queued",
            "headers": {
                "Location": {"description": "Path of the study", "schema": {"type": "string"}},
                "ETag": {"schema": {"type": "string"}},
            },
        },
        **documented(409, 415, 422),
    },
    openapi_extra={"requestBody": STUDY_BODY},
)
async def submit(
    request: Request,
    runtime: At,
    caller: Writer,
    idempotency_key: IdempotencyKey = None,
    dry_run: Annotated[bool, Query(description="Answer with the plan, and queue nothing.")] = False,
    priority: Annotated[int, Query(ge=-1000, le=1000, description="Higher first.")] = 0,
) -> Response:
    """Queue a study, or plan it."""
    body = submissions.read(await request.body(), request.headers.get("content-type", ""))
    spec = await _checked(body, runtime)
    resolved = plain(documents.dump(spec))
    if dry_run:
        return JSONResponse(await runtime.planner.plan(resolved))
    new = store.NewStudy(
        name=spec.name,
        owner=caller.user,
        spec=resolved,
        priority=priority,
        max_concurrent_trials=spec.resources.max_concurrent_trials,
        trials_total=spec.total_trials,
        epochs_total=spec.total_trials * spec.base.schedule.epochs,
        key=idempotency_key,
        request=plain(body),
    )
    study, created = await runtime.write(lambda connection: store.create(connection, new))
    if created:
        runtime.wake()
    else:
        resolved = await runtime.read(lambda connection: store.spec_of(connection, study))
    return _answer(study, resolved, status=201 if created else 200, location=True)


async def _checked(body: dict[str, Any], runtime: At) -> StudySpec:
    if submissions.many_trials(body, QUICK_TRIALS):
        return await asyncio.to_thread(submissions.to_spec, body, runtime.settings)
    return submissions.to_spec(body, runtime.settings)


@router.get("/studies", response_model=StudyPage, responses=documented(422))
async def list_studies(
    runtime: At,
    caller: Reader,
    state: Annotated[State | None, Query()] = None,
    owner: Annotated[str | None, Query(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Response:
    """Return studies, newest first."""
    before = None if cursor is None else int(cursor)
    states = list(State) if state is None else [state]
    found = await runtime.read(lambda c: store.page(c, states=states, owner=owner, before=before, limit=limit + 1))
    shown = found[:limit]
    more = str(shown[-1].number) if len(found) > limit else None
    return JSONResponse({"studies": [summary(study) for study in shown], "next_cursor": more})


@router.get(
    "/studies/{study_id}",
    response_model=StudyDocument,
    responses={
        200: {"headers": {"ETag": {"schema": {"type": "string"}}}},
        304: {"description": "Not changed since If-None-Match"},
        **documented(404, 422),
    },
)
async def get(
    study_id: StudyId, runtime: At, caller: Reader, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """Return a study: state, reason, times, progress, cost, spec."""

    def look(connection: Any) -> tuple[store.Study, dict[str, Any]]:
        study = store.get(connection, study_id)
        return study, store.spec_of(connection, study)

    study, spec = await runtime.read(look)
    if if_none_match and study.etag in [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]:
        return Response(status_code=304, headers={"ETag": study.etag})
    return _answer(study, spec)


@router.patch(
    "/studies/{study_id}",
    response_model=StudyDocument,
    responses={200: {"headers": {"ETag": {"schema": {"type": "string"}}}}, **documented(404, 409, 412, 422, 428)},
)
async def adjust(
    study_id: StudyId,
    changes: Adjustment,
    runtime: At,
    caller: Writer,
    if_match: Annotated[str | None, Header(description="The ETag of the study as you know it; required.")] = None,
) -> Response:
    """Change a study's priority, or how many of its trials run at a time from its next start."""
    if if_match is None:
        raise Problem(428, "send If-Match with the ETag of the study as you know it, so that no change is overwritten")

    def write(connection: Any) -> tuple[store.Study, dict[str, Any]]:
        study = store.adjust(
            connection,
            study_id,
            if_match,
            priority=changes.priority,
            max_concurrent_trials=changes.max_concurrent_trials,
        )
        return study, store.spec_of(connection, study)

    study, spec = await runtime.write(write)
    runtime.wake()
    return _answer(study, spec)


def _on_request(action: Action, does: str) -> None:
    async def ask(study_id: StudyId, runtime: At, caller: Writer) -> Response:
        def write(connection: Any) -> tuple[store.Study, dict[str, Any]]:
            study = store.act(connection, study_id, action)
            return study, store.spec_of(connection, study)

        study, spec = await runtime.write(write)
        runtime.wake()
        return _answer(study, spec, status=202)

    ask.__doc__ = does
    router.post(
        f"/studies/{{study_id}}/{action}",
        status_code=202,
        response_model=StudyDocument,
        responses={202: {"description": "Accepted; GET the study to see it happen"}, **documented(404, 409, 422)},
        name=str(action),
    )(ask)


_on_request(Action.CANCEL, "End a study for good; what it found stays.")
_on_request(Action.PAUSE, "Stop a running study; its finished epochs stay.")
_on_request(Action.RESUME, "Put a paused study back into the queue; it goes on from its last finished epochs.")


def _answer(study: store.Study, spec: dict[str, Any], *, status: int = 200, location: bool = False) -> Response:
    headers = {"ETag": study.etag} | ({"Location": f"/studies/{study.id}"} if location else {})
    return JSONResponse(document(study, spec), status_code=status, headers=headers)
