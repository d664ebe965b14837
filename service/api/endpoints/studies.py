"""/studies: submit, list, look at, change."""

from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from sqlalchemy.engine import Connection

from lncis import documents
from lncis.api import Action, Adjustment, Plan, State, Study, StudyPage
from lncis.document_text import parse_json
from lncis.documents import plain
from lncis.studies.spec import StudySpec
from service.api import links
from service.api.openapi import ADJUSTMENT_BODY, STUDY_BODY
from service.api.problems import Problem, documented
from service.api.runtime import At, Reader, Runtime, Writer
from service.api.submission import bodies
from service.store import adjustments
from service.store import studies as store
from service.store.tables import Study as StudyRow

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

Priority = Annotated[int, Query(ge=-1000, le=1000, description="Studies with a higher priority run first.")]

QUICK_BYTES = 16 * 1024
"""A longer body takes 10 ms and more to read."""
MAX_ADJUSTMENT_BYTES = 4096
"""Longest body that changes a study; it is validated on the event loop."""

PRIORITY = "?priority"
"""Where a request is kept: its body, and beside it this key, as no body that is a study has it."""

ETAG: dict[str, Any] = {"headers": {"ETag": {"schema": {"type": "string"}}}}


def answers_of_queueing(plan: type[BaseModel], *problems: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of the answers of a request that queues a study, or of its dry run, a `plan`."""
    return {
        200: {
            "model": Study | plan,
            "description": "The study that an earlier request with this Idempotency-Key made, or the plan of a dry run",
        },
        201: {
            "description": "Queued",
            "headers": {
                "Location": {"description": "Path of the new study", "schema": {"type": "string"}},
                "ETag": {"schema": {"type": "string"}},
            },
        },
        **documented(*problems),
    }


@router.post(
    "/studies",
    status_code=201,
    response_model=Study,
    responses=answers_of_queueing(Plan, 409, 415),
    openapi_extra={"requestBody": STUDY_BODY},
)
async def submit(
    request: Request,
    response: Response,
    runtime: At,
    caller: Writer,
    idempotency_key: IdempotencyKey = None,
    dry_run: Annotated[bool, Query(description="Answer with the plan, and queue nothing.")] = False,
    priority: Priority = 0,
) -> Any:
    """Queue a study, or plan it."""
    bodies.check_coding(request.headers.get("content-encoding", ""))
    content, kind = await request.body(), request.headers.get("content-type", "")
    long = len(content) > QUICK_BYTES

    def read() -> tuple[dict[str, Any], bool]:
        body = bodies.read_body(content, kind)
        return body, long or bodies.takes_long(body)

    body, large = await runtime.judge(read, large=long)

    def judged() -> tuple[StudySpec, store.NewStudy]:
        spec = bodies.to_spec(body, runtime.settings)
        document, asked = plain(documents.dump(spec)), asked_with(plain(body), priority)
        return spec, new_study(spec, document, caller.user, priority, key=idempotency_key, asked=asked)

    spec, new = await runtime.judge(judged, large=large)
    if dry_run:
        plan = await runtime.planner.plan(spec, new.spec, user=caller.user)
        return Response(plan.model_dump_json(), media_type="application/json")  # the one answer that is no study

    def write(connection: Connection) -> tuple[StudyRow, bool]:
        study, created = store.create_study(connection, new)
        return store.with_spec(connection, study), created

    study, created = await runtime.write(write)
    return queued(study, response, runtime, created=created)


@router.get("/studies", responses=documented())
async def list_studies(
    runtime: At,
    caller: Reader,
    state: Annotated[State | None, Query()] = None,
    owner: Annotated[str | None, Query(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = None,
    archived: Annotated[bool, Query(description="Those that are archived, in place of the others.")] = False,
    text: Annotated[str, Query(max_length=100, description="Part of the name, id, owner or a label.")] = "",
    label: Annotated[str | None, Query(max_length=40, description="One of its labels, whole.")] = None,
    extends: Annotated[str | None, Query(max_length=128, description="The id of the study that they extend.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> StudyPage:
    """Return studies, newest first."""
    before = None if cursor is None else int(cursor)
    states = list(State) if state is None else [state]
    which = store.Which(states=states, owner=owner, archived=archived, text=text, label=label, extends=extends)
    found = await runtime.read(lambda connection: store.list_studies(connection, which, before=before, limit=limit + 1))
    shown = found[:limit]
    more = str(shown[-1].number) if len(found) > limit else None
    return StudyPage(studies=[links.summary(study, runtime.settings) for study in shown], next_cursor=more)


@router.get(
    "/studies/{study_id}",
    response_model=Study,
    responses={200: ETAG, 304: {"description": "Not changed since If-None-Match"}, **documented(404)},
)
async def get_study(
    study_id: StudyId,
    response: Response,
    runtime: At,
    caller: Reader,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Any:
    """Return a study: state, reason, times, progress, cost, spec."""

    def read(connection: Connection) -> StudyRow:
        return store.with_spec(connection, store.load_study(connection, study_id))

    study = await runtime.read(read)
    known = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    if study.etag in known or known == ["*"]:
        return Response(status_code=304, headers={"ETag": study.etag})
    return tagged(study, response, runtime)


async def _adjustment(request: Request) -> Adjustment:
    return await small_body(request, Adjustment)


Body = TypeVar("Body", bound=BaseModel)


async def small_body(request: Request, model: type[Body]) -> Body:
    """Return the changes in a body, read as the body of a study is; FastAPI would take the last one of two keys."""
    body, kind = await request.body(), request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != bodies.JSON:
        raise Problem(415, f"Content-Type must be {bodies.JSON} but is {kind[:80] or 'missing'}")
    if len(body) > MAX_ADJUSTMENT_BYTES:
        raise Problem(413, f"the body has {len(body)} bytes, and a change of a study at most {MAX_ADJUSTMENT_BYTES}")
    try:
        return model.model_validate(parse_json(body, source=bodies.SOURCE))
    except ValidationError as error:
        raise RequestValidationError([{**e, "loc": ("body", *e["loc"])} for e in error.errors()]) from error


@router.patch(
    "/studies/{study_id}",
    response_model=Study,
    responses={200: ETAG, **documented(404, 409, 412, 415, 428)},
    openapi_extra={"requestBody": ADJUSTMENT_BODY},
)
async def adjust_study(
    study_id: StudyId,
    response: Response,
    runtime: At,
    caller: Writer,  # before the body is read
    changes: Annotated[Adjustment, Depends(_adjustment)],
    if_match: Annotated[str | None, Header(description="The ETag of the study as you know it; required.")] = None,
) -> Any:
    """Change a study's priority; its budget, or how many of its trials run at a time, from its next start.

    A study whose budget is spent goes back into the queue with a larger one.
    """
    if if_match is None:
        raise Problem(428, "send If-Match with the ETag of the study as you know it, so that no change is overwritten")

    def write(connection: Connection) -> StudyRow:
        adjusted = adjustments.adjust_study(
            connection,
            study_id,
            if_match,
            priority=changes.priority,
            max_concurrent_trials=changes.max_concurrent_trials,
            budget=changes.budget.given if changes.budget else None,
        )
        return store.with_spec(connection, adjusted)

    study = await runtime.write(write)
    runtime.wake()
    return tagged(study, response, runtime)


def _add_action(action: Action, description: str) -> None:
    """Add the endpoint by which users ask for an action."""

    async def ask(study_id: StudyId, response: Response, runtime: At, caller: Writer) -> Any:
        def write(connection: Connection) -> StudyRow:
            return store.with_spec(connection, store.request_action(connection, study_id, action))

        study = await runtime.write(write)
        runtime.wake()
        return tagged(study, response, runtime)

    ask.__doc__ = description
    router.post(
        f"/studies/{{study_id}}/{action}",
        status_code=202,
        response_model=Study,
        responses={202: {"description": "Accepted; GET the study to see it happen"}, **documented(404, 409)},
        name=str(action),
    )(ask)


_add_action(Action.CANCEL, "End a study for good; its results stay.")
_add_action(Action.PAUSE, "Stop a running study; its finished epochs stay.")
_add_action(Action.DRAIN, "Pause a running study once the trials that run have ended; no other begins.")
_add_action(Action.RESUME, "Put a paused study back into the queue; it continues after its last finished epochs.")


def asked_with(body: dict[str, Any], priority: int) -> dict[str, Any]:
    """Return what a request is known by, should it be sent again with its Idempotency-Key."""
    return body | ({PRIORITY: priority} if priority else {})


def new_study(
    spec: StudySpec, document: dict[str, Any], user: str, priority: int, *, key: str | None, asked: dict[str, Any]
) -> store.NewStudy:
    """Return a study to be queued; `document` is what is kept of `spec`."""
    trials = spec.total_trials
    return store.NewStudy(
        name=spec.name,
        owner=user,
        spec=document,
        priority=priority,
        max_concurrent_trials=spec.resources.max_concurrent_trials,
        trials_total=trials,
        epochs_total=trials * spec.base.schedule.epochs,
        key=key,
        request=asked,
    )


def queued(study: StudyRow, response: Response, runtime: Runtime, *, created: bool) -> Study:
    """Return what is answered of a study that a request made, or an earlier one with its key."""
    if created:
        runtime.wake()
    else:
        response.status_code = 200
    response.headers["Location"] = f"{runtime.settings.root_path}/studies/{study.id}"
    return tagged(study, response, runtime)


def tagged(study: StudyRow, response: Response, runtime: Runtime) -> Study:
    """Return what is answered of a study, after setting its entity tag."""
    response.headers["ETag"] = study.etag
    return links.shown(study, runtime.settings)
