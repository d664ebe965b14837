"""/studies/{id}/checkpoint and /studies/{id}/trials/{name}/checkpoint: trained models as files to download.

A checkpoint lies with its stage: in the study's folder, in the store of all studies, or at LNCIS_STORAGE.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response, StreamingResponse
from sqlalchemy.engine import Connection

from lncis import documents, files
from lncis.api import Trial
from lncis.execution import objects, storage
from lncis.studies.spec import StudySpec
from lncis.studies.stages.store import url_of_stages
from lncis.studies.stages.tree import STAGES
from service.api import downloads
from service.api.downloads import FILE_RESPONSES, Download
from service.api.endpoints.logs import TrialName
from service.api.endpoints.studies import StudyId
from service.api.problems import Problem, documented
from service.api.runtime import At, Reader, Runtime
from service.settings import Settings
from service.store import findings
from service.store import studies as store
from service.store.best import configuration_of_rank
from service.store.tables import Study

router = APIRouter(prefix="/studies/{study_id}", tags=["checkpoints"])

CHECKPOINT = "checkpoint.pt"  # lncis.detection.engine, which loads torch

RangeHeader = Annotated[
    str | None, Header(alias="Range", description="`bytes=FIRST-`: go on with a download that broke off.")
]
IfRange = Annotated[
    str | None, Header(description="The ETag of what was received so far: Range counts only for that file.")
]


@router.get("/checkpoint", response_class=StreamingResponse, responses={**FILE_RESPONSES, **documented(404, 409, 416)})
async def get_best_checkpoint(
    request: Request,
    study_id: StudyId,
    runtime: At,
    caller: Reader,
    rank: Annotated[
        int, Query(ge=1, le=2**31 - 1, description="Rank of the configuration, as GET .../best has it.")
    ] = 1,
    range_: RangeHeader = None,
    if_range: IfRange = None,
) -> Response:
    """Download the checkpoint of the best configuration so far: that of its first seed."""

    def read(connection: Connection) -> _Place:
        study = store.load_study(connection, study_id)
        spec = documents.parse(StudySpec, store.load_spec(connection, study), source=study_id)
        one = configuration_of_rank(connection, study, spec, rank)
        if one is None:
            there = f"has no configuration of rank {rank}" if rank > 1 else "has evaluated no configuration yet"
            raise Problem(409, f"study {study.id} is {study.state} and {there}")
        return _found(connection, study, one.trials[0], sharing=spec.sharing)

    return await _send(request, runtime, await runtime.read(read))


@router.get(
    "/trials/{trial}/checkpoint", response_class=StreamingResponse, responses={**FILE_RESPONSES, **documented(404, 416)}
)
async def get_checkpoint(
    request: Request,
    study_id: StudyId,
    trial: TrialName,
    runtime: At,
    caller: Reader,
    range_: RangeHeader = None,
    if_range: IfRange = None,
) -> Response:
    """Download the checkpoint of a trial after its last finished epoch."""

    def read(connection: Connection) -> _Place:
        study = store.load_study(connection, study_id)
        spec = store.load_spec(connection, study)
        return _found(connection, study, trial, sharing=bool(spec.get("sharing", True)))

    return await _send(request, runtime, await runtime.read(read))


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where to look for the checkpoint of a trial."""

    study_id: str
    sharing: bool
    """Whether its study shares stages with others."""
    trial: Trial
    stages: list[str]
    """The key of the stage of its last epoch; none before the first one."""


def _found(connection: Connection, study: Study, name: str, *, sharing: bool) -> _Place:
    """Return where the checkpoint of a trial lies; UnknownTrial."""
    trial = findings.load_trial(connection, study, name)
    stages = findings.stage_of_epoch(connection, study, trial.stages, trial.epoch)
    return _Place(study_id=study.id, sharing=sharing, trial=trial, stages=stages)


async def _send(request: Request, runtime: Runtime, place: _Place) -> Response:
    def open_it() -> Download | None:
        return next(filter(None, (_opened(runtime.settings, place, key) for key in place.stages)), None)

    download = await runtime.look(open_it)
    if download is None:
        gone = "was deleted, as those of pruned trials and of what `keep_checkpoints: best` does not keep"
        why = gone if place.trial.epoch else "is not there yet: it has finished no epoch"
        raise Problem(404, f"the checkpoint of trial {place.trial.name} of study {place.study_id} {why}")
    return downloads.answer(request, runtime, download)


def _opened(settings: Settings, place: _Place, key: str) -> Download | None:
    """Return a stage's checkpoint, wherever it lies; None where it does not exist."""
    name = f"{place.study_id}-{place.trial.name}.pt"
    for folder in _folders(settings, place.study_id, key):
        if found := _opened_file(folder / CHECKPOINT, name):
            return found
    if not settings.storage:
        return None
    url = objects.below(url_of_stages(settings.storage, place.study_id, sharing=place.sharing), key)
    published = storage.open_published(url, CHECKPOINT)
    if published is None:
        return None
    return Download(name=name, size=published.bytes, sha256=published.sha256, content=published.content)


def _folders(settings: Settings, study_id: str, key: str) -> Iterator[Path]:
    """Yield where a stage may lie: in the study's own folder, and in the store of all studies."""
    if Path(key).name == key:  # it comes from a journal
        yield settings.runs / study_id / STAGES / key
        yield settings.runs / STAGES / key


def _opened_file(path: Path, name: str) -> Download | None:
    """Return an open file with its digest; a training may put another one in its place at any time."""
    while True:
        try:
            before, digest = files.stamp(path), files.digest_once(path)
            content = path.open("rb", buffering=0)
        except FileNotFoundError:
            return None
        status = os.fstat(content.fileno())
        if before[:2] == (status.st_size, status.st_mtime_ns):
            return Download(name=name, size=status.st_size, sha256=digest, content=content)
        content.close()
