"""What the driver tells those who watch a study: the terminal, the folder, a caller in Python."""

from collections.abc import Sequence

from lncis.execution.queue import Task
from lncis.metrics import Record
from lncis.studies.journal import End
from lncis.studies.spec import Trial


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
