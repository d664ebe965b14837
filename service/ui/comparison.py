"""/ui/compare: two studies side by side: in what they differ, what each found, and their curves on common axes."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from sqlalchemy.engine import Connection

from lncis import documents
from lncis.studies.spec import StudySpec
from service.api.runtime import At
from service.store import studies as store
from service.store.best import best_configurations
from service.ui import curves, views
from service.ui.rendering import render_page

router = APIRouter(include_in_schema=False)

BEST_SHOWN, CURVES_EACH, DIFFERENCES_SHOWN = 5, 3, 100

Id = Annotated[str, Query(pattern=r"^[A-Za-z0-9._-]{1,128}$")]


@router.get("/ui/compare")
async def compare(request: Request, runtime: At, a: Id, b: Id) -> Response:
    """Return the page of two studies."""

    def look(connection: Connection) -> dict[str, Any]:
        return _both(connection, a, b)

    return await render_page(request, runtime, "compare.html.j2", look)


def _both(connection: Connection, a: str, b: str) -> dict[str, Any]:
    """Return what the page shows; UnknownStudy."""
    sides, drawn = list[dict[str, Any]](), list[tuple[str, list[curves.Point]]]()
    specs = list[dict[str, Any]]()
    for mark, study_id in (("A", a), ("B", b)):
        study = store.load_study(connection, study_id)
        document = store.load_spec(connection, study)
        spec = documents.parse(StudySpec, document, source=study_id)
        best = best_configurations(connection, study, spec, BEST_SHOWN)
        picked = views.usual_curves(connection, study, best)[:CURVES_EACH] if best else []
        metric = specs[0]["objective"]["metric"] if specs else spec.objective.metric
        lines = views.learning_curves(connection, study, picked, metric)
        drawn += [(f"{mark}: {label}", points) for label, points in lines]
        specs.append(documents.dump(spec))
        sides.append({"mark": mark, "study": study, "spec": spec, "best": best})
    differences = documents.differences(specs[0], specs[1])
    return {
        "sides": sides,
        "differences": differences[:DIFFERENCES_SHOWN],
        "more": max(0, len(differences) - DIFFERENCES_SHOWN),
        "metric": specs[0]["objective"]["metric"],
        "by_epoch": curves.by_epoch(drawn),
        "plotted": curves.plotted(drawn),
    }
