"""What pruners and samplers would have made of a finished study, over many orders of arrival."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import numpy as np

from lncis.errors import ConfigError
from lncis.studies import pruning
from lncis.studies.replay.course import Course, follow_order
from lncis.studies.replay.curves import Curve, Curves, point_of
from lncis.studies.report.intervals import Interval, interval
from lncis.studies.search import Suggester
from lncis.studies.spec import StudySpec
from lncis.studies.spec.samplers import GridSampler, OptunaSampler, Pruner, Sampler
from lncis.studies.stages.tree import StageTree

RANGE = (2.5, 97.5)
"""Percentiles between which a figure lies in 95 % of the orders."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure over the orders."""

    mean: float
    low: float
    """95 % of the orders lie from here ..."""
    high: float
    """... to here."""


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What a pruner, or a sampler with a pruner, makes of a study; epochs that configurations share count once.

    The winner is the configuration that the study selected. The regret is by how much the objective of the one
    selected in a replay lies behind the winner's, in the units of the objective: never below 0 for the mean over seeds.
    """

    sampler: str
    """Empty: the study's own configurations, in another order."""
    pruner: str
    rungs: list[int]
    orders: int
    every_order: bool
    """Whether these are all orders that there are."""
    unknown: int
    """Orders in which a configuration would go on beyond its known curve; the figures below leave these out."""
    epochs: Spread | None
    """Trained; None where all orders are unknown, as in the figures below."""
    winner_untried: float | None
    """Share of the orders in which a sampler never proposes the winner."""
    winner_stopped: dict[int, float]
    """Rung -> share of the orders in which the winner is stopped there."""
    regret: Spread | None
    regret_over_seeds: Interval | None
    """The regret for each seed, averaged over the orders, paired by seed; None with one seed."""
    own_order_stops: int | None
    """The rung at which the winner is stopped in the order in which the study tried its configurations; 0: nowhere.

    None where it is not known, or where a sampler is replayed."""


def replayed(
    known: Curves,
    pruner: Pruner,
    sampler: Sampler | None = None,
    *,
    names: tuple[str, str] = ("", ""),
    orders: int,
    at_a_time: int,
) -> Replayed:
    """Return the figures of a pruner, and of a sampler if one is given, over so many orders of arrival.

    The orders are random, the same for every pruner; all there are, if that is no more. A sampler is run with so many
    seeds instead. `names` are what the sampler and the pruner are called. ConfigError where a sampler could propose
    what the study has not trained.
    """
    spec = replace(known.spec, pruner=pruner, secondary_objectives=[])
    tree = StageTree(spec, Path())
    rungs = {c.trial.configuration: tree.rungs_of(c.trial) for c in known.curves}
    curves = {point_of(c.trial.overrides): c for c in known.curves}
    if sampler is not None:
        _require_whole_space(known)
    courses, number, every = list[Course](), len(known.curves), sampler is None and _few(len(known.curves), orders)
    drawn = replace(spec, sampler=OptunaSampler(type="random", configurations=number))  # it draws nothing: all given

    def course(order: Iterator[Curve] | None, seed: int = 0) -> Course:
        chosen = drawn if sampler is None else replace(spec, sampler=_seeded(sampler, seed))
        baselines = known.baselines
        return follow_order(Suggester(chosen), order, curves, rungs, baselines=baselines, at_a_time=at_a_time)

    if sampler is not None:
        courses = [course(None, seed) for seed in range(1 if isinstance(sampler, GridSampler) else orders)]
    else:
        courses = [course(iter(order)) for order in _orders(known.curves, orders, every)]
    own = None if sampler is not None else course(iter(known.curves))
    return _figures(known, courses, own, names, tree.rungs, every)


def moved_rungs(spec: StudySpec, pruner: Pruner) -> str:
    """Return what to say where the rungs of a pruner are not evaluated, and move to later epochs; else empty."""
    tree = StageTree(replace(spec, pruner=pruner, secondary_objectives=[]), Path())
    each = replace(spec.base.schedule, evaluate_every=1)
    asked = pruning.rungs(pruner, each, min(tree.switches))
    if asked == tree.rungs:
        return ""
    before, after = (", ".join(map(str, epochs)) or "none" for epochs in (asked, tree.rungs))
    return (
        f"evaluated every {spec.base.schedule.evaluate_every} epochs, so rungs after {before} become {after}: "
        "what lies between is not known"
    )


def _few(configurations: int, orders: int) -> bool:
    return configurations <= 12 and math.factorial(configurations) <= orders


def _orders(curves: Sequence[Curve], orders: int, every: bool) -> Iterator[Sequence[Curve]]:
    if every:
        yield from permutations(curves)
        return
    rng = np.random.default_rng(0)  # the same study gives the same figures
    for _ in range(orders):
        yield [curves[number] for number in rng.permutation(len(curves))]


def _seeded(sampler: Sampler, seed: int) -> Sampler:
    return sampler if isinstance(sampler, GridSampler) else replace(sampler, seed=seed)


def _require_whole_space(known: Curves) -> None:
    """Raise ConfigError where a sampler could propose a configuration that has no curve to its end."""
    spec = known.spec
    if ranges := [path for path, parameter in spec.search.items() if parameter.type != "categorical"]:
        raise ConfigError(
            "--sampler", [f"cannot be replayed over the range of {ranges[0]}: most of it was never trained; drop it"]
        )
    there = {point_of(curve.trial.overrides) for curve in known.whole}
    if missing := [point for point in map(point_of, spec.grid) if point not in there]:
        example = ", ".join(f"{path} = {value}" for path, value in missing[0])
        raise ConfigError(
            "--sampler",
            [
                f"needs every combination trained to its end, but {len(missing)} of {len(spec.grid)} are not, such as "
                f"{example}; replay a finished grid"
            ],
        )


def _figures(
    known: Curves,
    courses: Sequence[Course],
    own: Course | None,
    names: tuple[str, str],
    rungs: Sequence[int],
    every: bool,
) -> Replayed:
    winner = known.winner
    best = winner.trial.configuration
    # a course in which a pruner stops all is one without a result: the first never is, so there is none
    decided = [course for course in courses if course.known and course.finished]
    picked = [max(course.finished, key=lambda curve: curve.score) for course in decided]
    sign = 1 if known.spec.objective.mode == "max" else -1
    losses = np.array([[sign * (w - p) for w, p in zip(winner.finals, c.finals, strict=True)] for c in picked])
    stops = Counter(course.stopped[best] for course in decided if best in course.stopped)
    return Replayed(
        sampler=names[0],
        pruner=names[1],
        rungs=list(rungs),
        orders=len(courses),
        every_order=every,
        unknown=len(courses) - len(decided),
        epochs=_spread([course.trained.bit_count() for course in decided]),
        winner_untried=_share(sum(best not in c.tried for c in decided), len(decided)) if own is None else None,
        winner_stopped={rung: count / len(decided) for rung, count in sorted(stops.items())},
        regret=_spread(losses.mean(axis=1)) if len(losses) else None,
        regret_over_seeds=(
            interval(losses.mean(axis=0).tolist(), known.replicates)
            if len(losses) and len(known.replicates) > 1
            else None
        ),
        own_order_stops=own.stopped.get(best, 0) if own is not None and own.known else None,
    )


def _share(count: int, of: int) -> float:
    return count / of if of else math.nan


def _spread(values: Sequence[float] | np.typing.NDArray[np.float64]) -> Spread | None:
    if not len(values):
        return None
    low, high = np.percentile(values, RANGE)
    return Spread(mean=float(np.mean(values)), low=float(low), high=float(high))
