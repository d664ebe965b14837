"""What trials ask of worker groups, tasks, and what they learn of them.

A task is a stretch of epochs. Two trials that need the same one share it.
"""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from lncis.config import TrainConfig
from lncis.metrics import Record


@dataclass(frozen=True, kw_only=True)
class Task:
    """Train `config` until `until` epochs are finished, in `directory`, going on from task `after` if given."""

    key: str
    """Two tasks with one key compute the same."""
    config: TrainConfig
    until: int
    directory: Path
    after: "Task | None" = None
    shared: str = field(default="", repr=False)
    """The URL at which it is published after every epoch (lncis.execution.storage); empty: all see `directory`."""
    probe: bool = False
    """Only a few steps of each stage, for what they come to (lncis.detection.probing.probe); nothing is written."""

    @property
    def completes(self) -> bool:
        """Whether nothing comes after it."""
        return self.probe or self.until == self.config.schedule.epochs


class State(Enum):
    """Where a task, or the last task of an owner, stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CLOSED = "closed"
    """The queue was closed before it was done: not its own fault."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far an owner's chain is."""

    state: State
    records: list[Record]
    """Finished epochs, in order, without those seen before."""
    reason: str = ""
    """Why it failed."""
    reused: frozenset[int] = frozenset()
    """Numbers of all its epochs that no worker group of this queue trained: they were found published."""
