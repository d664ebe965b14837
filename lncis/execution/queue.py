"""The queue between those who want trainings and the workers that do them.

A task is a stretch of epochs. Owners (trials) submit chains of tasks; a task that several owners submit, recognised by
its key, is done once. Worker groups (groups of workers) take one ready task after another. Plain Python:
`lncis.execution.worker_groups` makes a Ray actor of it.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

from lncis.config import TrainConfig
from lncis.metrics import Record

POLL_SECONDS = 0.2
"""How often those who wait for the queue ask it."""

MAX_RETURNS = 5
"""How often a task may kill its workers, or be put off, without finishing an epoch before it is given up."""

PATIENCE_SECONDS = 1200.0
"""After so long without a word of any worker something is the matter: a cluster that grows needs minutes for a node."""

SILENCE_SECONDS = 120.0
"""After so long without a heartbeat of its workers a task may go to another worker group: their node is gone."""

IDLE_SECONDS = 60.0
"""After so long with nothing to do a worker group gives its workers back: about what it takes to start one again."""


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
    """Only a few steps of each stage, for what they come to (lncis.detection.engine.probe); nothing is written."""

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
    """Those of all its epochs that no worker group of this queue trained: they were found published."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What there is to do, and who is there for it."""

    up: frozenset[str]
    """Worker groups whose workers were heard of of late."""
    tasks: int
    """Those that run, and those that could."""
    unheard: str = ""
    """What is the matter where no worker was heard of for long; else empty."""


@dataclass
class _Entry:
    task: Task
    owners: set[str]
    state: State = State.WAITING
    records: dict[int, Record] = field(default_factory=dict)
    reused: set[int] = field(default_factory=set)  # those of them that were found published
    reason: str = ""
    returns: int = 0  # how often its worker group came back for it
    records_at_return: int = 0
    note: str = ""  # what its worker said before it died
    put_off: str = ""  # why its worker, which lives, could not go on just now
    heard: float = 0.0  # when its worker took it or finished an epoch


class TaskQueue:
    """See the module; each method but `take` may be called again with the same arguments, to the same effect.

    Where worker groups come and go, one that was idle for `idle_seconds` is told to stop, unless it is the last,
    and the queue is not closed for want of worker groups: whoever starts them knows when there will be none. Where
    others may make room for workers it `waits` for them without limit; else it is closed when none was heard of for
    PATIENCE_SECONDS.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        come_and_go: bool = False,
        idle_seconds: float = math.inf,
        waits: bool = False,
    ) -> None:
        self._entries: dict[str, _Entry] = {}
        self._waiting: dict[str, None] = {}  # keys in the order of submission, which is the order of work
        self._running: dict[str, str] = {}  # worker group -> key
        self._chains: dict[str, list[str]] = {}
        self._withdrawn: dict[str, str] = {}
        self._closed: str | None = None
        self._clock = clock
        self._last_word = clock()  # of any worker group
        self._heard: dict[str, float] = {}  # worker group -> when its workers last said anything
        self._idle: dict[str, float] = {}  # worker group -> since when it has nothing to do
        self._come_and_go, self._idle_seconds, self._waits = come_and_go, idle_seconds, waits
        self._known: set[str] = set()  # worker groups that were ever heard
        self._lost_seconds = 0.0

    def submit(self, owner: str, chain: Sequence[Task]) -> None:
        """Ask for a chain of tasks, each after the one before it; what others asked for already is shared.

        A chain may be submitted in pieces, each the last one prolonged; only its end completes it.
        """
        self._chains[owner] = [task.key for task in chain]
        for task in chain:
            entry = self._entries.setdefault(task.key, _Entry(task, set()))
            entry.owners.add(owner)
            if entry.state is State.WAITING:
                self._waiting.setdefault(task.key)

    def take(self, worker_group: str) -> Task | Literal["wait", "stop"]:
        """Return what a worker group is to do now: the task it held if it comes back for it, else the first ready."""
        self._hear(worker_group)
        self._known.add(worker_group)
        if self._closed is not None:
            return "stop"
        if worker_group in self._running:
            entry = self._entries[self._running[worker_group]]
            self._lost_seconds += self._clock() - entry.heard
            if self._may_return(entry):
                entry.heard, entry.put_off = self._clock(), ""
                return entry.task
        for key in self._ready():
            entry = self._entries[key]
            del self._waiting[key]
            self._idle.pop(worker_group, None)
            self._running[worker_group] = key
            entry.state, entry.heard = State.RUNNING, self._clock()
            return entry.task
        self._take_from_the_silent()
        return "stop" if self._can_do_without(worker_group) else "wait"

    def alive(self, worker_group: str) -> None:
        """Note that a worker group's workers live; told while an epoch takes its time."""
        if worker_group in self._heard:  # not one that was told to stop meanwhile
            self._hear(worker_group)

    def _hear(self, worker_group: str) -> None:
        self._heard[worker_group] = self._last_word = self._clock()

    def outlook(self) -> Outlook:
        """Return how many tasks there are for how many worker groups."""
        tasks = len(self._running) + sum(1 for _ in self._ready())
        return Outlook(up=self._up(), tasks=tasks, unheard=self._unheard())

    def _unheard(self) -> str:
        if self._clock() - self._last_word <= PATIENCE_SECONDS:
            return ""
        return (
            f"no worker was heard of for {PATIENCE_SECONDS / 60:.0f} minutes: the cluster has no room for one, or "
            "cannot start it; see `ray status` and the study's ray.log"
        )

    def _ready(self) -> Iterator[str]:
        for key in self._waiting:
            after = self._entries[key].task.after
            if after is None or self._entries[after.key].state is State.DONE:
                yield key

    def _up(self) -> frozenset[str]:
        now = self._clock()
        return frozenset(worker_group for worker_group, heard in self._heard.items() if now - heard <= SILENCE_SECONDS)

    def _can_do_without(self, worker_group: str) -> bool:
        """Say whether a worker group was idle for long enough and others are there; then it is forgotten."""
        now = self._clock()
        long = now - self._idle.setdefault(worker_group, now) >= self._idle_seconds
        if long and self._up() != {worker_group} and not any(self._ready()):
            self._forget(worker_group)
            return True
        return False

    def _forget(self, worker_group: str) -> None:
        self._heard.pop(worker_group, None)
        self._idle.pop(worker_group, None)

    def _take_from_the_silent(self) -> None:
        """Put the tasks of silent worker groups back into the line; one that returns gets another task.

        Should it still be training, the folder of the task has one trainer at a time (lncis.execution.worker_groups).
        """
        for worker_group in list(self._running):
            if self._clock() - self._heard[worker_group] > SILENCE_SECONDS:
                self._put_back(worker_group)

    def _put_back(self, worker_group: str) -> None:
        entry = self._entries[self._running.pop(worker_group)]
        self._lost_seconds += self._clock() - entry.heard
        entry.state, entry.put_off = State.WAITING, ""
        self._waiting = {entry.task.key: None, **self._waiting}

    def _may_return(self, entry: _Entry) -> bool:
        """Say whether a worker group may have its task again; one that kills its workers time after time fails."""
        progressed = len(entry.records) > entry.records_at_return
        entry.returns, entry.records_at_return = 1 if progressed else entry.returns + 1, len(entry.records)
        if entry.returns < MAX_RETURNS:
            return True
        said = f"; the last one said: {entry.note}" if entry.note else " (were they short of memory?)"
        died = f"its workers died {MAX_RETURNS} times without finishing an epoch{said}"
        self.fail(entry.task.key, entry.put_off or died)
        return False

    def report(self, key: str, record: Record, found: bool = False) -> bool:
        """Note a finished epoch, or one that was `found` published; say whether anyone still wants the task."""
        entry, epoch = self._entries[key], int(record["epoch"])
        if found and epoch not in entry.records and not entry.returns:  # a worker may die before it tells of its own
            entry.reused.add(epoch)
        entry.records[epoch] = record
        entry.heard = self._clock()
        return bool(entry.owners) and self._closed is None

    def finish(self, key: str) -> None:
        """Note that a worker group is through with a task: done, or given up because no one wanted it any more."""
        entry = self._entries[key]
        if entry.state is State.RUNNING:
            self._leave(key)
            entry.state = State.DONE if entry.task.until in entry.records else State.WAITING
            if entry.state is State.WAITING and entry.owners:
                self._waiting.setdefault(key)

    def fail(self, key: str, reason: str) -> None:
        """Note that a task cannot be done; all that come after it fail with the same reason."""
        entry = self._entries[key]
        self._leave(key)
        entry.state, entry.reason = State.FAILED, reason
        for other in self._entries.values():
            if other.task.after is not None and other.task.after.key == key:
                self.fail(other.task.key, reason)

    def put_off(self, key: str, reason: str) -> None:
        """Note that a task cannot go on now, for a reason that may pass; its worker group comes back for it."""
        self._entries[key].put_off = reason

    def note(self, key: str, text: str) -> None:
        """Keep what a worker said before it died."""
        self._entries[key].note = text

    def worker_group_lost(self, worker_group: str, reason: str) -> None:
        """Note that a worker group is gone: another takes over its task; without any to come, the queue closes."""
        self._forget(worker_group)
        if worker_group in self._running:
            self._put_back(worker_group)
        if not self._heard and not self._come_and_go:
            self.close(reason)

    def _leave(self, key: str) -> None:
        """Take a task out of the line, and from the worker group that has it."""
        self._waiting.pop(key, None)
        self._running = {worker_group: running for worker_group, running in self._running.items() if running != key}

    def progress(self, owner: str, seen: int = 0) -> Progress:
        """Return how far an owner's chain is, the epochs of shared tasks included, those after the first `seen`."""
        if owner not in self._chains:
            reason = self._withdrawn.get(owner, "it was withdrawn")
            return Progress(state=State.FAILED, records=[], reason=reason)
        if not self._waits and (reason := self._unheard()):
            self.close(reason)
        entries = [self._entries[key] for key in self._chains[owner]]
        records: dict[int, Record] = {}
        for entry in entries:
            records |= entry.records
        trained = {epoch for entry in entries for epoch in entry.records.keys() - entry.reused}
        state, reason = self._state(entries)
        return Progress(
            state=state,
            records=[records[e] for e in sorted(records)][seen:],
            reason=reason,
            reused=frozenset(records.keys() - trained),
        )

    def _state(self, entries: list[_Entry]) -> tuple[State, str]:
        failed = next((entry for entry in entries if entry.state is State.FAILED), None)
        if failed is not None:
            return State.FAILED, failed.reason
        if entries[-1].state is State.DONE and entries[-1].task.completes:
            return State.DONE, ""
        if self._closed is not None:
            return State.CLOSED, self._closed
        running = any(entry.state is State.RUNNING for entry in entries)
        return State.RUNNING if running else State.WAITING, ""

    def withdraw(self, owner: str, reason: str = "it was withdrawn") -> None:
        """Take an owner's wishes back; a running task that no one else wants stops after its epoch."""
        self._withdrawn[owner] = reason
        for key in self._chains.pop(owner, []):
            self._entries[key].owners.discard(owner)
            if not self._entries[key].owners:
                self._waiting.pop(key, None)

    def lost_seconds(self) -> float:
        """Return how long workers trained what was lost when they died or were put off, their return included."""
        return self._lost_seconds

    def close(self, reason: str = "the queue was closed") -> frozenset[str]:
        """Let the worker groups stop after their present epoch; owners still waiting get this reason.

        Returns the worker groups that were ever heard: those that will hear of it.
        """
        self._closed = self._closed or reason
        return frozenset(self._known)
