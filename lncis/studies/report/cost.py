"""What a study cost, and what sharing and pruning skipped, read from its journal."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lncis.studies.journal import (
    End,
    EpochFinished,
    Event,
    SessionEnded,
    SessionStarted,
    TrialEnded,
    TrialRetried,
    TrialStarted,
    WorkerGroupsUp,
)
from lncis.studies.spec import StudySpec


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Epochs are counted as trainings ask for them: `requested` is `trained + shared + reused + skipped`."""

    requested: int
    """Epochs of the trials that were started, if each had been trained alone to its end."""
    trained: int
    """Epochs that the study trained."""
    shared: int
    """Epochs that a trial had from another trial of the study."""
    reused: int
    """Epochs that came from earlier studies, through the stage store or a storage."""
    skipped: int
    """Epochs that pruned and failed trials did not come to, and those that unfinished ones have not come to yet."""
    wasted: int
    """Epochs of `trained` that served failed trials alone."""
    lost_seconds: float
    """Time in which workers trained what was lost when they, or the study, were killed, or their storage was away."""
    training_seconds: float
    """Time in which workers trained and evaluated, summed over all of them."""
    held_seconds: float
    """Time for which the study held workers, summed over all of them."""
    seconds: float
    """Wall time, summed over the sessions."""


def cost_of(spec: StudySpec, events: Sequence[Event]) -> Cost:
    """Return what the events of a study's journal amount to."""
    started: dict[str, TrialStarted] = {}
    reported = requested = 0
    trained: dict[tuple[str, int], float] = {}  # (stage, epoch) -> seconds
    reused: set[tuple[str, int]] = set()
    served: dict[tuple[str, int], set[str]] = {}
    failed: set[str] = set()
    found = {key for event in events if isinstance(event, TrialStarted) for key in event.reused}
    for event in events:
        if isinstance(event, TrialStarted):
            started[event.trial] = event
            requested += max(event.stages.values())
        elif isinstance(event, EpochFinished):
            reported += 1
            epoch, start = int(event.record["epoch"]), started[event.trial]
            stage, stored = start.stage_of(epoch), max((start.stages[key] for key in start.reused), default=0)
            where = (stage, epoch)
            if event.reused or stage in found or epoch <= stored:
                reused.add(where)
            else:
                trained.setdefault(where, event.record["seconds"])
                served.setdefault(where, set()).add(event.trial)
        elif isinstance(event, TrialEnded) and event.end is End.FAILED:
            failed.add(event.trial)
        elif isinstance(event, TrialRetried):
            failed.discard(event.trial)
    reused -= trained.keys()  # before an reused stage, or found published, but trained here for another trial
    workers = spec.resources.num_workers
    sessions = _sessions(events)
    return Cost(
        requested=requested,
        trained=len(trained),
        reused=len(reused),
        shared=reported - len(trained) - len(reused),
        skipped=requested - reported,
        wasted=sum(served[where] <= failed for where in trained),
        lost_seconds=sum(_lost(session) for session in sessions) * workers,
        training_seconds=sum(trained.values()) * workers,
        held_seconds=sum(_held(session) for session in sessions) * workers,
        seconds=sum(_seconds(session) for session in sessions),
    )


def _sessions(events: Sequence[Event]) -> list[Sequence[Event]]:
    starts = [number for number, event in enumerate(events) if isinstance(event, SessionStarted)]
    return [_while_driven(events[start:end]) for start, end in pairwise([*starts, len(events)])]


def _while_driven(session: Sequence[Event]) -> Sequence[Event]:
    """Return the events of a session without those that the next one wrote before it began: retries, overdue prunes."""
    end = len(session)
    while isinstance(event := session[end - 1], TrialRetried | TrialEnded):
        if isinstance(event, TrialEnded) and event.end is not End.PRUNED:
            break
        end -= 1
    return session[:end]


def _seconds(session: Sequence[Event]) -> float:
    return session[-1].time - session[0].time


def _worker_groups(session: Sequence[Event]) -> int:
    """Return the worker groups that a session had at its end."""
    return next((e.worker_groups for e in reversed(session) if isinstance(e, WorkerGroupsUp | SessionStarted)), 0)


def _held(session: Sequence[Event]) -> float:
    """Return for how long a session held its worker groups, summed over them."""
    changes = [event for event in session if isinstance(event, WorkerGroupsUp)]
    if not changes:  # written before worker groups came and went
        return _seconds(session) * _worker_groups(session)
    ends = [*(event.time for event in changes[1:]), session[-1].time]
    return sum(event.worker_groups * (end - event.time) for event, end in zip(changes, ends, strict=True))


def _lost(session: Sequence[Event]) -> float:
    """Return what a session's workers lost, and, if it was killed, what they had trained since their last epochs."""
    if isinstance(session[-1], SessionEnded):
        return session[-1].lost_seconds
    heard: dict[str, float] = {}  # of the trials that were running
    for event in session:
        if isinstance(event, EpochFinished):
            heard[event.trial] = event.time
        elif isinstance(event, TrialEnded):
            heard.pop(event.trial, None)
    return sum(sorted(session[-1].time - time for time in heard.values())[: _worker_groups(session)])
