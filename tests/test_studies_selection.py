"""Comparisons with the best: how often equal configurations are told apart, and what is said of the winner."""

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from lncis.studies.report import selection as module
from lncis.studies.report.intervals import Replicate, interval
from lncis.studies.report.selection import Selection, selection

SLOW = pytest.mark.slow
STUDIES = 600


def seeds(n: int) -> list[Replicate]:
    return [Replicate(seed) for seed in range(n)]


def of(values: np.ndarray, replicates: list[Replicate]) -> Selection:
    found = selection(values, replicates, int(values.mean(axis=1).argmax()))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        import intervals

    return intervals


@pytest.fixture
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLES", 200)


def most(share: float, studies: int) -> float:
    """Return the share of studies that chance exceeds once in 10,000 where `share` is true."""
    return float(stats.binom.ppf(1 - 1e-4, studies, share)) / studies


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("k", [3, 5, 9, 12])
def test_of_equal_configurations_one_is_told_apart_in_at_most_5_percent(coverage, k, n):
    found = coverage.with_a_false_difference(np.random.default_rng(10 * k + n), 300, k, coverage.only_seeds(n))
    assert found <= most(0.05, 300)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("k", [3, 5, 9, 12])
def test_of_thousands_of_equal_configurations_one_is_told_apart_in_at_most_5_percent(coverage, k, n):
    found = coverage.with_a_false_difference(np.random.default_rng(100 * k + n), 4000, k, coverage.only_seeds(n))
    assert found <= most(0.05, 4000)


@pytest.mark.parametrize("k", [3, pytest.param(5, marks=SLOW), pytest.param(9, marks=SLOW), 12])
def test_where_one_varies_three_times_as_much_it_is_at_most_9_percent(coverage, k):
    """The pooled error alone would have 7, 10, 14 and 16 %, intervals of single differences 10, 21, 41 and 51 %."""
    spreads = [1.0] * (k - 1) + [3.0]
    found = coverage.with_a_false_difference(np.random.default_rng(k), 400, k, coverage.only_seeds(3), spreads=spreads)
    assert found <= most(0.09, 400)


@pytest.mark.parametrize(("k", "draws"), [(3, 3), pytest.param(9, 3, marks=SLOW), pytest.param(9, 5, marks=SLOW)])
def test_where_the_noise_draw_makes_half_of_the_variance_it_holds_too(coverage, k, draws):
    replicates = coverage.crossed(draws, 3)
    found = coverage.with_a_false_difference(np.random.default_rng(k), 400, k, replicates, of_draw=1.0)
    assert found <= most(0.05, 400)


@pytest.mark.parametrize(("k", "share"), [(3, 0.12), (12, 0.61)])
def test_intervals_of_single_differences_would_tell_equal_ones_apart(coverage, k, share):
    """What this is for."""
    found = coverage.with_a_false_difference(
        np.random.default_rng(0), 400, k, coverage.only_seeds(3), judged=coverage.by_single_intervals
    )
    assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / 400)


def test_a_large_difference_is_told(few_samples):
    """Four standard deviations of one training, three seeds: in more than half of the studies each of four is told."""
    rng, told = np.random.default_rng(0), 0
    for _ in range(400):
        values = rng.normal(size=(5, 3))
        values[2] += 4
        found = of(values, seeds(3))
        told += found.as_good == [False, False, True, False, False]
    assert told > 100
    assert of(np.array([[30.0, 31, 32], [40.1, 41, 42]]), seeds(3)).as_good == [False, True]


def test_by_hand_with_tukeys_quantile():
    # residuals of 0 4 8 / 1 3 8 without means 4 4 of the rows and .5 3.5 8 of the columns: -.5 .5 0 / .5 -.5 0,
    # mean square 1 / 2, squared error of a mean 1/6; the range of 2 at 2 degrees of freedom is 6.085
    values = np.array([[0.0, 4.0, 8.0], [1.0, 3.0, 8.0]])
    error, freedom = module._pooled_error(values, seeds(3))
    assert (error, freedom) == (pytest.approx(1 / 6), 2)
    farthest = stats.studentized_range.ppf(0.95, 2, 2) * math.sqrt(1 / 6)
    # of two configurations it is the paired interval itself
    difference = interval((values[0] - values[1]).tolist())
    assert farthest == pytest.approx(difference.half_width, rel=1e-3)


def test_pooled_error_is_what_regression_gives():
    k, draws, n = 4, 3, 5
    values = np.random.default_rng(0).normal(30, 2, size=(k, draws, n)) + np.arange(draws)[:, None]
    replicates = [Replicate(seed, draw) for draw in range(draws) for seed in range(n)]

    def residual(y: np.ndarray) -> float:
        rows, columns = y.shape
        design = np.concatenate([np.repeat(np.eye(rows), columns, axis=0), np.tile(np.eye(columns), (rows, 1))], axis=1)
        fit = design @ np.linalg.lstsq(design, y.ravel(), rcond=None)[0]
        return float(((y.ravel() - fit) ** 2).sum()) / ((rows - 1) * (columns - 1)) / columns

    parts = [residual(values.mean(axis=1)), residual(values.mean(axis=2))]
    freedoms = [(k - 1) * (n - 1), (k - 1) * (draws - 1)]
    error, freedom = module._pooled_error(values.reshape(k, -1), replicates)
    assert error == pytest.approx(sum(parts))
    assert freedom == pytest.approx(sum(parts) ** 2 / sum(p**2 / f for p, f in zip(parts, freedoms, strict=True)))


def test_one_configuration_or_one_seed_says_nothing():
    assert selection(np.array([[1.0, 2.0]]), seeds(2), 0) is None
    assert selection(np.array([[1.0], [2.0]]), seeds(1), 1) is None


def test_without_any_spread_the_highest_is_best_and_equals_share():
    sure = of(np.array([[30.0, 31.0], [33.0, 34.0], [32.5, 33.5]]), seeds(2))
    assert sure.probability == [0, 1, 0]
    assert (sure.as_good, sure.optimism) == ([False, True, False], pytest.approx(0))
    same = of(np.array([[30.0, 31.0], [30.0, 31.0]]), seeds(2))
    assert (same.probability, same.as_good) == ([0.5, 0.5], [True, True])


def simulated(k: int, n: int, spread: float, studies: int = STUDIES) -> dict[str, float]:
    """Return means over studies whose expectations come from a normal distribution of this spread."""
    rng = np.random.default_rng(k * n)
    rows = []
    for _ in range(studies):
        expected = spread * rng.normal(size=k)
        common = 2 * rng.normal(size=n)
        values = expected[:, None] + common + rng.normal(size=(k, n))
        found, means = of(values, seeds(n)), values.mean(axis=1)
        best = int(means.argmax())
        excess = means[best] - expected[best] - (values - expected[:, None]).mean()
        rows.append((found.optimism, excess, found.probability[best], best == expected.argmax()))
    return dict(zip(("optimism", "excess", "probability", "right"), np.mean(rows, axis=0), strict=True))


@pytest.mark.parametrize(("k", "n"), [(3, 3), (5, 3), (12, 3), (5, 5)])
def test_the_optimism_of_equal_configurations_is_most_of_the_expected_maximum(k, n, few_samples):
    """The means look more different than they are, so a part of the excess is taken for a real difference."""
    expected_maximum = np.random.default_rng(0).normal(size=(100_000, k)).max(axis=1).mean() / math.sqrt(n)
    found = simulated(k, n, 0.0)
    assert found["excess"] == pytest.approx(expected_maximum, rel=0.08)
    assert 0.70 < found["optimism"] / expected_maximum < 1.05


@pytest.mark.parametrize(("k", "n"), [(3, 3), (12, 3), (5, 5)])
@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_the_optimism_of_different_configurations_is_the_excess(k, n, spread, few_samples):
    found = simulated(k, n, spread)
    chance = 3 * math.sqrt(1 / n / STUDIES)
    assert abs(found["optimism"] - found["excess"]) < 0.05 + chance  # in deviations of one training


@pytest.mark.parametrize(("k", "n"), [(3, 3), (12, 3), (5, 5)])
@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_the_probability_of_being_best_is_kept(k, n, spread, few_samples):
    """It may be too modest, by up to 9 points; it is never too sure, by more than chance and one point."""
    found = simulated(k, n, spread)
    chance = 2.6 * math.sqrt(0.25 / STUDIES)
    assert found["right"] - 0.09 - chance < found["probability"] < found["right"] + 0.01 + chance


def test_probabilities_sum_to_one_and_come_again():
    values = np.random.default_rng(0).normal(30, 1, size=(6, 3))
    found = of(values, seeds(3))
    assert sum(found.probability) == pytest.approx(1)
    assert found == of(values, seeds(3))
    assert int(np.argmax(found.probability)) == int(values.mean(axis=1).argmax())


def test_thousands_of_configurations_take_seconds():
    values = np.random.default_rng(0).normal(30, 1, size=(2000, 3))
    found = of(values, seeds(3))
    assert sum(found.probability) == pytest.approx(1)
