"""The sensitivity check: does each searched parameter change the training, and in which stage?

Before the first trial each is set to a few values for a few steps of each stage, on the study's own workers
(lncis.detection.probing.probe).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lncis.errors import ConfigError
from lncis.execution.tasks import Task
from lncis.metrics import Record
from lncis.studies.spec import StudySpec, space

NOT_STEPPED = ("schedule.", "dataset.", "noise.")
"""Not probed: a few steps show neither what a schedule does later nor what only some images have."""


@dataclass(frozen=True, kw_only=True)
class ProbedParameter:
    """A searched parameter, and values of it that should lead to different trainings."""

    path: str
    values: list[Any]
    probes: list[Task]
    others: bool
    """Whether other choices are searched beside it, under which it might have an effect."""


def probed_parameters(spec: StudySpec) -> list[ProbedParameter]:
    """Return the parameters to probe, with the ends of their range or choices and up to two values between them."""
    found = []
    for path, parameter in spec.search.items():
        if path.startswith(NOT_STEPPED):
            continue
        values, tasks = list[Any](), list[Task]()
        for value in dict.fromkeys([parameter.examples[0], parameter.examples[-1], *parameter.examples[1:3]]):
            try:
                config = spec.configure(space.example(spec.search, path, value), seed=spec.seeds[0])
            except ConfigError:  # it is valid only together with other values of a grid
                continue
            values.append(value)
            tasks.append(Task(key=f"probe {path} = {value}", config=config, until=1, directory=Path(), probe=True))
        others = any(isinstance(p, space.Categorical) for other, p in spec.search.items() if other != path)
        if len(tasks) > 1:
            found.append(ProbedParameter(path=path, values=values, probes=tasks, others=others))
    return found


def remark_on(parameter: ProbedParameter, records: Sequence[Record]) -> str | None:
    """Return a remark on a parameter that does not change stage 2 alone; ConfigError where it changes nothing."""
    first, *rest = records
    changed = {
        figure.partition("/")[0]
        for other in rest
        for figure in first.keys() & other.keys()
        if _differ(first, other, figure)
    }
    values = ", ".join(map(str, parameter.values))
    same = f"{values} gave the same losses and weights in both stages"
    if not changed and parameter.others:
        return f"{parameter.path} changes nothing beside the base's other values ({same})"
    if not changed:
        remedy = "drop it, search between other values, or set sensitivity_check: false"
        raise ConfigError(f"search.{parameter.path}", [f"has no effect here: {same}; {remedy}"])
    if "stage1" in changed:
        return f"{parameter.path} changes stage 1 as well ({values} were tried): trials that differ in it share nothing"
    return None


def _differ(one: Mapping[str, float], other: Mapping[str, float], figure: str) -> bool:
    """Say whether a figure differs; NaN, where a training diverged, counts as different."""
    return math.isnan(one[figure]) or math.isnan(other[figure]) or one[figure] != other[figure]
