"""The noise of labels, estimated from what a model says and from the labels alone: how often which class becomes which.

The true class k of annotation i, with the model's probabilities q_i, is taken to have the probabilities
softmax(sharpness log q_i), and its label to be drawn from the row k of a transition matrix T. Both are estimated by
expectation maximisation of the likelihood of the labels, sum_i log sum_k softmax(sharpness log q_i)_k T[k, y_i], which
is a proper score where the model has not seen the label. A model trained on noisy labels is unsure of all by as much as
there is noise; the sharpness undoes that, so that probabilities after it are calibrated.

Of a few hundred labels T has too many entries to be estimated freely where noise strikes all classes alike, and too few
labels to be taken as even where it does not. Which of the two it is, labels say that an estimate has not seen.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

ROUNDS = 200
SETTLED = 1e-7
"""Change of the mean log likelihood, nats, at which the estimate has settled."""
SHARPNESSES = (0.1, 20.0)
PRIORS = (1.0, 5.0, np.inf)
"""A row of T begins as if so many labels of its class had been seen with the noise of all classes, spread evenly; with
inf all rows are that. The one is taken under which labels that were left out are most likely."""
FEW_LABELS = 50
"""Of fewer nothing is left out: the second of PRIORS is taken."""
PARTS = 3
"""Parts of the labels that are left out in turn."""
COMPARED = 1500
"""Labels of which that is done, at most."""
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
    prior: float = PRIORS[1]
    """Which of PRIORS it was estimated with."""

    def true_class(self, probabilities: Matrix, given: NDArray[np.int64]) -> Matrix:
        """Return the probabilities `(n, K)` of each true class, after the model's `(n, K)` and the label `(n,)`."""
        joint = _powers(probabilities, self.sharpness) * self.transition_matrix[:, given].T
        true: Matrix = joint / joint.sum(axis=1, keepdims=True)
        return true

    def wrong(self, probabilities: Matrix, given: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the probability `(n,)` that each label is not the true class."""
        right: NDArray[np.float64] = self.true_class(probabilities, given)[np.arange(len(given)), given]
        return 1 - right


def estimate(probabilities: Matrix, given: NDArray[np.int64]) -> NoiseModel:
    """Return the noise that a model's probabilities `(n, K)` and the labels `(n,)` speak for most."""
    prior = PRIORS[1]
    if len(given) >= FEW_LABELS:
        prior = max(PRIORS, key=lambda one: _left_out_likelihood(probabilities, given, one))
    return _settled(probabilities, given, _first_guess(probabilities, given, prior))


def _left_out_likelihood(probabilities: Matrix, given: NDArray[np.int64], prior: float) -> float:
    """Return the mean log likelihood, nats, of labels by models with a prior that had not seen them."""
    rng = np.random.default_rng(0)  # the same labels give the same choice
    some = rng.permutation(len(given))[:COMPARED]
    part_of = np.arange(len(some)) % PARTS
    likelihoods = []
    for part in range(PARTS):
        rest, left_out = some[part_of != part], some[part_of == part]
        guess = _first_guess(probabilities[rest], given[rest], prior)
        made = _settled(probabilities[rest], given[rest], guess)
        joint = _powers(probabilities[left_out], made.sharpness) * made.transition_matrix[:, given[left_out]].T
        likelihoods.append(float(np.log(joint.sum(axis=1)).mean()))
    return float(np.mean(likelihoods))


def _settled(probabilities: Matrix, given: NDArray[np.int64], start: NoiseModel) -> NoiseModel:
    """Return the noise to which expectation maximisation comes from a start, with its prior."""
    logs, found = np.log(probabilities), start
    before = -np.inf
    for _ in range(ROUNDS):
        joint = _powers(probabilities, found.sharpness) * found.transition_matrix[:, given].T
        whole = joint.sum(axis=1, keepdims=True)
        likelihood = float(np.log(whole).mean())
        if likelihood - before < SETTLED:
            break
        before = likelihood
        true = joint / whole
        found = NoiseModel(
            sharpness=_sharpness(logs, true),
            transition_matrix=_transitions(true, given, start.prior),
            prior=start.prior,
        )
    return found


def noise_rate(model: NoiseModel, probabilities: Matrix, given: NDArray[np.int64]) -> float:
    """Return the share of labels that are wrong, in [0, 1]."""
    return float(model.wrong(probabilities, given).mean())


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """95 % bootstrap intervals of the noise, each sample estimated anew."""

    rate: tuple[float, float]
    """Of the share of labels that are wrong."""
    transition_matrix: tuple[Matrix, Matrix]
    """Lower and upper ends, entry by entry."""


def intervals(
    model: NoiseModel, probabilities: Matrix, given: NDArray[np.int64], rng: np.random.Generator
) -> Intervals:
    """Return how sure an estimate is, from `DRAWS` samples of the labels."""
    drawn = min(len(given), MOST_DRAWN)
    rates, matrices = [], []
    for _ in range(DRAWS):
        some = rng.integers(0, len(given), drawn)
        again = _settled(probabilities[some], given[some], model)
        rates.append(noise_rate(again, probabilities[some], given[some]))
        matrices.append(again.transition_matrix)
    scale = 1.96 * float(np.sqrt(drawn / len(given)))
    rate, half = noise_rate(model, probabilities, given), scale * float(np.std(rates, ddof=1))
    halves = scale * np.std(matrices, axis=0, ddof=1)
    low, high = (np.clip(model.transition_matrix + sign * halves, 0, 1) for sign in (-1, 1))
    return Intervals(rate=(max(rate - half, 0.0), min(rate + half, 1.0)), transition_matrix=(low, high))


def _powers(probabilities: Matrix, sharpness: float) -> Matrix:
    logs = sharpness * np.log(probabilities)
    powers: Matrix = np.exp(logs - logs.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def _first_guess(probabilities: Matrix, given: NDArray[np.int64], prior: float) -> NoiseModel:
    """Return noise that strikes all classes alike, as often as the model's choice is not the label."""
    classes = probabilities.shape[1]
    rate = float(np.clip((probabilities.argmax(axis=1) != given).mean(), 0.02, 0.9))
    return NoiseModel(sharpness=2.0, transition_matrix=_even(rate, classes), prior=prior)


def _even(rate: float, classes: int) -> Matrix:
    even = np.full((classes, classes), rate / max(classes - 1, 1))
    np.fill_diagonal(even, 1 - rate if classes > 1 else 1.0)
    return even


def _transitions(true: Matrix, given: NDArray[np.int64], prior: float) -> Matrix:
    classes = true.shape[1]
    counts = np.zeros((classes, classes))
    np.add.at(counts.T, given, true)
    rate = float(np.clip(1 - counts.trace() / counts.sum(), 0, 1))
    if np.isinf(prior):
        return _even(rate, classes)
    counts += prior * _even(rate, classes)
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
