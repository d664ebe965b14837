"""The folder of a study, `runs/<study id>`: begun, found again, tidied."""

import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

from lncis import documents
from lncis.errors import ConfigError
from lncis.studies import journal
from lncis.studies.journal import End
from lncis.studies.result import StudyResult, from_journal
from lncis.studies.search import Observation
from lncis.studies.spec import StudySpec, load
from lncis.studies.stages import STAGES

SPEC = "spec.yaml"


def new_study_id(spec: StudySpec) -> str:
    """Return an id that no other study has; to be read by people, parsed by no one."""
    return f"{spec.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def claim(runs: Path, study_id: str, spec: StudySpec) -> Path:
    """Return the folder of a study, begun now or earlier, as an absolute path.

    Raises ConfigError where it holds another study, naming the fields that differ, or cannot be written.
    """
    folder = (runs / study_id).absolute()
    try:
        if not (folder / SPEC).exists():
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{SPEC}.{os.getpid()}"
            partial.write_text(documents.to_yaml(spec))
            partial.replace(folder / SPEC)
    except OSError as error:
        raise ConfigError(str(runs), [f"cannot hold the study's folder: {error.strerror}; name another one"]) from error
    kept = load(folder / SPEC)
    differing = _differences(_what_decides(kept), _what_decides(spec))
    if differing:
        raise ConfigError(study_id, [*differing, "it was begun with another spec; give the study another id"])
    return folder


def read_spec(runs: Path, study_id: str) -> StudySpec:
    """Return the spec of a study that was begun; ConfigError if there is none of that id."""
    if not (runs / study_id / SPEC).exists():
        there = ", ".join(sorted(path.parent.name for path in runs.glob(f"*/{SPEC}"))[-5:])
        raise ConfigError(str(runs), [f"has no study {study_id!r}; the latest are {there or 'none'}"])
    return load(runs / study_id / SPEC)


def read_result(runs: Path, study_id: str) -> StudyResult:
    """Return what a study has found so far; it may be running."""
    spec, folder = read_spec(runs, study_id), (runs / study_id).absolute()
    return from_journal(study_id, spec, folder, journal.read(folder))


def observations(runs: Path, spec: StudySpec) -> list[Observation]:
    """Return what the sampler begins with: the results of the study that `sampler.warm_start` names.

    Raises ConfigError where that study is not there, or searched another space or pursued other goals.
    """
    study_id = getattr(spec.sampler, "warm_start", None)
    if study_id is None:
        return []
    earlier = read_result(runs, study_id)
    mine, theirs = (
        {"search": documents.dump(s)["search"], "goals": [f"{goal.mode} {goal.metric}" for goal in s.goals]}
        for s in (spec, earlier.spec)
    )
    differing = list(_differences(theirs, mine))
    if differing:
        raise ConfigError(f"sampler.warm_start: {study_id}", [f"is of another space: {line}" for line in differing])
    return [
        Observation(
            overrides=configuration.trial.overrides,
            values=[configuration.over_seeds(goal.metric).mean for goal in spec.goals],
        )
        for configuration in earlier.searched
    ]


def drop_losers(result: StudyResult) -> None:
    """Drop the checkpoints of configurations that finished and are not the best so far."""
    if not result.searched:
        return
    beaten = {
        t.directory
        for c in result.configurations
        if c.trial.configuration != result.best.trial.configuration and len(c.trials) == len(result.spec.replicates)
        for t in c.trials
        if all(other.end in (End.FINISHED, End.PRUNED) for other in c.trials)
    }
    needed = {t.directory for t in result.trials if not t.end} | {t.directory for t in result.best.trials}
    for directory in beaten - needed:
        shutil.rmtree(directory, ignore_errors=True)


def tidy(result: StudyResult) -> None:
    """Drop the stages that a finished study no longer needs: the store has its links to them."""
    if result.spec.keep_checkpoints == "best":
        drop_losers(result)
    if any(t.end is End.FAILED for t in result.trials):
        return  # they may be run again, from their last checkpoints
    kept = {t.directory for t in result.trials if t.end is End.FINISHED}
    for stage in (result.directory / STAGES).glob("*"):
        if stage not in kept:
            shutil.rmtree(stage, ignore_errors=True)


def _what_decides(spec: StudySpec) -> dict[str, Any]:
    """Return what a study's results depend on; the rest may change when it is resumed."""
    document = documents.dump(spec)
    del document["check_knobs"], document["keep_checkpoints"], document["resources"]["max_concurrent_trials"]
    return document


def _differences(kept: Any, given: Any, path: str = "") -> list[str]:
    if isinstance(kept, dict) and isinstance(given, dict):
        keys = [*kept, *(key for key in given if key not in kept)]
        return [line for key in keys for line in _differences(kept.get(key), given.get(key), f"{path}{key}.")]
    return [] if kept == given else [f"{path.removesuffix('.')}: was {kept!r}, now {given!r}"]
