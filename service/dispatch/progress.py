"""Copies the journals of running studies into the database as they grow.

The rows are a copy for readers; a study itself resumes from its journal. The study's row counts the events that are
copied, in the same transaction, so a service that is killed anywhere continues exactly there.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy.engine import Connection

from lncis.documents import plain
from lncis.errors import StudyError
from lncis.metrics import Record
from lncis.studies import folders, journal
from lncis.studies.journal import (
    End,
    EpochFinished,
    Event,
    SessionEnded,
    SessionStarted,
    TrialEnded,
    TrialRetried,
    TrialStarted,
)
from lncis.studies.report.cost import cost_of
from lncis.studies.spec import StudySpec, label
from service.settings import Settings
from service.store import studies as store
from service.store import tables
from service.store.best import best_configurations
from service.store.database import Database
from service.store.tables import Study

COST_SECONDS = 10.0
"""Between two counts of what a study costs so far."""


@dataclass
class _Trial:
    number: int
    started: TrialStarted
    state: str = "running"
    reason: str = ""
    ended_at: float | None = None
    epoch: int = 0
    metrics: dict[str, float | None] = field(default_factory=dict)
    objective: float | None = None

    @property
    def epochs(self) -> int:
        return max(self.started.stages.values())


@dataclass
class _Stage:
    number: int
    key: str
    after: str | None
    first_epoch: int
    last_epoch: int
    reused: bool
    epoch: int = 0


class Follower:
    """Reads one study's journal as it grows."""

    def __init__(self, study_id: str, spec: StudySpec, settings: Settings) -> None:
        self._study_id, self._spec, self._folder = study_id, spec, settings.runs / study_id
        self._mlflow_uri = settings.mlflow_tracking_uri
        self._offset, self._events = 0, list[Event]()
        self._trials: dict[str, _Trial] = {}
        self._stages: dict[str, _Stage] = {}
        self._counted = 0.0

    @property
    def complete(self) -> bool:
        """Whether the study's last session ended with nothing left to do."""
        sessions = [event for event in self._events if isinstance(event, SessionStarted | SessionEnded)]
        return bool(sessions) and isinstance(sessions[-1], SessionEnded) and not sessions[-1].reason

    @property
    def epochs(self) -> int:
        """Epochs that its trials have."""
        return sum(trial.epoch for trial in self._trials.values())

    def catch_up(self, database: Database, *, final: bool = False) -> None:
        """Copy what is new in the journal; count the cost anew when `final`.

        Raises StudyError if the journal is not consistent, OSError if it cannot be read, DatabaseAway. After an error
        another follower must read the journal from its beginning.
        """
        events, offset = journal.read_on(self._folder, self._offset)
        known = len(self._events)
        self._events += events
        self._offset = offset
        cost = None
        try:
            rows = [row for number, event in enumerate(events, known + 1) for row in self._take(number, event)]
            if final or (events and time.monotonic() - self._counted > COST_SECONDS):
                cost = plain(asdict(cost_of(self._spec, self._events)))
                self._counted = time.monotonic()
        except (LookupError, ValueError, StopIteration) as error:  # of a trial that never began, without an epoch, ...
            raise StudyError(f"{self._folder / journal.JOURNAL} does not fit together: {error!r}") from error
        if events or final:
            mlflow_url = run_url(self._mlflow_uri, self._folder)
            database.write(lambda connection: self._copy(connection, rows, cost, mlflow_url))

    def _take(self, number: int, event: Event) -> list[tuple[int, dict[str, Any]]]:
        """Apply an event, and return its row, if it has one, with its number in the journal."""
        details: dict[str, Any] = {}
        if isinstance(event, TrialStarted):
            trial = self._trials[event.trial] = _Trial(len(self._trials) + 1, event)
            self._note_stages(event)
            details = {"label": label(event.overrides, event.baseline), "epochs": trial.epochs}
        elif isinstance(event, EpochFinished):
            trial = self._trials[event.trial]
            self._note_epoch(trial, event.record)
            details = {"epoch": int(event.record["epoch"]), "metrics": plain(event.record)}
        elif isinstance(event, TrialEnded):
            trial = self._trials[event.trial]
            trial.state, trial.reason, trial.ended_at = str(event.end), event.reason, event.time
            details = {"end": event.end, "reason": event.reason}
        elif isinstance(event, TrialRetried):
            trial = self._trials[event.trial]
            trial.state, trial.reason, trial.ended_at = "running", "", None
        else:
            return []
        data = {"trial": event.trial, **details}
        return [(number, {"at": event.time, "type": event.event, "trial": trial.number, "data": data})]

    def _note_stages(self, event: TrialStarted) -> None:
        after, first = None, 1
        for key, last in event.stages.items():
            if key not in self._stages:
                number = len(self._stages) + 1
                self._stages[key] = _Stage(number, key, after, first, last, reused=key in event.reused)
            after, first = key, last + 1

    def _note_epoch(self, trial: _Trial, record: Record) -> None:
        epoch = int(record["epoch"])
        trial.epoch = max(trial.epoch, epoch)
        stage = self._stages[trial.started.stage_of(epoch)]
        stage.epoch = max(stage.epoch, epoch)
        trial.metrics = {**trial.metrics, **plain(record)}  # an evaluation stays until the next one
        if self._spec.objective.metric in record:
            trial.objective = plain(record[self._spec.objective.metric])

    def _copy(
        self, connection: Connection, rows: list[tuple[int, dict[str, Any]]], cost: Any, mlflow_url: str | None
    ) -> None:
        study = store.load_study(connection, self._study_id, to_change=True)
        new = [row for number, row in rows if number > study.journal_events]
        if new:
            connection.execute(
                tables.events.insert(),
                [{"study": study.number, "number": n, **row} for n, row in enumerate(new, study.events + 1)],
            )
        begun = {row["trial"] for row in new if row["type"] == "trial_started"}
        touched = {row["trial"] for row in new}
        for trial in (trial for trial in self._trials.values() if trial.number in touched):
            self._copy_trial(connection, study, trial, begun=trial.number in begun)
            for key in trial.started.stages:
                self._copy_stage(connection, study, self._stages[key])
        ended = [trial.state for trial in self._trials.values()]
        changes: dict[str, Any] = {
            "events": study.events + len(new),
            "journal_events": max(study.journal_events, len(self._events)),
            "trials_started": len(self._trials),
            "trials_finished": ended.count(End.FINISHED),
            "trials_pruned": ended.count(End.PRUNED),
            "trials_failed": ended.count(End.FAILED),
            "epochs_done": self.epochs,
            "epochs_total": self._epochs_total(study.trials_total),
        }
        changes |= {} if cost is None else {"cost": cost}
        changes |= {} if mlflow_url is None else {"mlflow_url": mlflow_url}
        if any("metrics" in row["data"] or row["type"] == "trial_ended" for row in new):
            changes["best"] = self._best(connection, study)
        if new or any(getattr(study, name) != value for name, value in changes.items()):
            store.update_study(connection, study, **changes)

    def _epochs_total(self, trials_total: int) -> int:
        begun = sum(trial.epochs for trial in self._trials.values())
        return begun + max(0, trials_total - len(self._trials)) * self._spec.base.schedule.epochs

    def _best(self, connection: Connection, study: Study) -> dict[str, Any] | None:
        found = best_configurations(connection, study, self._spec, 1)
        names = {"label", "overrides", "objective", "status"}
        return {"metric": self._spec.objective.metric, **found[0].model_dump(include=names)} if found else None

    def _copy_trial(self, connection: Connection, study: Study, trial: _Trial, *, begun: bool) -> None:
        started, columns = trial.started, tables.trials.c
        found = {
            "state": trial.state,
            "reason": trial.reason,
            "ended_at": trial.ended_at,
            "epoch": trial.epoch,
            "metrics": trial.metrics,
            "objective": trial.objective,
        }
        if not begun:
            mine = (columns.study == study.number) & (columns.number == trial.number)
            connection.execute(tables.trials.update().where(mine).values(**found))
            return
        first = {
            "study": study.number,
            "number": trial.number,
            "name": started.trial,
            "configuration": started.configuration,
            "label": label(started.overrides, started.baseline),
            "overrides": plain(started.overrides),
            "baseline": started.baseline,
            "seed": started.seed,
            "noise_seed": started.noise_seed,
            "started_at": started.time,
            "stages": list(started.stages),
            "epochs": trial.epochs,
        }
        connection.execute(tables.trials.insert().values(**first, **found))
        uses = [
            {"study": study.number, "stage": self._stages[key].number, "trial": trial.number} for key in started.stages
        ]
        connection.execute(tables.stage_uses.insert(), uses)

    def _copy_stage(self, connection: Connection, study: Study, stage: _Stage) -> None:
        columns = tables.stages.c
        mine = (columns.study == study.number) & (columns.number == stage.number)
        if not connection.execute(tables.stages.update().where(mine).values(epoch=stage.epoch)).rowcount:
            connection.execute(tables.stages.insert().values(study=study.number, **asdict(stage)))


def run_url(tracking_uri: str, folder: Path) -> str | None:
    """Return where a browser finds a study's run in MLflow; None without a server, or before the driver made the run.

    A file that cannot be read gives no link either: a link is not worth a study that cannot be followed.
    """
    if not tracking_uri.startswith(("http://", "https://")):
        return None
    try:
        ids = json.loads((folder / folders.MLFLOW_RUN).read_bytes())
        place = f"experiments/{quote(ids['experiment_id'], safe='')}/runs/{quote(ids['run_id'], safe='')}"
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return f"{tracking_uri.rstrip('/')}/#/{place}"
