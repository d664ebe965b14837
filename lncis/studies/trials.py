"""The scheduler of a study: which trial is next, and what follows from what trials report. Knows no Ray.

All that happens is written into the journal first, and only then takes effect. A study that is resumed replays its
journal through the same code that wrote it, so it is then where it was: what was proposed, what was
reported to the sampler, what was decided at rungs, and what is still to do.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

from lncis.errors import ConfigError
from lncis.execution.tasks import Task
from lncis.metrics import Record
from lncis.studies.record.journal import End, EpochFinished, Event, TrialEnded, TrialRetried, TrialStarted
from lncis.studies.search import Suggester
from lncis.studies.spec import Trial, label
from lncis.studies.study_run import StudyRun


class Queue(Protocol):
    """Where the tasks of trials go (lncis.execution.queue.TaskQueue, or an actor that holds one)."""

    def submit(self, owner: str, chain: Sequence[Task]) -> None:
        """Request the tasks of a trial."""

    def withdraw(self, owner: str, reason: str) -> None:
        """Drop the tasks of a trial."""


class Store(Protocol):
    """Where finished stages are kept for other studies (lncis.studies.stages.store)."""

    def publish(self, task: Task) -> None:
        """Keep a finished stage."""

    def reuse(self, task: Task) -> bool:
        """Say whether an earlier study has published a stage; if so, it now stands in this study's folder."""


class Decision(Enum):
    """What happens to a configuration at its next rung."""

    WAIT = "wait"
    """Not all of its seeds have reached the rung, or none lies ahead."""
    CONTINUE = "continue"
    PRUNE = "prune"


@dataclass
class _TrialState:
    """What has happened to a trial since it was started."""

    trial: Trial
    tasks: list[Task]
    reused: list[str]
    """Keys of the tasks that the store had."""
    records: dict[int, Record] = field(default_factory=dict)
    end: End | None = None

    def value(self, metric: str, epoch: int) -> float:
        return self.records.get(epoch, {}).get(metric, math.nan)


class TrialScheduler:
    """The trials of a study: the baselines first, then each configuration with every seed.

    Call `resume` once, then `start_next`, `epoch_finished` and `trial_ended` until `unfinished` is 0.
    """

    def __init__(
        self,
        run: StudyRun,
        suggester: Suggester,
        queue: Queue,
        store: Store | None = None,
    ) -> None:
        self._run, self._spec, self._tree, self._journal = run, run.spec, run.tree, run.journal
        self._suggester, self._queue, self._store = suggester, queue, store
        self._states: dict[str, _TrialState] = {}  # by the name of the trial
        self._trials: dict[int, list[Trial]] = {}  # by configuration, in the order of the study
        self._last_rung: dict[int, int] = {}  # configuration -> the last rung at which it was decided about
        self._reused: set[str] = set()  # keys of the tasks that the store had for some trial
        self._begun: set[str] = set()  # keys of the tasks that are trained here
        self._rejected = self._over = 0  # configurations that were left out; trials that have ended
        self._waiting = deque[Trial]()
        self._at_work: set[str] = set()  # trials that were given to the queue in this session

    def resume(self, *, retry_failed: bool = False) -> None:
        """Replay the journal, and finish what a killed session left half done; `retry_failed` reopens failed trials."""
        for number, (name, overrides) in enumerate(self._spec.baselines.items()):
            self._trials[number] = self._spec.trials(number, overrides, baseline=name)
        undone = [self._replay(event) for event in list(self._journal.events)]
        for configuration in undone:
            if configuration is not None:  # decided, but the study was killed before that was written
                self._prune(configuration)
        for name, state in self._states.items():
            pruned = any(other.end is End.PRUNED for other in self._of(state.trial.configuration))
            if retry_failed and state.end is End.FAILED and not pruned:
                self._happened(TrialRetried(trial=name))
        self._waiting = deque(t for trials in self._trials.values() for t in trials if not self._ended(t))
        for state in self._states.values():
            if state.records and state.end is None:  # the study may have been killed before it published that
                self._publish(state, max(state.records))
        for observer in self._run.observers:
            observer.on_session_start()

    @property
    def unfinished(self) -> int:
        """How many trials have not ended, those not yet proposed included."""
        return self._spec.total_trials - self._rejected * len(self._spec.replicates) - self._over

    def start_next(self, *, only_awaited: bool = False) -> Trial | None:
        """Give the next trial to the queue and return it; None when there is none left to start.

        With `only_awaited` it is one without which others that were started could not go on: a pruner waits at a rung
        for all seeds of a configuration.
        """
        trial = self._next_awaited() if only_awaited else self._next()
        if trial is None:
            return None
        self._at_work.add(trial.name)
        if trial.name not in self._states:
            tasks = self._tree.chain(trial)
            self._happened(
                TrialStarted(
                    configuration=trial.configuration,
                    overrides=trial.overrides,
                    seed=trial.seed,
                    noise_seed=trial.noise_seed,
                    fold=trial.fold,
                    baseline=trial.baseline,
                    stages={task.key: task.until for task in tasks},
                    reused=[task.key for task in tasks if task.key in self._reused or self._reuse(task)],
                )
            )
        self._submit(self._states[trial.name])
        return trial

    def _next(self) -> Trial | None:
        while True:
            while not self._waiting:
                if not self._propose():
                    return None
            trial = self._waiting.popleft()
            if not self._ended(trial):  # one of an earlier session may have been pruned before its turn
                return trial

    def _next_awaited(self) -> Trial | None:
        for trial in self._waiting if self._tree.rungs else ():
            others = (state.trial.name for state in self._of(trial.configuration) if state.end is None)
            if not trial.baseline and not self._ended(trial) and self._at_work.intersection(others):
                self._waiting.remove(trial)
                return trial
        return None

    def stop(self, name: str, reason: str) -> None:
        """End a trial as failed, for a reason; no effect on one that has ended, or has not begun."""
        if name in self._states:
            self.trial_ended(name, reason)

    def epoch_finished(self, name: str, record: Record, *, reused: bool = False) -> None:
        """Note an epoch of a trial, and decide about its configuration; an epoch that is known already is ignored."""
        state = self._states[name]
        if state.end is not None or record["epoch"] in state.records:
            return
        self._happened(EpochFinished(trial=name, record=record, reused=reused))
        self._publish(state, int(record["epoch"]))
        self._decide_on(state.trial.configuration)

    def trial_ended(self, name: str, reason: str) -> None:
        """Note that a trial is complete, or failed if there is a reason."""
        state = self._states[name]
        if state.end is None:
            self._happened(TrialEnded(trial=name, end=End.FAILED if reason else End.FINISHED, reason=reason))
            self._queue.withdraw(name, reason)
            self._decide_on(state.trial.configuration)

    def _reuse(self, task: Task) -> bool:
        return self._store is not None and task.key not in self._begun and self._store.reuse(task)

    def _publish(self, state: _TrialState, epoch: int) -> None:
        # what lies before a reused stage is not this trial's: another one may be training it just now
        for task in _without_earlier_tasks(state.tasks, state.reused):
            if self._store and task.until == epoch:
                self._store.publish(task)

    def _propose(self) -> bool:
        """Put the trials of the next configuration into the line; say whether there was one."""
        proposed = self._suggester.ask()
        if proposed is None:
            return False
        number, overrides = proposed
        configuration = len(self._spec.baselines) + number
        try:
            self._trials[configuration] = self._spec.trials(configuration, overrides)
        except ConfigError as error:  # values that are right one by one may not fit together
            self._rejected += 1
            self._suggester.tell(number, [[]])
            self._run.note(f"{label(overrides)} was drawn and left out: {'; '.join(error.problems)}")
            return True
        self._waiting.extend(self._trials[configuration])
        return True

    def _happened(self, event: Event) -> None:
        self._journal.append(event)
        self._apply(event)

    def _replay(self, event: Event) -> int | None:
        """Apply an event of an earlier session; return a configuration that was to be pruned after it."""
        if isinstance(event, TrialStarted) and event.configuration not in self._trials:
            self._repropose(event)
        self._apply(event)
        if not isinstance(event, EpochFinished | TrialEnded) or self._states[event.trial].end is End.PRUNED:
            return None
        configuration = self._states[event.trial].trial.configuration
        while (decision := self._decide(configuration)) is Decision.CONTINUE:
            pass
        return configuration if decision is Decision.PRUNE else None

    def _repropose(self, event: TrialStarted) -> None:
        while event.configuration not in self._trials:
            following = len(self._spec.baselines) + self._suggester.proposed
            if following < event.configuration:  # it was left out; drawn again, it will be again
                self._propose()
                continue
            self._suggester.ask(event.overrides)
            self._trials[event.configuration] = self._spec.trials(event.configuration, event.overrides)

    def _apply(self, event: Event) -> None:
        match event:
            case TrialStarted():
                trial = next(t for t in self._trials[event.configuration] if t.name == event.trial)
                state = self._states[trial.name] = _TrialState(trial, self._tree.chain(trial), event.reused)
                self._reused.update(event.reused)
                own = _without_earlier_tasks(state.tasks, event.reused)
                self._begun.update(task.key for task in own if task.key not in event.reused)
                for observer in self._run.observers:
                    observer.on_trial_start(trial, state.tasks)
            case EpochFinished():
                state = self._states[event.trial]
                state.records[int(event.record["epoch"])] = event.record
                for observer in self._run.observers:
                    observer.on_epoch(state.trial, event.record)
            case TrialEnded():
                state = self._states[event.trial]
                self._over += state.end is None
                state.end = event.end
                self._tell(state.trial.configuration)
                for observer in self._run.observers:
                    observer.on_trial_end(state.trial, event.end, event.reason)
            case TrialRetried():
                state = self._states[event.trial]
                self._over -= state.end is not None
                state.end = None
                if state.trial.baseline is None:
                    self._suggester.reopen(state.trial.configuration - len(self._spec.baselines))
                for observer in self._run.observers:
                    observer.on_trial_start(state.trial, state.tasks)

    def _ended(self, trial: Trial) -> bool:
        return trial.name in self._states and self._states[trial.name].end is not None

    def _of(self, configuration: int) -> list[_TrialState]:
        return [self._states[t.name] for t in self._trials[configuration] if t.name in self._states]

    def _tell(self, configuration: int) -> None:
        """Tell the sampler what a configuration reached, once all its trials are over."""
        number, states = configuration - len(self._spec.baselines), self._of(configuration)
        if number < 0 or len(states) < len(self._trials[configuration]) or any(s.end is None for s in states):
            return
        if any(state.end is End.PRUNED for state in states):
            self._suggester.tell_pruned(number)
            return
        finished = [state for state in states if state.end is End.FINISHED]
        last = [
            [s.value(objective.metric, s.trial.config.schedule.epochs) for s in finished]
            for objective in self._spec.objectives
        ]
        self._suggester.tell(number, last if len(finished) == len(states) else [[]])

    def _next_rung(self, trial: Trial) -> int | None:
        """Return the epoch after which it is next decided about a trial's configuration."""
        last = self._last_rung.get(trial.configuration, 0)
        return next((rung for rung in self._tree.rungs_of(trial) if rung > last), None)

    def _submit(self, state: _TrialState) -> None:
        """Have a trial trained up to the next rung: how it goes on depends on the other seeds."""
        rung = self._next_rung(state.trial) or state.trial.config.schedule.epochs
        needed = _without_earlier_tasks(state.tasks, state.reused)
        self._queue.submit(state.trial.name, [task for task in needed if task.until <= rung or not task.after])

    def _decide_on(self, configuration: int) -> None:
        """Decide about a configuration at each rung that it has reached: reused epochs may have passed several."""
        while (decision := self._decide(configuration)) is Decision.CONTINUE:
            for state in self._of(configuration):
                if state.end is None:
                    self._submit(state)
        if decision is Decision.PRUNE:
            self._prune(configuration)

    def _decide(self, configuration: int) -> Decision:
        """Decide about a configuration at its next rung, if all its seeds have reached that."""
        states, rung = self._of(configuration), self._next_rung(self._trials[configuration][0])
        alive = [state for state in states if state.end is None]
        if rung is None or len(states) < len(self._trials[configuration]) or not alive:
            return Decision.WAIT
        if any(rung not in state.records for state in alive):
            return Decision.WAIT
        self._last_rung[configuration] = rung
        mean = sum(state.value(self._spec.objective.metric, rung) for state in alive) / len(alive)
        prune = self._suggester.should_prune(configuration - len(self._spec.baselines), rung, mean)
        return Decision.PRUNE if prune else Decision.CONTINUE

    def _prune(self, configuration: int) -> None:
        rung = self._last_rung[configuration]
        for state in self._of(configuration):
            if state.end is None:
                name = state.trial.name
                reason = f"{self._spec.pruner.type}: behind the others after epoch {rung}"
                self._happened(TrialEnded(trial=name, end=End.PRUNED, reason=reason))
                self._queue.withdraw(name, reason)


def _without_earlier_tasks(tasks: list[Task], reused: list[str]) -> list[Task]:
    """Return the tasks from the last reused one on: its checkpoint holds all that came before."""
    last = max((number for number, task in enumerate(tasks) if task.key in reused), default=0)
    return [replace(tasks[last], after=None), *tasks[last + 1 :]]
