"""How long a study will take and how much disk it needs: from an earlier study like it, else from a few steps."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from lncis.config import TrainConfig
from lncis.errors import LncisError
from lncis.studies import budget
from lncis.studies.plan import Plan, makespan
from lncis.studies.record import journal
from lncis.studies.record.history import History
from lncis.studies.spec import StudySpec
from lncis.studies.spec.files import load_stored_spec

LATEST_STUDIES = 20
"""How many earlier studies are read."""

START_SECONDS = 40.0
"""Until the first training step, on two cores; longer on a cluster that must add nodes."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds that one epoch takes, evaluation included."""

    seconds: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a plan will take; bytes are of checkpoints."""

    pace: Pace | None
    """None where it is unknown until a first study with these data, model and workers."""
    seconds: float | None
    """Wall time, from the start of the study; with `max_concurrent_trials: auto` where there is room for all."""
    seconds_without_sharing: float | None
    checkpoint_bytes: int
    bytes_while_running: int
    """At most."""
    bytes_kept: int


def estimate(plan: Plan, runs: Path) -> Estimate:
    """Return the time and disk that a plan takes with its spec's resources; a few steps are timed if need be."""
    spec, chains = plan.spec, [tasks for _, tasks in plan.trials]
    alone = [[replace(tasks[-1], key=trial.name, after=None)] for trial, tasks in plan.trials]
    pace, worker_groups = pace_of(spec, runs), spec.resources.at_a_time(spec.total_trials)
    shared, unshared = (
        (START_SECONDS + makespan(c, worker_groups, pace.seconds) for c in (chains, alone)) if pace else (None, None)
    )
    stages = {task.key for tasks in chains for task in tasks}
    finals = {tasks[-1].key for tasks in chains}
    each = checkpoint_bytes(spec.base, len(_classes(spec)))
    kept = len(spec.replicates) if spec.keep_checkpoints == "best" else len(finals)
    return Estimate(
        pace=pace,
        seconds=shared,
        seconds_without_sharing=unshared,
        checkpoint_bytes=each,
        bytes_while_running=each * len(stages),
        bytes_kept=each * kept,
    )


def estimate_text(plan: Plan, runs: Path) -> RenderableType:
    """Return the lines for a terminal: the wall time and the disk that a plan will take."""
    spec, found = plan.spec, estimate(plan, runs)
    lines = []
    if found.pace is None or found.seconds is None or found.seconds_without_sharing is None:
        lines.append("wall time: unknown until a first study with these data, model and workers")
    else:
        bound = "about" if spec.pruner.type == "none" else "at most about"
        many = spec.resources.at_a_time(spec.total_trials)
        room = f", with room for {many} trials at a time" if spec.resources.max_concurrent_trials == "auto" else ""
        lines.append(
            f"wall time: {bound} {_duration(found.seconds)}, {_duration(found.seconds_without_sharing)} without "
            f"sharing ({found.pace.seconds:.2g} s an epoch, {found.pace.source}{room})"
        )
    lines.append(
        f"disk: {_size(found.checkpoint_bytes)} a checkpoint, at most {_size(found.bytes_while_running)} while it "
        f"runs; afterwards {_size(found.bytes_kept)} of trials (keep_checkpoints: {spec.keep_checkpoints}) and the "
        "stage store"
    )
    if fits := budget.fitting(plan, found.pace.seconds if found.pace else None):
        lines.append(fits)
    return Group(*(Text(line) for line in lines))


def pace_of(spec: StudySpec, runs: Path) -> Pace | None:
    """Return the pace of the latest study with the same data, model and workers; without one, time a few steps here.

    None where the workers have GPUs and there is no earlier study.
    """
    found = sorted(runs.glob(f"*/{journal.JOURNAL}"), key=lambda path: path.stat().st_mtime)[-LATEST_STUDIES:]
    for folder in (path.parent for path in reversed(found)):
        try:
            earlier = load_stored_spec(folder / "spec.yaml")
            if _paced_by(earlier) != _paced_by(spec):
                continue
            history = History.of(earlier, journal.read(folder))
        except LncisError:
            continue
        trained = [trial for trial in history.trials.values() if not trial.started.reused]
        seconds = [e.record["seconds"] for trial in trained for e in trial.epochs.values() if not e.reused]
        if seconds:
            return Pace(seconds=sum(seconds) / len(seconds), source=f"as in {folder.name}")
    return _timed(spec) if spec.resources.gpus_per_worker == 0 else None


def _paced_by(spec: StudySpec) -> tuple[object, ...]:
    base, workers = spec.base, spec.resources
    return (
        (base.dataset, spec.folds, base.model, base.batch_size, base.precision, base.schedule.evaluate_every),
        (workers.num_workers, workers.cpus_per_worker, workers.gpus_per_worker),
    )


def _timed(spec: StudySpec) -> Pace:
    import torch

    from lncis import datasets
    from lncis.detection import probing

    threads = torch.get_num_threads()
    torch.set_num_threads(max(int(spec.resources.cpus_per_worker), 1))
    try:
        data = datasets.load(spec.configure({}, *spec.replicates[0]))
        probing.probe(spec.base, data)  # the first steps of a process are slower
        started = time.monotonic()
        probing.probe(spec.base, data)
        step = (time.monotonic() - started) / (2 * probing.PROBE_STEPS)
    finally:
        torch.set_num_threads(threads)
    steps = len(data.train) / spec.base.batch_size
    # to evaluate an image takes about a third of the time to train on it: no backward pass, no sampling
    evaluated = len(data.val) / spec.base.batch_size / spec.base.schedule.evaluate_every / 3
    return Pace(seconds=step * (steps + evaluated) / spec.resources.num_workers, source="timed here over a few steps")


def checkpoint_bytes(config: TrainConfig, num_foreground_classes: int) -> int:
    """Return the size of a checkpoint: the weights, and what the optimizer keeps for each that trains, in fp32."""
    import torch

    from lncis.detection.mask_rcnn.models import build_model

    with torch.device("meta"):
        model = build_model(config.model, num_foreground_classes, pretrained=False)
    moments = 2 if config.optimizer.type == "adamw" else 1
    return sum(4 * p.numel() * (1 + moments * p.requires_grad) for p in model.parameters())


def _classes(spec: StudySpec) -> list[int]:
    from lncis import datasets

    return datasets.load(spec.base).train.category_ids


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(count: float) -> str:
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
