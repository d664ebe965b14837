"""The progress of a running study: a live table on a terminal, a line for each epoch elsewhere."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lncis.execution.tasks import Task
from lncis.metrics import Record
from lncis.studies.record.journal import End
from lncis.studies.spec import StudySpec, Trial
from lncis.studies.stages.tree import switch_of
from lncis.studies.study_run import Observer


@dataclass
class _Row:
    trial: Trial
    tasks: Sequence[Task]
    record: Record = field(default_factory=dict)
    latest: float | None = None
    state: str = "waiting"


class Display(Observer):
    """An observer of a study that shows trial, stage, epoch, AP so far and time left; a context manager."""

    def __init__(self, spec: StudySpec, study_id: str, epochs_to_train: int, console: Console) -> None:
        self._spec, self._study_id, self._console = spec, study_id, console
        self._total = epochs_to_train
        self._rows: dict[str, _Row] = {}
        self._started = time.monotonic()
        self._replaying = True
        self._seconds: dict[tuple[str, int], float] = {}  # (task, epoch) -> duration; shared epochs count once
        self._of_earlier = 0  # how many of those are of earlier sessions
        self._live = Live(
            console=console,
            get_renderable=self._view,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=False,  # Ray's output goes to its log
            redirect_stderr=False,
        )

    def __enter__(self) -> "Display":
        if self._console.is_terminal:
            self._live.start()
        else:
            self._console.print(f"{self._study_id}: starting Ray and its workers (about half a minute)")
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def on_session_start(self) -> None:
        """Print new epochs from here on; those before are of earlier sessions."""
        self._replaying, self._of_earlier = False, len(self._seconds)
        if self._seconds and not self._console.is_terminal:
            self._console.print(f"resumed after {len(self._seconds)} of {self._total} epochs")

    def on_trial_start(self, trial: Trial, tasks: Sequence[Task]) -> None:
        """Show a new trial."""
        self._rows[trial.name] = _Row(trial, tasks)

    def on_epoch(self, trial: Trial, record: Record) -> None:
        """Show a trial's new epoch."""
        row = self._rows[trial.name]
        row.record, row.state = record, "training"
        row.latest = record.get(self._spec.objective.metric, row.latest)
        epoch = int(record["epoch"])
        task = next(task for task in row.tasks if epoch <= task.until)
        new = (task.key, epoch) not in self._seconds
        self._seconds[task.key, epoch] = record["seconds"]
        if new and not self._console.is_terminal and not self._replaying:
            self._console.print(
                f"{self._head()}  {trial.label}, seed {trial.replicate}: stage {self._stage(row)}, epoch "
                f"{epoch}/{trial.config.schedule.epochs}, {self._spec.objective.metric} {_figure(row.latest)}",
                soft_wrap=True,
            )

    def on_trial_end(self, trial: Trial, end: End, reason: str) -> None:
        """Show how a trial ended."""
        row = self._rows[trial.name]
        row.state = f"{end}: {reason}" if reason else str(end)
        if reason and not self._console.is_terminal and not self._replaying:
            self._console.print(f"{trial.label}, seed {trial.replicate}: {row.state}", soft_wrap=True)

    def on_note(self, text: str) -> None:
        """Print a note, above the table if there is one."""
        self._live.console.print(f"note: {text}", soft_wrap=True)

    def _stage(self, row: _Row) -> int:
        switch = switch_of(row.trial.config)
        return 1 if switch is None or row.record.get("epoch", 0) <= switch else 2

    def _head(self) -> str:
        done = len(self._seconds)
        elapsed = time.monotonic() - self._started
        if not done:
            return f"{_clock(elapsed)} elapsed, starting Ray and its workers"
        at_a_time = self._spec.resources.max_concurrent_trials
        if at_a_time != "auto":
            each = sum(self._seconds.values()) / done / at_a_time
        elif done == self._of_earlier:
            return f"{_clock(elapsed)} elapsed, {done}/{self._total} epochs"
        else:  # at the rate of this session so far
            each = elapsed / (done - self._of_earlier)
        left = (self._total - done) * each
        return f"{_clock(elapsed)} elapsed, {done}/{self._total} epochs, about {_clock(left)} left"

    def _view(self) -> RenderableType:
        view = Table(box=None, pad_edge=False)
        for heading in ("trial", "seed", "stage", "epoch", f"{self._spec.objective.metric} so far", "state"):
            view.add_column(heading, justify="left" if heading in ("trial", "state") else "right")
        rows = list(self._rows.values())
        shown: list[Any] = rows[-max(self._console.height - 6, 5) :]
        for row in shown:
            view.add_row(
                row.trial.label,
                str(row.trial.replicate),
                str(self._stage(row)),
                f"{int(row.record.get('epoch', 0))}/{row.trial.config.schedule.epochs}",
                _figure(row.latest),
                row.state,
            )
        return Group(Text(f"{self._study_id}  {self._head()}", style="bold"), view)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
