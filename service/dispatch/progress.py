"""Copies the journals of running studies into the database as they grow.

The rows are a copy for readers; a study itself resumes from its journal. The study's row counts the events that are
copied, in the same transaction, so a service that is killed anywhere continues exactly there.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from lncis.documents import plain
from lncis.errors import StudyError
from lncis.studies import folders
from lncis.studies.record import journal
from lncis.studies.record.history import History, StageHistory, TrialHistory
from lncis.studies.record.journal import End, EpochFinished, Event, TrialEnded, TrialStarted
from lncis.studies.report.cost import cost_of
from lncis.studies.spec import StudySpec, label
from service.settings import Settings
from service.store import studies as store
from service.store import tables
from service.store.best import best_configurations
from service.store.database import Database
from service.store.tables import Study
from service.store.worker_hours import add_worker_hours

PART_EVENTS = 2000
"""Copied in one transaction, which takes about half a second."""
COST_SECONDS = 10.0
"""Between two counts of what a study costs so far."""

Row = dict[str, Any]


class Follower:
    """Reads one study's journal as it grows."""

    def __init__(self, study_id: str, spec: StudySpec, settings: Settings) -> None:
        self._study_id, self._spec, self._folder = study_id, spec, settings.runs / study_id
        self._offset = self._events = 0  # bytes and events that were read
        self._history = History(spec)
        self._counted = 0.0
        self._ranks_anew = False  # whether something was copied since the best configuration was last told

    @property
    def complete(self) -> bool:
        """Whether the study's last session ended with nothing left to do."""
        return self._history.complete

    @property
    def spent(self) -> str:
        """The limits of its budget that ended the last session; empty where it goes on, or ended otherwise."""
        return self._history.spent

    @property
    def epochs(self) -> int:
        """Epochs that its trials have."""
        return sum(trial.epoch for trial in self._history.trials.values())

    def catch_up(self, database: Database, *, final: bool = False) -> None:
        """Copy what is new in the journal; count the cost anew when `final`.

        A long journal is copied in parts, between which others write; each part is a state that the study was in.
        Raises StudyError if the journal is not consistent, OSError if it cannot be read, DatabaseAway. After an error
        another follower must read the journal from its beginning.
        """
        events, self._offset = journal.read_on(self._folder, self._offset)
        for begin in range(0, len(events) - PART_EVENTS, PART_EVENTS):
            self._copy_part(database, events[begin : begin + PART_EVENTS])
        if events or final:
            last = events[(len(events) - 1) // PART_EVENTS * PART_EVENTS :] if events else []
            counts = final or time.monotonic() - self._counted > COST_SECONDS
            self._copy_part(database, last, is_last=True, counts=counts)

    def _copy_part(
        self, database: Database, events: Sequence[Event], *, is_last: bool = False, counts: bool = False
    ) -> None:
        """Copy some events in one transaction; the last ones with the best configuration, and the cost if it counts."""
        try:
            rows = self._fold(events)
            cost = plain(asdict(cost_of(self._history))) if counts else None
        except (LookupError, ValueError, StopIteration) as error:  # of a trial that never began, without an epoch, ...
            raise StudyError(f"{self._folder / journal.JOURNAL} does not fit together: {error!r}") from error
        if counts:
            self._counted = time.monotonic()
        self._ranks_anew |= any("metrics" in row["data"] or row["type"] == "trial_ended" for _, row in rows)
        ranks, mlflow_run = is_last and self._ranks_anew, run_of(self._folder) if is_last else None
        database.write(lambda connection: self._copy(connection, rows, cost, mlflow_run, ranks=ranks))
        self._ranks_anew &= not is_last

    def _fold(self, events: Sequence[Event]) -> list[tuple[int, Row]]:
        """Add events to the history; return the row of each that concerns a trial, with its number in the journal."""
        rows = []
        for event in events:
            trial = self._history.add(event)
            self._events += 1
            if trial:
                data = {"trial": trial.started.trial, **_data_of(event, trial)}
                row = {"at": event.time, "type": event.event, "trial": trial.number, "data": data}
                rows.append((self._events, row))
        return rows

    def _copy(
        self, connection: Connection, rows: list[tuple[int, Row]], cost: Any, mlflow_run: Any, *, ranks: bool
    ) -> None:
        study = store.load_study(connection, self._study_id, to_change=True)
        if self._events < study.journal_events:
            return  # another follower came further; rows must not go back to what was before
        new = [row for number, row in rows if number > study.journal_events]
        if new:
            connection.execute(
                tables.events.insert(),
                [{"study": study.number, "number": n, **row} for n, row in enumerate(new, study.events + 1)],
            )
        trials = self._history.trials.values()
        begun = {row["trial"] for row in new if row["type"] == "trial_started"}
        changed = {row["trial"] for row in new}
        for trial in (trial for trial in trials if trial.number in changed):
            self._copy_trial(connection, study, trial, begun=trial.number in begun)
            for key in trial.started.stages:
                self._copy_stage(connection, study, self._history.stages[key])
        ends = [trial.end for trial in trials]
        changes: dict[str, Any] = {
            "events": study.events + len(new),
            "journal_events": max(study.journal_events, self._events),
            "trials_started": len(trials),
            "trials_finished": ends.count(End.FINISHED),
            "trials_pruned": ends.count(End.PRUNED),
            "trials_failed": ends.count(End.FAILED),
            "epochs_done": self.epochs,
            "epochs_total": self._epochs_total(study.trials_total),
        }
        if cost is not None:
            changes["cost"] = cost
            self._count_worker_hours(connection, study, cost)
        changes |= {} if mlflow_run is None else {"mlflow_run": mlflow_run}
        if ranks:
            changes["best"] = self._best(connection, study)
        if new or any(getattr(study, name) != value for name, value in changes.items()):
            store.update_study(connection, study, **changes)

    @staticmethod
    def _count_worker_hours(connection: Connection, study: Study, cost: Row) -> None:
        held = cost["held_seconds"] - (study.cost or {}).get("held_seconds", 0.0)
        if held > 0:
            add_worker_hours(connection, study.owner, held / 3600)

    def _epochs_total(self, trials_total: int) -> int:
        trials = self._history.trials.values()
        begun = sum(trial.epochs_to_train for trial in trials)
        return begun + max(0, trials_total - len(trials)) * self._spec.base.schedule.epochs

    def _best(self, connection: Connection, study: Study) -> dict[str, Any] | None:
        found = best_configurations(connection, study, self._spec, 1)
        names = {"label", "overrides", "objective", "status"}
        return {"metric": self._spec.objective.metric, **found[0].model_dump(include=names)} if found else None

    def _copy_trial(self, connection: Connection, study: Study, trial: TrialHistory, *, begun: bool) -> None:
        started, columns = trial.started, tables.trials.c
        metrics = plain(trial.latest)
        found = {
            "state": str(trial.end or "running"),
            "reason": trial.reason,
            "ended_at": trial.ended.time if trial.ended else None,
            "epoch": trial.epoch,
            "metrics": metrics,
            "objective": metrics.get(self._spec.objective.metric),
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
            "fold": started.fold.number if started.fold else None,
            "started_at": started.time,
            "stages": list(started.stages),
            "epochs": trial.epochs_to_train,
        }
        connection.execute(tables.trials.insert().values(**first, **found))
        stages = [self._history.stages[key] for key in started.stages]
        uses = [{"study": study.number, "stage": stage.number, "trial": trial.number} for stage in stages]
        connection.execute(tables.stage_uses.insert(), uses)

    def _copy_stage(self, connection: Connection, study: Study, stage: StageHistory) -> None:
        columns = tables.stages.c
        mine = (columns.study == study.number) & (columns.number == stage.number)
        found = {"epoch": stage.epoch, "reused": stage.reused}
        if not connection.execute(tables.stages.update().where(mine).values(**found)).rowcount:
            first = {
                "study": study.number,
                "number": stage.number,
                "key": stage.key,
                "after": stage.after,
                "first_epoch": stage.first_epoch,
                "last_epoch": stage.last_epoch,
            }
            connection.execute(tables.stages.insert().values(**first, **found))


def _data_of(event: Event, trial: TrialHistory) -> Row:
    """Return what a reader of the study's events learns from one, beside the trial and the time."""
    match event:
        case TrialStarted():
            return {"label": label(event.overrides, event.baseline), "epochs": trial.epochs_to_train}
        case EpochFinished():
            return {"epoch": int(event.record["epoch"]), "metrics": plain(event.record)}
        case TrialEnded():
            return {"end": event.end, "reason": event.reason}
        case _:
            return {}


def run_of(folder: Path) -> dict[str, str] | None:
    """Return the ids of a study's run in MLflow; None before the driver made the run.

    A file that cannot be read has none either: a link is not worth a study that cannot be followed.
    """
    try:
        ids = json.loads((folder / folders.MLFLOW_RUN).read_bytes())
        run = {name: ids[name] for name in ("experiment_id", "run_id")}
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return run if all(isinstance(one, str) for one in run.values()) else None
