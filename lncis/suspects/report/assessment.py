"""What a list of suspects says of the whole data set, and, where the truth is known, how right it is."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lncis.detection.posteriors import Posteriors, chosen
from lncis.noise import noise_model
from lncis.noise.noise_model import Matrix, NoiseModel
from lncis.suspects.report import quality
from lncis.suspects.report.quality import Bin, Ranking
from lncis.suspects.report.review_plan import ReviewPlan, review_plan

PROBABILITY = "lncis"
"""The score that is the calibrated probability, beside the baselines."""
UNKNOWN = -1
"""Of a true label."""
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}
"""COCO's sizes: the pixels of a mask, from and below."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """How right the list is, against known labels."""

    labels: int
    """Labels whose truth is known; all else here is of them."""
    errors: int
    """Wrong labels among them."""
    rankings: dict[str, Ranking]
    """By score: ours first, then the baselines on the same models."""
    reliability: list[Bin]
    calibration_error: float
    """Expected calibration error."""
    suggestion_right: float
    """Share of the wrong labels for which the most probable class is the true one."""
    other_right: float
    """Share of the wrong labels for which the most probable class but the given one is the true one."""
    by_class: dict[str, Ranking]
    """Of our score, by given class."""
    by_size: dict[str, Ranking]
    """Of our score, by the size of the mask as COCO has it: small, medium, large."""
    transition_matrix: Matrix
    """What really became of each class, `[given_true, given_label]`."""


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What a list of suspects says of the whole data set."""

    classes: list[str]
    noise: NoiseModel
    rate: float
    """Estimated share of wrong labels."""
    rate_interval: tuple[float, float]
    """Its 95 % bootstrap interval."""
    transition_interval: tuple[Matrix, Matrix]
    """Ends of the 95 % bootstrap intervals of the noise's transition matrix, entry by entry."""
    plan: ReviewPlan
    truth: Truth | None
    """None where the true labels are not known."""


def assess(
    found: Posteriors,
    noise: NoiseModel,
    classes: list[str],
    true: NDArray[np.int64],
    areas: NDArray[np.float64],
    *,
    seed: int = 0,
) -> Assessment:
    """Return the assessment of scored annotations.

    `true` `(n,)` has their true labels in 0..K-1, UNKNOWN where nobody knows; `areas` `(n,)` those of their masks in
    pixels.
    """
    wrong = noise.wrong(found.probabilities, found.given)
    rng = np.random.default_rng(seed)
    intervals = noise_model.intervals(noise, found.probabilities, found.given, rng)
    return Assessment(
        classes=classes,
        noise=noise,
        rate=float(wrong.mean()),
        rate_interval=intervals.rate,
        transition_interval=intervals.transition_matrix,
        plan=review_plan(wrong),
        truth=_against(true, areas, found, noise, classes, rng) if (true != UNKNOWN).any() else None,
    )


def _against(
    true: NDArray[np.int64],
    areas: NDArray[np.float64],
    found: Posteriors,
    noise: NoiseModel,
    classes: list[str],
    rng: np.random.Generator,
) -> Truth:
    known = true != UNKNOWN
    true, areas, found = true[known], areas[known], chosen(found, known)
    is_wrong = true != found.given
    posterior = noise.true_class(found.probabilities, found.given)
    suggested = posterior.argmax(axis=1)
    rows = np.arange(len(found))
    probability = 1 - posterior[rows, found.given]
    posterior[rows, found.given] = -1
    other = posterior.argmax(axis=1)
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (true, found.given), 1)
    bins = quality.reliability(probability, is_wrong)
    scores = {PROBABILITY: probability} | quality.baselines(found, rng)
    return Truth(
        labels=len(found),
        errors=int(is_wrong.sum()),
        rankings={name: quality.ranking(score, is_wrong) for name, score in scores.items()},
        reliability=bins,
        calibration_error=quality.expected_calibration_error(bins),
        suggestion_right=float((suggested == true)[is_wrong].mean()) if is_wrong.any() else np.nan,
        other_right=float((other == true)[is_wrong].mean()) if is_wrong.any() else np.nan,
        by_class={
            name: quality.ranking(probability[found.given == k], is_wrong[found.given == k])
            for k, name in enumerate(classes)
            if (found.given == k).any()
        },
        by_size={
            name: quality.ranking(probability[within], is_wrong[within])
            for name, (low, high) in SIZES.items()
            if (within := (areas >= low) & (areas < high)).any()
        },
        transition_matrix=counts / np.maximum(counts.sum(axis=1, keepdims=True), 1),
    )
