"""What a noise rate means: how far ahead the right label is, and the loss that a flipped one cannot fall below.

With K classes and symmetric noise of rate eta, a label is right with probability 1 - eta and each wrong one with
eta / (K - 1). So the same rate is much harder with few classes than with many.
"""

import math


def odds(rate: float, classes: int) -> float:
    """Return by how many times the right label is likelier than a given wrong one: (1 - rate) (classes - 1) / rate."""
    return (1 - rate) * (classes - 1) / rate if rate > 0 else math.inf


def matched_rate(rate: float, *, classes: int, to: int) -> float:
    """Return the rate at which `to` classes have the odds of `rate` at `classes`: 40 % of VOC's 20 are 24 % of ten.

    Both of symmetric noise; `rate` is in [0, 1], the numbers of classes are at least 2.
    """
    return (to - 1) / (to - 1 + odds(rate, classes)) if rate > 0 else 0.0


def flipped_loss(rate: float, classes: int) -> float:
    """Return the cross entropy, in nats, that a calibrated model gives a flipped label: ln((classes - 1) / rate).

    It predicts each label as often as it is given. Only a model that is surer than the data allow exceeds it.
    """
    return math.log((classes - 1) / rate) if rate > 0 else math.inf
