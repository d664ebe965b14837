"""Intervals of means over seeds and noise draws, and of the agreement of two orders."""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from lncis.config import Fold
from lncis.studies.spec import Replicate as Replicate

ONE_DRAW = "for this draw of the noise"
"""Said of intervals over training seeds alone: another draw of which labels are wrong would move all of them."""

SHARED_IMAGES = (
    "folds share training images: intervals are corrected for it on val (Nadeau and Bengio 2003), and hold on test for "
    "these images alone"
)
"""Said of intervals over folds: all trainings have the same test images and most of the same training images."""

TWO_DRAWS = "two noise draws say little of how much the draw matters, and intervals are wide: take three or more"
"""Said where there are two, before a study and after it."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over trainings and the half-width of its 95 % confidence interval; NaN with one training."""

    mean: float
    half_width: float
    number: int = 0
    """How many trainings, or pairs of them, the mean is over."""

    def __format__(self, sign: str) -> str:
        """Return `30.1 ± 0.4`, or with the sign of a float's format, as in `f"{gain:+}"`: `+1.2 ± 0.3`."""
        spread = "" if math.isnan(self.half_width) else f" ± {self.half_width:.1f}"
        return "-" if math.isnan(self.mean) else f"{self.mean:{sign}.1f}{spread}"


def interval(values: Sequence[float], replicates: Sequence[Replicate] | None = None) -> Interval:
    """Return the interval of the finite values; NaN for none. Without `replicates` each has a seed of its own.

    Over folds, each of which seeds may split anew, trainings share most of their images, so that the variance between
    them is too small. It is corrected as Nadeau and Bengio do (Machine Learning 52, 2003): the squared standard error
    of J trainings is (1 / J + tested / trained) times their variance, with J - 1 degrees of freedom; of k folds,
    tested / trained is 1 / (k - 1). For several seeds this is Bouckaert and Frank's test (PAKDD 2004). On the folds
    that covers 95 % and more; figures on a test set that all share hold for that one (benchmarks/intervals.py).

    Over seeds alone, or over noise draws alone, it is Student's t. Where each seed meets each draw, trainings of one
    draw are no independent evidence, nor are those of one seed. It is then the widest of three: Student's t over the
    draws (each averaged over its seeds), over the seeds (each averaged over its draws), and both squared standard
    errors added, with the degrees of freedom of Welch and Satterthwaite. Wherever the variance comes from, 95 % cover;
    where neither draw nor seed has an effect of its own, 99 % (tests/test_studies_intervals.py).
    """
    of_each = replicates if replicates is not None else [Replicate(number) for number in range(len(values))]
    finite = [(value, replicate) for value, replicate in zip(values, of_each, strict=True) if math.isfinite(value)]
    if not finite:
        return Interval(mean=math.nan, half_width=math.nan)
    mean = float(np.mean([value for value, _ in finite]))
    over_trainings = _over_folds(finite) if any(r.fold for _, r in finite) else _squared_error(_by_seed(finite))
    over_draws = _squared_error([(v, r.noise_seed) for v, r in finite])
    parts = [part for part in (over_trainings, over_draws) if part]
    errors = [*parts, satterthwaite(parts)] if parts else []
    half_width = max((_student(freedom) * math.sqrt(squared) for squared, freedom in errors), default=math.nan)
    return Interval(mean=mean, half_width=half_width, number=len(finite))


def shared_images(fold: Fold) -> float:
    """Return what is added to 1 / J for J trainings on folds: the images tested on, as a share of those trained on."""
    return 1 / (fold.of - 1)


def _over_folds(values: Sequence[tuple[float, Replicate]]) -> tuple[float, float] | None:
    """Return the corrected squared standard error of the mean over seeds and folds, and its degrees of freedom."""
    means = _means_by([(value, (r.seed, r.fold)) for value, r in values])
    correction = max(shared_images(r.fold) for _, r in values if r.fold)
    return (float(np.var(means, ddof=1)) * (1 / len(means) + correction), len(means) - 1) if len(means) > 1 else None


def _by_seed(values: Sequence[tuple[float, Replicate]]) -> list[tuple[float, int]]:
    return [(value, replicate.seed) for value, replicate in values]


def satterthwaite(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the sum of independent squared errors, each with its degrees of freedom, and those of the sum."""
    total, of_parts = sum(error for error, _ in parts), sum(error**2 / freedom for error, freedom in parts)
    return total, total**2 / of_parts if of_parts > 0 else sum(freedom for _, freedom in parts)


def _means_by(values: Sequence[tuple[float, Hashable]]) -> list[float]:
    """Return the mean of the values of each level of a factor."""
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for value, level in values:
        groups[level].append(value)
    return [float(np.mean(group)) for group in groups.values()]


def _squared_error(values: Sequence[tuple[float, Hashable]]) -> tuple[float, float] | None:
    """Return the squared standard error of the mean over the levels of a factor, and its degrees of freedom."""
    means = _means_by(values)
    return (float(np.var(means, ddof=1)) / len(means), len(means) - 1) if len(means) > 1 else None


@cache
def _student(freedom: float) -> float:
    from scipy import stats  # slow to load, and the service starts without

    return float(stats.t.ppf(0.975, freedom))


@dataclass(frozen=True, kw_only=True)
class RankAgreement:
    """Kendall's tau between two orders, with its 95 % interval."""

    tau: float
    low: float
    high: float


def rank_agreement(one: Sequence[float], other: Sequence[float]) -> RankAgreement | None:
    """Return Kendall's tau-b of two lists of n values; None where one of them is constant.

    The interval is that of Fieller, Hartley and Pearson (Biometrika 1957): atanh tau has the variance 0.437 / (n - 4).
    For it a tau of 1, whose atanh is infinite, counts as one with half a pair in another order.
    """
    from scipy import stats  # slow to load

    tau, n = float(stats.kendalltau(one, other).statistic), len(one)
    if math.isnan(tau):
        return None
    pairs = n * (n - 1) / 2
    centre, margin = math.atanh(min(max(tau, -1 + 1 / pairs), 1 - 1 / pairs)), 1.96 * math.sqrt(0.437 / (n - 4))
    low, high = math.tanh(centre - margin), math.tanh(centre + margin)
    return RankAgreement(tau=tau, low=-1.0 if tau == -1 else low, high=1.0 if tau == 1 else high)
