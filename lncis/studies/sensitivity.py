"""A check before GPU time is spent: does each searched parameter change the training, and where?

Each is tried at a few values for a few steps of each stage, on the workers of the study (lncis.detection.engine.probe).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lncis.errors import ConfigError
from lncis.execution.queue import Task
from lncis.metrics import Record
from lncis.studies.spec import StudySpec, space

NOT_STEPPED = ("schedule.", "dataset.", "noise.")
"""Parameters that say when things happen, and those of scenes that a few steps need not meet."""


@dataclass(frozen=True, kw_only=True)
class ProbedParameter:
    """A searched parameter and values that should not all train alike."""

    path: str
    values: list[Any]
    probes: list[Task]
    others: bool
    """Whether other choices are searched beside it, under which it might matter."""


def probed_parameters(spec: StudySpec) -> list[ProbedParameter]:
    """Return what is to be probed: the ends of each range or list of choices, and up to two values between them."""
    found = []
    for path, parameter in spec.search.items():
        if path.startswith(NOT_STEPPED):
            continue
        values, tasks = list[Any](), list[Task]()
        for value in dict.fromkeys([parameter.examples[0], parameter.examples[-1], *parameter.examples[1:3]]):
            try:
                config = spec.configure(space.example(spec.search, path, value), seed=spec.seeds[0])
            except ConfigError:  # it fits together with others of a grid only
                continue
            values.append(value)
            tasks.append(Task(key=f"probe {path} = {value}", config=config, until=1, directory=Path(), probe=True))
        others = any(isinstance(p, space.Categorical) for other, p in spec.search.items() if other != path)
        if len(tasks) > 1:
            found.append(ProbedParameter(path=path, values=values, probes=tasks, others=others))
    return found


def judge(parameter: ProbedParameter, records: Sequence[Record]) -> str | None:
    """Return a remark on a parameter that is not stage 2's alone; ConfigError for one that changes nothing."""
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
        raise ConfigError(f"search.{parameter.path}", [f"is connected to nothing here: {same}; {remedy}"])
    if "stage1" in changed:
        return f"{parameter.path} changes stage 1 as well ({values} were tried): trials that differ in it share nothing"
    return None


def _differ(one: Mapping[str, float], other: Mapping[str, float], figure: str) -> bool:
    """Say whether a figure differs; where one of them diverged nothing can be told, and it counts as different."""
    return math.isnan(one[figure]) or math.isnan(other[figure]) or one[figure] != other[figure]
