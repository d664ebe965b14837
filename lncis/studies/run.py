"""run_study: from a spec to a result, on Ray Tune trials and Ray Train lanes, logged to MLflow."""

import json
import math
import secrets
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.search import Searcher

from lncis import cluster, datasets, documents, training
from lncis.errors import ConfigError, StudyError
from lncis.metrics import Record
from lncis.studies import report
from lncis.studies.relay import Relay
from lncis.studies.result import StudyResult, TrialResult
from lncis.studies.search import Configurations
from lncis.studies.spec import StudySpec, Trial
from lncis.studies.stages import chain, sharing, switch_epochs
from lncis.tasks import Task
from lncis.tracking import StudyLog


class Observer(Protocol):
    """Told in the driver what happens, as it happens."""

    def on_trial_start(self, trial: Trial, tasks: Sequence[Task]) -> None:
        """A trial begins; its tasks may be shared with others."""

    def on_epoch(self, trial: Trial, record: Record) -> None:
        """A trial has one more epoch."""

    def on_trial_end(self, trial: Trial, reason: str) -> None:
        """A trial is over, failed if there is a reason."""


def run_study(
    spec: StudySpec,
    *,
    runs: Path = Path("runs"),
    study_id: str | None = None,
    observers: Sequence[Observer] = (),
    verbose: bool = False,
) -> StudyResult:
    """Run a study to its end and return what it found.

    Everything goes to `runs/<study_id>`: spec, stages with their checkpoints, results, table, plot and best
    configuration; the curves also to MLflow. A trial that fails does not end the study. Raises StudyError where the
    study as a whole cannot go on, and, before Ray starts, DataError where its data are missing and ConfigError where
    `runs` cannot be written.
    """
    started = time.monotonic()
    study_id = study_id or new_study_id(spec)
    directory = (runs / study_id).absolute()
    datasets.load(spec.base)
    try:
        directory.mkdir(parents=True)
        (directory / "spec.yaml").write_text(documents.to_yaml(spec))
    except OSError as error:
        raise ConfigError(str(runs), [f"cannot hold the study's folder: {error.strerror}; name another one"]) from error
    log = StudyLog(spec.name, study_id, tags=_provenance())
    recorder = _Recorder(log)
    try:
        log.log_study(artifacts=[directory / "spec.yaml"])
        with (
            nullcontext() if verbose else _output_to(directory / "ray.log"),
            cluster.connected(spec.resources, spec.resources.max_concurrent_trials, verbose=verbose),
        ):
            _train(spec, directory, [recorder, *observers])
        result = StudyResult(
            study_id=study_id,
            spec=spec,
            directory=directory,
            trials=recorder.results,
            sharing=sharing(recorder.chains),
            seconds=time.monotonic() - started,
            mlflow_uri=log.uri,
        )
        files = report.write(result)
        log.log_study(metrics={f"best/{key}": value for key, value in _last_of_best(result).items()}, artifacts=files)
    except BaseException as error:
        log.end_study(reason=f"{type(error).__name__}: {error}")
        raise
    log.end_study()
    return result


def new_study_id(spec: StudySpec) -> str:
    """Return an id that no other study has; to be read by people, parsed by no one."""
    return f"{spec.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send what this process prints to a file: Ray and Tune have much to say, even when told to be quiet."""
    with path.open("a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        yield


def _train(spec: StudySpec, directory: Path, observers: Sequence[Observer]) -> None:
    queue = training.start_queue()
    lanes = [
        training.start_lane(f"{directory.name}-{i}", queue, spec.resources)
        for i in range(min(spec.resources.max_concurrent_trials, spec.total_trials))
    ]
    trials = Trials(spec, directory / "stages", queue, observers)
    try:
        tune.Tuner(
            tune.with_resources(tune.with_parameters(Relay, queue=queue), {"CPU": 0, cluster.TRIAL_DRIVER: 1}),
            tune_config=tune.TuneConfig(
                search_alg=trials,
                num_samples=spec.total_trials,
                max_concurrent_trials=spec.resources.max_concurrent_trials,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(directory),
                failure_config=tune.FailureConfig(max_failures=2),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a relay holds nothing
                verbose=0,
            ),
        ).fit()
    finally:
        training.stop_lanes(queue, lanes)
    if trials.unfinished:
        raise StudyError(
            f"the study was stopped with {trials.unfinished} trials unfinished; what is done is in {directory}"
        )


class Trials(Searcher):
    """What Tune asks for trials and tells of them: the baselines first, then each configuration with every seed."""

    def __init__(self, spec: StudySpec, stages: Path, queue: Any, observers: Sequence[Observer]) -> None:
        super().__init__()
        self._spec, self._stages, self._queue, self._observers = spec, stages, queue, observers
        self._configurations = Configurations(spec)
        self._cuts = switch_epochs(spec)
        baselines = enumerate(spec.baselines.items())
        self._waiting = deque(t for i, (name, changes) in baselines for t in spec.trials(i, changes, baseline=name))
        self._running: dict[str, Trial] = {}
        self._latest: dict[str, Record] = {}
        self._values: dict[int, list[float]] = {}
        self.unfinished = spec.total_trials

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]  # FINISHED is a str
        """Return what the next Relay follows, having queued its training."""
        if not self._waiting:
            asked = self._configurations.ask()
            if asked is None:
                return str(self.FINISHED)
            number, overrides = asked
            self._waiting.extend(self._spec.trials(len(self._spec.baselines) + number, overrides))
        trial = self._waiting.popleft()
        tasks = chain(trial, self._spec.resources, self._stages, self._cuts)
        ray.get(self._queue.submit.remote(trial.name, tasks))
        self._running[trial_id] = trial
        for observer in self._observers:
            observer.on_trial_start(trial, tasks)
        return {"owner": trial.name}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass an epoch on; those that a restarted Relay tells again were passed on before."""
        trial, record = self._running[trial_id], _record(result)
        if record["epoch"] <= self._latest.get(trial_id, {"epoch": 0})["epoch"]:
            return
        self._latest[trial_id] = record
        for observer in self._observers:
            observer.on_epoch(trial, record)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass on that a trial is over, after its last epoch if that comes with it; tell Optuna once all seeds are."""
        result = result or {}
        if _record(result):
            self.on_trial_result(trial_id, result)
        finished = bool(result.get("done")) and not error  # a Relay says so itself; else Tune ended it
        reason = str(result.get("reason", "")) if finished else "its Tune process was stopped"
        trial, latest = self._running.pop(trial_id), self._latest.pop(trial_id, {})
        ray.get(self._queue.withdraw.remote(trial.name))
        self.unfinished -= 1
        if trial.baseline is None:
            values = self._values.setdefault(trial.configuration, [])
            values.append(math.nan if reason else latest.get(self._spec.objective.metric, math.nan))
            if len(values) == len(self._spec.seeds):
                self._configurations.tell(trial.configuration - len(self._spec.baselines), values)
        for observer in self._observers:
            observer.on_trial_end(trial, reason)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing of use: Tune insists on a file."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Never called: studies are not restored through Tune."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its parts for a restore that we do not use."""
        return {}


def _record(result: dict[str, Any]) -> Record:
    """Return the record in a Relay's step, from the flattened form in which Tune hands it on."""
    return {key.removeprefix("record/"): value for key, value in result.items() if key.startswith("record/")}


class _Recorder:
    """Keeps the records of every trial, and logs them to MLflow."""

    def __init__(self, log: StudyLog) -> None:
        self._log = log
        self._records: dict[str, list[Record]] = {}
        self._tasks: dict[str, Sequence[Task]] = {}
        self.results: list[TrialResult] = []

    @property
    def chains(self) -> list[Sequence[Task]]:
        return list(self._tasks.values())

    def on_trial_start(self, trial: Trial, tasks: Sequence[Task]) -> None:
        self._records[trial.name], self._tasks[trial.name] = [], tasks
        self._log.start_trial(
            trial.name,
            f"{trial.label}, seed {trial.seed}",
            _flat(documents.dump(trial.config)),
            tags={"lncis.stages": ", ".join(task.key for task in tasks), "lncis.checkpoint": str(tasks[-1].directory)},
        )

    def on_epoch(self, trial: Trial, record: Record) -> None:
        self._records[trial.name].append(record)
        self._log.log_epoch(trial.name, record)

    def on_trial_end(self, trial: Trial, reason: str) -> None:
        directory = self._tasks[trial.name][-1].directory
        manifest = directory / training.NOISE_MANIFEST
        self._log.end_trial(trial.name, reason=reason, artifacts=[manifest] if manifest.exists() else [])
        records = self._records[trial.name]
        self.results.append(TrialResult(trial=trial, records=records, directory=directory, reason=reason))


def _last_of_best(result: StudyResult) -> Record:
    return {
        key: result.best.over_seeds(key).mean
        for key in result.best.trials[0].records[-1]
        if key.startswith(("val/", "test/"))
    }


def _provenance() -> dict[str, str]:
    packages = ("lncis", "torch", "torchvision", "ray", "optuna", "pycocotools", "mlflow")
    tags = {f"lncis.version.{package}": version(package) for package in packages}
    git = shutil.which("git")
    if git is None:
        return tags
    commit = subprocess.run(
        [git, "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return tags | ({"mlflow.source.git.commit": commit.stdout.strip()} if commit.returncode == 0 else {})


def _flat(document: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys; lists as JSON."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= _flat(value, f"{path}.")
        else:
            flat[path] = json.dumps(value) if isinstance(value, list) else value
    return flat
