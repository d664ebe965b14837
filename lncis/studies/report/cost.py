"""What a study cost, and what sharing and pruning skipped, read from its history."""

from dataclasses import dataclass
from itertools import pairwise

from lncis.studies.record.history import History, SessionHistory
from lncis.studies.record.journal import End


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Epochs and time that a study took; `requested` is `trained + shared + reused + skipped`."""

    requested: int
    """Epochs of all trials that started, if each were trained alone to its end."""
    trained: int
    """Epochs that this study trained."""
    shared: int
    """Epochs that another trial of the study trained."""
    reused: int
    """Epochs from earlier studies, found in the stage store."""
    skipped: int
    """Epochs that pruned and failed trials did not reach, and that unfinished ones have not reached yet."""
    wasted: int
    """Epochs of `trained` that only failed trials used."""
    lost_seconds: float
    """Training time lost when workers or the study were killed or their storage was away, summed over all workers."""
    training_seconds: float
    """Time of training and evaluation, summed over all workers."""
    held_seconds: float
    """Time for which the study held workers, idle or not, summed over all workers."""
    seconds: float
    """Wall time, summed over the sessions."""


def cost_of(history: History) -> Cost:
    """Return what a study has cost so far."""
    stages, trials, sessions = history.stages.values(), history.trials.values(), history.sessions
    requested = sum(trial.epochs_to_train for trial in trials)
    reported = sum(len(reporters) for stage in stages for reporters in stage.reports.values())
    distinct = sum(len(stage.reports) for stage in stages)
    # each epoch that this study trained, with the trials that use it
    trained = [
        (epoch, users)
        for stage in stages
        if not stage.reused
        for epoch, reporters in stage.reports.items()
        if (users := [trial for trial in reporters if not trial.had_stored(epoch)])
    ]
    workers = history.spec.resources.num_workers
    return Cost(
        requested=requested,
        trained=len(trained),
        reused=distinct - len(trained),
        shared=reported - distinct,
        skipped=requested - reported,
        wasted=sum(all(trial.end is End.FAILED for trial in users) for _, users in trained),
        lost_seconds=sum(_lost(session) for session in sessions) * workers,
        training_seconds=sum(users[0].epochs[epoch].record["seconds"] for epoch, users in trained) * workers,
        held_seconds=sum(held_seconds(session) for session in sessions) * workers,
        seconds=sum(session.last_time - session.started.time for session in sessions),
    )


def held_seconds(session: SessionHistory, until: float | None = None) -> float:
    """Return for how long a session held worker groups, summed over them; one that goes on, `until` a time."""
    times = [*(change.time for change in session.worker_groups), until or session.last_time]
    spans = [end - begin for begin, end in pairwise(times)]
    return sum(change.worker_groups * span for change, span in zip(session.worker_groups, spans, strict=True))


def _lost(session: SessionHistory) -> float:
    """Return what a session's workers lost; if it was killed, what they had trained since their last epochs."""
    if session.ended:
        return session.ended.lost_seconds
    worker_groups = session.worker_groups[-1].worker_groups if session.worker_groups else 0
    since = sorted(session.last_time - time for time in session.running.values())
    return sum(since[:worker_groups])  # no more trials than worker groups can have been trained
