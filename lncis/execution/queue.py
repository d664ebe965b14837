"""The queue of tasks between trials and the worker groups that train them.

A task is a stretch of epochs. Owners (trials) submit chains of tasks; a task that several owners submit, recognised by
its key, is trained once. Worker groups take one ready task after another. Plain Python:
`lncis.execution.worker_groups` makes a Ray actor of it.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lncis.execution.tasks import Progress, State, Task
from lncis.metrics import Record

POLL_SECONDS = 0.2
"""Between two questions to the queue of those who wait for it."""

MAX_ATTEMPTS = 5
"""How often a task may kill its workers, or be postponed, without finishing an epoch before it fails."""

NO_WORKER_TIMEOUT_SECONDS = 1200.0
"""After so long without a heartbeat of any worker something is wrong: a cluster that grows needs minutes for a node."""

HEARTBEAT_TIMEOUT_SECONDS = 120.0
"""After so long without a heartbeat a worker group's task may go to another group: its node is gone."""

MAX_LOG_LINES = 10_000
"""Lines of logs that wait for the driver, at most: the latest ones."""

FOLLOWED_AT_ONCE = 16
"""Owners whose progress one follower passes on: followers are processes, so there should not be one for each."""

IDLE_TIMEOUT_SECONDS = 60.0
"""After so long without a task a worker group gives its workers back: about what it takes to start one again."""


@dataclass(frozen=True, kw_only=True)
class QueueStatus:
    """How much there is to do, and which worker groups are there to do it."""

    live: frozenset[str]
    """Worker groups with a recent heartbeat."""
    tasks: int
    """Tasks that run, and tasks that are ready to run."""
    silence: str = ""
    """What is wrong where no worker has sent a heartbeat for long; else empty."""


@dataclass
class _TaskState:
    task: Task
    owners: set[str]
    state: State = State.WAITING
    records: dict[int, Record] = field(default_factory=dict)
    reused: set[int] = field(default_factory=set)  # epochs of `records` that were found published
    reason: str = ""
    attempts: int = 0  # how often its worker group came back for it without a new epoch
    records_at_attempt: int = 0
    note: str = ""  # what its worker hint before it died
    postponed: str = ""  # why its worker, which lives, cannot go on just now
    last_progress: float = 0.0  # when its worker took it or finished an epoch


class TaskQueue:
    """The tasks of all owners; every method but `take` may be called again with the same arguments.

    `scaled`: others start worker groups as needed, so the queue stays open without any, and tells a group that was idle
    for `idle_seconds` to stop, unless it is the last. `waits`: room for workers may come at any time, so the queue
    waits for a heartbeat without limit; else it closes after NO_WORKER_TIMEOUT_SECONDS without one.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        scaled: bool = False,
        idle_seconds: float = math.inf,
        waits: bool = False,
    ) -> None:
        self._tasks: dict[str, _TaskState] = {}
        self._waiting: dict[str, None] = {}  # keys in the order of submission, which is the order of work
        self._running: dict[str, str] = {}  # worker group -> key
        self._chains: dict[str, list[str]] = {}
        self._withdrawn: dict[str, str] = {}
        self._to_follow = deque[str]()  # owners whose progress no follower passes on yet
        self._followed: dict[str, list[str]] = {}  # follower -> the owners whose progress it passes on
        self._closed: str | None = None
        self._clock = clock
        self._last_heartbeat = clock()  # of any worker group
        self._heartbeats: dict[str, float] = {}  # worker group -> the last one
        self._idle: dict[str, float] = {}  # worker group -> since when it has nothing to do
        self._scaled, self._idle_seconds, self._waits = scaled, idle_seconds, waits
        self._known: set[str] = set()  # worker groups that ever took a task
        self._lost_seconds = 0.0
        self._log = deque[tuple[str, str]](maxlen=MAX_LOG_LINES)

    def submit(self, owner: str, chain: Sequence[Task]) -> None:
        """Request a chain of tasks, each after the one before it; a task that others requested already is shared.

        A chain may be submitted in pieces, each time longer; only its last task completes it.
        """
        self._chains[owner] = [task.key for task in chain]
        for task in chain:
            state = self._tasks.setdefault(task.key, _TaskState(task, set()))
            state.owners.add(owner)
            if state.state is State.WAITING:
                self._waiting.setdefault(task.key)

    def take(self, worker_group: str) -> Task | Literal["wait", "stop"]:
        """Return the next task of a worker group: the one it held if its workers died, else the first that is ready."""
        self._note_heartbeat(worker_group)
        self._known.add(worker_group)
        if self._closed is not None:
            return "stop"
        if worker_group in self._running:
            state = self._tasks[self._running[worker_group]]
            self._lost_seconds += self._clock() - state.last_progress
            if self._may_try_again(state):
                state.last_progress, state.postponed = self._clock(), ""
                return state.task
        for key in self._ready():
            state = self._tasks[key]
            del self._waiting[key]
            self._idle.pop(worker_group, None)
            self._running[worker_group] = key
            state.state, state.last_progress = State.RUNNING, self._clock()
            return state.task
        self._take_tasks_of_silent_groups()
        return "stop" if self._is_dispensable(worker_group) else "wait"

    def heartbeat(self, worker_group: str) -> None:
        """Note that the workers of a group live; called while an epoch takes long."""
        if worker_group in self._heartbeats:  # one that was told to stop is forgotten
            self._note_heartbeat(worker_group)

    def _note_heartbeat(self, worker_group: str) -> None:
        self._heartbeats[worker_group] = self._last_heartbeat = self._clock()

    def status(self) -> QueueStatus:
        """Return how many tasks there are for how many worker groups."""
        tasks = len(self._running) + sum(1 for _ in self._ready())
        return QueueStatus(live=self._live(), tasks=tasks, silence=self._silence())

    def _silence(self) -> str:
        if self._clock() - self._last_heartbeat <= NO_WORKER_TIMEOUT_SECONDS:
            return ""
        return (
            f"no worker has sent a heartbeat for {NO_WORKER_TIMEOUT_SECONDS / 60:.0f} minutes: the cluster has no room "
            "for one, or cannot start it; see `ray status` and the study's logs/driver"
        )

    def _ready(self) -> Iterator[str]:
        for key in self._waiting:
            after = self._tasks[key].task.after
            if after is None or self._tasks[after.key].state is State.DONE:
                yield key

    def _live(self) -> frozenset[str]:
        now = self._clock()
        return frozenset(name for name, last in self._heartbeats.items() if now - last <= HEARTBEAT_TIMEOUT_SECONDS)

    def _is_dispensable(self, worker_group: str) -> bool:
        """Say whether a worker group was idle for long enough and others are there; then it is forgotten."""
        now = self._clock()
        long = now - self._idle.setdefault(worker_group, now) >= self._idle_seconds
        if long and self._live() != {worker_group} and not any(self._ready()):
            self._forget(worker_group)
            return True
        return False

    def _forget(self, worker_group: str) -> None:
        self._heartbeats.pop(worker_group, None)
        self._idle.pop(worker_group, None)

    def _take_tasks_of_silent_groups(self) -> None:
        """Put the tasks of silent worker groups back into the line; one that returns gets another task.

        Should it still be training, the folder of the task has one trainer at a time (lncis.execution.worker).
        """
        for worker_group in list(self._running):
            if self._clock() - self._heartbeats[worker_group] > HEARTBEAT_TIMEOUT_SECONDS:
                self._put_back(worker_group)

    def _put_back(self, worker_group: str) -> None:
        state = self._tasks[self._running.pop(worker_group)]
        self._lost_seconds += self._clock() - state.last_progress
        state.state, state.postponed = State.WAITING, ""
        self._waiting = {state.task.key: None, **self._waiting}

    def _may_try_again(self, state: _TaskState) -> bool:
        """Say whether a worker group may have its task again; one that kills its workers time after time fails."""
        progressed = len(state.records) > state.records_at_attempt
        state.attempts, state.records_at_attempt = 1 if progressed else state.attempts + 1, len(state.records)
        if state.attempts < MAX_ATTEMPTS:
            return True
        hint = f"; the last error: {state.note}" if state.note else " (were they short of memory?)"
        died = f"its workers died {MAX_ATTEMPTS} times without finishing an epoch{hint}"
        self.fail(state.task.key, state.postponed or died)
        return False

    def report(self, key: str, record: Record, found: bool = False) -> bool:
        """Note a finished epoch, or one that was `found` published; say whether anyone still wants the task."""
        state, epoch = self._tasks[key], int(record["epoch"])
        if (
            found and epoch not in state.records and not state.attempts
        ):  # a worker may die before it reports its own epoch
            state.reused.add(epoch)
        state.records[epoch] = record
        state.last_progress = self._clock()
        return bool(state.owners) and self._closed is None

    def finish(self, key: str) -> None:
        """Note that a worker group has left a task: it is trained, or no owner wants it any more."""
        state = self._tasks[key]
        if state.state is State.RUNNING:
            self._leave(key)
            state.state = State.DONE if state.task.until in state.records else State.WAITING
            if state.state is State.WAITING and state.owners:
                self._waiting.setdefault(key)

    def fail(self, key: str, reason: str) -> None:
        """Note that a task cannot be trained; all tasks after it fail with the same reason."""
        state = self._tasks[key]
        self._leave(key)
        state.state, state.reason = State.FAILED, reason
        for other in self._tasks.values():
            if other.task.after is not None and other.task.after.key == key:
                self.fail(other.task.key, reason)

    def postpone(self, key: str, reason: str) -> None:
        """Note that a task cannot go on now, for a reason that may pass; its worker group comes back for it."""
        self._tasks[key].postponed = reason

    def note(self, key: str, text: str) -> None:
        """Keep the last message of a worker that is about to die."""
        self._tasks[key].note = text

    def worker_group_lost(self, worker_group: str, reason: str) -> None:
        """Note that a worker group is gone: another takes over its task; without any to come, the queue closes."""
        self._forget(worker_group)
        if worker_group in self._running:
            self._put_back(worker_group)
        if not self._heartbeats and not self._scaled:
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
        if not self._waits and (reason := self._silence()):
            self.close(reason)
        states = [self._tasks[key] for key in self._chains[owner]]
        records: dict[int, Record] = {}
        for state in states:
            records |= state.records
        trained = {epoch for state in states for epoch in state.records.keys() - state.reused}
        standing, reason = self._standing(states)
        return Progress(
            state=standing,
            records=[records[e] for e in sorted(records)][seen:],
            reason=reason,
            reused=frozenset(records.keys() - trained),
        )

    def _standing(self, states: list[_TaskState]) -> tuple[State, str]:
        failed = next((state for state in states if state.state is State.FAILED), None)
        if failed is not None:
            return State.FAILED, failed.reason
        if states[-1].state is State.DONE and states[-1].task.completes:
            return State.DONE, ""
        if self._closed is not None:
            return State.CLOSED, self._closed
        running = any(state.state is State.RUNNING for state in states)
        return State.RUNNING if running else State.WAITING, ""

    def follow(self, owner: str) -> None:
        """Have an owner's progress passed on by a follower, after those of the owners named before."""
        self._to_follow.append(owner)

    def news_for(
        self, follower: str, seen: Mapping[str, int], ended: Collection[str] = ()
    ) -> tuple[dict[str, Progress], str]:
        """Return the progress of a follower's owners, after the epochs `seen` of each; and why the queue was closed.

        It has up to FOLLOWED_AT_ONCE, each until it names it as `ended`: one that died begins anew with the same ones.
        """
        followed = [owner for owner in self._followed.get(follower, ()) if owner not in ended]
        while self._to_follow and len(followed) < FOLLOWED_AT_ONCE:
            followed.append(self._to_follow.popleft())
        self._followed[follower] = followed
        return {owner: self.progress(owner, seen.get(owner, 0)) for owner in followed}, self._closed or ""

    def withdraw(self, owner: str, reason: str = "it was withdrawn") -> None:
        """Drop the tasks of an owner; a running one that no other owner wants stops after its epoch."""
        self._withdrawn[owner] = reason
        for key in self._chains.pop(owner, []):
            self._tasks[key].owners.discard(owner)
            if not self._tasks[key].owners:
                self._waiting.pop(key, None)

    def log(self, key: str, text: str) -> None:
        """Keep what a worker logs of a task, or, without a key, of none of its own, until the driver takes it."""
        self._log.append((key, text))

    def take_log(self) -> list[tuple[str, str]]:
        """Return what workers have logged since the last call: the key of the task, and the text."""
        taken = list(self._log)
        self._log.clear()
        return taken

    def lost_seconds(self) -> float:
        """Return for how long workers trained what was lost when they died or were postponed, restarts included."""
        return self._lost_seconds

    def close(self, reason: str = "the queue was closed") -> frozenset[str]:
        """Let the worker groups stop after their present epoch, and give owners that still wait this reason.

        Returns the worker groups that ever took a task: they will ask again, and stop by themselves.
        """
        self._closed = self._closed or reason
        return frozenset(self._known)
