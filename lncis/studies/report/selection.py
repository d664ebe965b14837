"""What cannot be told apart from the best configuration, how likely each is the best, and what picking one adds.

All from the objective of k configurations, each trained with the same seeds and noise draws. What a seed does to all of
them cancels: errors are those of the interaction of configuration and seed (and noise draw), pooled over the
configurations, as in a randomised block design (Montgomery, Design and Analysis of Experiments, chapter 4).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from lncis.studies.report.intervals import Replicate, interval, satterthwaite, shared_images

SAMPLES = 20_000
"""Draws of all means, for probabilities and the winner's optimism."""

NUMBERS = 4_000_000
"""Random numbers at a time, at most: of more than 200 configurations there are fewer draws."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What replicates say about the best of several configurations, each in the order that they were given."""

    as_good: list[bool]
    """Whether a configuration is the selected one, or cannot be told apart from it."""
    probability: list[float]
    """Of having the highest expectation, given these figures; they sum to 1."""
    optimism: float
    """By how much the highest mean is expected to lie above its own expectation, because it was picked."""


def selection(values: NDArray[np.float64], replicates: Sequence[Replicate], selected: int) -> Selection | None:
    """Return what `values`, `(k, n)` of k configurations with n replicates, say of the one selected from them.

    None for one configuration or one replicate. All values are finite; where less is better, give them negative.
    """
    error, freedom = _pooled_error(values, replicates)
    if len(values) < 2 or freedom == 0:
        return None
    means = values.mean(axis=1)
    rng = np.random.default_rng(0)  # the same study gives the same figures
    samples = max(100, min(SAMPLES, NUMBERS // len(means)))
    variance = error * freedom / rng.chisquare(freedom, size=(samples, 1))  # the error is an estimate itself
    normal = rng.standard_normal((samples, len(means)))
    return Selection(
        as_good=[not apart for apart in told_apart(values, replicates, selected)],
        probability=_probability(means, variance, normal, rng),
        optimism=_optimism(means, error, math.sqrt(error) / _bias_of_deviation(freedom) * normal),
    )


def _pooled_error(values: NDArray[np.float64], replicates: Sequence[Replicate]) -> tuple[float, float]:
    """Return the squared standard error of a configuration's mean beside the others', and its degrees of freedom.

    For each factor, seeds with their folds and noise draws, the mean square of its interaction with the configurations;
    that of folds is corrected as in `intervals.interval`.
    """
    parts = []
    shared = max((shared_images(r.fold) for r in replicates if r.fold), default=0.0)
    trainings, draws = [(r.seed, r.fold) for r in replicates], [r.noise_seed for r in replicates]
    for of_each, added in ((trainings, shared), (draws, 0.0)):
        levels = list(dict.fromkeys(of_each))
        if len(levels) < 2 or len(values) < 2:
            continue
        of_level = [[number for number, own in enumerate(of_each) if own == level] for level in levels]
        y = np.stack([values[:, numbers].mean(axis=1) for numbers in of_level], axis=1)
        rest = y - y.mean(axis=1, keepdims=True) - y.mean(axis=0, keepdims=True) + y.mean()
        freedom = (len(values) - 1) * (len(levels) - 1)
        parts.append((float((rest**2).sum()) / freedom * (1 / len(levels) + added), float(freedom)))
    return satterthwaite(parts) if parts else (0.0, 0.0)


def told_apart(values: NDArray[np.float64], replicates: Sequence[Replicate], selected: int) -> list[bool]:
    """Return which of the configurations of `selection` can be told apart from the selected one.

    Told apart is what differs by more than Tukey's quantile of the range of k means, and where the interval of its own
    paired differences excludes 0. The first holds at 5 % the probability that any of several equal configurations is
    told apart, though the best is picked from the same figures; that makes it a comparison of all pairs, for which the
    quantile of Dunnett and Hsu, of k - 1 given ones, is too small. With a pooled error it works from two replicates on,
    where sign flips cannot reject (three seeds have four patterns). The second guards against configurations that vary
    more than the others.
    """
    error, freedom = _pooled_error(values, replicates)
    farthest = _range_quantile(len(values), max(1, int(freedom))) * np.sqrt(error)
    differences = [interval((values[selected] - other).tolist(), replicates) for other in values]
    return [bool(abs(one.mean) > max(farthest, one.half_width)) for one in differences]


@cache
def _range_quantile(k: int, freedom: int) -> float:
    from scipy import stats  # slow to load

    return float(stats.studentized_range.ppf(0.95, k, freedom))


def _probability(
    means: NDArray[np.float64], variance: NDArray[np.float64], normal: NDArray[np.float64], rng: np.random.Generator
) -> list[float]:
    """Return how often each expectation is the highest among draws of all from their posterior.

    Of their differences nothing is known beforehand but that they come from one normal distribution: the share of
    error in the variance of a mean is uniform on 0 to 1 (Daniels' prior; here `shrunk`, whose posterior is a gamma
    distribution cut at 1). Under a flat prior the best of three equal ones would have 65 %, here it has 55 %.
    """
    from scipy import special  # slow to load

    k, centred = len(means), means - means.mean()
    squares = float((centred**2).sum())
    if squares == 0:
        return [1 / k] * k
    with np.errstate(divide="ignore"):
        rate = squares / (2 * variance)
    below = rng.random(variance.shape) * special.gammainc((k + 1) / 2, rate)
    shrunk = special.gammaincinv((k + 1) / 2, below) / rate
    expectations = (1 - shrunk) * centred + np.sqrt((1 - shrunk) * variance) * normal
    return [float(n) / len(expectations) for n in np.bincount(np.argmax(expectations, axis=1), minlength=k)]


def _optimism(means: NDArray[np.float64], error: float, errors: NDArray[np.float64]) -> float:
    """Return the expected excess of the highest mean over its expectation, by a parametric bootstrap.

    Means vary more than what they estimate. So expectations are taken nearer to their average, by the share of error in
    the variance of the means: without that the excess would come out too small. In simulations it is right where the
    configurations differ, and 70 to 95 % of the excess where all are equal (tests/test_studies_selection.py).
    """
    spread = float(means.var(ddof=1))
    kept = max(0.0, 1 - error / spread) if spread > 0 else 0.0
    drawn = np.sqrt(kept) * (means - means.mean()) + errors
    picked = np.argmax(drawn, axis=1)
    return float(np.take_along_axis(errors, picked[:, None], axis=1).mean())


def _bias_of_deviation(freedom: float) -> float:
    """Return what the square root of an estimated variance is expected to be, with a true one of 1."""
    return math.sqrt(2 / freedom) * math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
