"""A check before GPU time is spent: does each searched parameter change the training, and where?

Each is tried at two values for a few steps of each stage, on the workers of the study (lncis.engine.probe).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lncis.errors import ConfigError
from lncis.metrics import Record
from lncis.studies import space
from lncis.studies.spec import StudySpec
from lncis.tasks import Task

NOT_STEPPED = ("schedule.", "dataset.", "noise.")
"""Parameters that say when things happen, and those of scenes that a few steps need not meet."""


@dataclass(frozen=True, kw_only=True)
class Knob:
    """A searched parameter and two values that should train differently."""

    path: str
    values: tuple[Any, Any]
    probes: tuple[Task, Task]


def knobs(spec: StudySpec) -> list[Knob]:
    """Return what is to be probed, the ends of each range or list of choices."""
    found = []
    for path, parameter in spec.search.items():
        values = (parameter.examples[0], parameter.examples[-1])
        if path.startswith(NOT_STEPPED) or values[0] == values[1]:
            continue
        tasks = []
        for value in values:
            try:
                config = spec.configure(space.example(spec.search, path, value), seed=spec.seeds[0])
            except ConfigError:  # it fits together with others of a grid only
                break
            tasks.append(Task(key=f"probe {path} = {value}", config=config, until=1, directory=Path(), probe=True))
        else:
            found.append(Knob(path=path, values=values, probes=(tasks[0], tasks[1])))
    return found


def judge(knob: Knob, records: tuple[Record, Record]) -> str | None:
    """Return what should be known of a knob that is not stage 2's alone; ConfigError for one that changes nothing."""
    one, other = records
    changed = {figure.partition("/")[0] for figure in one.keys() & other.keys() if _differ(one, other, figure)}
    values = " and ".join(map(str, knob.values))
    if not changed:
        raise ConfigError(
            f"search.{knob.path}",
            [
                f"is connected to nothing here: {values} gave the same losses and weights in both stages; "
                "drop it, search between other values, or set check_knobs: false"
            ],
        )
    if "stage1" in changed:
        return f"{knob.path} changes stage 1 as well ({values} were tried): trials that differ in it share nothing"
    return None


def _differ(one: Mapping[str, float], other: Mapping[str, float], figure: str) -> bool:
    """Say whether a figure differs; where one of them diverged nothing can be told, and it counts as different."""
    return math.isnan(one[figure]) or math.isnan(other[figure]) or one[figure] != other[figure]
