"""The states of a study, and what may be asked of it in each."""

from enum import StrEnum


class State(StrEnum):
    """queued -> running -> succeeded | failed | cancelled; running <-> paused.

    A paused study that is resumed waits in the queue for its turn. A running one comes back to the queue by itself
    where the cluster lost its job.
    """

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)


class Job(StrEnum):
    """What is known of a study's Ray job."""

    NONE = "none"
    SUBMITTING = "submitting"
    """It may be there: it was, or was about to be, submitted when this was written."""
    SUBMITTED = "submitted"


class Wanted(StrEnum):
    """What people want of a study."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class Action(StrEnum):
    """What people may ask for."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"


def legal(state: State, wanted: Wanted) -> list[Action]:
    """Return what may be asked of a study in a state; asking again for what is under way is no mistake."""
    if state in ENDED:
        return []
    if wanted is Wanted.CANCEL:
        return [Action.CANCEL]
    return {
        State.QUEUED: [Action.CANCEL],
        State.RUNNING: [Action.CANCEL, Action.PAUSE],
        State.PAUSED: [Action.CANCEL, Action.RESUME],
    }[state]
