"""Figures of a ranking, counted by hand; the plan of a review, against simulated reviews."""

import numpy as np
import pytest

from lncis.detection.posteriors import Posteriors
from lncis.suspects import quality
from lncis.suspects.review_plan import review_plan, updated


def test_ranking_counts_pairs_and_first_places():
    rng = np.random.default_rng(0)
    wrong = rng.random(300) < 0.3
    scores = rng.random(300).round(2) + 0.4 * wrong
    found = quality.ranking(scores, wrong)
    pairs = [(s > t) + 0.5 * (s == t) for s in scores[wrong] for t in scores[~wrong]]
    assert found.auroc == pytest.approx(np.mean(pairs))
    first = sorted(range(300), key=lambda i: -scores[i])[: wrong.sum()]
    assert found.precision_at_errors == pytest.approx(np.mean([wrong[i] for i in first]))
    assert set(found.precision_at) == {50, 100}


def test_a_ranking_without_errors_has_no_auroc():
    found = quality.ranking(np.array([0.1, 0.2]), np.array([False, False]))
    assert np.isnan(found.auroc)
    assert np.isnan(found.precision_at_errors)


def test_reliability_is_a_tenth_a_bin():
    probabilities = np.array([0.05, 0.05, 0.95, 1.0])
    bins = quality.reliability(probabilities, np.array([False, True, True, True]))
    assert [(b.labels, b.said, b.is_so) for b in bins] == [(2, 0.05, 0.5), (2, 0.975, 1.0)]
    assert quality.expected_calibration_error(bins) == pytest.approx((2 * 0.45 + 2 * 0.025) / 4)


def test_baselines_are_their_formulas():
    q = np.array([[0.7, 0.2, 0.1], [0.02, 0.97, 0.01]])
    found = Posteriors(
        annotation_ids=np.array([1, 2]), given=np.array([0, 0]), probabilities=q, background=np.array([0.5, 0.01])
    )
    scores = quality.baselines(found, np.random.default_rng(0))
    certainty = [np.exp(sum(p * np.log(p) for p in row)) for row in q]
    assert scores["mistakenness"] == pytest.approx([(1 - certainty[0]) / 2, (1 + certainty[1]) / 2])
    assert scores["loss"] == pytest.approx([-np.log(0.7 * 0.5), -np.log(0.02 * 0.99)])
    assert scores["normalised margin"] == pytest.approx([0.2 - 0.7, 0.97 - 0.02])
    assert scores["self-confidence"] == pytest.approx([0.3, 0.98])
    assert scores["swap"] == pytest.approx([0.0, 0.97 * 0.99])


def test_the_plan_expects_what_reviews_of_calibrated_labels_find():
    rng = np.random.default_rng(1)
    wrong = rng.beta(0.5, 1.2, 1000)
    plan = review_plan(wrong)
    order = np.argsort(-wrong)
    counts = np.array([(rng.random(1000) < wrong)[order] for _ in range(2000)])
    for step in plan.steps:
        found = counts[:, : step.reviews].sum(axis=1)
        assert step.errors == pytest.approx(found.mean(), abs=0.7)
        inside = np.abs(found - step.errors) <= step.half_width
        assert 0.92 < inside.mean() < 0.98
    for share, reviews in plan.needed.items():
        assert wrong[order][:reviews].sum() >= share * wrong.sum() > wrong[order][: reviews - 1].sum()
    assert "errors expected in 1,000 labels" in str(plan)


def test_a_review_that_finds_more_than_expected_raises_the_rest():
    wrong = np.linspace(0.9, 0.1, 100)
    more = updated(wrong, dict.fromkeys(range(20), True))
    fewer = updated(wrong, dict.fromkeys(range(20), False))
    assert (more[:20] == 1).all()
    assert (fewer[:20] == 0).all()
    assert (more[20:] > wrong[20:]).all()
    assert (fewer[20:] < wrong[20:]).all()
    assert (np.diff(more[20:]) < 0).all(), "the order stays"
    assert (updated(wrong, {}) == wrong).all()


def test_a_review_that_finds_as_many_as_expected_changes_the_rest_little():
    rng = np.random.default_rng(2)
    wrong = rng.beta(1, 1, 2000)
    truth = rng.random(2000) < wrong
    after = updated(wrong, {int(k): bool(truth[k]) for k in range(500)})
    assert np.abs(after[500:] - wrong[500:]).max() < 0.08


def test_an_empty_list_has_a_plan():
    assert review_plan(np.zeros(0)).steps == []
