"""How far a review is: what it found beside what was expected, and what is left to find."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lncis.errors import DataError
from lncis.suspects.report.review_plan import ReviewPlan, review_plan, updated
from lncis.suspects.review.repair import Decisions
from lncis.suspects.tables import SuspectList


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A list of suspects after a part of its review."""

    reviewed: int
    found: int
    """Labels that the review changed."""
    expected: float
    """Wrong labels that the list expected among the reviewed ones."""
    half_width: float
    """Of the 95 % interval of that, were the probabilities right and independent."""
    before: NDArray[np.float64]
    """`(n,)`: the probability of each label to be wrong as the list has it, by rank."""
    after: NDArray[np.float64]
    """The same with what the review says: 0 or 1 for what was reviewed (`review_plan.updated`)."""
    open: NDArray[np.bool_]
    """`(n,)`: whether a label is still to be reviewed."""

    @property
    def plan(self) -> ReviewPlan:
        """What the review of the rest will find, from the greatest probability on."""
        return review_plan(self.after[self.open])

    def __str__(self) -> str:
        said = (
            f"reviewed {self.reviewed:,} of {len(self.before):,} labels: {self.found:,} wrong, "
            f"{self.expected:.0f} ± {self.half_width:.0f} expected"
        )
        return f"{said}\nof the rest: {self.plan}" if self.open.any() else f"{said}\nnothing is left to review"


def progress_of(listed: SuspectList, review: Decisions, of: str, there: str) -> Progress:
    """Return how far a review is; DataError where it decides about a label that the list does not have.

    `of` and `there` name the files of the decisions and of the list.
    """
    place = {(row.image_id, row.annotation_id): at for at, row in enumerate(listed.suspects)}
    reviewed = dict[int, bool]()
    for one in review.decisions:
        at = place.get((one.image_id, one.annotation_id))
        if at is None or listed.suspects[at].given != one.given:
            what = "not in" if at is None else f"{listed.suspects[at].given!r:.60}, and not {one.given!r:.60}, in"
            raise DataError(
                f"{of}: annotation {one.annotation_id!s:.40} of image {one.image_id!s:.40} is {what} {there}; give the "
                "list that was reviewed"
            )
        reviewed[at] = one.label != one.given
    before = np.array([row.wrong_probability for row in listed.suspects])
    left = np.ones(len(before), dtype=bool)
    left[list(reviewed)] = False
    said = before[~left]
    return Progress(
        reviewed=len(reviewed),
        found=sum(reviewed.values()),
        expected=float(said.sum()),
        half_width=1.96 * float(np.sqrt((said * (1 - said)).sum())),
        before=before,
        after=updated(before, reviewed),
        open=left,
    )
