"""What the dispatcher knows and what users want of a study, and which actions each state allows."""

from enum import StrEnum
from typing import Literal

from lncis.api import ENDED, Action, State


class Job(StrEnum):
    """What is known about a study's Ray job."""

    NONE = "none"
    SUBMITTING = "submitting"
    """Ray may have it: this is written before the job is submitted."""
    SUBMITTED = "submitted"


class Wanted(StrEnum):
    """What users want of a study."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"
    DRAIN = "drain"


def unended(state: State) -> Literal["running", "unfinished"]:
    """Return what a trial or a configuration is that has begun and not ended: it runs only while its study does."""
    return "running" if state is State.RUNNING else "unfinished"


def legal(state: State, wanted: Wanted) -> list[Action]:
    """Return the legal actions; an action that is under way may be asked for again."""
    if state in ENDED:  # one that has spent its budget goes on when that is raised
        return []
    if wanted is Wanted.CANCEL:
        return [Action.CANCEL]
    running = [Action.CANCEL, Action.PAUSE, *([] if wanted is Wanted.PAUSE else [Action.DRAIN])]
    return {
        State.QUEUED: [Action.CANCEL],
        State.RUNNING: running,
        State.PAUSED: [Action.CANCEL, Action.RESUME],
    }[state]
