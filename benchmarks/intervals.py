"""What the report's intervals and comparisons hold: simulated studies whose truth is known, ten minutes on one core.

Trainings are normal: an effect of the seed that all configurations share, and per configuration effects of the noise
draw and of the training seed, and a rest. The functions are those of the report.
"""

import argparse
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lncis.config import Fold
from lncis.studies.report.intervals import Replicate, interval
from lncis.studies.report.selection import told_apart

Shares = tuple[float, float, float]
"""Of the variance between trainings: noise draw, training seed, the rest."""

Values = NDArray[np.float64]


def crossed(draws: int, seeds: int) -> list[Replicate]:
    return [Replicate(seed, draw) for draw in range(draws) for seed in range(seeds)]


def only_seeds(number: int) -> list[Replicate]:
    return [Replicate(seed) for seed in range(number)]


def trainings(rng: np.random.Generator, studies: int, draws: int, seeds: int, shares: Shares) -> Values:
    """Return studies `(studies, draws, seeds)` of one configuration, of expectation 0 and variance 1."""
    of_draw, of_seed, rest = (math.sqrt(share) for share in shares)
    return np.asarray(
        of_draw * rng.normal(size=(studies, draws, 1))
        + of_seed * rng.normal(size=(studies, 1, seeds))
        + rest * rng.normal(size=(studies, draws, seeds))
    )


def covered(values: Values, replicates: Sequence[Replicate] | None) -> float:
    """Return the share of studies whose interval has the expectation, 0, in it."""
    found = [interval(study.ravel().tolist(), replicates) for study in values]
    return sum(abs(reached.mean) <= reached.half_width for reached in found) / len(found)


def with_a_false_difference(
    rng: np.random.Generator,
    studies: int,
    k: int,
    replicates: Sequence[Replicate],
    *,
    judged: Callable[[Values, Sequence[Replicate], int], list[bool]] = told_apart,
    spreads: Sequence[float] = (),
    of_draw: float = 0.0,
) -> float:
    """Return the share of studies of k equal configurations in which one is told apart from the best of them.

    `spreads` are the standard deviations of their trainings, 1 where it is empty; `of_draw` that of the effects of a
    noise draw.
    """
    deviation = np.array(spreads or [1.0] * k)[:, None]
    draws = sorted({r.noise_seed for r in replicates}, key=str)
    columns = [draws.index(r.noise_seed) for r in replicates]
    wrong = 0
    for _ in range(studies):
        values = deviation * rng.normal(size=(k, len(replicates))) + 3 * rng.normal(size=len(replicates))
        values += of_draw * rng.normal(size=(k, len(draws)))[:, columns]
        wrong += any(judged(values, replicates, int(values.mean(axis=1).argmax())))
    return wrong / studies


def by_single_intervals(values: Values, replicates: Sequence[Replicate], selected: int) -> list[bool]:
    """Return which configurations differ from the selected one by their own interval, whatever else was compared."""
    found = [interval((values[selected] - other).tolist(), replicates) for other in values]
    return [abs(difference.mean) > difference.half_width for difference in found]


def compare(studies: int) -> None:
    print("equal configurations: % of studies that tell one apart from the best")
    print(f"{'k':>3}{'seeds':>7}{'each by itself':>16}{'ours':>7}{'ours, one varies threefold':>28}")
    for k in (3, 5, 9, 12):
        for n in (2, 3, 5):
            shares = [
                with_a_false_difference(np.random.default_rng(k), studies, k, only_seeds(n), **how)
                for how in ({"judged": by_single_intervals}, {}, {"spreads": [1.0] * (k - 1) + [3.0]})
            ]
            print(f"{k:>3}{n:>7}{100 * shares[0]:>16.1f}{100 * shares[1]:>7.1f}{100 * shares[2]:>28.1f}", flush=True)


def cover(studies: int) -> None:
    print("\none difference: % of studies whose 95 % interval covers it")
    print(f"{'seeds x draws':>14}{'draw, seed, rest':>20}{'as independent':>16}{'over draws':>12}{'ours':>7}")
    for seeds, draws in ((3, 2), (5, 2), (3, 3), (5, 3), (3, 5)):
        for shares in ((0.0, 0.0, 1.0), (0.5, 0.0, 0.5), (0.75, 0.0, 0.25), (0.9, 0.0, 0.1), (0.1, 0.8, 0.1)):
            values = trainings(np.random.default_rng(seeds), studies, draws, seeds, shares)
            found = (covered(values, None), covered(values.mean(axis=2), None), covered(values, crossed(draws, seeds)))
            cells = f"{100 * found[0]:>16.1f}{100 * found[1]:>12.1f}{100 * found[2]:>7.1f}"
            print(f"{f'{seeds} x {draws}':>14}{'{:.2f} {:.2f} {:.2f}'.format(*shares):>20}{cells}", flush=True)


def of_folds(rng: np.random.Generator, k: int, seeds: int, *, on_test: bool) -> tuple[list[float], list[Replicate]]:
    """Return the differences in accuracy of two learners that are equally good, for each seed and fold of one data set.

    Each learner is a nearest-mean classifier that sees ten features of its own; the features of both say equally much.
    They are tried on the fold that was left out, or on test data that all share.
    """
    images, informs = 200, 0.35
    labels = rng.integers(0, 2, images)
    points = rng.normal(size=(2, images, 10)) + informs * (2 * labels[:, None] - 1)
    test_labels = rng.integers(0, 2, 2000)
    test = rng.normal(size=(2, 2000, 10)) + informs * (2 * test_labels[:, None] - 1)
    values, replicates = [], []
    for seed in range(seeds):
        part = rng.permutation(images) % k
        for number in range(k):
            trained, left_out = part != number, part == number
            tried, truth = (test, test_labels) if on_test else (points[:, left_out], labels[left_out])
            right = []
            for learner in (0, 1):
                one, other = (points[learner, trained & (labels == label)].mean(axis=0) for label in (0, 1))
                said = (tried[learner] - (one + other) / 2) @ (other - one) > 0
                right.append(100 * float((said == truth).mean()))
            values.append(right[0] - right[1])
            replicates.append(Replicate(seed, None, Fold(number=number, of=k, seed=seed)))
    return values, replicates


def with_a_false_difference_of_folds(studies: int, k: int, seeds: int, *, on_test: bool) -> tuple[float, float]:
    """Return the share of data sets whose interval excludes 0: as if trainings shared no image, and corrected."""
    rng, wrong = np.random.default_rng(k), [0, 0]
    for _ in range(studies):
        values, replicates = of_folds(rng, k, seeds, on_test=on_test)
        for way, found in enumerate((interval(values), interval(values, replicates))):
            wrong[way] += abs(found.mean) > found.half_width
    return wrong[0] / studies, wrong[1] / studies


def folds(studies: int) -> None:
    print("\ntwo equal learners, k folds of one data set: % of data sets whose 95 % interval excludes 0")
    print(f"{'folds x seeds':>14}{'judged on':>12}{'as independent':>16}{'ours':>7}")
    for k, seeds in ((5, 1), (5, 3), (10, 1), (3, 2)):
        for on_test in (False, True):
            naive, ours = with_a_false_difference_of_folds(studies, k, seeds, on_test=on_test)
            print(
                f"{f'{k} x {seeds}':>14}{'test' if on_test else 'folds':>12}{100 * naive:>16.1f}{100 * ours:>7.1f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=4000)
    parser.add_argument("--only", choices=["comparisons", "intervals", "folds"])
    arguments = parser.parse_args()
    studies = arguments.studies
    print(f"{studies} studies a figure: ± {196 * math.sqrt(0.05 * 0.95 / studies):.1f} points at 5 %\n")
    for name, shown in (("comparisons", compare), ("intervals", cover), ("folds", folds)):
        if arguments.only in (None, name):
            shown(studies)


if __name__ == "__main__":
    main()
