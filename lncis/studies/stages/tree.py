"""The stage tree: what trials share, and where they fork (rules in docs/store.md).

Stage 1 of LNCIS is cross entropy whatever the stage-2 settings, so it does not depend on them; other losses never leave
the stage that they begin with. A trial is a chain of tasks, cut where it or another trial of the study leaves stage 1;
tasks that would compute the same numbers get the same key, and are trained once.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import lncis
from lncis import documents, files
from lncis.config import (
    PUBLISHED_WEIGHTS,
    DatasetConfig,
    TrainConfig,
    Workers,
    has_stages,
    loss_in_stage,
)
from lncis.data_identity import Identity, identify
from lncis.errors import ConfigError
from lncis.execution import objects
from lncis.execution.tasks import Task
from lncis.studies import pruning
from lncis.studies.spec import StudySpec, Trial
from lncis.studies.spec.space import STAGE1_EPOCHS, Categorical, Range, example

STAGES = "stages"
"""The folder of a study that holds its stages, each under its key."""

COMPUTING = (
    *(f"detection/{name}" for name in ("automatic", "batches", "diagnostics", "engine", "histograms", "label_losses")),
    *(f"detection/{name}" for name in ("losses", "posteriors", "mask_rcnn")),
    *(f"detection/inference/{name}" for name in ("coco_eval", "detections", "evaluation")),
    *("coco", "datasets", "noise"),
)
"""Our modules whose code decides what a training computes."""

# not hotcoco: it is pinned, has pycocotools' numbers, and may be absent
COMPUTING_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pycocotools", "scikit-learn", "pillow")


@dataclass(frozen=True)
class StageTree:
    """The stages of all trials of a study: where they fork, and the chain of tasks that each trial is.

    Derived once, where a study is planned or run, and handed to those who decide and show.
    """

    spec: StudySpec
    directory: Path
    """Holds each stage in a folder named by its key."""
    shared: str = ""
    """URL below which workers publish the stages instead; empty: nowhere else."""

    @cached_property
    def switches(self) -> frozenset[int]:
        """The epochs after which a trial may leave stage 1: there stage 1 is cut."""
        spec, searched = self.spec, self.spec.search.get(STAGE1_EPOCHS)
        overrides = [*spec.baselines.values()]
        if spec.sampler.type == "grid":
            overrides += spec.grid
        elif isinstance(searched, Categorical):
            overrides += [example(spec.search, STAGE1_EPOCHS, choice) for choice in searched.choices]
        if spec.sampler.type != "grid" and (searched is None or searched.when):
            overrides.append({})
        schedules = [{path: v for path, v in o.items() if path.partition(".")[0] == "schedule"} for o in overrides]
        distinct = {str(changes): changes for changes in schedules}  # a grid of thousands has a handful of them
        configured = [spec.configure(changes, seed=0).schedule for changes in distinct.values()]
        found = {schedule.switch_epoch for schedule in configured if schedule.stage1_epochs != "auto"}
        if isinstance(searched, Range):
            found |= set(range(int(searched.low), int(searched.high) + 1))
        return frozenset(found)

    @cached_property
    def rungs(self) -> tuple[int, ...]:
        """The epochs after which the pruner decides about configurations: there stage 2 is cut."""
        return pruning.rungs(self.spec.pruner, self.spec.base.schedule, min(self.switches, default=0))

    def rungs_of(self, trial: Trial) -> tuple[int, ...]:
        """The rungs at which it is decided about a trial's configuration: none in its stage 1, none for a baseline."""
        switch = switch_of(trial.config) or 0
        ahead = tuple(rung for rung in self.rungs if switch < rung < trial.config.schedule.epochs)
        return () if trial.baseline else ahead

    @cached_property
    def data_of(self) -> Callable[[DatasetConfig], Identity]:
        """Return the identity of a data set, as it is when it is first asked for: a session does not see it change."""
        return cache(identify)

    def chain(self, trial: Trial) -> list[Task]:
        """Return the tasks of a trial in order; a baseline is never pruned, so it is cut at no rung."""
        return chain(
            trial,
            self.spec.resources,
            self.directory,
            self.switches,
            () if trial.baseline else self.rungs,
            alone=not self.spec.sharing,
            shared=self.shared,
            data_of=self.data_of,
            ends_before=self.spec.extends.epochs if self.spec.extends else (),
        )


def chain(
    trial: Trial,
    workers: Workers,
    directory: Path,
    switches: Collection[int] = (),
    rungs: Collection[int] = (),
    alone: bool = False,
    shared: str = "",
    data_of: Callable[[DatasetConfig], Identity] = identify,
    ends_before: Collection[int] = (),
) -> list[Task]:
    """Return the tasks of a trial in order: stage 1, cut at `switches`, and stage 2, cut at `rungs`.

    Both are cut at `ends_before`, where a shorter training of an extended study ended. Trained `alone` it is one task
    that no other trial has. With the URL `shared` they are published below that.
    """
    config, tasks = trial.config, list[Task]()

    def task(key: str, until: int, after: Task | None) -> Task:
        at = objects.below(shared, key) if shared else ""
        return Task(key=key, config=config, until=until, directory=directory / key, after=after, shared=at)

    epochs, data = config.schedule.epochs, data_of(config.dataset)
    if alone:
        key = f"{trial.name}-{_key(config, workers, data, until=epochs, stage=2)}"
        return [task(key, epochs, None)]
    if sets_stage1_epochs(config):  # when its stage 1 ends is known only then: it is one task
        return [task(_key(config, workers, data, until=epochs, stage=2), epochs, None)]
    switch = switch_of(config)
    leaves = epochs if switch is None else switch
    ends = {cut for cut in switches if cut < leaves} | {rung for rung in rungs if (switch or 0) < rung < epochs}
    ends |= {end for end in ends_before if end < epochs}
    for until in sorted((ends | {leaves, epochs}) - {0}):
        key = _key(config, workers, data, until=until, stage=1 if until <= leaves else 2)
        tasks.append(task(key, until, tasks[-1] if tasks else None))
    return tasks


def switch_of(config: TrainConfig) -> int | None:
    """Return the epochs after which a training leaves stage 1, with auto at most; None where its loss never changes."""
    return config.schedule.switch_epoch if has_stages(config.loss) else None


def sets_stage1_epochs(config: TrainConfig) -> bool:
    """Say whether a training ends its stage 1 itself."""
    return config.schedule.stage1_epochs == "auto" and has_stages(config.loss)


def key_within_longer(trial: Trial, workers: Workers, data: Identity) -> str:
    """Return the key that a whole training has as the beginning of a longer one, which has not ended there.

    It is a stage of the longer one where that has equal numbers up to there: the same learning rates, above all.
    """
    epochs, switch = trial.config.schedule.epochs, switch_of(trial.config)
    stage: Literal[1, 2] = 1 if switch is None or epochs <= switch else 2
    return _key(trial.config, workers, data, until=epochs, stage=stage, ended=False)


def _key(
    config: TrainConfig, workers: Workers, data: Identity, *, until: int, stage: Literal[1, 2], ended: bool = True
) -> str:
    """Return a digest of all that can influence the weights after `until` epochs of a training.

    With `ended` false it does not end there, even if those are all its epochs.
    """
    influences: dict[str, Any] = documents.dump(config)
    schedule = config.schedule
    if config.model.weights not in PUBLISHED_WEIGHTS:  # those are what their names say, or are refused
        influences["model"]["weights"] = weights_digest(Path(config.model.weights))
    influences["schedule"] = {
        "lr_factors": [schedule.lr_factor(epoch) for epoch in range(until)],
        "warmup_iterations": schedule.warmup_iterations,
        # evaluation draws no random numbers, but what was evaluated is part of the result
        "tested": ended and until == schedule.epochs,
        "evaluated": [
            (e + 1) % schedule.evaluate_every == 0 or (ended and e + 1 == schedule.epochs) for e in range(until)
        ],
    }
    influences["loss"] = documents.dump(loss_in_stage(config.loss, stage))
    if stage == 2:
        influences["switch_epoch"] = "auto" if schedule.stage1_epochs == "auto" else schedule.switch_epoch
    # as floats: a default of 1 comes back from YAML as 1.0
    influences["workers"] = [float(w) for w in (workers.num_workers, workers.cpus_per_worker, workers.gpus_per_worker)]
    influences["code"] = code_digest()
    influences["data"] = dict(data)
    return hashlib.sha256(json.dumps(influences, sort_keys=True).encode()).hexdigest()[:16]


def weights_digest(file: Path) -> str:
    """Return the digest of a weights file: it counts by its content, wherever it lies."""
    try:
        return files.digest_once(file)
    except OSError as error:
        raise ConfigError("model.weights", [f"{file} cannot be read: {error.strerror}; name another file"]) from error


@cache
def code_digest() -> str:
    """Return a digest of the code that computes a training: ours, file by file, and the packages' versions."""
    package = Path(lncis.__file__).parent
    paths = [path for name in COMPUTING for path in (package / f"{name}.py", *sorted((package / name).glob("*.py")))]
    digest = hashlib.sha256()
    for path in filter(Path.exists, paths):
        digest.update(path.read_bytes())
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
