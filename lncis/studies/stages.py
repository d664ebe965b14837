"""What trials share, and where they fork.

Stage 1 is cross entropy whatever the stage-2 settings, so it does not depend on them. A trial is a chain of tasks, cut
where it or another trial of the study leaves stage 1; tasks that would compute the same numbers get the same key, and
are trained once.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lncis import __version__, documents
from lncis.config import TrainConfig, Workers
from lncis.studies.spec import Range, StudySpec, Trial
from lncis.tasks import Task

SWITCH = "schedule.stage1_epochs"


def switch_epochs(spec: StudySpec) -> frozenset[int]:
    """Return the epochs after which a trial of a study may leave stage 1: there stage 1 is cut."""
    overrides = [*spec.baselines.values(), *(spec.grid if spec.sampler.type == "grid" else [{}])]
    found = {spec.configure(changes, seed=0).schedule.switch_epoch for changes in overrides}
    searched = spec.search.get(SWITCH) if spec.sampler.type != "grid" else None
    if isinstance(searched, Range):
        found |= set(range(int(searched.low), int(searched.high) + 1))
    elif searched is not None:
        found |= {int(choice) for choice in searched.choices if choice is not None}
    return frozenset(found)


def chain(trial: Trial, workers: Workers, directory: Path, cuts: Collection[int] = ()) -> list[Task]:
    """Return the tasks of a trial in order: stage 1, cut where others may leave it, and stage 2.

    `directory` holds all stages, `cuts` is what `switch_epochs` returned.
    """
    config, tasks = trial.config, list[Task]()
    switch = config.schedule.switch_epoch
    ends = {cut for cut in cuts if 0 < cut < switch} | {switch, config.schedule.epochs}
    for until in sorted(ends - {0}):
        key = _key(config, workers, until=until, stage=1 if until <= switch else 2)
        after = tasks[-1] if tasks else None
        tasks.append(Task(key=key, config=config, until=until, directory=directory / key, after=after))
    return tasks


def _key(config: TrainConfig, workers: Workers, *, until: int, stage: int) -> str:
    """Return a digest of all that can influence the weights after `until` epochs of a training."""
    influences: dict[str, Any] = documents.dump(config)
    schedule = config.schedule
    influences["schedule"] = {
        "lr_factors": [schedule.lr_factor(epoch) for epoch in range(until)],
        "warmup_iterations": schedule.warmup_iterations,
        # evaluation draws no random numbers, but what was evaluated is part of the result
        "evaluated": [(e + 1) % schedule.evaluate_every == 0 or e + 1 == schedule.epochs for e in range(until)],
    }
    if stage == 1:
        del influences["loss"]
    else:
        influences["switch_epoch"] = schedule.switch_epoch
    influences["workers"] = [workers.num_workers, workers.cpus_per_worker, workers.gpus_per_worker]
    influences["version"] = __version__
    return hashlib.sha256(json.dumps(influences, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What a set of trials costs in epochs."""

    asked: int
    """If each trial were trained alone."""
    trained: int
    """With shared stages trained once."""


def sharing(chains: Sequence[Sequence[Task]]) -> Sharing:
    """Return what the chains cost alone and together."""
    distinct = {task.key: task for chain in chains for task in chain}
    return Sharing(
        asked=sum(chain[-1].until for chain in chains),
        trained=sum(task.until - (task.after.until if task.after else 0) for task in distinct.values()),
    )
