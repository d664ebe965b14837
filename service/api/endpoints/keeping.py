"""/studies/{id}: archive it, label it, delete it."""

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy.engine import Connection

from lncis.api import Labels, Removed, Study, Trial
from lncis.execution.objects import shown
from lncis.studies import folders
from lncis.studies.stages.store import url_of_stages
from service.api.endpoints.logs import TrialName
from service.api.endpoints.studies import ETAG, StudyId, small_body, tagged
from service.api.openapi import LABELS_BODY
from service.api.problems import documented
from service.api.runtime import At, Runtime, Writer
from service.store import findings, removal
from service.store import studies as store
from service.store.removal import Stages
from service.store.tables import Study as StudyRow

log = logging.getLogger("lncis.service")
router = APIRouter(prefix="/studies/{study_id}", tags=["studies"])


@router.post("/archive", response_model=Study, responses={200: ETAG, **documented(404, 409)})
async def archive(study_id: StudyId, response: Response, runtime: At, caller: Writer) -> Any:
    """Leave a study that is over out of lists; nothing of it is deleted."""
    return tagged(await archived_study(runtime, study_id, archived=True), response, runtime)


@router.post("/unarchive", response_model=Study, responses={200: ETAG, **documented(404)})
async def unarchive(study_id: StudyId, response: Response, runtime: At, caller: Writer) -> Any:
    """Show a study in lists again."""
    return tagged(await archived_study(runtime, study_id, archived=False), response, runtime)


async def archived_study(runtime: Runtime, study_id: str, *, archived: bool) -> StudyRow:
    """Return a study that lists leave out, or show again."""

    def write(connection: Connection) -> StudyRow:
        return store.with_spec(connection, store.archive_study(connection, study_id, archived=archived))

    return await runtime.write(write)


@router.post("/trials/{trial}/stop", status_code=202, response_model=Trial, responses=documented(404, 409))
async def stop_trial(study_id: StudyId, trial: TrialName, runtime: At, caller: Writer) -> Trial:
    """End one trial of a running study, after its epoch; it counts as failed, with the user's name as the reason."""
    return await stopped_trial(runtime, study_id, trial, caller.user)


async def stopped_trial(runtime: Runtime, study_id: str, trial: str, user: str) -> Trial:
    """Return a trial that was asked to end."""

    def write(connection: Connection) -> Trial:
        study = store.load_study(connection, study_id, to_change=True)
        findings.stop_trial(connection, study, trial, user)
        return findings.load_trial(connection, study, trial)

    found = await runtime.write(write)
    runtime.wake()
    return found


async def _labels(request: Request) -> Labels:
    return await small_body(request, Labels)


@router.put(
    "/labels",
    response_model=Study,
    responses={200: ETAG, **documented(404, 415)},
    openapi_extra={"requestBody": LABELS_BODY},
)
async def label(
    study_id: StudyId,
    response: Response,
    runtime: At,
    caller: Writer,  # before the body is read
    labels: Annotated[Labels, Depends(_labels)],
) -> Any:
    """Give a study these labels in place of those that it has."""
    return tagged(await labelled_study(runtime, study_id, labels), response, runtime)


async def labelled_study(runtime: Runtime, study_id: str, labels: Labels) -> StudyRow:
    """Return a study with these labels."""

    def write(connection: Connection) -> StudyRow:
        return store.with_spec(connection, store.label_study(connection, study_id, labels.labels))

    return await runtime.write(write)


@router.delete("", response_model=Removed, responses=documented(404, 409))
async def remove(study_id: StudyId, runtime: At, caller: Writer) -> Removed:
    """Delete a study that is over: its rows, its Idempotency-Key, and its folder with results, logs and checkpoints.

    Stages stay where others can find them, as the answer says.
    """
    return await removed_study(runtime, study_id, caller.user)


async def removed_study(runtime: Runtime, study_id: str, user: str) -> Removed:
    """Delete a study. A service that is killed meanwhile leaves it whole, or a hidden folder that the next one deletes.

    The folder is hidden first: were the rows deleted first, a folder would be left that nobody knows.
    """
    runs = runtime.settings.runs

    def read(connection: Connection) -> tuple[StudyRow, Stages, bool]:
        study, stages = removal.check_removable(connection, study_id)
        return study, stages, bool(store.load_spec(connection, study).get("sharing", True))

    study, stages, sharing = await runtime.read(read)
    await runtime.look(lambda: folders.hide_study(runs, study_id))
    await runtime.write(lambda connection: removal.remove_study(connection, study_id))
    freed = await runtime.look(lambda: folders.delete_hidden(runs))
    log.info("study %s: deleted by %s", study_id, user)
    return Removed(
        id=study_id,
        bytes_freed=freed,
        stages=stages.total,
        stages_of_others=stages.shared,
        left=_left(runtime, study, sharing=sharing),
    )


def _left(runtime: Runtime, study: StudyRow, *, sharing: bool) -> list[str]:
    """Return what of a deleted study is still there."""
    settings, left = runtime.settings, list[str]()
    if settings.storage:
        url = shown(url_of_stages(settings.storage, study.id, sharing=sharing))
        whose = "those of all studies" if sharing else "its own alone: delete them there"
        left.append(f"what it published at {url}, {whose}; lncis deletes nothing there")
    elif sharing:
        left.append(
            "its finished stages in the store of all studies: later studies may use them, and the least recently used "
            f"are deleted when the store has more than {settings.store_gb:g} GB (LNCIS_STORE_GB)"
        )
    if study.mlflow_run is not None:
        left.append("its runs in MLflow")
    return left
