"""How much each searched parameter matters so far, from what has been evaluated; cheap enough for every look at a page.

The share of the objective's variance that a parameter explains alone (a main effect): the correlation ratio, corrected
for its number of groups (Kelley's epsilon squared), so that chance gives about 0. What parameters do together is left
out. The report of a study that has ended computes fANOVA, which loads scikit-learn.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from lncis.studies.spec import StudySpec
from lncis.studies.spec.space import Categorical, Parameter

FEWEST = 6
"""With fewer configurations nothing is said."""
GROUPS = 4
"""A range is cut into so many parts with as many configurations each."""

Point = tuple[Mapping[str, Any], float]
"""Values by parameter, mean objective."""


def importance(points: Sequence[Point], spec: StudySpec) -> dict[str, float]:
    """Return the share of each parameter that varies, from 0 to 1, largest first; empty where nothing can be said."""
    points = [point for point in points if math.isfinite(point[1])]
    if len(points) < FEWEST or len(spec.search) < 2:
        return {}
    found = {path: _share(_groups(path, parameter, points)) for path, parameter in spec.search.items()}
    known = {path: share for path, share in found.items() if share is not None}
    return dict(sorted(known.items(), key=lambda item: -item[1]))


def _groups(path: str, parameter: Parameter, points: Sequence[Point]) -> list[list[float]]:
    """Return the objectives by the parameter's value, or by the part of its range; those without it are a group."""
    groups: dict[Hashable, list[float]] = {}
    having = [(overrides[path], value) for overrides, value in points if path in overrides]
    if isinstance(parameter, Categorical):
        for given, value in having:
            groups.setdefault(str(given), []).append(value)
    else:
        ordered = sorted(having, key=lambda pair: pair[0])
        for place, (_, value) in enumerate(ordered):
            groups.setdefault(place * GROUPS // len(ordered), []).append(value)
    without = [value for overrides, value in points if path not in overrides]
    return [*groups.values(), *([without] if without else [])]


def _share(groups: Sequence[Sequence[float]]) -> float | None:
    """Return epsilon squared; None where all values or no two are of one group, or all are equal."""
    values = [value for group in groups for value in group]
    freedom = len(values) - len(groups)
    mean = math.fsum(values) / len(values)
    total = math.fsum((value - mean) ** 2 for value in values)
    if len(groups) < 2 or freedom < 1 or total == 0:
        return None
    within = math.fsum((v - math.fsum(group) / len(group)) ** 2 for group in groups for v in group)
    return max(0.0, 1 - within / freedom * (len(values) - 1) / total)
