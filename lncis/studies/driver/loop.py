"""The loop that drives a study.

What Ray Tune does here, and what it does not. Its trials are relays (driver.relay): light processes that follow the
trials of the study and report their epochs. Tune places them, and replaces one that dies. There is no Tune trial for
each trial: Tune keeps the process of one of several that end together, and starts the others anew. Three more things
Tune does not do. Its schedulers judge single trials, not configurations over their seeds, and lose their rungs when
restored. Its OptunaSearch tells Optuna that pruned trials are complete. Its checkpoints and `Tuner.restore` do not
support stages that trials share. In their place stand lncis.studies.trials, Optuna itself (lncis.studies.search) and
the journal.
"""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from ray.exceptions import RayActorError, RayError

from lncis.errors import BudgetError, StudyError
from lncis.execution import cluster
from lncis.execution.worker_groups import start_queue
from lncis.studies import budget
from lncis.studies.budget import Spending
from lncis.studies.driver.log import DriverLog
from lncis.studies.driver.probing import SensitivityCheck
from lncis.studies.driver.tuning import StudyQueue, StudyStopped, TuneTrials
from lncis.studies.driver.worker_pool import WorkerPool, idle_seconds
from lncis.studies.record.journal import EpochFinished
from lncis.studies.record.logs import DRIVER, LOGS
from lncis.studies.record.requests import Requests, read_requests
from lncis.studies.study_run import StudyRun
from lncis.studies.trials import TrialScheduler

LAST_EPOCH_SECONDS = 60.0
"""When the budget is spent, worker groups have twice the longest epoch so far, and so long, to end at their epoch."""

LAST_REPORTS_SECONDS = 3.0
"""When the budget is spent, trials that have just trained their last epoch have so long to say that they ended."""

REQUESTS_SECONDS = 1.0
"""Between two looks at what users ask of the study."""

SHORT_TRIAL_SECONDS, FEWEST_AT_ONCE = 10.0, 4
"""Trials shorter than that, of which so many train at a time or more, are started ahead."""


def drive(run: StudyRun, scheduler: TrialScheduler, queue: StudyQueue, log: DriverLog, *, verbose: bool) -> None:
    """Train all trials that have not ended, on the Ray cluster of RAY_ADDRESS or on one of this machine.

    Raises StudyError where that cannot go on; what was trained is in the journal, and the study can be resumed.
    BudgetError where its budget is spent. ConfigError where a searched parameter changes nothing.
    """
    if not scheduler.unfinished:
        return
    spending, reached = Spending(run.spec), ""
    resources, stopped = run.spec.resources, "Ray stopped them"
    at_once = 1 if resources.max_concurrent_trials == "auto" else resources.at_a_time(scheduler.unfinished)
    try:
        if spent := spending.reached(run.journal.events, time.time()):
            raise _BudgetSpent(spent)
        with cluster.connected(resources, at_once, verbose=verbose):
            _drive_on_ray(run, scheduler, queue, log, spending)
    except _BudgetSpent as error:
        reached = str(error)
    except StudyStopped as error:
        stopped = str(error)
    except RayActorError:
        stopped = "the study's queue died"
    except RayError as error:
        stopped = f"Ray failed ({type(error).__name__})"
    if scheduler.unfinished and reached:
        raise BudgetError(
            f"{scheduler.unfinished} trials of study {run.study_id} did not end: its budget is spent ({reached}); go "
            f"on with: {budget.remedy(run.spec, run.study_id, reached)}",
            reached=reached,
        )
    if scheduler.unfinished:
        if read_requests(run.folder).drain:
            stopped = "a user asked to start no more"
        raise StudyError(
            f"{scheduler.unfinished} trials of study {run.study_id} did not end: {stopped} (more in "
            f"{run.folder / LOGS / DRIVER}); resume it with: lncis study run --resume {run.study_id}"
        )


class _BudgetSpent(Exception):
    """The message says which limits are reached."""


@dataclass
class _End:
    """When the study stops, by the monotonic clock, as its budget is spent."""

    at: float | None = None


def _drive_on_ray(
    run: StudyRun, scheduler: TrialScheduler, queue: StudyQueue, log: DriverLog, spending: Spending
) -> None:
    """Start the queue, the probes and the workers; follow the trials; stop all that was started."""
    queue.actor = start_queue(scaled=True, idle_seconds=idle_seconds(), waits=cluster.grows())
    with ExitStack() as at_the_end:  # the last one first, and each one, also after another Ctrl-C
        trials = TuneTrials(queue.actor, run.study_id, scheduler.unfinished)
        at_the_end.callback(trials.stop)
        pool = WorkerPool(run, scheduler.unfinished, queue.actor)
        at_the_end.callback(_take_last_lines, log, queue)
        at_the_end.callback(pool.stop)
        at_the_end.callback(queue.note_losses)
        check = SensitivityCheck(run, queue.actor)
        pool.begin()

        def attend() -> tuple[int, int]:
            check.attend()
            pool.attend()
            log.take(queue.take_log)
            if not (spent := spending.reached(run.journal.events, time.time())):
                return pool.trials_at_once, ahead(run, pool.trials_at_once)
            if end.at is None:
                end.at = time.monotonic() + LAST_REPORTS_SECONDS
            if time.monotonic() >= end.at:
                pool.stop_seconds = LAST_EPOCH_SECONDS + 2 * _longest_epoch(run)
                raise _BudgetSpent(spent)
            return 0, 0  # start none

        end = _End()
        follow(scheduler, trials, attend, _Asked(run.folder).now)
        if end.at is not None:
            raise _BudgetSpent(spending.reached(run.journal.events, time.time()))


def ahead(run: StudyRun, at_once: int) -> int:
    """Return how many trials to start beyond those that train, so that a free worker group finds one in the queue.

    Between the end of a trial and the start of the next one lies about half a second, of which only short trials know.
    None where it would matter which results are there when a trial starts: to a sampler, a pruner or a budget; nor
    where tasks that wait would let the cluster grow.
    """
    spec = run.spec
    minds = spec.sampler.type not in ("grid", "random") or spec.pruner.type != "none"
    limited = any(limit is not None for limit in vars(spec.budget).values())
    if minds or limited or spec.resources.max_concurrent_trials == "auto" or at_once < FEWEST_AT_ONCE:
        return 0
    epochs = (event for event in reversed(run.journal.events) if isinstance(event, EpochFinished))
    trial_seconds = next((event.record["seconds"] for event in epochs), math.inf) * spec.base.schedule.epochs
    return at_once if trial_seconds < SHORT_TRIAL_SECONDS else 0


def _longest_epoch(run: StudyRun) -> float:
    epochs = (event for event in run.journal.events if isinstance(event, EpochFinished))
    return max((event.record["seconds"] for event in epochs), default=0.0)


def _take_last_lines(log: DriverLog, queue: StudyQueue) -> None:
    with suppress(RayError):  # the queue may be gone
        log.take(queue.take_log, at_once=True)


class _Asked:
    """What users ask of the study, looked up now and then."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._next_look, self._found = folder, 0.0, Requests()

    def now(self) -> Requests:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look, self._found = now + REQUESTS_SECONDS, read_requests(self._folder)
        return self._found


def follow(
    scheduler: TrialScheduler,
    trials: TuneTrials,
    attend: Callable[[], tuple[int, int]],
    asked: Callable[[], Requests] = Requests,
) -> None:
    """The loop: reports decide what happens to trials, and which trial is next.

    `attend` starts missing workers, and returns how many trials train at once, and how many more to start ahead of
    them; `asked`, what users want.
    """
    while scheduler.unfinished:
        (at_once, more), requests = attend(), asked()
        for name, user in requests.stop.items():
            scheduler.stop(name, f"stopped by {user}")
        while trials.running < at_once + more and (trial := scheduler.start_next(only_awaited=requests.drain)):
            trials.start(trial.name, at_once=at_once)
        if not trials.running:
            return  # no more are to start
        for report in trials.reports():
            if report.record:
                scheduler.epoch_finished(report.trial, report.record, reused=report.reused)
            if report.ended:
                scheduler.trial_ended(report.trial, report.reason)
