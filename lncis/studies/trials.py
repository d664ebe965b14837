"""The course of a study: which trial comes next, and what follows from what trials report. Knows no Ray.

All that happens is written into the journal first. A study that is resumed replays its journal through the same code
that wrote it, so it is then where it was: what was proposed, told to Optuna, judged at rungs, and what is still to do.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from lncis.errors import ConfigError
from lncis.execution.queue import Task
from lncis.metrics import Record
from lncis.studies.journal import End, EpochFinished, Event, Journal, TrialEnded, TrialRetried, TrialStarted, trial_of
from lncis.studies.search import Suggester
from lncis.studies.spec import StudySpec, Trial, label
from lncis.studies.stages import StageTree, switch_of


class Queue(Protocol):
    """Where the tasks of trials go (lncis.execution.queue.TaskQueue, or an actor that holds one)."""

    def submit(self, owner: str, chain: Sequence[Task]) -> None:
        """Ask for the tasks of a trial."""

    def withdraw(self, owner: str, reason: str) -> None:
        """Take that back."""


class Store(Protocol):
    """Where finished stages go, and come from (lncis.studies.store)."""

    def publish(self, task: Task) -> None:
        """Keep a finished stage."""

    def reuse(self, task: Task) -> bool:
        """Say whether a stage was kept by an earlier study, and is now this one's."""


class Observer:
    """Told in the driver what happens, as it happens; what earlier sessions did is told before `on_session_start`."""

    def on_session_start(self) -> None:
        """From here on it happens now."""

    def on_trial_start(self, trial: Trial, tasks: Sequence[Task]) -> None:
        """A trial begins, or is to be run again; its tasks may be shared with others."""

    def on_epoch(self, trial: Trial, record: Record) -> None:
        """A trial has one more epoch."""

    def on_trial_end(self, trial: Trial, end: End, reason: str) -> None:
        """A trial is over; failed and pruned ones have a reason."""

    def on_note(self, text: str) -> None:
        """Something that the user should know."""


@dataclass
class _Course:
    """What is known of one trial that was started."""

    trial: Trial
    tasks: list[Task]
    reused: list[str]
    """Keys of the tasks that the store had."""
    records: dict[int, Record] = field(default_factory=dict)
    end: End | None = None

    def value(self, metric: str, epoch: int) -> float:
        return self.records.get(epoch, {}).get(metric, math.nan)


class TrialScheduler:
    """The trials of a study: the baselines first, then each configuration with every replicate."""

    def __init__(
        self,
        spec: StudySpec,
        configurations: Suggester,
        tree: StageTree,
        queue: Queue,
        journal: Journal,
        store: Store | None = None,
        observers: Sequence[Observer] = (),
        *,
        retry_failed: bool = False,
    ) -> None:
        self._spec, self._configurations, self._chain = spec, configurations, tree.chain
        self._queue, self._journal, self._store, self._observers = queue, journal, store, observers
        self._rungs = tree.rungs
        self._courses: dict[str, _Course] = {}  # by the name of the trial
        self._known: dict[int, list[Trial]] = {}  # by configuration, in the order of the study
        self._judged: dict[int, int] = {}  # configuration -> the last rung it was judged at
        self._reused: set[str] = set()  # keys of the tasks that the store had for some trial
        self._begun: set[str] = set()  # of those that are trained here
        self._rejected = 0
        for number, (name, overrides) in enumerate(spec.baselines.items()):
            self._known[number] = spec.trials(number, overrides, baseline=name)
        self._waiting = deque[Trial]()
        left_behind = [self._replay(event) for event in list(journal.events)]
        for configuration in left_behind:
            if configuration is not None:  # judged, but the study was killed before that was written
                self._prune(configuration)
        for name, course in self._courses.items():
            pruned = any(other.end is End.PRUNED for other in self._of(course.trial.configuration))
            if retry_failed and course.end is End.FAILED and not pruned:
                self._happened(TrialRetried(trial=name))
        self._waiting = deque(t for trials in self._known.values() for t in trials if not self._ended(t))
        for course in self._courses.values():
            if course.records and course.end is None:  # the study may have been killed before it published that
                self._publish(course, max(course.records))
        for observer in observers:
            observer.on_session_start()

    @property
    def unfinished(self) -> int:
        """How many trials have not ended, those not yet proposed included."""
        ended = sum(course.end is not None for course in self._courses.values())
        return self._spec.total_trials - self._rejected * len(self._spec.replicates) - ended

    def start_next(self) -> Trial | None:
        """Give the next trial to the queue and return it; None when there is none left to start."""
        while True:
            while not self._waiting:
                if not self._propose():
                    return None
            trial = self._waiting.popleft()
            if not self._ended(trial):  # one of an earlier session may have been pruned before its turn
                break
        if trial.name not in self._courses:
            tasks = self._chain(trial)
            reused = [task.key for task in tasks if task.key in self._reused or self._reuse(task)]
            self._happened(
                TrialStarted(
                    configuration=trial.configuration,
                    overrides=trial.overrides,
                    seed=trial.seed,
                    noise_seed=trial.noise_seed,
                    baseline=trial.baseline,
                    stages={task.key: task.until for task in tasks},
                    reused=reused,
                )
            )
        self._submit(self._courses[trial.name])
        return trial

    def epoch_finished(self, name: str, record: Record, *, reused: bool = False) -> None:
        """Note an epoch of a trial; one that is told again was noted before."""
        course = self._courses[name]
        if course.end is not None or record["epoch"] in course.records:
            return
        self._happened(EpochFinished(trial=name, record=record, reused=reused))
        self._publish(course, int(record["epoch"]))
        self._judge_and_go_on(course.trial.configuration)

    def trial_ended(self, name: str, reason: str) -> None:
        """Note that a trial is through, or failed if there is a reason."""
        course = self._courses[name]
        if course.end is None:
            self._happened(TrialEnded(trial=name, end=End.FAILED if reason else End.FINISHED, reason=reason))
            self._queue.withdraw(name, reason)
            self._judge_and_go_on(course.trial.configuration)

    def _reuse(self, task: Task) -> bool:
        return self._store is not None and task.key not in self._begun and self._store.reuse(task)

    def _publish(self, course: _Course, epoch: int) -> None:
        # what lies before an reused stage is not this trial's: another one may be training it just now
        for task in _without_what_came_before(course.tasks, course.reused):
            if self._store and task.until == epoch:
                self._store.publish(task)

    def _propose(self) -> bool:
        """Put the trials of the next configuration into the line; say whether there was one."""
        asked = self._configurations.ask()
        if asked is None:
            return False
        number, overrides = asked
        configuration = len(self._spec.baselines) + number
        try:
            self._known[configuration] = self._spec.trials(configuration, overrides)
        except ConfigError as error:  # values that are right one by one may not fit together
            self._rejected += 1
            self._configurations.tell(number, [[]])
            for observer in self._observers:
                observer.on_note(f"{label(overrides)} was drawn and left out: {'; '.join(error.problems)}")
            return True
        self._waiting.extend(self._known[configuration])
        return True

    def _happened(self, event: Event) -> None:
        self._journal.append(event)
        self._apply(event)

    def _replay(self, event: Event) -> int | None:
        """Bring the state to after an event of an earlier session; return a configuration that it left behind."""
        if isinstance(event, TrialStarted) and event.configuration not in self._known:
            self._repropose(event)
        self._apply(event)
        if not isinstance(event, EpochFinished | TrialEnded) or self._courses[event.trial].end is End.PRUNED:
            return None
        configuration = self._courses[event.trial].trial.configuration
        while (behind := self._judge(configuration)) is False:
            pass
        return configuration if behind else None

    def _repropose(self, event: TrialStarted) -> None:
        while event.configuration not in self._known:
            following = len(self._spec.baselines) + self._configurations.proposed
            if following < event.configuration:  # it was left out; drawn again, it will be again
                self._propose()
                continue
            self._configurations.ask(event.overrides)
            self._known[event.configuration] = self._spec.trials(event.configuration, event.overrides)

    def _apply(self, event: Event) -> None:
        if isinstance(event, TrialStarted):
            trial = trial_of(self._spec, event)
            course = self._courses[trial.name] = _Course(trial, self._chain(trial), event.reused)
            self._reused.update(event.reused)
            own = _without_what_came_before(course.tasks, event.reused)
            self._begun.update(task.key for task in own if task.key not in event.reused)
            for observer in self._observers:
                observer.on_trial_start(trial, self._courses[trial.name].tasks)
        elif isinstance(event, EpochFinished):
            course = self._courses[event.trial]
            course.records[int(event.record["epoch"])] = event.record
            for observer in self._observers:
                observer.on_epoch(course.trial, event.record)
        elif isinstance(event, TrialEnded):
            course = self._courses[event.trial]
            course.end = event.end
            self._tell(course.trial.configuration)
            for observer in self._observers:
                observer.on_trial_end(course.trial, event.end, event.reason)
        elif isinstance(event, TrialRetried):
            course = self._courses[event.trial]
            course.end = None
            if course.trial.baseline is None:
                self._configurations.reopen(course.trial.configuration - len(self._spec.baselines))
            for observer in self._observers:
                observer.on_trial_start(course.trial, course.tasks)

    def _ended(self, trial: Trial) -> bool:
        return trial.name in self._courses and self._courses[trial.name].end is not None

    def _of(self, configuration: int) -> list[_Course]:
        return [self._courses[t.name] for t in self._known[configuration] if t.name in self._courses]

    def _tell(self, configuration: int) -> None:
        """Tell Optuna of a configuration once all its trials are over."""
        number, courses = configuration - len(self._spec.baselines), self._of(configuration)
        if number < 0 or len(courses) < len(self._known[configuration]) or any(c.end is None for c in courses):
            return
        if any(course.end is End.PRUNED for course in courses):
            self._configurations.tell_pruned(number)
            return
        finished = [course for course in courses if course.end is End.FINISHED]
        last = [
            [c.value(objective.metric, c.trial.config.schedule.epochs) for c in finished]
            for objective in self._spec.objectives
        ]
        self._configurations.tell(number, last if len(finished) == len(courses) else [[]])

    def _next_rung(self, trial: Trial) -> int | None:
        """Return the epoch after which a trial's configuration is judged next."""
        past = max(switch_of(trial.config) or 0, self._judged.get(trial.configuration, 0))
        ahead = (rung for rung in self._rungs if past < rung < trial.config.schedule.epochs)
        return None if trial.baseline else next(ahead, None)

    def _submit(self, course: _Course) -> None:
        """Have a trial trained up to the next rung: how it goes on depends on the other seeds."""
        rung = self._next_rung(course.trial) or course.trial.config.schedule.epochs
        needed = _without_what_came_before(course.tasks, course.reused)
        self._queue.submit(course.trial.name, [task for task in needed if task.until <= rung or not task.after])

    def _judge_and_go_on(self, configuration: int) -> None:
        while (behind := self._judge(configuration)) is not None:  # reused epochs may have passed several rungs
            if behind:
                self._prune(configuration)
                return
            for course in self._of(configuration):
                if course.end is None:
                    self._submit(course)

    def _judge(self, configuration: int) -> bool | None:
        """Say whether a configuration is behind at its next rung; None while not all its seeds have reached it."""
        courses, rung = self._of(configuration), self._next_rung(self._known[configuration][0])
        alive = [course for course in courses if course.end is None]
        if rung is None or len(courses) < len(self._known[configuration]) or not alive:
            return None
        if any(rung not in course.records for course in alive):
            return None
        self._judged[configuration] = rung
        mean = sum(course.value(self._spec.objective.metric, rung) for course in alive) / len(alive)
        return self._configurations.should_prune(configuration - len(self._spec.baselines), rung, mean)

    def _prune(self, configuration: int) -> None:
        rung = self._judged[configuration]
        for course in self._of(configuration):
            if course.end is None:
                name = course.trial.name
                reason = f"{self._spec.pruner.type}: behind the others after epoch {rung}"
                self._happened(TrialEnded(trial=name, end=End.PRUNED, reason=reason))
                self._queue.withdraw(name, reason)


def _without_what_came_before(tasks: list[Task], reused: list[str]) -> list[Task]:
    """Return the tasks from the last reused one on: its checkpoint holds all that came before."""
    last = max((number for number, task in enumerate(tasks) if task.key in reused), default=0)
    return [replace(tasks[last], after=None), *tasks[last + 1 :]]
