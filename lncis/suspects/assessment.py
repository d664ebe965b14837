"""What a list of suspects says of the whole data set, and, where the truth is known, how right it is."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lncis.detection.posteriors import Posteriors
from lncis.noise import noise_model
from lncis.noise.noise_model import Matrix, NoiseModel
from lncis.suspects import quality
from lncis.suspects.quality import Bin, Ranking
from lncis.suspects.review_plan import ReviewPlan, review_plan

PROBABILITY = "lncis"
"""The score that is the calibrated probability, beside the baselines."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """How right the list is, against known labels."""

    errors: int
    """Wrong labels there are."""
    rankings: dict[str, Ranking]
    """By score: ours first, then the baselines on the same models."""
    reliability: list[Bin]
    calibration_error: float
    """Expected calibration error."""
    suggestion_right: float
    """Share of the wrong labels for which the most probable class is the true one."""
    by_class: dict[str, Ranking]
    """Of our score, by given class."""
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
    plan: ReviewPlan
    truth: Truth | None
    """None where the true labels are not known."""


def assess(
    found: Posteriors, noise: NoiseModel, classes: list[str], true: NDArray[np.int64] | None, *, seed: int = 0
) -> Assessment:
    """Return the assessment of scored annotations; `true` `(n,)` has their true labels in 0..K-1, where known."""
    wrong = noise.wrong(found.probabilities, found.given)
    rng = np.random.default_rng(seed)
    return Assessment(
        classes=classes,
        noise=noise,
        rate=float(wrong.mean()),
        rate_interval=noise_model.rate_interval(noise, found.probabilities, found.given, rng),
        plan=review_plan(wrong),
        truth=None if true is None else _against(true, found, noise, classes, rng),
    )


def _against(
    true: NDArray[np.int64], found: Posteriors, noise: NoiseModel, classes: list[str], rng: np.random.Generator
) -> Truth:
    is_wrong = true != found.given
    probability = noise.wrong(found.probabilities, found.given)
    suggested = noise.true_class(found.probabilities, found.given).argmax(axis=1)
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (true, found.given), 1)
    bins = quality.reliability(probability, is_wrong)
    scores = {PROBABILITY: probability} | quality.baselines(found, rng)
    return Truth(
        errors=int(is_wrong.sum()),
        rankings={name: quality.ranking(score, is_wrong) for name, score in scores.items()},
        reliability=bins,
        calibration_error=quality.expected_calibration_error(bins),
        suggestion_right=float((suggested == true)[is_wrong].mean()) if is_wrong.any() else np.nan,
        by_class={
            name: quality.ranking(probability[found.given == k], is_wrong[found.given == k])
            for k, name in enumerate(classes)
            if (found.given == k).any()
        },
        transition_matrix=counts / np.maximum(counts.sum(axis=1, keepdims=True), 1),
    )
