"""What trials share, and where they fork.

Stage 1 of LNCIS is cross entropy whatever the stage-2 settings, so it does not depend on them; other losses never leave
the stage that they begin with. A trial is a chain of tasks, cut where it or another trial of the study leaves stage 1;
tasks that would compute the same numbers get the same key, and are trained once.
"""

import hashlib
import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import lncis
from lncis import documents
from lncis.config import (
    PUBLISHED_WEIGHTS,
    CocoData,
    DigitsData,
    TrainConfig,
    Workers,
    loss_in_stage,
)
from lncis.errors import ConfigError, DataError
from lncis.execution import storage
from lncis.execution.queue import Task
from lncis.studies.spec import StudySpec, Trial
from lncis.studies.spec.samplers import AshaPruner, MedianPruner
from lncis.studies.spec.space import STAGE1_EPOCHS, Categorical, Range, example

STAGES = "stages"
"""The folder of a study that holds its stages, each under its key."""

COMPUTING = (
    *(f"detection/{name}" for name in ("engine", "diagnostics", "histograms", "losses", "roi_heads", "models")),
    *("detection/weights", "detection/evaluation", "noise", "datasets"),
)
"""Our modules whose code decides what a training computes."""

COMPUTING_PACKAGES = ("torch", "torchvision", "numpy", "pycocotools", "scikit-learn", "pillow")


def chains(spec: StudySpec, directory: Path, shared: str = "") -> Callable[[Trial], list[Task]]:
    """Return what turns each trial of a study into its tasks; `directory`, or the URL `shared`, holds all stages."""
    cut = partial(
        chain,
        workers=spec.resources,
        directory=directory,
        shared=shared,
        switches=switch_epochs(spec),
        alone=not spec.sharing,
    )
    judged = rungs(spec)
    return lambda trial: cut(trial, rungs=() if trial.baseline else judged)  # a baseline is never pruned


def switch_epochs(spec: StudySpec) -> frozenset[int]:
    """Return the epochs after which a trial of a study may leave stage 1: there stage 1 is cut."""
    overrides, searched = [*spec.baselines.values()], spec.search.get(STAGE1_EPOCHS)
    if spec.sampler.type == "grid":
        overrides += spec.grid
    elif isinstance(searched, Categorical):
        overrides += [example(spec.search, STAGE1_EPOCHS, choice) for choice in searched.choices]
    if spec.sampler.type != "grid" and (searched is None or searched.when):
        overrides.append({})
    found = {spec.configure(changes, seed=0).schedule.switch_epoch for changes in overrides}
    if isinstance(searched, Range):
        found |= set(range(round(searched.low), round(searched.high) + 1))
    return frozenset(found)


def rungs(spec: StudySpec) -> tuple[int, ...]:
    """Return the epochs after which the pruner judges configurations; none lies in anyone's stage 1."""
    pruner, schedule = spec.pruner, spec.base.schedule
    start, steps = min(switch_epochs(spec)), list[int]()
    if isinstance(pruner, AshaPruner):
        wanted = pruner.first_rung
        while start + wanted < schedule.epochs:
            steps.append(wanted)
            wanted *= pruner.reduction_factor
    elif isinstance(pruner, MedianPruner):
        steps = list(range(pruner.first_rung, schedule.epochs - start, pruner.every))
    every = schedule.evaluate_every
    evaluated = {math.ceil((start + step) / every) * every for step in steps}
    return tuple(sorted(epoch for epoch in evaluated if epoch < schedule.epochs))


def chain(
    trial: Trial,
    workers: Workers,
    directory: Path,
    switches: Collection[int] = (),
    rungs: Collection[int] = (),
    alone: bool = False,
    shared: str = "",
) -> list[Task]:
    """Return the tasks of a trial in order: stage 1, cut at `switches`, and stage 2, cut at `rungs`.

    Trained `alone` it is one task that no other trial has. With the URL `shared` they are published below that.
    """
    config, tasks = trial.config, list[Task]()

    def task(key: str, until: int, after: Task | None) -> Task:
        at = storage.below(shared, key) if shared else ""
        return Task(key=key, config=config, until=until, directory=directory / key, after=after, shared=at)

    epochs, switch = config.schedule.epochs, switch_of(config)
    if alone:
        key = f"{trial.name}-{_key(config, workers, until=epochs, stage=2)}"
        return [task(key, epochs, None)]
    leaves = epochs if switch is None else switch
    ends = {cut for cut in switches if cut < leaves} | {rung for rung in rungs if (switch or 0) < rung < epochs}
    for until in sorted((ends | {leaves, epochs}) - {0}):
        key = _key(config, workers, until=until, stage=1 if until <= leaves else 2)
        tasks.append(task(key, until, tasks[-1] if tasks else None))
    return tasks


def switch_of(config: TrainConfig) -> int | None:
    """Return the epochs after which a training leaves stage 1; None where its loss never changes."""
    changes = loss_in_stage(config.loss, 1) != config.loss
    return config.schedule.switch_epoch if changes else None


def _key(config: TrainConfig, workers: Workers, *, until: int, stage: Literal[1, 2]) -> str:
    """Return a digest of all that can influence the weights after `until` epochs of a training."""
    influences: dict[str, Any] = documents.dump(config)
    schedule = config.schedule
    if config.model.weights not in PUBLISHED_WEIGHTS:  # those are what their names say, or are refused
        influences["model"]["weights"] = weights_digest(Path(config.model.weights))
    influences["schedule"] = {
        "lr_factors": [schedule.lr_factor(epoch) for epoch in range(until)],
        "warmup_iterations": schedule.warmup_iterations,
        # evaluation draws no random numbers, but what was evaluated is part of the result
        "tested": until == schedule.epochs,
        "evaluated": [(e + 1) % schedule.evaluate_every == 0 or e + 1 == schedule.epochs for e in range(until)],
    }
    influences["loss"] = documents.dump(loss_in_stage(config.loss, stage))
    if stage == 2:
        influences["switch_epoch"] = schedule.switch_epoch
    # as floats: a default of 1 comes back from YAML as 1.0
    influences["workers"] = [float(w) for w in (workers.num_workers, workers.cpus_per_worker, workers.gpus_per_worker)]
    influences["code"] = code_digest()
    influences["data"] = data_digests(config.dataset)
    return hashlib.sha256(json.dumps(influences, sort_keys=True).encode()).hexdigest()[:16]


def weights_digest(file: Path) -> str:
    """Return the digest of a weights file: it counts by its content, wherever it lies."""
    try:
        return _file_digest(file, file.stat().st_size, file.stat().st_mtime_ns)
    except OSError as error:
        raise ConfigError("model.weights", [f"{file} cannot be read: {error.strerror}; name another file"]) from error


def data_digests(config: DigitsData | CocoData) -> list[str]:
    """Return a digest of each annotation file that a training reads; images are known by their names in those."""
    files = [config.train, config.val, config.test] if isinstance(config, CocoData) else []
    try:
        return [_file_digest(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}; check the path") from error


@cache
def _file_digest(file: Path, size: int, mtime_ns: int) -> str:
    """Return the digest of a file, computed again when its size or time changes."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@cache
def code_digest() -> str:
    """Return a digest of the code that computes a training: ours, file by file, and the packages' versions."""
    package = Path(lncis.__file__).parent
    files = [file for name in COMPUTING for file in (package / f"{name}.py", *sorted((package / name).glob("*.py")))]
    digest = hashlib.sha256()
    for file in filter(Path.exists, files):
        digest.update(file.read_bytes())
    for name in COMPUTING_PACKAGES:
        digest.update(f"{name} {version(name)}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What a set of trials costs in epochs."""

    requested: int
    """If each trial were trained alone."""
    trained: int
    """With shared stages trained once."""


def sharing(chains: Sequence[Sequence[Task]]) -> Sharing:
    """Return what the chains cost alone and together."""
    distinct = {task.key: task for chain in chains for task in chain}
    return Sharing(
        requested=sum(chain[-1].until for chain in chains),
        trained=sum(task.until - (task.after.until if task.after else 0) for task in distinct.values()),
    )
