"""The noise model, on labels drawn from a known one: it finds rate, matrix and calibrated probabilities."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from lncis.noise import noise_model
from lncis.noise.noise_model import NoiseModel
from lncis.suspects.report import quality

CLASSES = 6


def symmetric(rate: float) -> NDArray[np.float64]:
    matrix = np.full((CLASSES, CLASSES), rate / (CLASSES - 1))
    np.fill_diagonal(matrix, 1 - rate)
    return matrix


def pairs(rate: float) -> NDArray[np.float64]:
    matrix = np.eye(CLASSES)
    for one, other in ((0, 1), (2, 3)):
        matrix[one, one] = matrix[other, other] = 1 - rate
        matrix[one, other] = matrix[other, one] = rate
    return matrix


def drawn(transitions, seed: int, labels: int = 4000, tempered: float = 0.5):
    """Return what a model says that knows as much as can be known, less sure than it should be; labels; truth."""
    rng = np.random.default_rng(seed)
    posterior = softmax(rng.normal(0, 3.0, (labels, CLASSES)), axis=1)
    true = np.array([rng.choice(CLASSES, p=p) for p in posterior])
    given = np.array([rng.choice(CLASSES, p=transitions[k]) for k in true])
    return softmax(tempered * np.log(posterior), axis=1), given, true


@pytest.mark.parametrize("transitions", [symmetric(0.2), symmetric(0.6), pairs(0.4)], ids=["20", "60", "pairs"])
def test_rate_matrix_and_sharpness_are_found(transitions):
    said, given, true = drawn(transitions, seed=0)
    found = noise_model.estimate(said, given)
    assert found.sharpness == pytest.approx(2.0, rel=0.25), "1 / 0.5 undoes the tempering"
    assert noise_model.noise_rate(found, said, given) == pytest.approx((true != given).mean(), abs=0.04)
    assert np.abs(found.transition_matrix - transitions).max() < 0.12
    assert found.transition_matrix.sum(axis=1) == pytest.approx(np.ones(CLASSES))
    even = np.ptp(transitions[~np.eye(CLASSES, dtype=bool)]) < 1e-12
    assert np.isinf(found.prior) == even, "labels that were left out say whether all classes are struck alike"


def test_probabilities_are_calibrated_and_rank_as_the_true_model_does():
    transitions = symmetric(0.4)
    said, given, true = drawn(transitions, seed=1, labels=8000)
    wrong = true != given
    found = noise_model.estimate(said, given)
    probabilities = found.wrong(said, given)
    assert quality.expected_calibration_error(quality.reliability(probabilities, wrong)) < 0.03
    ideal = NoiseModel(sharpness=2.0, transition_matrix=transitions).wrong(said, given)
    ours, best = (quality.ranking(scores, wrong).auroc for scores in (probabilities, ideal))
    assert best - 0.01 < ours <= best + 0.01


def test_the_posterior_is_bayes_rule():
    said, given, _ = drawn(symmetric(0.3), seed=2, labels=50)
    model = NoiseModel(sharpness=1.5, transition_matrix=symmetric(0.3))
    for q, y, true in zip(said, given, model.true_class(said, given), strict=True):
        prior = q**1.5 / (q**1.5).sum()
        joint = np.array([prior[k] * model.transition_matrix[k, y] for k in range(CLASSES)])
        assert true == pytest.approx(joint / joint.sum())


def test_each_round_raises_the_likelihood(monkeypatch):
    said, given, _ = drawn(symmetric(0.4), seed=3, labels=1000)

    def likelihood(model: NoiseModel) -> float:
        powers = softmax(model.sharpness * np.log(said), axis=1)
        return float(np.log((powers * model.transition_matrix[:, given].T).sum(axis=1)).mean())

    reached = []
    for rounds in (1, 2, 4, 8, 16):
        monkeypatch.setattr(noise_model, "ROUNDS", rounds)
        reached.append(likelihood(noise_model.estimate(said, given)))
    assert all(later > earlier - 2e-3 for earlier, later in itertools.pairwise(reached)), reached
    assert reached[-1] > reached[0]


@pytest.mark.slow
def test_the_interval_of_the_rate_holds_the_true_one_in_most_samples():
    held = 0
    for seed in range(40):
        said, given, _true = drawn(symmetric(0.4), seed=100 + seed, labels=1500)
        found = noise_model.estimate(said, given)
        low, high = noise_model.intervals(found, said, given, np.random.default_rng(seed)).rate
        held += low <= 0.4 <= high
    assert held >= 33  # of 40; 95 % would be 38, and fewer than 33 has a probability of 0.002 at 91 %


def test_the_interval_of_the_matrix_is_as_wide_as_estimates_of_new_labels_differ():
    transitions = pairs(0.4)
    said, given, _true = drawn(transitions, seed=5, labels=600)
    found = noise_model.estimate(said, given)
    low, high = noise_model.intervals(found, said, given, np.random.default_rng(0)).transition_matrix
    assert (low <= found.transition_matrix).all()
    assert (found.transition_matrix <= high).all()
    assert (low >= 0).all()
    assert (high <= 1).all()
    again = [noise_model._settled(*drawn(transitions, seed=200 + k, labels=600)[:2], found) for k in range(12)]
    spread = np.std([one.transition_matrix for one in again], axis=0, ddof=1)
    struck = transitions > 0.1
    assert ((high - low) / 2)[struck].mean() == pytest.approx(1.96 * spread[struck].mean(), rel=0.4)


def test_labels_without_noise_are_taken_for_right():
    said, _, _true = drawn(symmetric(0.0), seed=4)
    sure = softmax(10 * np.log(said), axis=1)
    given = sure.argmax(axis=1)
    found = noise_model.estimate(sure, given)
    assert noise_model.noise_rate(found, sure, given) < 0.02


def test_one_class_has_no_wrong_label():
    found = noise_model.estimate(np.ones((5, 1)), np.zeros(5, dtype=np.int64))
    assert found.wrong(np.ones((5, 1)), np.zeros(5, dtype=np.int64)).tolist() == [0.0] * 5
