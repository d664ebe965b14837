"""Curves of the pages, as SVG paths in a box of fixed size that the page stretches; numbers are text beside it."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

Point = tuple[float, float]

WIDTH, HEIGHT = 300, 100
BINS = 100
"""More than three times as many points are drawn as a band: the range of each of so many intervals."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve: a path and its legend."""

    path: str
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves over common axes, with the range of each axis."""

    lines: list[Line]
    dots: str = ""
    band: str = ""
    x: tuple[float, float]
    y: tuple[float, float]


def by_trial(values: Sequence[tuple[int, float | None]], mode: str) -> Chart | None:
    """Return each trial's objective over its number as dots, and the best so far as a line; None without any.

    Many trials are drawn as a band instead of dots.
    """
    points = [(float(number), value) for number, value in values if value is not None and math.isfinite(value)]
    if not points:
        return None
    best = max if mode == "max" else min
    so_far = list(zip((x for x, _ in points), accumulate((y for _, y in points), best), strict=True))
    x, y = _ends(x for x, _ in points), _ends(y for _, y in points)
    best_so_far = Line(path=_steps(so_far, x, y))
    if len(points) <= 3 * BINS:
        return Chart(lines=[best_so_far], dots="".join(f"M{_at(point, x, y)}h0" for point in points), x=x, y=y)
    lows, highs = zip(*_intervals(points), strict=True)
    band = "M" + "L".join(_at(point, x, y) for point in [*lows, *reversed(highs)]) + "Z"
    return Chart(lines=[best_so_far], band=band, x=x, y=y)


def by_epoch(curves: Iterable[tuple[str, Sequence[Point]]]) -> Chart | None:
    """Return each trial's objective over its epochs as a line with a label; None without any."""
    there = [(label, finite) for label, points in curves if (finite := [p for p in points if math.isfinite(p[1])])]
    if not there:
        return None
    x, y = (_ends(point[axis] for _, points in there for point in points) for axis in (0, 1))
    lines = [
        Line(
            path="M" + "L".join(_at(point, x, y) for point in points) + ("h0" if len(points) == 1 else ""), label=label
        )
        for label, points in there
    ]
    return Chart(lines=lines, x=x, y=y)


def plotted(curves: Iterable[tuple[str, Sequence[Point]]]) -> str:
    """Return the same curves as JSON for uPlot: `x`, and for each line `label` and `y`, null where it has no value."""
    there = [(label, {x: y for x, y in points if math.isfinite(y)}) for label, points in curves]
    across = sorted({x for _, points in there for x in points})
    lines = [{"label": label, "y": [points.get(x) for x in across]} for label, points in there if points]
    return json.dumps({"x": across, "lines": lines}, separators=(",", ":"), allow_nan=False)


def _ends(values: Iterable[float]) -> tuple[float, float]:
    there = list(values)
    return min(there), max(there)


def _at(point: Point, x: tuple[float, float], y: tuple[float, float]) -> str:
    """Return a point in the box, with a margin for the width of the line; a range of one value lies in the middle."""

    def part(value: float, ends: tuple[float, float]) -> float:
        return 0.5 if ends[0] == ends[1] else (value - ends[0]) / (ends[1] - ends[0])

    return f"{3 + part(point[0], x) * (WIDTH - 6):.4g} {HEIGHT - 4 - part(point[1], y) * (HEIGHT - 8):.4g}"


def _steps(points: Sequence[Point], x: tuple[float, float], y: tuple[float, float]) -> str:
    """Return a line that goes on level until the value changes."""
    path = f"M{_at(points[0], x, y)}"
    for (_, before), point in pairwise(points):
        if point[1] != before:
            across, height = _at(point, x, y).split()
            path += f"H{across}V{height}"
    return f"{path}H{_at(points[-1], x, y).split()[0]}"


def _intervals(points: Sequence[Point]) -> Iterable[tuple[Point, Point]]:
    """Yield the lowest and the highest value of each interval, at its middle."""
    for number in range(BINS):
        part = points[number * len(points) // BINS : (number + 1) * len(points) // BINS]
        low, high = _ends(value for _, value in part)
        middle = part[len(part) // 2][0]
        yield (middle, low), (middle, high)
