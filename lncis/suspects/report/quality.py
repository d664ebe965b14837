"""How good a ranking of labels is, where the truth is known: figures, and simpler scores of the same models."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from lncis.detection.posteriors import Posteriors

CALIBRATION_BINS = 10
SWAP_CONFIDENCE = 0.95
"""ObjectLab takes no prediction of less for a swap."""
PRECISION_AT = (50, 100, 500)

Wrong = NDArray[np.bool_]
Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What a score is worth as a ranking."""

    labels: int
    errors: int
    auroc: float
    """Probability that a wrong label has the greater score than a right one."""
    auprc: float
    """Area under precision over recall; a random ranking has the share of errors."""
    precision_at_errors: float
    """Share of errors among as many of the first as there are errors; there it equals the recall."""
    precision_at: dict[int, float]
    """Share of errors among the first so many, as far as there are that many."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The labels whose probability to be wrong lies in one tenth."""

    labels: int
    said: float
    """Mean of their probabilities."""
    is_so: float
    """Share of them that is wrong."""


def ranking(scores: Scores, wrong: Wrong) -> Ranking:
    """Return the figures of a score `(n,)` against the truth `(n,)`; NaN where all labels are right, or all wrong."""
    errors = int(wrong.sum())
    first = wrong[np.argsort(-scores, kind="stable")]
    mixed = 0 < errors < len(wrong)
    return Ranking(
        labels=len(wrong),
        errors=errors,
        auroc=float(roc_auc_score(wrong, scores)) if mixed else np.nan,
        auprc=float(average_precision_score(wrong, scores)) if mixed else np.nan,
        precision_at_errors=float(first[:errors].mean()) if errors else np.nan,
        precision_at={n: float(first[:n].mean()) for n in PRECISION_AT if n <= len(wrong)},
    )


def reliability(probabilities: Scores, wrong: Wrong) -> list[Bin]:
    """Return what was said and what is so in each tenth of the probabilities that holds labels."""
    places = np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return [
        Bin(labels=int(inside.sum()), said=float(probabilities[inside].mean()), is_so=float(wrong[inside].mean()))
        for inside in (places == place for place in range(CALIBRATION_BINS))
        if inside.any()
    ]


def expected_calibration_error(bins: list[Bin]) -> float:
    """Return the mean distance of what was said from what is so, by labels (Naeini et al., AAAI 2015)."""
    return sum(some.labels * abs(some.said - some.is_so) for some in bins) / max(sum(some.labels for some in bins), 1)


def baselines(found: Posteriors, rng: np.random.Generator) -> dict[str, Scores]:
    """Return simpler scores `(n,)` of the same models: the greater, the more suspect.

    `loss` is the cross entropy of the given label. `self-confidence` is 1 - q_y, `normalised margin` is
    max_{k != y} q_k - q_y (Northcutt et al., JAIR 2021). `mistakenness` is FiftyOne's of a class by logits:
    (1 - c) / 2 where the most probable class is the given one, else (1 + c) / 2, with c = exp(-entropy in nats).
    `swap` is ObjectLab's for a box whose prediction has the same place (Tkachenko et al., 2023): nothing unless the
    confidence in the best other class is above 0.95. To ObjectLab those are equal; here that confidence ranks them.
    """
    rows, q = np.arange(len(found)), found.probabilities
    of_given = q[rows, found.given]
    others = q.copy()
    others[rows, found.given] = 0.0
    best_other = others.max(axis=1, initial=0.0)
    certainty = np.exp((q * np.log(q)).sum(axis=1))
    agrees = q.argmax(axis=1) == found.given
    confidence = best_other * (1 - found.background)
    return {
        "random": rng.random(len(found)),
        "loss": found.cross_entropy,
        "self-confidence": 1 - of_given,
        "normalised margin": best_other - of_given,
        "mistakenness": (1 + np.where(agrees, -certainty, certainty)) / 2,
        "swap": np.where(confidence > SWAP_CONFIDENCE, confidence, 0.0),
    }
