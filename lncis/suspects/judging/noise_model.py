"""The noise of labels, estimated from what a model says and from the labels alone: how often which class becomes which.

The true class k of annotation i, with the model's probabilities q_i, is taken to have the probabilities
softmax(sharpness log q_i), and its label to be drawn from the row k of a transition matrix T. Both are estimated by
expectation maximisation of the likelihood of the labels, sum_i log sum_k softmax(sharpness log q_i)_k T[k, y_i], which
is a proper score where the model has not seen the label. A model trained on noisy labels is unsure of all by as much as
there is noise; the sharpness undoes that, so that probabilities after it are calibrated.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

ROUNDS = 200
SETTLED = 1e-7
"""Change of the mean log likelihood, nats, at which the estimate has settled."""
SHARPNESSES = (0.1, 20.0)
PRIOR_LABELS = 5.0
"""A row of T begins as if so many labels of its class had been seen with the noise of all classes, spread evenly."""
DRAWS = 40
"""Bootstrap samples of an interval."""
MOST_DRAWN = 5000
"""Annotations in one of them; the interval of more is narrower by the root."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class NoiseModel:
    """How labels come about."""

    sharpness: float
    """What the log probabilities of the model are multiplied by."""
    transition_matrix: Matrix
    """`[given_true, given_label]`, `(K, K)`, rows sum to 1."""

    def true_class(self, probabilities: Matrix, given: NDArray[np.int64]) -> Matrix:
        """Return the probabilities `(n, K)` of each true class, after the model's `(n, K)` and the label `(n,)`."""
        joint = _powers(probabilities, self.sharpness) * self.transition_matrix[:, given].T
        true: Matrix = joint / joint.sum(axis=1, keepdims=True)
        return true

    def wrong(self, probabilities: Matrix, given: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the probability `(n,)` that each label is not the true class."""
        right: NDArray[np.float64] = self.true_class(probabilities, given)[np.arange(len(given)), given]
        return 1 - right


def estimate(probabilities: Matrix, given: NDArray[np.int64], start: NoiseModel | None = None) -> NoiseModel:
    """Return the noise that a model's probabilities `(n, K)` and the labels `(n,)` speak for most."""
    logs = np.log(probabilities)
    found = start or _first_guess(probabilities, given)
    before = -np.inf
    for _ in range(ROUNDS):
        joint = _powers(probabilities, found.sharpness) * found.transition_matrix[:, given].T
        whole = joint.sum(axis=1, keepdims=True)
        likelihood = float(np.log(whole).mean())
        if likelihood - before < SETTLED:
            break
        before = likelihood
        true = joint / whole
        found = NoiseModel(sharpness=_sharpness(logs, true), transition_matrix=_transitions(true, given))
    return found


def noise_rate(model: NoiseModel, probabilities: Matrix, given: NDArray[np.int64]) -> float:
    """Return the share of labels that are wrong, in [0, 1]."""
    return float(model.wrong(probabilities, given).mean())


def rate_interval(
    model: NoiseModel, probabilities: Matrix, given: NDArray[np.int64], rng: np.random.Generator
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the noise rate, each sample estimated anew."""
    drawn = min(len(given), MOST_DRAWN)
    rates = []
    for _ in range(DRAWS):
        some = rng.integers(0, len(given), drawn)
        again = estimate(probabilities[some], given[some], start=model)
        rates.append(noise_rate(again, probabilities[some], given[some]))
    half = 1.96 * float(np.std(rates, ddof=1)) * np.sqrt(drawn / len(given))
    rate = noise_rate(model, probabilities, given)
    return max(rate - half, 0.0), min(rate + half, 1.0)


def _powers(probabilities: Matrix, sharpness: float) -> Matrix:
    logs = sharpness * np.log(probabilities)
    powers: Matrix = np.exp(logs - logs.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def _first_guess(probabilities: Matrix, given: NDArray[np.int64]) -> NoiseModel:
    """Return noise that strikes all classes alike, as often as the model's choice is not the label."""
    classes = probabilities.shape[1]
    rate = float(np.clip((probabilities.argmax(axis=1) != given).mean(), 0.02, 0.9))
    return NoiseModel(sharpness=2.0, transition_matrix=_even(rate, classes))


def _even(rate: float, classes: int) -> Matrix:
    even = np.full((classes, classes), rate / max(classes - 1, 1))
    np.fill_diagonal(even, 1 - rate if classes > 1 else 1.0)
    return even


def _transitions(true: Matrix, given: NDArray[np.int64]) -> Matrix:
    classes = true.shape[1]
    counts = np.zeros((classes, classes))
    np.add.at(counts.T, given, true)
    rate = float(np.clip(1 - counts.trace() / counts.sum(), 0, 1))
    counts += PRIOR_LABELS * _even(rate, classes)
    counts /= counts.sum(axis=1, keepdims=True)
    return counts


def _sharpness(logs: Matrix, true: Matrix) -> float:
    """Return the sharpness under which the true classes, as now believed, are most likely."""

    def loss(sharpness: float) -> float:
        scaled = sharpness * logs
        high = scaled.max(axis=1, keepdims=True)
        normaliser = high[:, 0] + np.log(np.exp(scaled - high).sum(axis=1))
        return float((normaliser - (true * scaled).sum(axis=1)).mean())

    return float(minimize_scalar(loss, bounds=SHARPNESSES, method="bounded").x)
