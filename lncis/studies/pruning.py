"""Where a pruner decides about configurations, and what asynchronous successive halving (ASHA) decides.

ASHA: Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, algorithm 2. There a configuration
waits at a rung until it is among the best 1/eta and is promoted; here it is compared with those that reached the rung
before it, as it arrives, and goes on or stops for good: no worker keeps a checkpoint for a promotion that never comes.
Hyperband: Li et al., JMLR 2018; ASHA in each of its brackets.
The schema is in lncis.studies.spec.samplers; the median rule is Optuna's own (lncis.studies.search).
"""

import math
from binascii import crc32
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

from lncis.config import Schedule
from lncis.studies.spec.samplers import AshaPruner, HyperbandPruner, MedianPruner, NoPruner, Pruner


def rungs(pruner: Pruner, schedule: Schedule, first_switch: int) -> tuple[int, ...]:
    """Return the epochs after which the pruner decides, in order; none without a pruner.

    `first_switch` is the epoch after which the first trial of the study leaves stage 1. Rungs are counted from there,
    so none lies in the stage 1 of all, and moved to the next epoch that is evaluated.
    """
    steps = list[int]()
    match pruner:
        case AshaPruner() | HyperbandPruner():
            step = pruner.first_rung
            while first_switch + step < schedule.epochs:
                steps.append(step)
                step *= pruner.reduction_factor
        case MedianPruner():
            steps = list(range(pruner.first_rung, schedule.epochs - first_switch, pruner.every))
        case NoPruner():
            return ()
    every = schedule.evaluate_every
    evaluated = {math.ceil((first_switch + step) / every) * every for step in steps}
    return tuple(sorted(epoch for epoch in evaluated if epoch < schedule.epochs))


@dataclass
class RungScores:
    """What the configurations that reached a rung have there; higher is better."""

    _of: dict[int, float] = field(default_factory=dict)
    _ordered: list[float] = field(default_factory=list)

    def add(self, configuration: int, score: float) -> None:
        """Note what a configuration has; one that is there again, after it was retried, replaces what it had."""
        if configuration in self._of:
            del self._ordered[bisect_left(self._ordered, self._of[configuration])]
        self._of[configuration] = score
        insort(self._ordered, score)

    def better_than(self, score: float) -> int:
        """Return how many have more."""
        return len(self._ordered) - bisect_right(self._ordered, score)

    def __len__(self) -> int:
        """Return how many configurations reached the rung."""
        return len(self._of)


def asha_stops(pruner: AshaPruner | HyperbandPruner, score: float, reached: RungScores) -> bool:
    """Say whether ASHA stops a configuration at a rung: it is not among the best 1/eta of those that reached it.

    `reached` holds its own score, too. The first one there always goes on.
    """
    return reached.better_than(score) >= max(len(reached) // pruner.reduction_factor, 1)


def bracket_of(pruner: HyperbandPruner, study_name: str, number: int, rungs: Sequence[int]) -> int:
    """Return the bracket of the configuration with a number: it skips so many of the first rungs.

    There is a bracket more than rungs. Their shares are those of Hyperband's algorithm 1, n = ceil((s_max + 1) /
    (s + 1) eta^s), and the draw is that of Optuna's HyperbandPruner, so a study that is resumed makes it again.
    """
    last = len(rungs)
    shares = [math.ceil((last + 1) * pruner.reduction_factor**s / (s + 1)) for s in range(last, -1, -1)]
    left = crc32(f"{study_name}_{number}".encode()) % sum(shares)
    bracket = 0
    while left >= shares[bracket]:
        left -= shares[bracket]
        bracket += 1
    return bracket
