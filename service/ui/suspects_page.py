"""/ui/studies/{id}/suspects: the gallery of wrong labels in a study's folder, to look at."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse

from lncis.errors import DataError
from lncis.suspects.review.read_only import read_only_parts, script_digest
from service.api.endpoints.studies import StudyId
from service.api.problems import Problem
from service.api.runtime import At, Reader
from service.store import studies as store

router = APIRouter(include_in_schema=False)

GALLERY = Path("suspects") / "gallery.html"
"""In a study's folder, where `lncis suspects` and `lncis suspects gallery` are asked to write it."""


@router.get("/ui/studies/{study_id}/suspects")
async def suspects(study_id: StudyId, runtime: At, caller: Reader) -> Response:
    """Return the gallery of a study, without the means to decide; it is streamed, as one of 5,000 has 28 MB."""
    found = await runtime.read(lambda connection: store.load_study(connection, study_id))
    path = gallery_of(runtime.settings.runs, found.id)
    if path is None:
        raise Problem(
            404,
            f"study {study_id} has no gallery of suspects: `lncis suspects` and `lncis suspects gallery` write it, to "
            f"{GALLERY} in the study's folder",
        )
    try:
        parts = read_only_parts(path)
    except (DataError, OSError) as error:
        raise Problem(404, f"study {study_id}: {error}") from error
    return StreamingResponse(parts, media_type="text/html; charset=utf-8", headers=headers())


def headers() -> dict[str, str]:
    """Return the headers of a gallery: its own script alone may run, and reach nobody."""
    return {
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{script_digest()}'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    }


def gallery_of(runs: Path, study_id: str) -> Path | None:
    """Return the gallery in a study's folder; None if it does not exist or leads out of the folder."""
    folder = (runs / study_id).resolve()
    path = (folder / GALLERY).resolve()
    return path if path == folder / GALLERY and path.is_file() else None
