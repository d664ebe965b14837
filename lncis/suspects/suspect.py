"""What is known of one annotation's label, as every list, file and page of suspects shows it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """An annotation, crowds left out, with the probability that its label is wrong."""

    rank: int
    """1 is the most probably wrong one."""
    annotation_id: int | str
    """As the user's file has it."""
    image_id: int | str
    """As the user's file has it."""
    file_name: str
    given: str
    """Name of the class that the annotation has."""
    suggested: str
    """Name of the most probable class, which may be the given one."""
    wrong_probability: float
    """That the given class is not the true one, in [0, 1]."""
    given_probability: float
    """Of the given class by the model alone, before the noise model, in [0, 1]."""
    margin: float
    """Probability of the best other class less that of the given one, in [-1, 1]."""
    scored_by: str
    """The models whose mean scored it, such as `out of fold: fold 2`, or `in sample: 3 models`."""
    loss_mean: float | None = None
    """Mean cross entropy of its samples over the recorded epochs, nats; None where no training recorded it."""
    loss_last: float | None = None
    """Of the last recorded epoch, nats."""
    isolated: int | None = None
    """How often stage 2 set samples of it aside (PON)."""
    true: str | None = None
    """Name of the true class, where it is known."""
