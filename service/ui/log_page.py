"""/ui/studies/{id}/log: the log of a driver or of a trial, which a page shows from its end."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from sqlalchemy.engine import Connection

from lncis.studies.record import logs
from service.api.endpoints.logs import log_folder, log_names
from service.api.endpoints.studies import StudyId
from service.api.runtime import At
from service.store import studies as store
from service.ui.rendering import render_page

router = APIRouter(include_in_schema=False)

SHOWN_BYTES = 64 * 1024


@router.get("/ui/studies/{study_id}/log")
async def log(
    study_id: StudyId,
    request: Request,
    runtime: At,
    trial: Annotated[str | None, Query(max_length=64)] = None,
    offset: Annotated[int | None, Query(ge=0, le=2**53)] = None,
) -> Response:
    """Return the page of a log: its end, which grows, or a part from `offset` on."""

    def look(connection: Connection) -> dict[str, Any]:
        study = store.load_study(connection, study_id)
        names = log_names(connection, study, trial)
        part = logs.read(log_folder(runtime.settings.runs, study_id), names, offset=offset, limit=SHOWN_BYTES)
        return {
            "study": study,
            "trial": trial,
            "part": part,
            "at_end": offset is None,
            "before": max(part.first, part.offset - SHOWN_BYTES) if part.offset > part.first else None,
            "after": part.next if part.next < part.end and offset is not None else None,
        }

    return await render_page(request, runtime, "log.html.j2", look)
