"""What a study's journal amounts to so far: its trials, stages and sessions. The one fold of the events.

Every reader of a journal (result, cost, MLflow, the service, estimates) reads a History. Only the scheduler
(lncis.studies.trials) keeps a state of its own, because it also decides what comes next.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from lncis.metrics import Record
from lncis.studies.record.journal import (
    End,
    EpochFinished,
    Event,
    SessionEnded,
    SessionStarted,
    TrialEnded,
    TrialRetried,
    TrialStarted,
    WarmStarted,
    WorkerGroupsUp,
    trial_of,
)
from lncis.studies.spec import StudySpec, Trial


@dataclass(kw_only=True)
class TrialHistory:
    """One trial so far."""

    spec: StudySpec = field(repr=False)
    number: int
    """In the order in which trials started, from 1."""
    started: TrialStarted
    epochs: dict[int, EpochFinished] = field(default_factory=dict)
    """Finished epochs, counted from 1, in the order in which they were reported."""
    epoch: int = 0
    """The last one of these."""
    latest: Record = field(default_factory=dict)
    """The last value of each metric: an evaluation stays until the next one."""
    ended: TrialEnded | None = None
    """None while it runs, also when it runs again."""
    retries: int = 0

    @cached_property
    def trial(self) -> Trial:
        """Its configuration, seeds and TrainConfig; derived when first asked for, which takes a validation."""
        return trial_of(self.spec, self.started)

    @property
    def end(self) -> End | None:
        """How it ended; None while it runs."""
        return self.ended.end if self.ended else None

    @property
    def reason(self) -> str:
        """Why it failed or was pruned; else empty."""
        return self.ended.reason if self.ended else ""

    @property
    def epochs_to_train(self) -> int:
        """The epochs it has at its end, however it comes by them."""
        return max(self.started.stages.values())

    def had_stored(self, epoch: int) -> bool:
        """Say whether an epoch came from a store: itself, its stage, or a later stage, which holds what came before."""
        reused = self.started.reused
        return self.epochs[epoch].reused or any(epoch <= self.started.stages[key] for key in reused)


@dataclass(kw_only=True)
class StageHistory:
    """One stage so far."""

    key: str
    number: int
    """In the order in which trials brought them, from 1."""
    after: str | None
    """Key of the stage before it; None for the first of a trial."""
    first_epoch: int
    last_epoch: int
    reused: bool = False
    """Whether a trial found it finished in the store."""
    trials: list[TrialHistory] = field(default_factory=list)
    """Those that it is a part of."""
    reports: dict[int, list[TrialHistory]] = field(default_factory=dict)
    """Finished epoch -> the trials that reported it; both in the order in which they came."""
    epoch: int = 0
    """The last one of these."""


@dataclass(kw_only=True)
class SessionHistory:
    """One process that drove the study, so far or until it ended or was killed."""

    started: SessionStarted
    ended: SessionEnded | None = None
    """None while it runs, and where it was killed."""
    last_time: float
    """Of its last event."""
    worker_groups: list[WorkerGroupsUp] = field(default_factory=list)
    """Each time their number changed."""
    running: dict[str, float] = field(default_factory=dict)
    """Name of each trial that has trained and not ended -> when its last epoch finished."""
    pruned_last: list[str] = field(default_factory=list)
    """Trials pruned by the latest events: these may be the next session's, which prunes before it says it started."""

    def add(self, event: Event) -> None:
        """Note when an event happened, and which trials are running."""
        match event:
            case TrialEnded(end=End.PRUNED):
                self.pruned_last.append(event.trial)
                return
            case TrialRetried():  # written before the next session says that it started
                return
            case EpochFinished():
                self.running[event.trial] = event.time
            case TrialEnded():
                self.running.pop(event.trial, None)
        for name in self.pruned_last:
            self.running.pop(name, None)
        self.pruned_last.clear()
        self.last_time = event.time


@dataclass
class History:
    """The fold of a journal's events; `add` takes constant time, so it can follow a journal that grows."""

    spec: StudySpec = field(repr=False)
    trials: dict[str, TrialHistory] = field(default_factory=dict)
    """By name, in the order in which they started."""
    stages: dict[str, StageHistory] = field(default_factory=dict)
    """By key, in the order in which trials brought them."""
    sessions: list[SessionHistory] = field(default_factory=list)

    @classmethod
    def of(cls, spec: StudySpec, events: Iterable[Event]) -> "History":
        """Return the history of all events of a study."""
        history = cls(spec)
        for event in events:
            history.add(event)
        return history

    @property
    def complete(self) -> bool:
        """Whether the last session ended with nothing left to do."""
        last = self.sessions[-1].ended if self.sessions else None
        return last is not None and not last.reason

    @property
    def spent(self) -> str:
        """The limits of the budget that ended the last session; empty where it goes on, or ended otherwise."""
        last = self.sessions[-1].ended if self.sessions else None
        return last.spent if last else ""

    def add(self, event: Event) -> TrialHistory | None:
        """Fold in the next event, and return the trial that it is about, if any.

        Raises KeyError, IndexError or StopIteration where it does not follow from those before it.
        """
        trial = None
        match event:
            case SessionStarted():
                self.sessions.append(SessionHistory(started=event, last_time=event.time))
            case SessionEnded():
                self.sessions[-1].ended = event
            case WorkerGroupsUp():
                self.sessions[-1].worker_groups.append(event)
            case WarmStarted():
                pass  # of the sampler alone
            case TrialStarted():
                number = len(self.trials) + 1
                trial = self.trials[event.trial] = TrialHistory(spec=self.spec, number=number, started=event)
                self._add_stages(trial)
            case EpochFinished():
                trial = self.trials[event.trial]
                self._add_epoch(trial, event)
            case TrialEnded():
                trial = self.trials[event.trial]
                trial.ended = event
            case TrialRetried():
                trial = self.trials[event.trial]
                trial.ended = None
                trial.retries += 1
        if self.sessions:
            self.sessions[-1].add(event)
        return trial

    def _add_stages(self, trial: TrialHistory) -> None:
        after, first = None, 1
        for key, last in trial.started.stages.items():
            if key not in self.stages:
                number = len(self.stages) + 1
                self.stages[key] = StageHistory(key=key, number=number, after=after, first_epoch=first, last_epoch=last)
            stage = self.stages[key]
            stage.trials.append(trial)
            stage.reused |= key in trial.started.reused
            after, first = key, last + 1

    def _add_epoch(self, trial: TrialHistory, event: EpochFinished) -> None:
        epoch = int(event.record["epoch"])
        stage = self.stages[trial.started.stage_of(epoch)]
        trial.epochs[epoch] = event
        trial.epoch = max(trial.epoch, epoch)
        trial.latest.update(event.record)
        stage.reports.setdefault(epoch, []).append(trial)
        stage.epoch = max(stage.epoch, epoch)
