"""The journal of a study, mirrored to MLflow by a thread of its own, as fast as MLflow takes it.

Training never waits for MLflow. While MLflow is away the journal grows; when it answers again it is sent what it
missed, if need be by the study's next session.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from lncis import documents, files
from lncis.backoff import backoff
from lncis.execution.objects import below, shown
from lncis.noise import NOISE_MANIFEST
from lncis.studies.folders import MLFLOW_RUN
from lncis.studies.record.history import History, StageHistory, TrialHistory
from lncis.studies.record.journal import End, EpochFinished, Event
from lncis.studies.spec import StudySpec
from lncis.studies.stages.tree import STAGES
from lncis.tracking import StudyRuns, is_outage, shown_uri, without_credentials

BACKOFF_SECONDS = (1.0, 2.0, 5.0, 10.0)
"""Between attempts while MLflow is away."""

FINISH_TIMEOUT_SECONDS = 60.0
"""How long MLflow may make no progress after a study's end before the rest is left to the next session."""

STATUS = {End.FINISHED: "FINISHED", End.PRUNED: "KILLED", End.FAILED: "FAILED"}


class Mirror:
    """Sends MLflow what a study's journal says: a run for the study, and one for each trial and shared stage.

    It compares the History of the events so far with what MLflow has, and sends the difference. `events` is the list
    that the journal appends to; `published` is the URL below which the stages are, empty if in the study's folder.
    """

    def __init__(
        self,
        spec: StudySpec,
        folder: Path,
        events: Sequence[Event],
        tags: Mapping[str, str],
        on_note: Callable[[str], None],
        published: str = "",
    ) -> None:
        self._spec, self._folder, self._events, self._tags, self._on_note = spec, folder, events, tags, on_note
        self._published = published
        self._history = History(spec)
        self._read = 0  # events that the history holds
        self._changed: dict[str, TrialHistory] = {}  # trials that MLflow does not have in full, by name
        self._progressed = 0.0  # when MLflow last took something
        self._runs: StudyRuns | None = None
        self._open: set[str] = set()  # trials and shared stages whose runs are open
        self._closed: dict[str, int] = {}  # trials and shared stages whose runs were closed -> retries by then
        self._sent: dict[str, int] = {}  # trial or shared stage -> how many of its epochs were sent
        self._finish: Callable[[StudyRuns], None] | None = None
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)

    def start(self) -> None:
        """Begin to send events."""
        self._thread.start()

    def finish(
        self,
        *,
        status: str,
        reason: str = "",
        metrics: Mapping[str, float] | None = None,
        artifacts: Sequence[Path] = (),
        timeout_seconds: float = FINISH_TIMEOUT_SECONDS,
    ) -> None:
        """Send the rest and close the study's run; give up, with a note, after so long without progress."""
        now = time.time()

        def close_study(runs: StudyRuns) -> None:
            for part in self._open:  # of a study that was stopped; a resumed one opens them again
                runs.end(part, "KILLED", reason=reason, over=False)
                self._progressed = time.monotonic()
            runs.log_study(metrics or {}, now)
            runs.end_study(status, reason=reason, artifacts=[file for file in artifacts if file.exists()])

        self._finish = close_study
        self._stop.set()
        self._wake.set()
        self._progressed = time.monotonic()
        while self._thread.is_alive() and time.monotonic() - self._progressed < timeout_seconds:
            self._thread.join(0.1)
        if self._thread.is_alive():
            self._on_note(
                f"MLflow at {shown_uri()} does not answer; nothing is lost: resume the study when it does, and the "
                "rest is sent"
            )

    def _follow(self) -> None:
        pauses = None  # while MLflow is away
        while True:
            self._wake.wait(timeout=1)
            self._wake.clear()
            stopping = self._stop.is_set()
            try:
                self._send()
                if stopping and self._finish and self._runs:
                    self._finish(self._runs)
            except Exception as error:  # a mistake here must not cost the study
                if not is_outage(error):
                    self._on_note(
                        f"MLflow at {shown_uri()} is sent nothing more: {_first_line(error)}; training goes on; resume "
                        "the study when that is mended, and the rest is sent"
                    )
                    return
                if pauses is None:
                    self._on_note(f"MLflow at {shown_uri()} is away ({_first_line(error)}); training goes on")
                    pauses = backoff(BACKOFF_SECONDS)
                self._runs = None  # compare anew: MLflow's runs are found by their tags
                time.sleep(next(pauses))
                continue
            if pauses is not None:
                self._on_note(f"MLflow at {shown_uri()} answers again, and was sent what it missed")
                pauses = None
            if stopping:
                return

    def _send(self) -> None:
        """Send what the journal says and MLflow does not have; after what it raises all is compared anew."""
        if self._runs is None:
            self._runs = StudyRuns(self._spec.name, self._folder.name, self._tags)
            if self._runs.restored:
                self._on_note(f"MLflow's experiment {self._spec.name} was deleted; it is restored with its runs")
            ids = {"experiment_id": self._runs.experiment_id, "run_id": self._runs.run_id}
            with suppress(OSError):  # a full disk costs the service a link, and nothing else
                files.replace(self._folder / MLFLOW_RUN, json.dumps(ids))
            self._open.clear()
            self._closed.clear()
            self._sent.clear()
            self._changed = dict(self._history.trials)
        new = self._events[self._read :]
        for event in new:
            self._read += 1
            if trial := self._history.add(event):
                self._changed[trial.started.trial] = trial
        while self._changed:
            name = next(iter(self._changed))
            self._send_trial(self._runs, self._changed[name])
            del self._changed[name]

    def _send_trial(self, runs: StudyRuns, trial: TrialHistory) -> None:
        """Bring the run of a trial, and those of the stages it shares, to what the journal says."""
        for key in list(trial.started.stages)[:-1]:
            self._send_stage(runs, self._history.stages[key])
        name = trial.started.trial
        closed_for_good = self._closed.get(name) == trial.retries or (not trial.retries and runs.is_over(name))
        if name not in self._open and not closed_for_good:
            self._open_trial(runs, trial)
        if name in self._open:
            self._log(runs, name, trial.epochs.values())
            if trial.ended:
                manifest = self._final_stage(trial) / NOISE_MANIFEST
                artifacts = [manifest] if manifest.exists() else []
                self._close(runs, name, STATUS[trial.ended.end], trial.reason, artifacts, retries=trial.retries)

    def _send_stage(self, runs: StudyRuns, stage: StageHistory) -> None:
        """Bring the run of a shared stage to what the journal says."""
        if stage.key not in self._open and stage.key not in self._closed and not runs.is_over(stage.key):
            name = f"stage {stage.key}, epochs {stage.first_epoch}-{stage.last_epoch}"
            runs.start(stage.key, name, {"until": stage.last_epoch}, tags={})
            self._open.add(stage.key)
        if stage.key in self._open:
            self._log(runs, stage.key, (by[0].epochs[epoch] for epoch, by in stage.reports.items()))
            if stage.epoch == stage.last_epoch:
                self._close(runs, stage.key, "FINISHED")

    def _open_trial(self, runs: StudyRuns, history: TrialHistory) -> None:
        trial, stages = history.trial, list(history.started.stages)
        published = shown(below(self._published, stages[-1])) if self._published else ""
        runs.start(
            trial.name,
            f"{trial.label}, seed {trial.replicate}",
            flat(documents.dump(trial.config)),
            tags={
                "lncis.stages": ", ".join(stages),
                "lncis.checkpoint": published or str(self._final_stage(history)),
            },
        )
        self._open.add(trial.name)

    def _log(self, runs: StudyRuns, part: str, epochs: Iterable[EpochFinished]) -> None:
        """Log the epochs of a trial or stage that were not sent yet."""
        new = list(islice(epochs, self._sent.get(part, 0), None))
        runs.log_epochs(part, [(event.record, event.time) for event in new])
        self._sent[part] = self._sent.get(part, 0) + len(new)
        self._progressed = time.monotonic()

    def _close(
        self,
        runs: StudyRuns,
        part: str,
        status: str,
        reason: str = "",
        artifacts: Sequence[Path] = (),
        retries: int = 0,
    ) -> None:
        runs.end(part, status, reason=reason, artifacts=artifacts)
        self._open.discard(part)
        self._closed[part] = retries

    def _final_stage(self, trial: TrialHistory) -> Path:
        return self._folder / STAGES / list(trial.started.stages)[-1]


def flat(document: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one with dotted keys; lists, and mappings whose keys MLflow would refuse, as JSON."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and all(name.isidentifier() for name in value):
            found |= flat(value, f"{path}.")
        else:
            found[path] = json.dumps(value) if isinstance(value, list | dict) else value
    return found


def _first_line(error: BaseException) -> str:
    return without_credentials(f"{type(error).__name__}: {error}").splitlines()[0][:200]
