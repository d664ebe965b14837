"""run_study: from a spec to a result, on Ray Tune trials and Ray Train workers; a study that was killed goes on."""

import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from lncis import datasets, tracking
from lncis.data_identity import Identity, changed
from lncis.detection import histograms
from lncis.detection.engine import CHECKPOINT
from lncis.detection.mask_rcnn import weights
from lncis.errors import BudgetError, LncisError, StudyError
from lncis.execution.objects import shown
from lncis.noise import NOISE_MANIFEST
from lncis.studies import extension, folders
from lncis.studies.driver.log import DriverLog
from lncis.studies.driver.loop import drive
from lncis.studies.driver.mirror import Mirror
from lncis.studies.driver.tuning import StudyQueue
from lncis.studies.folders import SPEC
from lncis.studies.record.history import History
from lncis.studies.record.journal import (
    JOURNAL,
    Journal,
    SessionEnded,
    SessionStarted,
    WarmStarted,
    sole_driver,
)
from lncis.studies.record.logs import Log
from lncis.studies.report import files as report
from lncis.studies.report.result import StudyResult, from_journal
from lncis.studies.report.statistics import importance
from lncis.studies.search import Suggester
from lncis.studies.spec import StudySpec, judge
from lncis.studies.stages.store import PublishedStages, StageStore, url_of_stages
from lncis.studies.stages.tree import STAGES, StageTree, code_digest
from lncis.studies.study_run import Observer, StudyRun
from lncis.studies.trials import TrialScheduler
from lncis.terminal import PROGRESS_DELAY_SECONDS, progress

STORE_BYTES = 20e9
"""How much of earlier studies' stages is kept beside those that are still in use."""


def run_study(
    spec: StudySpec,
    *,
    runs: Path = Path("runs"),
    study_id: str | None = None,
    observers: Sequence[Observer] = (),
    store_bytes: float = STORE_BYTES,
    storage: str | None = None,
    retry_failed: bool = False,
    verbose: bool = False,
) -> StudyResult:
    """Run a study to its end, or go on with it if `runs/<study_id>` holds it unfinished, and return what it found.

    Everything goes to `runs/<study_id>`: spec, journal, logs, stages with their checkpoints, results, table, plots,
    report and best configuration; the curves also to MLflow. Finished stages go to the store `runs/stages`, up to
    `store_bytes`; or, with `storage`, a URL, stages are published there, and what the study reads of them comes to its
    folder (lncis.execution.storage). A trial that fails does not end the study; `retry_failed` runs those of earlier
    sessions again.

    Raises StudyError where the study as a whole cannot go on; what it did is kept, and running it again goes on from
    there. Before Ray starts: DataError where its data are missing; ConfigError where the study cannot be run, where the
    weights it starts from are missing, where `runs` cannot be written or where the folder holds another study;
    StorageError where `storage` is of no use.
    """
    judge(spec)
    remarks = _check_inputs(spec)
    study_id = study_id or folders.new_study_id(spec)
    published = _published(spec, study_id, storage) if storage else None
    earlier = folders.observations(runs, spec, study_id)
    folder = folders.claim_folder(runs, study_id, spec)
    store = published or (StageStore(runs.absolute() / STAGES, store_bytes) if spec.sharing else None)
    with _a_full_disk_explained(study_id), sole_driver(folder):
        log = DriverLog(folder)
        run = StudyRun(
            spec=spec,
            folder=folder,
            tree=StageTree(spec, folder / STAGES, published.url if published else ""),
            journal=Journal(folder),
            observers=[*observers, folders.DropBeatenCheckpoints(spec), log],
            published=published,
        )
        if earlier and not run.journal.events:
            run.journal.append(WarmStarted(observations=earlier))
        before = _earlier_sessions(run)
        taken_over = ""
        if isinstance(store, StageStore) and not before.trials:
            taken_over = extension.offer_stages(spec, runs, store)
        if retry_failed or not before.complete:
            _check_code(before, study_id)
            _check_data(before, run.tree.data_of(spec.base.dataset), study_id)
        mirror = Mirror(spec, folder, run.journal.events, versions(), run.note, run.url)
        mirror.start()
        try:
            queue = StudyQueue()
            scheduler = TrialScheduler(run, Suggester(spec, earlier), queue, store)
            scheduler.resume(retry_failed=retry_failed)
            if scheduler.unfinished or not before.complete:
                for note in (*remarks, taken_over, _other_storage(before, run.url)):
                    if note:
                        run.note(note)
                begins = f"process {os.getpid()} on {socket.gethostname()} drives {scheduler.unfinished} trials"
                with log.session(begins), _session(run, queue, scheduler), _printed(log.text, verbose=verbose):
                    drive(run, scheduler, queue, log, verbose=verbose)
            result = from_journal(study_id, spec, folder, run.journal.events)
            if published and result.searched:
                _bring_best(result, published)
            files = report.write_report(result)
            folders.drop_unneeded_stages(result)
        except BaseException as error:
            with suppress(Exception):  # what failed before is what counts
                report.write_report(from_journal(study_id, spec, folder, run.journal.events))
            mirror.finish(status="KILLED", reason=_reason(error))
            raise
        finally:
            run.journal.close()
        mirror.finish(status="FINISHED", metrics=_figures(result), artifacts=[folder / SPEC, folder / JOURNAL, *files])
    return result


def _earlier_sessions(run: StudyRun) -> History:
    """Return what earlier sessions wrote; StudyError where that is no history, such as an epoch of no trial."""
    try:
        return History.of(run.spec, run.journal.events)
    except (LookupError, ValueError, StopIteration) as error:
        run.journal.close()
        raise StudyError(
            f"{run.folder / JOURNAL} does not fit together: {error!r}; run the study as a new one"
        ) from error


def _check_inputs(spec: StudySpec) -> list[str]:
    """Raise what is wrong with the data, the weights or MLflow's address, before Ray starts; return what is odd."""
    data = datasets.load(spec.base)
    if spec.folds:  # DataError where there are fewer images than folds
        datasets.load(spec.configure({}, *spec.replicates[0]))
    with progress(PROGRESS_DELAY_SECONDS) as shown:
        remarks = datasets.inspect(spec.base.dataset, data, shown)
    if spec.base.model.weights != "none":
        weights.find(spec.base.model.weights)
    tracking.check_uri()
    return remarks


def _published(spec: StudySpec, study_id: str, storage: str) -> PublishedStages:
    """Return where workers publish the stages: for all studies, or, where trials share nothing, for this one alone."""
    url = url_of_stages(storage, study_id, sharing=spec.sharing)
    return PublishedStages(url, read=(histograms.FILE, NOISE_MANIFEST), reused=spec.sharing)


def _other_storage(history: History, url: str) -> str:
    """Return what the user should know where a study goes on with another storage than it had; else empty."""
    now = shown(url) if url else ""
    last = history.sessions[-1].started.storage if history.sessions else now
    if last == now:
        return ""
    before, after = (f"at {place}" if place else "in its folder" for place in (last, now))
    return f"the study's stages were {before}, and are now {after}: what is not there is trained again"


def _bring_best(result: StudyResult, published: PublishedStages) -> None:
    """Have the best configuration's checkpoints in the study's folder; what lies there already stays."""
    for trial in result.best.trials:
        if not (trial.directory / CHECKPOINT).exists():
            published.fetch_stage(trial.directory)


@contextmanager
def _session(run: StudyRun, queue: StudyQueue, scheduler: TrialScheduler) -> Iterator[None]:
    """Write into the journal when this process begins to drive the study, and when and why it ceases to."""
    storage, worker_groups = shown(run.url) if run.url else "", run.spec.resources.at_a_time(scheduler.unfinished)
    data = dict(run.tree.data_of(run.spec.base.dataset))
    run.journal.append(
        SessionStarted(worker_groups=worker_groups, versions=versions(), code=code_digest(), storage=storage, data=data)
    )
    reason = spent = ""
    try:
        yield
    except BaseException as error:
        reason, spent = _reason(error), error.reached if isinstance(error, BudgetError) else ""
        raise
    finally:
        run.journal.append(SessionEnded(reason=reason, lost_seconds=queue.lost_seconds, spent=spent))


@contextmanager
def _a_full_disk_explained(study_id: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StudyError(f"study {study_id} stopped: {error}; mend the disk or the path, and resume it") from error


def _check_code(before: History, study_id: str) -> None:
    """Raise StudyError if the study was begun with other code: its trials could not be compared."""
    begun = before.sessions[0].started if before.sessions else None
    if begun is not None and begun.code != code_digest():
        now = versions()
        other = [f"{name} {was}" for name, was in begun.versions.items() if now.get(name) != was]
        raise StudyError(
            f"study {study_id} was begun with other code ({', '.join(other) or 'lncis itself was changed'}), so "
            "the trials to come could not be compared with those that ended; install that version again, or run its "
            "spec.yaml as a new study"
        )


def _check_data(before: History, data: Identity, study_id: str) -> None:
    """Raise StudyError if the study was begun on other data."""
    if before.sessions and (other := changed(before.sessions[0].started.data, data)):
        raise StudyError(
            f"study {study_id} was begun on other data ({', '.join(other)} changed since), so the trials to come could "
            "not be compared with those that ended; bring the earlier files back, or run its spec.yaml as a new study"
        )


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, LncisError) else type(error).__name__


def versions() -> dict[str, str]:
    """Return what the study runs on, as MLflow tags: package versions, and the commit where there is one."""
    packages = ("lncis", "torch", "torchvision", "ray", "optuna", "pycocotools", "mlflow")
    tags = {f"lncis.version.{package}": version(package) for package in packages}
    git = shutil.which("git")
    if git is None:
        return tags
    commit = subprocess.run(
        [git, "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return tags | ({"mlflow.source.git.commit": commit.stdout.strip()} if commit.returncode == 0 else {})


def _figures(result: StudyResult) -> dict[str, float]:
    """Return what the study's run in MLflow says of the whole: the best one's means, cost, importance, agreement."""
    figures = {f"cost/{name}": float(value) for name, value in asdict(result.cost).items()}
    figures |= {f"importance/{path}": share for path, share in importance(result).items()}
    figures |= {"kendall_tau_val_test": result.rank_agreement.tau} if result.rank_agreement else {}
    reached = result.best.trials[0].records[-1]
    return figures | {
        f"best/{key}": result.best.over_seeds(key).mean for key in reached if key.startswith(("val/", "test/"))
    }


@contextmanager
def _printed(log: Log, *, verbose: bool) -> Iterator[None]:
    """Within the block what this process prints goes to its log, unless `verbose`: Ray prints much, even when quiet."""
    if verbose:
        yield
        return
    handlers = [handler for handler in logging.getLogger("ray").handlers if isinstance(handler, logging.StreamHandler)]
    with redirect_stdout(log), redirect_stderr(log):
        streams = [handler.setStream(log) for handler in handlers]
        try:
            yield
        finally:
            for handler, stream in zip(handlers, streams, strict=True):
                handler.setStream(stream or sys.__stderr__)
