"""What all parts of the process that drives a study need, and what its observers are called with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lncis.execution.tasks import Task
from lncis.metrics import Record
from lncis.studies.record.journal import End, Journal
from lncis.studies.spec import StudySpec, Trial
from lncis.studies.stages.store import PublishedStages
from lncis.studies.stages.tree import StageTree


class Observer:
    """Called in the driver for each event, as it happens; events of earlier sessions come before `on_session_start`."""

    def on_session_start(self) -> None:
        """Events that follow happen now."""

    def on_trial_start(self, trial: Trial, tasks: Sequence[Task]) -> None:
        """A trial begins, or is to be run again; its tasks may be shared with others."""

    def on_epoch(self, trial: Trial, record: Record) -> None:
        """A trial has one more epoch."""

    def on_trial_end(self, trial: Trial, end: End, reason: str) -> None:
        """A trial is over; failed and pruned ones have a reason."""

    def on_note(self, text: str) -> None:
        """Show the user a remark."""


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """A study as this process drives it."""

    spec: StudySpec
    folder: Path
    """Absolute; its name is the id of the study."""
    tree: StageTree
    journal: Journal
    observers: Sequence[Observer]
    published: PublishedStages | None
    """Where workers publish stages; None: stages lie in the study's folder."""

    @property
    def study_id(self) -> str:
        """The id of the study."""
        return self.folder.name

    @property
    def url(self) -> str:
        """The URL below which stages are published; empty where they lie in the study's folder."""
        return self.published.url if self.published else ""

    def note(self, text: str) -> None:
        """Show a remark to all observers."""
        for observer in self.observers:
            observer.on_note(text)
