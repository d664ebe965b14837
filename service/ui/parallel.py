"""Parallel coordinates: an axis for each searched parameter and for the objective, a line for each configuration."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lncis.studies.spec import StudySpec
from lncis.studies.spec.space import Categorical, Parameter
from lncis.studies.spec.study import value_text
from service.ui.curves import HEIGHT, WIDTH

MOST_AXES, MOST_LINES = 10, 300
CLASSES = 5
"""Lines are coloured by the fifth of all configurations that they belong to, the best fifth last and on top."""
MARGIN = 6


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A vertical axis: its name, and the text at its top and bottom."""

    name: str
    top: str
    bottom: str
    x: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """A configuration: its path, the fifth that it belongs to (1: the worst), and what a reader is told of it."""

    path: str
    fifth: int
    says: str
    trial: int
    """The number of its latest trial."""
    heights: str
    """Where it stands on each axis, from 0 to 1, separated by commas; empty where it lacks the parameter."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What is drawn, the best lines last."""

    axes: list[Axis]
    lines: list[Line]


Row = tuple[str, Mapping[str, Any], float, int]
"""Label, values by parameter, mean objective, number of a trial."""


def parallel(rows: Sequence[Row], spec: StudySpec) -> Drawing | None:
    """Return the drawing of some configurations; None with fewer than two of them, or without parameters.

    A line is broken where its configuration lacks a parameter, as one with conditions may.
    """
    rows = [row for row in rows if math.isfinite(row[2])]
    paths = list(spec.search)[: MOST_AXES - 1]
    if len(rows) < 2 or not paths:
        return None
    sign = 1 if spec.objective.mode == "max" else -1
    ordered = sorted(rows, key=lambda row: sign * row[2])[-MOST_LINES:]
    values = [value for _, _, value, _ in ordered]
    low, high = min(values), max(values)
    places = [MARGIN + number * (WIDTH - 2 * MARGIN) / len(paths) for number in range(len(paths) + 1)]
    axes = [
        Axis(name=path.rpartition(".")[2], top=_text(spec.search[path], 1), bottom=_text(spec.search[path], 0), x=x)
        for path, x in zip(paths, places, strict=False)
    ]
    axes.append(Axis(name=spec.objective.metric, top=f"{high:.1f}", bottom=f"{low:.1f}", x=places[-1]))
    lines = []
    for number, (label, overrides, value, trial) in enumerate(ordered):
        heights = [_height(spec.search[path], overrides[path]) if path in overrides else None for path in paths]
        heights.append(0.5 if low == high else (value - low) / (high - low))
        says = f"{label}: {value:.1f}"
        lines.append(
            Line(
                path=_path(places, heights),
                fifth=CLASSES - (len(ordered) - 1 - number) * CLASSES // len(ordered),
                says=says,
                trial=trial,
                heights=",".join("" if height is None else f"{height:.4g}" for height in heights),
            )
        )
    return Drawing(axes=axes, lines=lines)


def _height(parameter: Parameter, value: Any) -> float | None:
    """Return where a value stands on its axis, from 0 to 1; None for one that is not of the parameter."""
    if isinstance(parameter, Categorical):
        choices = _ordered(parameter)
        return choices.index(value) / max(1, len(choices) - 1) if value in choices else None
    scale = math.log if parameter.log else float
    return (scale(value) - scale(parameter.low)) / (scale(parameter.high) - scale(parameter.low))


def _ordered(parameter: Categorical) -> list[Any]:
    numbers = all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in parameter.choices)
    return sorted(parameter.choices) if numbers else list(parameter.choices)


def _text(parameter: Parameter, end: int) -> str:
    if isinstance(parameter, Categorical):
        return value_text(_ordered(parameter)[-end])
    return f"{(parameter.high if end else parameter.low):g}"


def _path(places: Sequence[float], heights: Sequence[float | None]) -> str:
    path, drawing = "", False
    for x, height in zip(places, heights, strict=True):
        if height is not None:
            path += f"{'L' if drawing else 'M'}{x:.4g} {MARGIN + (1 - height) * (HEIGHT - 2 * MARGIN):.4g}"
        drawing = height is not None
    return path
