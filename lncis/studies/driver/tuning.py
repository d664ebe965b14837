"""The trials of a study as Ray Tune follows them: through relays, light processes that report their epochs.

Tune has a loop of its own. It runs in a thread, where it asks for relays and passes on what they report; the loop of
the study (lncis.studies.driver.loop) starts the trials and reads the reports.
"""

import math
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.search import Searcher

from lncis.execution.cluster import TRIAL_DRIVER
from lncis.execution.queue import FOLLOWED_AT_ONCE, POLL_SECONDS
from lncis.execution.tasks import Task
from lncis.metrics import Record
from lncis.studies.driver.relay import Relay

MAX_RELAY_FAILURES = 100
"""A relay holds nothing: one that is killed is replaced, and reports again what it reported before."""

STOP_TIMEOUT_SECONDS = 30.0
"""How long Tune may take to end, once the queue is closed."""


class StudyStopped(Exception):
    """The trials cannot go on for now; the message says why."""


class StudyQueue:
    """The queue of a study as the scheduler needs it; the actor comes once Ray runs.

    Calls that answer nothing are sent and not waited for: with hundreds of worker groups they stand in line behind
    theirs. They arrive in the order in which they were sent, and those that answer say when the actor is gone.
    """

    actor: Any = None
    lost_seconds = 0.0

    def submit(self, owner: str, chain: Sequence[Task]) -> None:
        """Request the tasks of a trial."""
        self.actor.submit.remote(owner, list(chain))

    def withdraw(self, owner: str, reason: str) -> None:
        """Drop the tasks of a trial."""
        if self.actor is not None:  # while a journal is replayed there is none, and nothing to drop
            self.actor.withdraw.remote(owner, reason)

    def take_log(self) -> list[tuple[str, str]]:
        """Return what workers have logged since the last call: the key of the task, and the text."""
        taken: list[tuple[str, str]] = ray.get(self.actor.take_log.remote())
        return taken

    def note_losses(self) -> None:
        """Keep what the actor knows of lost time, before it goes."""
        with suppress(RayError):
            self.lost_seconds = ray.get(self.actor.lost_seconds.remote(), timeout=10)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a relay passes on of a trial: an epoch, the end of the trial, or both."""

    trial: str
    record: Record | None = None
    reused: bool = False
    """Whether the epoch was found published, and not trained by this study."""
    ended: bool = False
    reason: str = ""
    """Why the trial failed; empty where it did not."""


class TuneTrials:
    """Up to `most` trials, followed by Ray Tune; `start` and `reports` belong into one thread, Tune runs in another."""

    def __init__(self, queue: Any, name: str, most: int) -> None:
        """`queue` is the handle of a TaskQueue actor, `name` that of the Tune experiment."""
        self._queue, self._name, self._most = queue, name, most
        self._searcher = _Searcher()
        self._running: set[str] = set()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run_tune, name="tune", daemon=True)

    @property
    def running(self) -> int:
        """How many trials were started and have not ended."""
        return len(self._running)

    def start(self, trial: str, *, at_once: int) -> None:
        """Have a trial followed whose tasks are in the queue; `at_once` is how many trials are to be followed."""
        self._running.add(trial)
        self._queue.follow.remote(trial)  # sent after its tasks, so it arrives after them
        wanted = math.ceil(min(at_once, self.running) / FOLLOWED_AT_ONCE)
        self._searcher.relays = max(self._searcher.relays, wanted)

    def reports(self) -> Iterator[Report]:
        """Yield what has been reported; with nothing there, wait for it a moment. StudyStopped where Tune has ended."""
        if self._thread.ident is None:  # it finds relays to start at once, and need not ask again a second later
            self._thread.start()
        stopped = ""
        with suppress(Empty):
            message = self._searcher.reports.get(timeout=POLL_SECONDS)
            while True:
                if isinstance(message, Report):
                    yield from self._news(message)
                elif message is None:
                    cause = self._failure and (self._failure.__cause__ or self._failure)
                    stopped = stopped or f"Ray Tune ended early ({type(cause).__name__ if cause else 'no error'})"
                else:
                    stopped = message
                message = self._searcher.reports.get_nowait()
        if stopped:  # after what was reported before
            raise StudyStopped(stopped)

    def _news(self, report: Report) -> Iterator[Report]:
        """Yield a report; nothing where its trial has ended: a relay that was replaced reports again."""
        if report.trial in self._running:
            if report.ended:
                self._running.discard(report.trial)
            yield report

    def stop(self) -> None:
        """End Tune, after the queue was closed."""
        self._searcher.over.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT_SECONDS)

    def _run_tune(self) -> None:
        try:
            # nothing is restored through Tune: the journal knows
            with tempfile.TemporaryDirectory(prefix="lncis-tune-") as storage:
                tune.Tuner(
                    tune.with_resources(tune.with_parameters(Relay, queue=self._queue), {"CPU": 0, TRIAL_DRIVER: 1}),
                    tune_config=tune.TuneConfig(
                        search_alg=self._searcher,
                        num_samples=self._most,
                        max_concurrent_trials=self._most,  # without it Tune would start one after the other
                    ),
                    run_config=tune.RunConfig(
                        name=self._name,
                        storage_path=storage,
                        failure_config=tune.FailureConfig(max_failures=MAX_RELAY_FAILURES),
                        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a relay holds nothing
                        verbose=0,
                    ),
                ).fit()
        except Exception as error:
            self._failure = error
        finally:
            self._searcher.reports.put(None)


class _Searcher(Searcher):
    """What Tune asks for relays, and what it passes their reports on to."""

    def __init__(self) -> None:
        super().__init__()
        self.relays = 0
        """How many relays are wanted; more, where more trials train at once."""
        self.reports: SimpleQueue[Report | str | None] = SimpleQueue()
        """What relays report, why one has ended, and None once Tune has ended."""
        self.over = threading.Event()
        self._started = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a str
        """Return the config of another relay; None where there are enough for now, so that Tune asks again."""
        if self.over.is_set():
            return str(self.FINISHED)
        if self._started >= self.relays:
            return None
        self._started += 1
        return {"relay": trial_id}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass on what a relay reports."""
        for report in result.get("reports", ()):
            self.reports.put(Report(**report))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass on why a relay has ended: the queue was closed, or Tune gave it up."""
        self.reports.put((result or {}).get("closed") or f"a relay died {MAX_RELAY_FAILURES} times")

    def save(self, checkpoint_path: str) -> None:
        """Write nothing of use: Tune insists on a file."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Never called: studies are resumed from their journal."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its parts for a restore that we do not use."""
        return {}
