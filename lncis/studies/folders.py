"""The folder of a study, `runs/<study id>`: claimed, read, and cleared of what is not needed any more."""

import secrets
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lncis import documents, files
from lncis.errors import ConfigError
from lncis.execution.tasks import Task
from lncis.metrics import Record
from lncis.studies.record import journal
from lncis.studies.record.journal import End, Observation, WarmStarted
from lncis.studies.report.result import ConfigurationResult, StudyResult, TrialResult, from_journal
from lncis.studies.spec import StudySpec, Trial
from lncis.studies.spec.files import load_stored_spec
from lncis.studies.stages.tree import STAGES
from lncis.studies.study_run import Observer

SPEC = "spec.yaml"
MLFLOW_RUN = "mlflow.json"
"""Ids of the study's run in MLflow, once there is one."""


def new_study_id(spec: StudySpec) -> str:
    """Return an id that no other study has; it is opaque, though it begins with the study's name."""
    return f"{spec.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def claim_folder(runs: Path, study_id: str, spec: StudySpec, *, update: bool = False) -> Path:
    """Return the folder of a study as an absolute path; a new one holds the spec.

    With `update` the spec also replaces an earlier one, from which it may differ in what results do not depend on.
    Raises ConfigError where the folder holds another study, naming the fields that differ, or cannot be written.
    """
    folder = (runs / study_id).absolute()
    try:
        if not (folder / SPEC).exists():
            files.replace(folder / SPEC, documents.to_yaml(spec))
        kept = load_stored_spec(folder / SPEC)
        if differing := _differing(_what_decides(kept), _what_decides(spec)):
            raise ConfigError(study_id, [*differing, "it was begun with another spec; give the study another id"])
        if update and kept != spec:
            files.replace(folder / SPEC, documents.to_yaml(spec))
    except OSError as error:
        raise ConfigError(str(runs), [f"cannot hold the study's folder: {error.strerror}; name another one"]) from error
    return folder


def read_spec(runs: Path, study_id: str) -> StudySpec:
    """Return the spec of a study that has a folder; ConfigError if there is none of that id."""
    if Path(study_id).name != study_id or not (runs / study_id / SPEC).exists():
        there = ", ".join(sorted(path.parent.name for path in runs.glob(f"*/{SPEC}"))[-5:])
        raise ConfigError(str(runs), [f"has no study {study_id!r}; the latest are {there or 'none'}"])
    return load_stored_spec(runs / study_id / SPEC)


REMOVED = ".removed-"
"""Begins the name of a study's folder that is being deleted."""


def hide_study(runs: Path, study_id: str) -> Path | None:
    """Give the folder of a study a hidden name, to be deleted, and return it; None where there is no folder.

    Raises StudyError where a process drives the study, OSError.
    """
    folder = runs / study_id
    if not folder.exists():
        return None
    with journal.sole_driver(folder):
        return folder.rename(runs / f"{REMOVED}{study_id}.{secrets.token_hex(4)}")


def delete_hidden(runs: Path) -> int:
    """Delete all folders with a hidden name, those that a killed process left too; return the bytes that this frees.

    Files that other studies or the store of stages have links to are theirs still, and free nothing.
    """
    freed = 0
    for folder in runs.glob(f"{REMOVED}*"):
        statuses = (path.lstat() for path in folder.rglob("*") if not path.is_dir())
        freed += sum(status.st_size for status in statuses if status.st_nlink == 1)
        shutil.rmtree(folder, ignore_errors=True)
    return freed


def read_result(runs: Path, study_id: str) -> StudyResult:
    """Return what a study has found so far; it may be running."""
    spec, folder = read_spec(runs, study_id), (runs / study_id).absolute()
    return from_journal(study_id, spec, folder, journal.read(folder))


def observations(runs: Path, spec: StudySpec, study_id: str) -> list[Observation]:
    """Return what the sampler of a study begins with: the results of the study that `sampler.warm_start` names.

    A resumed study gets those that stand in its journal. Raises ConfigError where the earlier study is missing,
    searched another space or pursued other objectives.
    """
    named = getattr(spec.sampler, "warm_start", None)
    if named is None:
        return []
    for event in journal.read(runs / study_id):
        if isinstance(event, WarmStarted):
            return event.observations
    earlier = read_result(runs, named)
    mine, theirs = (
        {
            "search": documents.dump(s)["search"],
            "objectives": [f"{objective.mode} {objective.metric}" for objective in s.objectives],
        }
        for s in (spec, earlier.spec)
    )
    differing = _differing(theirs, mine)
    if differing:
        raise ConfigError(f"sampler.warm_start: {named}", [f"is of another space: {line}" for line in differing])
    return [
        Observation(
            overrides=configuration.trial.overrides,
            values=[configuration.over_seeds(objective.metric).mean for objective in spec.objectives],
        )
        for configuration in earlier.searched
    ]


class DropBeatenCheckpoints(Observer):
    """With `keep_checkpoints: best`, deletes a configuration's checkpoints as soon as another one is better."""

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec
        self._last: dict[str, Record] = {}  # of the trials whose configurations have not ended
        self._running: dict[str, Path] = {}  # where they train
        self._ends: dict[int, dict[str, TrialResult]] = {}  # by configuration, until it is beaten
        self._live = False

    def on_session_start(self) -> None:
        """Delete what an earlier session should have deleted, and from now on as trials end."""
        self._live = True
        self._drop_beaten()

    def on_trial_start(self, trial: Trial, tasks: Sequence[Task]) -> None:
        """Keep the stage that the trial works on."""
        self._running[trial.name] = tasks[-1].directory

    def on_epoch(self, trial: Trial, record: Record) -> None:
        """Remember the latest figures of the trial."""
        self._last[trial.name] = record

    def on_trial_end(self, trial: Trial, end: End, reason: str) -> None:
        """Delete what is beaten, if this was the last trial of its configuration.

        Baselines keep their checkpoints to the end of the study: a later configuration may be the same training.
        """
        ended = TrialResult(
            trial=trial,
            records=[self._last.pop(trial.name)] if trial.name in self._last else [],
            directory=self._running.pop(trial.name),
            end=end,
        )
        if trial.baseline is not None:
            return
        self._ends.setdefault(trial.configuration, {})[trial.name] = ended
        if self._live and len(self._ends[trial.configuration]) == len(self._spec.replicates):
            self._drop_beaten()

    def _drop_beaten(self) -> None:
        if self._spec.keep_checkpoints == "all":
            return
        ended = [
            ConfigurationResult(trials=list(trials.values()))
            for trials in self._ends.values()
            if len(trials) == len(self._spec.replicates)
        ]
        candidates = [c for c in ended if all(t.end is End.FINISHED for t in c.trials)]
        if candidates:
            best = max(candidates, key=lambda c: c.score(self._spec.objective))
            for beaten in _drop_beaten(ended, best, running=self._running.values()):
                del self._ends[beaten.trial.configuration]


def _drop_beaten(
    configurations: Iterable[ConfigurationResult], best: ConfigurationResult, running: Iterable[Path]
) -> list[ConfigurationResult]:
    """Delete the checkpoints of those that ended and are not the best, except shared ones; return the beaten."""
    beaten = [
        c
        for c in configurations
        if c.trial.configuration != best.trial.configuration
        and all(t.end in (End.FINISHED, End.PRUNED) for t in c.trials)
    ]
    needed = {*running, *(t.directory for t in best.trials)}
    for directory in {t.directory for c in beaten for t in c.trials} - needed:
        shutil.rmtree(directory, ignore_errors=True)
    return beaten


def drop_unneeded_stages(result: StudyResult) -> None:
    """Delete the stages that a finished study does not need any more; the stage store has links of its own."""
    if result.spec.keep_checkpoints == "best" and result.searched:
        complete = [c for c in result.configurations if len(c.trials) == len(result.spec.replicates)]
        _drop_beaten(complete, result.best, running=(t.directory for t in result.trials if not t.end))
    if any(t.end is End.FAILED for t in result.trials):
        return  # they may be run again, from their last checkpoints
    kept = {t.directory for t in result.trials if t.end is End.FINISHED}
    for stage in (result.directory / STAGES).glob("*"):
        if stage not in kept:
            shutil.rmtree(stage, ignore_errors=True)


def _what_decides(spec: StudySpec) -> dict[str, Any]:
    """Return what a study's results depend on; the rest may change when it is resumed."""
    document = documents.dump(spec)
    del document["sensitivity_check"], document["keep_checkpoints"], document["resources"]["max_concurrent_trials"]
    del document["budget"], document["resources"]["price_per_worker_hour"]
    return document


def _differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return a line for each field in which two documents differ."""
    return [f"{d['path']}: was {d['earlier']!r}, now {d['now']!r}" for d in documents.differences(before, after)]
