"""How many labels to look at, and what that will find: the probabilities of the ranked list, summed."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STEPS = (50, 100, 200, 500, 1000, 2000, 5000, 10_000)
"""Reviews that a plan speaks of, as far as there are so many labels."""
SHIFT_DEVIATION = 1.0
"""By how much the log odds of a list are off, as a standard deviation, before a review says so."""
MOST_OF_ALL = (0.5, 0.8, 0.95)
"""Shares of the expected errors that a plan says the reviews for."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the review of the first labels of a list will find."""

    reviews: int
    errors: float
    """Expected number of wrong labels among them."""
    half_width: float
    """Of the 95 % interval of that number, were the probabilities right and independent."""


@dataclass(frozen=True, kw_only=True)
class ReviewPlan:
    """What reviews will find, from the list as it stands."""

    labels: int
    errors: float
    """Expected number of wrong labels in the whole list."""
    steps: list[Expected]
    needed: dict[float, int]
    """Share of all expected errors -> reviews that find it."""

    def __str__(self) -> str:
        lines = [
            f"review {step.reviews:,}: {step.errors:.0f} ± {step.half_width:.0f} errors expected" for step in self.steps
        ]
        found = [f"{share:.0%} of all errors after {reviews:,}" for share, reviews in self.needed.items()]
        return "\n".join([f"{self.errors:.0f} errors expected in {self.labels:,} labels", *lines, "; ".join(found)])


def review_plan(wrong: NDArray[np.float64]) -> ReviewPlan:
    """Return the plan for labels of these probabilities to be wrong `(n,)`, looked at from the greatest on."""
    ranked = np.sort(wrong)[::-1]
    found, variances = np.cumsum(ranked), np.cumsum(ranked * (1 - ranked))
    total = float(found[-1]) if len(found) else 0.0
    steps = sorted({step for step in STEPS if step < len(ranked)} | ({len(ranked)} if len(ranked) else set()))
    return ReviewPlan(
        labels=len(ranked),
        errors=total,
        steps=[
            Expected(reviews=n, errors=float(found[n - 1]), half_width=1.96 * float(np.sqrt(variances[n - 1])))
            for n in steps
        ],
        needed={share: int(np.searchsorted(found, share * total)) + 1 for share in MOST_OF_ALL if total > 0},
    )


def updated(wrong: NDArray[np.float64], reviewed: Mapping[int, bool]) -> NDArray[np.float64]:
    """Return the probabilities after part of a review: of what was reviewed 0 or 1, of the rest put right by it.

    The log odds of the rest are shifted by what is most probable after the review, of shifts that are normally
    distributed around 0 before it (SHIFT_DEVIATION). So a review that finds more than was expected raises all that
    remain, and one that finds what was expected changes nothing, however short it was and however sure the list.
    """
    after = wrong.copy()
    if not reviewed:
        return after
    places = np.fromiter(reviewed, dtype=np.int64)
    errors = sum(reviewed.values())
    shift = _shift(wrong[places], errors)
    rest = np.ones(len(wrong), dtype=bool)
    rest[places] = False
    after[rest] = _shifted(wrong[rest], shift)
    after[places] = [float(reviewed[int(place)]) for place in places]
    return after


def _shifted(wrong: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    bounded = np.clip(wrong, 1e-9, 1 - 1e-9)
    return 1 / (1 + np.exp(-(np.log(bounded / (1 - bounded)) + shift)))


def _shift(wrong: NDArray[np.float64], errors: int) -> float:
    """Return the most probable shift of the log odds of reviewed labels, by bisection: the slope falls throughout."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        slope = errors - _shifted(wrong, middle).sum() - middle / SHIFT_DEVIATION**2
        low, high = (middle, high) if slope > 0 else (low, middle)
    return (low + high) / 2
