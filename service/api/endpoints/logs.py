"""/studies/{id}/log and /studies/{id}/trials/{name}/log: what a driver and its workers wrote, also while they run.

The files lie in the study's folder (lncis.studies.record.logs), so they are there when the cluster is gone.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi import Path as InPath
from fastapi.responses import PlainTextResponse, Response
from fastapi.sse import format_sse_event
from sqlalchemy.engine import Connection

from lncis.api import ENDED, State
from lncis.studies.record import logs
from lncis.studies.record.logs import DRIVER, LOGS, Part
from service.api.endpoints.studies import StudyId
from service.api.problems import documented
from service.api.runtime import At, Reader, Runtime
from service.api.streams import EVENT_CONTENT, Pace, compact, end_of_stream, streamed
from service.store import findings
from service.store import studies as store
from service.store.tables import Study

router = APIRouter(prefix="/studies/{study_id}", tags=["logs"])

TrialName = Annotated[
    str, InPath(description="The `name` that GET /studies/{id}/trials shows.", pattern=r"^[A-Za-z0-9._-]{1,64}$")
]
MAX_BYTES = 1024 * 1024
DEFAULT_BYTES = 64 * 1024
FOLLOW_BYTES = 64 * 1024
"""Of one event of a stream."""

Offset = Annotated[
    int | None,
    Query(ge=0, le=2**53, description="First byte: `Log-Next` of the part before; else the last `limit` bytes"),
]
Limit = Annotated[int, Query(ge=1024, le=MAX_BYTES, description="Bytes, at most; it ends with a whole line")]
After = Annotated[
    str | None,
    Header(pattern=r"^[0-9]{1,15}$", description="`id` of the last event: go on after it; else from the beginning"),
]

OFFSET, NEXT, FIRST, END = "Log-Offset", "Log-Next", "Log-First", "Log-End"
_INTEGER = {"schema": {"type": "integer"}}
_PART = {
    "description": "A part of the log as UTF-8 text, without escape sequences and other control characters",
    "content": {"text/plain": {"schema": {"type": "string"}}},
    "headers": {
        OFFSET: {"description": "Where this part begins, in bytes", **_INTEGER},
        NEXT: {"description": "Where the next part begins: ?offset= of the next request", **_INTEGER},
        FIRST: {"description": "Where the log begins now: as it is bounded, what was before is gone", **_INTEGER},
        END: {"description": "Where the log ends now", **_INTEGER},
    },
}
_FOLLOWED = {
    "description": 'Events `lines`, each with `{"text": ..., "offset": ...}`; at last `end`, once the study is over',
    "content": EVENT_CONTENT,
}


@router.get("/log", response_class=PlainTextResponse, responses={200: _PART, **documented(404)})
async def get_log(
    study_id: StudyId, runtime: At, caller: Reader, offset: Offset = None, limit: Limit = DEFAULT_BYTES
) -> Response:
    """Return a part of the log of a study's driver."""
    return _answer(await _part(runtime, study_id, None, offset, limit))


@router.get("/log/follow", response_class=Response, responses={200: _FOLLOWED, **documented(404, 429)})
async def follow_log(
    request: Request, study_id: StudyId, runtime: At, caller: Reader, last_event_id: After = None
) -> Response:
    """Follow the log of a study's driver as it grows."""
    await _look(runtime, study_id, None)
    return streamed(request, runtime, lambda: _lines(runtime, study_id, None, int(last_event_id or 0)))


@router.get("/trials/{trial}/log", response_class=PlainTextResponse, responses={200: _PART, **documented(404)})
async def get_trial_log(
    study_id: StudyId,
    trial: TrialName,
    runtime: At,
    caller: Reader,
    offset: Offset = None,
    limit: Limit = DEFAULT_BYTES,
) -> Response:
    """Return a part of the log of a trial: what its workers logged, stage by stage; other trials may share a stage."""
    return _answer(await _part(runtime, study_id, trial, offset, limit))


@router.get("/trials/{trial}/log/follow", response_class=Response, responses={200: _FOLLOWED, **documented(404, 429)})
async def follow_trial_log(
    request: Request, study_id: StudyId, trial: TrialName, runtime: At, caller: Reader, last_event_id: After = None
) -> Response:
    """Follow the log of a trial as it grows."""
    await _look(runtime, study_id, trial)
    return streamed(request, runtime, lambda: _lines(runtime, study_id, trial, int(last_event_id or 0)))


async def _look(runtime: Runtime, study_id: str, trial: str | None) -> tuple[State, list[str]]:
    """Return the state of a study, and the names of the logs that were asked for: those of a trial's stages."""

    def read(connection: Connection) -> tuple[State, list[str]]:
        study = store.load_study(connection, study_id)
        return study.state, log_names(connection, study, trial)

    return await runtime.read(read)


def log_names(connection: Connection, study: Study, trial: str | None) -> list[str]:
    """Return the names of a trial's logs, or that of the driver; UnknownTrial."""
    if trial is None:
        return [DRIVER]
    keys = findings.load_trial(connection, study, trial).stages
    return [key for key in keys if Path(key).name == key]  # they come from a journal


async def _part(runtime: Runtime, study_id: str, trial: str | None, offset: int | None, limit: int) -> Part:
    _, names = await _look(runtime, study_id, trial)
    folder = log_folder(runtime.settings.runs, study_id)
    return await runtime.look(lambda: logs.read(folder, names, offset=offset, limit=limit))


def log_folder(runs: Path, study_id: str) -> Path:
    """Return where the logs of a study lie."""
    return runs / study_id / LOGS


def _answer(part: Part) -> Response:
    places = {OFFSET: part.offset, NEXT: part.next, FIRST: part.first, END: part.end}
    return PlainTextResponse(part.text, headers={name: str(place) for name, place in places.items()})


async def _lines(runtime: Runtime, study_id: str, trial: str | None, after: int) -> AsyncIterator[bytes]:
    pace = Pace(runtime)
    while pace.goes_on:
        state, _ = await _look(runtime, study_id, trial)  # before the log: what is written later is seen next time
        part = await _part(runtime, study_id, trial, after, FOLLOW_BYTES)
        if part.content:
            data = compact({"offset": part.offset, "text": part.text})
            yield format_sse_event(data_str=data, event="lines", id=str(part.next))
            after = part.next
            pace.sent()
        elif state in ENDED:
            yield end_of_stream(state)
            return
        else:
            async for comment in pace.wait():
                yield comment
