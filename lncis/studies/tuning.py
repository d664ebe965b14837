"""The trials of a study as Ray Tune sees them: light relays, each following one trial through the queue."""

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.exceptions import RayActorError, RayError
from ray.tune.search import Searcher

from lncis.execution.cluster import TRIAL_DRIVER
from lncis.execution.queue import Task
from lncis.studies.relay import Relay
from lncis.studies.trials import TrialScheduler

MAX_RELAY_FAILURES = 20
"""A relay holds nothing: one that is killed is replaced, and tells again what it told before."""


class StudyQueue:
    """The queue of a study as `TrialScheduler` needs it; the actor comes once Ray runs."""

    actor: Any = None
    lost_seconds = 0.0
    why_closed = ""
    """Why the study cannot go on; empty while it can."""

    def submit(self, owner: str, chain: Sequence[Task]) -> None:
        """Ask for the tasks of a trial."""
        ray.get(self.actor.submit.remote(owner, list(chain)))

    def withdraw(self, owner: str, reason: str) -> None:
        """Take that back."""
        if self.actor is not None:  # while a journal is replayed there is none, and nothing to take back
            with suppress(RayActorError):  # it died with all its wishes
                ray.get(self.actor.withdraw.remote(owner, reason))

    def note_losses(self) -> None:
        """Keep what the actor knows of lost time, before it goes."""
        with suppress(RayError):
            self.lost_seconds = ray.get(self.actor.lost_seconds.remote(), timeout=10)


class Attended(Protocol):
    """Those who train (lncis.studies.worker_pool)."""

    at_once: int
    """How many trials to follow now."""

    def attend(self, queue: Any) -> None:
        """Called again and again while trials are followed; `queue` is the handle of a TaskQueue actor."""


def follow(trials: TrialScheduler, queue: StudyQueue, worker_groups: Attended, name: str) -> None:
    """Follow the trials to their ends, as many at a time as the worker groups say, or until the queue is closed."""
    # nothing is restored through Tune: the journal knows
    with tempfile.TemporaryDirectory(prefix="lncis-tune-") as storage:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(Relay, queue=queue.actor), {"CPU": 0, TRIAL_DRIVER: 1}),
            tune_config=tune.TuneConfig(
                search_alg=_Suggestions(trials, queue, worker_groups),
                num_samples=trials.unfinished,
                max_concurrent_trials=trials.unfinished,  # without it Tune would start them one after the other
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=storage,
                failure_config=tune.FailureConfig(max_failures=MAX_RELAY_FAILURES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a relay holds nothing
                callbacks=[_Attendance(queue, worker_groups)],
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except (RayError, tune.TuneError) as error:
            cause = error.__cause__ or error.__context__
            if cause is not None and not isinstance(cause, RayError):  # raised in what Tune asked: ours
                raise cause from None
            queue.why_closed = f"Ray failed ({type(cause or error).__name__})"


class _Attendance(tune.Callback):
    """Lets worker groups be attended to whenever Ray Tune has come round, a few times a second."""

    def __init__(self, queue: StudyQueue, worker_groups: Attended) -> None:
        self._queue, self._worker_groups = queue, worker_groups

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Attend to them."""
        self._worker_groups.attend(self._queue.actor)

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its parts for a restore that we do not use."""
        return {}


class _Suggestions(Searcher):
    """`TrialScheduler` as Ray Tune asks and tells."""

    def __init__(self, trials: TrialScheduler, queue: StudyQueue, worker_groups: Attended) -> None:
        super().__init__()
        self._trials, self._queue, self._worker_groups = trials, queue, worker_groups
        self._names: dict[str, str] = {}  # Tune's id of a relay -> the trial that it follows

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a str
        """Return what the next Relay follows; None where enough are followed now, so that Tune asks again."""
        if self._names and len(self._names) >= self._worker_groups.at_once:
            return None
        try:
            trial = None if self._queue.why_closed else self._trials.start_next()
        except RayActorError:
            trial, self._queue.why_closed = None, "the study's queue died"
        if trial is None:
            return str(self.FINISHED)
        self._names[trial_id] = trial.name
        return {"owner": trial.name}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass an epoch on; Tune hands on a Relay's step flattened."""
        record = {key.removeprefix("record/"): value for key, value in result.items() if key.startswith("record/")}
        if record:
            self._trials.epoch_finished(self._names[trial_id], record, reused=bool(result["reused"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass on that a trial is over, if it is: one that Tune or a closed queue ended can go on in a new session."""
        result = result or {}
        self.on_trial_result(trial_id, result)
        name = self._names.pop(trial_id)
        if result.get("closed"):
            self._queue.why_closed = str(result["reason"])
        elif result.get("done") and not error:
            self._trials.trial_ended(name, str(result.get("reason", "")))

    def save(self, checkpoint_path: str) -> None:
        """Write nothing of use: Tune insists on a file."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Never called: studies are resumed from their journal."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its parts for a restore that we do not use."""
        return {}
