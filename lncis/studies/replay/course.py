"""One course of a study that could have been: the code that runs studies decides, the curves are the known ones."""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lncis.studies.replay.curves import Curve, Point, point_of
from lncis.studies.search import Suggester


@dataclass(kw_only=True)
class Course:
    """What became of the configurations that a study tried."""

    stopped: dict[int, int] = field(default_factory=dict)
    """Configuration -> the rung at which the pruner stopped it."""
    finished: list[Curve] = field(default_factory=list)
    """In the order in which they ended."""
    trained: int
    """The epochs that were trained, as bits (see Curve.trained)."""
    tried: list[int] = field(default_factory=list)
    """Configurations, in the order in which they were proposed."""
    known: bool = True
    """False where the pruner lets a configuration go on beyond its known curve: then nothing else here counts."""


def follow_order(
    suggester: Suggester,
    order: Iterator[Curve] | None,
    curves: Mapping[Point, Curve],
    rungs: Mapping[int, tuple[int, ...]],
    *,
    baselines: int = 0,
    at_a_time: int = 1,
) -> Course:
    """Return the course of a study whose configurations arrive in an order, or as its sampler proposes them (None).

    `rungs` has the epochs at which it is decided about each configuration. `at_a_time` of them train beside each other,
    at equal speed. An epoch that another one trains is not trained again: it is waited for.
    """
    course = Course(trained=baselines)
    running: list[tuple[float, int, Curve, int]] = []  # when it reaches its next rung, or its end; number; ...; passed
    begun: list[tuple[float, int]] = []  # when a stretch of epochs began, and which; one after the other
    now = 0.0

    def train(number: int, curve: Curve, passed: int) -> None:
        """Train a configuration to its next rung, or to its end."""
        ahead = rungs[curve.trial.configuration]
        needed = curve.trained[ahead[passed] if passed < len(ahead) else curve.epochs]
        shared = (begin + (needed & epochs).bit_count() for begin, epochs in begun if needed & epochs)
        ready, own = max([now, *shared]), needed & ~course.trained
        begun[:] = [(begin, epochs) for begin, epochs in begun if begin + epochs.bit_count() > now]
        begun.append((ready, own))
        heapq.heappush(running, (ready + own.bit_count(), number, curve, passed))
        course.trained |= own

    while True:
        while len(running) < at_a_time and (asked := _ask(suggester, order, curves)):
            course.tried.append(asked[1].trial.configuration)
            train(*asked, 0)
        if not running:
            return course
        now, number, curve, passed = heapq.heappop(running)
        ahead = rungs[curve.trial.configuration]
        if passed == len(ahead):
            if not curve.finals:
                course.known = False
                return course
            suggester.tell(number, [curve.finals])
            course.finished.append(curve)
        elif ahead[passed] not in curve.values:
            course.known = False
            return course
        elif suggester.should_prune(number, ahead[passed], curve.values[ahead[passed]]):
            suggester.tell_pruned(number)
            course.stopped[curve.trial.configuration] = ahead[passed]
        else:
            train(number, curve, passed + 1)


def _ask(
    suggester: Suggester, order: Iterator[Curve] | None, curves: Mapping[Point, Curve]
) -> tuple[int, Curve] | None:
    """Return the number that the next configuration has for the suggester, and its curve; None after the last one."""
    if order is None:
        asked = suggester.ask()
        return (asked[0], curves[point_of(asked[1])]) if asked else None
    curve = next(order, None)
    asked = suggester.ask(curve.trial.overrides) if curve else None
    return (asked[0], curve) if asked and curve else None
