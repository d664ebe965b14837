"""What a study would do, as the answer to a dry run."""

import asyncio
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from lncis import documents
from lncis.api import ExtensionPlan, Plan, PlannedStage, PlannedTrial
from lncis.config import DigitsData
from lncis.documents import plain
from lncis.errors import LncisError
from lncis.execution.tasks import Task
from lncis.studies import extension
from lncis.studies.estimate import estimate
from lncis.studies.plan import Plan as PlannedStudy
from lncis.studies.plan import plan
from lncis.studies.spec import StudySpec
from lncis.studies.spec.judging import judged_before
from service.api.problems import Problem

Made = TypeVar("Made")

SHOWN = 1000
"""Trials, and stages, that a plan lists."""
PLAN_TIMEOUT_SECONDS = 120.0
"""For one plan, once it is its turn."""
QUICK_TRIALS, QUICK_EPOCHS, QUICK_SCENES, QUICK_IMAGE_SIZE, QUICK_BATCH_SIZE = 100, 200, 500, 256, 16
"""A study within these is planned in a few seconds."""


class Planner:
    """Plans in two processes, which start with the first dry run: estimating needs torch, and takes seconds.

    One is for small studies, which so never wait for a large one. Large ones have their turn user by user.
    """

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._small, self._large = _Process(), _Process()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def plan(self, spec: StudySpec, document: dict[str, Any], *, user: str) -> Plan:
        """Return what a valid study, and its document, would do; Problem if planning takes too long."""
        return await self._made(plan_study, document, spec=spec, user=user)

    async def plan_extension(
        self, spec: StudySpec, parent: str, changes: dict[str, Any], *, user: str
    ) -> ExtensionPlan:
        """Return what an extension would do, which asks for `spec`; Problem, and what `extension.extend` raises."""
        return await self._made(plan_extension, parent, changes, spec=spec, user=user)

    async def extended(self, spec: StudySpec, parent: str, changes: dict[str, Any], *, user: str) -> dict[str, Any]:
        """Return an extension as a document to be queued; raises as `plan_extension`."""
        return await self._made(extended_document, parent, changes, spec=spec, user=user)

    async def _made(self, make: Callable[..., Made], *given: Any, spec: StudySpec, user: str) -> Made:
        if _is_small(spec):
            return await self._small.run(make, *given, self._runs)
        async with self._turns.setdefault(user, asyncio.Lock()):
            return await self._large.run(make, *given, self._runs)

    def close(self) -> None:
        """End the processes."""
        self._small.close()
        self._large.close()


def _is_small(spec: StudySpec) -> bool:
    base = spec.base
    return (
        spec.total_trials <= QUICK_TRIALS
        and base.schedule.epochs <= QUICK_EPOCHS
        and base.batch_size <= QUICK_BATCH_SIZE
        and base.model.max_size <= QUICK_IMAGE_SIZE
        and isinstance(data := base.dataset, DigitsData)
        and max(data.train_scenes, data.val_scenes, data.test_scenes) <= QUICK_SCENES
    )


class _Process:
    """A process that plans one study after another; each has its own time, so no study pays for the one before it."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._turn = asyncio.Lock()

    async def run(self, make: Callable[..., Made], *given: Any) -> Made:
        async with self._turn:
            if self._pool is None:
                spawn = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_first_to_die)
            future = self._pool.submit(make, *given)
            try:
                return await asyncio.wait_for(asyncio.wrap_future(future), PLAN_TIMEOUT_SECONDS)
            except (TimeoutError, BrokenProcessPool) as error:
                self.close()
                raise Problem(503, "this study could not be planned in time; try a smaller one") from error
            except asyncio.CancelledError:  # nobody waits any more, and a plan that runs cannot be cancelled
                self.close()
                raise

    def close(self) -> None:
        if self._pool is not None:
            for process in list(self._pool._processes.values()):
                process.kill()
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def _first_to_die() -> None:
    """Where memory runs out, let the system end this process and not the service."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def plan_study(document: dict[str, Any], runs: Path) -> Plan:
    """Return the trials of a study, its stage tree, and the cost of both."""
    spec = judged_before(documents.parse(StudySpec, document, source="study"))  # by the request that asks for the plan
    return _shown(plan(spec), runs)


def plan_extension(parent: str, changes: dict[str, Any], runs: Path) -> ExtensionPlan:
    """Return what an extension of a study adds, and what that costs."""
    found = extension.extend(parent, runs, changes)
    shown = _shown(found.planned, runs).model_dump()
    return ExtensionPlan.model_validate(
        shown
        | {
            "epochs_to_train": found.to_train,
            "parent": parent,
            "differences": plain(found.differing),
            "epochs_taken_over": found.trained,
            "notes": list(found.longer()),
        }
    )


def extended_document(parent: str, changes: dict[str, Any], runs: Path) -> dict[str, Any]:
    """Return an extension of a study as a document."""
    document: dict[str, Any] = plain(documents.dump(extension.extend(parent, runs, changes).spec))
    return document


def _shown(found: PlannedStudy, runs: Path) -> Plan:
    spec = found.spec
    users: dict[str, list[str]] = {}
    tree: dict[str, Task] = {}
    for trial, tasks in found.trials:
        for task in tasks:
            tree[task.key] = task
            users.setdefault(task.key, []).append(trial.name)
    try:
        estimated = asdict(estimate(found, runs))
    except (LncisError, OSError) as error:  # a plan without an estimate is still useful
        estimated = {"missing": str(error)}
    return Plan(
        exact=found.exact,
        trials_total=spec.total_trials,
        epochs_to_train=found.sharing.trained,
        epochs_without_sharing=found.sharing.requested,
        trials=[
            PlannedTrial(
                name=trial.name,
                label=trial.label,
                seed=trial.seed,
                noise_seed=trial.noise_seed,
                fold=trial.fold.number if trial.fold else None,
                stages=[task.key for task in tasks],
            )
            for trial, tasks in found.trials[:SHOWN]
        ],
        stages=[
            PlannedStage(
                key=key,
                after=task.after.key if task.after else None,
                first_epoch=task.after.until + 1 if task.after else 1,
                last_epoch=task.until,
                users=users[key],
            )
            for key, task in list(tree.items())[:SHOWN]
        ],
        spec=plain(documents.dump(spec)),
        estimate=plain(estimated),
    )
