"""/studies/{id}/extend: a study of its own that takes over what a finished one has trained, and adds to it."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.engine import Connection

from lncis.api import ExtensionPlan, State, Study
from lncis.documents import plain
from lncis.errors import StudyError
from service.api.endpoints.studies import (
    QUICK_BYTES,
    IdempotencyKey,
    Priority,
    StudyId,
    answers_of_queueing,
    asked_with,
    new_study,
    queued,
)
from service.api.openapi import EXTENSION_BODY
from service.api.runtime import At, Writer
from service.api.submission import bodies
from service.store import studies as store
from service.store.tables import Study as StudyRow

router = APIRouter(tags=["studies"])


@router.post(
    "/studies/{study_id}/extend",
    status_code=201,
    response_model=Study,
    responses=answers_of_queueing(ExtensionPlan, 404, 409, 415),
    openapi_extra={"requestBody": EXTENSION_BODY},
)
async def extend(
    study_id: StudyId,
    request: Request,
    response: Response,
    runtime: At,
    caller: Writer,
    idempotency_key: IdempotencyKey = None,
    dry_run: Annotated[bool, Query(description="Answer with what differs and what it costs; queue nothing.")] = False,
    priority: Priority = 0,
) -> Any:
    """Queue an extension of a finished study, or plan it; that study and its result stay as they are."""
    bodies.check_coding(request.headers.get("content-encoding", ""))
    content, kind = await request.body(), request.headers.get("content-type", "")
    changes = await runtime.judge(lambda: bodies.read_changes(content, kind), large=len(content) > QUICK_BYTES)
    asked = asked_with({"extends": study_id, "set": plain(changes)}, priority)

    def read(connection: Connection) -> tuple[StudyRow | None, StudyRow]:
        key = None if dry_run else idempotency_key
        if (made := store.study_of_key(connection, caller.user, key, asked)) is not None:
            return made, store.with_spec(connection, made)  # its parent may have been deleted since
        return None, store.with_spec(connection, _finished(store.load_study(connection, study_id)))

    made, parent = await runtime.read(read)
    if made is not None:
        return queued(parent, response, runtime, created=False)
    wanted = await runtime.judge(lambda: bodies.judge_extension(parent.spec, changes, runtime.settings), large=True)
    if dry_run:
        plan = await runtime.planner.plan_extension(wanted, study_id, changes, user=caller.user)
        return Response(plan.model_dump_json(), media_type="application/json")
    document = await runtime.planner.extended(wanted, study_id, changes, user=caller.user)
    new = new_study(wanted, document, caller.user, priority, key=idempotency_key, asked=asked)

    def write(connection: Connection) -> tuple[StudyRow, bool]:
        _finished(store.load_study(connection, study_id, to_change=True))  # and not deleted meanwhile
        study, created = store.create_study(connection, new)
        return store.with_spec(connection, study), created

    study, created = await runtime.write(write)
    return queued(study, response, runtime, created=created)


def _finished(parent: StudyRow) -> StudyRow:
    """Return a study that can be extended; StudyError for another."""
    if parent.state is State.SUCCEEDED:
        return parent
    remedy = {
        State.SPENT: "raise its budget first",
        State.PAUSED: "resume it first",
        State.FAILED: "submit its spec as a new study, which uses its finished stages again",
        State.CANCELLED: "submit its spec as a new study, which uses its finished stages again",
    }.get(parent.state, "wait until it has succeeded")
    raise StudyError(f"study {parent.id} is {parent.state}, and only a study that succeeded is extended; {remedy}")
