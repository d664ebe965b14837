"""The queue between those who want trainings and the workers that do them.

A task is a stretch of epochs. Owners (trials) submit chains of tasks; a task that several owners submit, recognised by
its key, is done once. Lanes (groups of workers) take one ready task after another. Plain Python: `lncis.training` makes
a Ray actor of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

from lncis.config import TrainConfig
from lncis.metrics import Record

MAX_RETURNS = 3


@dataclass(frozen=True, kw_only=True)
class Task:
    """Train `config` until `until` epochs are finished, in `directory`, going on from task `after` if given."""

    key: str
    """Two tasks with one key compute the same."""
    config: TrainConfig
    until: int
    directory: Path
    after: "Task | None" = None


class State(Enum):
    """Where a task, or the last task of an owner, stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far an owner's chain is."""

    state: State
    records: list[Record]
    """Finished epochs, from the first."""
    reason: str = ""
    """Why it failed."""


@dataclass
class _Entry:
    task: Task
    owners: set[str]
    state: State = State.WAITING
    lane: str | None = None
    records: dict[int, Record] = field(default_factory=dict)
    reason: str = ""
    returns: int = 0  # how often its lane came back for it
    records_at_return: int = 0


class TaskQueue:
    """See the module; each method may be called again with the same arguments, to the same effect."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}  # in the order of submission, which is the order of work
        self._chains: dict[str, list[str]] = {}
        self._closed: str | None = None

    def submit(self, owner: str, chain: Sequence[Task]) -> None:
        """Ask for a chain of tasks, each after the one before it; what others asked for already is shared."""
        self._chains[owner] = [task.key for task in chain]
        for task in chain:
            entry = self._entries.setdefault(task.key, _Entry(task, set()))
            entry.owners.add(owner)

    def take(self, lane: str) -> Task | Literal["wait", "stop"]:
        """Return what a lane is to do now: the task it held if it comes back after a crash, else the first ready."""
        if self._closed is not None:
            return "stop"
        for entry in self._entries.values():
            if entry.state is State.RUNNING and entry.lane == lane and self._may_return(entry):
                return entry.task
        for entry in self._entries.values():
            after = entry.task.after
            ready = after is None or self._entries[after.key].state is State.DONE
            if entry.state is State.WAITING and entry.owners and ready:
                entry.state, entry.lane = State.RUNNING, lane
                return entry.task
        return "wait"

    def _may_return(self, entry: _Entry) -> bool:
        """Say whether a lane may have its task again; one that kills its workers time after time fails."""
        progressed = len(entry.records) > entry.records_at_return
        entry.returns, entry.records_at_return = 1 if progressed else entry.returns + 1, len(entry.records)
        if entry.returns < MAX_RETURNS:
            return True
        self.fail(entry.task.key, f"its workers died {MAX_RETURNS} times without finishing an epoch")
        return False

    def report(self, key: str, record: Record) -> bool:
        """Note a finished epoch; the answer says whether anyone still wants the task."""
        entry = self._entries[key]
        entry.records[int(record["epoch"])] = record
        return bool(entry.owners) and self._closed is None

    def finish(self, key: str) -> None:
        """Note that a lane is through with a task: done, or given up because no one wanted it any more."""
        entry = self._entries[key]
        if entry.state is State.RUNNING:
            entry.lane = None
            entry.state = State.DONE if entry.task.until in entry.records else State.WAITING

    def fail(self, key: str, reason: str) -> None:
        """Note that a task cannot be done; all that come after it fail with the same reason."""
        entry = self._entries[key]
        entry.lane, entry.state, entry.reason = None, State.FAILED, reason
        for other in self._entries.values():
            if other.task.after is not None and other.task.after.key == key:
                self.fail(other.task.key, reason)

    def progress(self, owner: str) -> Progress:
        """Return how far an owner's chain is, the epochs of shared tasks included."""
        if owner not in self._chains:
            return Progress(state=State.FAILED, records=[], reason="it was withdrawn")
        entries = [self._entries[key] for key in self._chains[owner]]
        records: dict[int, Record] = {}
        for entry in entries:
            records |= entry.records
        failed = next((entry for entry in entries if entry.state is State.FAILED), None)
        if failed is not None:
            state, reason = State.FAILED, failed.reason
        elif self._closed and entries[-1].state is not State.DONE:
            state, reason = State.FAILED, self._closed
        elif all(entry.state is State.DONE for entry in entries):
            state, reason = State.DONE, ""
        else:
            running = any(entry.state is State.RUNNING for entry in entries)
            state, reason = State.RUNNING if running else State.WAITING, ""
        return Progress(state=state, records=[records[e] for e in sorted(records)], reason=reason)

    def withdraw(self, owner: str) -> None:
        """Take an owner's wishes back; a running task that no one else wants stops after its epoch."""
        for key in self._chains.pop(owner, []):
            self._entries[key].owners.discard(owner)

    def close(self, reason: str = "the queue was closed") -> None:
        """Let the lanes go home after their present epoch; owners still waiting fail with `reason`."""
        self._closed = self._closed or reason
