"""What the journal says, said to MLflow: in a thread of its own, as fast as MLflow can take it.

Training never waits for MLflow. While it is away the journal grows, and what was not said is said when it is back, if
need be by the next session of the study.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lncis import documents, files
from lncis.execution.storage import below, shown
from lncis.execution.worker_groups import NOISE_MANIFEST
from lncis.metrics import Record
from lncis.studies.folders import MLFLOW_RUN
from lncis.studies.journal import End, EpochFinished, Event, TrialEnded, TrialRetried, TrialStarted, trial_of
from lncis.studies.spec import StudySpec
from lncis.studies.stages import STAGES
from lncis.tracking import Outage, StudyRuns, tracking_uri

PAUSES = (1.0, 2.0, 5.0, 10.0)
"""Seconds between attempts while MLflow is away; the last one goes on."""

STATUS = {End.FINISHED: "FINISHED", End.PRUNED: "KILLED", End.FAILED: "FAILED"}


class Mirror:
    """Follows the events of one study, whose stages may be `published` below a URL; `finish` says the last words."""

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
        self._told = 0
        self._progressed = 0.0  # when MLflow last took something
        self._runs: StudyRuns | None = None
        self._started: dict[str, TrialStarted] = {}
        self._open: set[str] = set()  # trials and shared stages whose runs are not closed
        self._of_stages: set[tuple[str, int]] = set()  # epochs of shared stages that were told
        self._last_words: Callable[[StudyRuns], None] | None = None
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def finish(
        self,
        *,
        status: str,
        reason: str = "",
        metrics: Mapping[str, float] | None = None,
        artifacts: Sequence[Path] = (),
        patience: float = 60,
    ) -> None:
        """Say the rest and close the study's run; give up after `patience` seconds without progress, and say so."""
        now = time.time()

        def last_words(runs: StudyRuns) -> None:
            for part in self._open:  # of a study that was stopped; resumed, they are opened again
                runs.end(part, "KILLED", reason=reason, over=False)
                self._progressed = time.monotonic()
            runs.log_study(metrics or {}, now)
            runs.end_study(status, reason=reason, artifacts=[file for file in artifacts if file.exists()])

        self._last_words = last_words
        self._stop.set()
        self._wake.set()
        self._progressed = time.monotonic()
        while self._thread.is_alive() and time.monotonic() - self._progressed < patience:
            self._thread.join(0.1)
        if self._thread.is_alive():
            self._on_note(
                f"MLflow at {tracking_uri()} does not answer; nothing is lost: resume the study when it is back, and "
                "it is told the rest"
            )

    def _follow(self) -> None:
        failures = 0
        while True:
            self._wake.wait(timeout=1)
            self._wake.clear()
            stopping = self._stop.is_set()
            try:
                self._tell(self._told, len(self._events))
                if stopping and self._last_words and self._runs:
                    self._last_words(self._runs)
            except Outage as error:
                if failures == 0:
                    self._on_note(f"MLflow at {tracking_uri()} is away ({_first_line(error)}); training goes on")
                self._runs = None  # begin anew: what is there already is found by its tags
                self._told = 0
                time.sleep(PAUSES[min(failures, len(PAUSES) - 1)])
                failures += 1
                continue
            except Exception as error:  # a mistake here must not cost the study
                self._on_note(f"MLflow at {tracking_uri()} is told no more: {_first_line(error)}; training goes on")
                return
            if failures:
                self._on_note(f"MLflow at {tracking_uri()} is back, and has been told what it missed")
            failures = 0
            if stopping:
                return

    def _tell(self, begin: int, end: int) -> None:
        """Say the events from `begin` to before `end`, epochs of one trial together."""
        if self._runs is None:
            self._runs = StudyRuns(self._spec.name, self._folder.name, self._tags)
            ids = {"experiment_id": self._runs.experiment_id, "run_id": self._runs.run_id}
            files.replace(self._folder / MLFLOW_RUN, json.dumps(ids))
            self._open.clear()
            self._of_stages.clear()
        runs, pending = self._runs, dict[str, list[tuple[Record, float]]]()

        def end_part(part: str, status: str, reason: str = "", artifacts: Sequence[Path] = ()) -> None:
            runs.log_epochs(part, pending.pop(part, []))
            runs.end(part, status, reason=reason, artifacts=artifacts)
            self._open.discard(part)

        for event in self._events[begin:end]:
            self._progressed = time.monotonic()
            if isinstance(event, TrialStarted):
                self._started[event.trial] = event
                self._start(runs, event)
            elif isinstance(event, EpochFinished):
                started, epoch = self._started[event.trial], int(event.record["epoch"])
                stage = started.stage_of(epoch)
                new = stage in self._open and (stage, epoch) not in self._of_stages
                self._of_stages.add((stage, epoch))
                for part in ({event.trial} & self._open) | ({stage} if new else set()):
                    pending.setdefault(part, []).append((event.record, event.time))
                if new and epoch == started.stages[stage]:
                    end_part(stage, "FINISHED")
            elif isinstance(event, TrialRetried):
                self._open_trial(runs, self._started[event.trial])
            elif isinstance(event, TrialEnded) and event.trial in self._open:
                manifest = self._folder / STAGES / list(self._started[event.trial].stages)[-1] / NOISE_MANIFEST
                artifacts = [manifest] if manifest.exists() else []
                end_part(event.trial, STATUS[event.end], event.reason, artifacts)
        for part, records in pending.items():
            runs.log_epochs(part, records)
            self._progressed = time.monotonic()
        self._told = end

    def _start(self, runs: StudyRuns, event: TrialStarted) -> None:
        first = 1
        for key, until in list(event.stages.items())[:-1]:
            if key not in self._open and (key, until) not in self._of_stages and not runs.is_over(key):
                runs.start(key, f"stage {key}, epochs {first}-{until}", {"until": until}, tags={})
                self._open.add(key)
            first = until + 1
        if not runs.is_over(event.trial):
            self._open_trial(runs, event)

    def _open_trial(self, runs: StudyRuns, event: TrialStarted) -> None:
        trial = trial_of(self._spec, event)
        stage = list(event.stages)[-1]
        checkpoint = shown(below(self._published, stage)) if self._published else str(self._folder / STAGES / stage)
        runs.start(
            trial.name,
            f"{trial.label}, seed {trial.replicate}",
            flat(documents.dump(trial.config)),
            tags={"lncis.stages": ", ".join(event.stages), "lncis.checkpoint": checkpoint},
        )
        self._open.add(trial.name)


def flat(document: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys; lists as JSON, and mappings of names that are no MLflow keys."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and all(name.isidentifier() for name in value):
            found |= flat(value, f"{path}.")
        else:
            found[path] = json.dumps(value) if isinstance(value, list | dict) else value
    return found


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]
