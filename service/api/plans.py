"""What a study would do, as the answer to a dry run."""

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lncis import documents
from lncis.api import Plan, PlannedStage, PlannedTrial
from lncis.documents import plain
from lncis.errors import LncisError
from lncis.execution.queue import Task
from lncis.studies.estimate import estimate
from lncis.studies.plan import plan
from lncis.studies.spec import StudySpec
from lncis.studies.spec.judging import judged_before
from service.api.problems import Problem

SHOWN = 1000
"""Trials, and stages, that a plan lists."""
PLAN_TIMEOUT_SECONDS = 120.0


class Planner:
    """Plans in a process of its own, which starts with the first dry run: estimating needs torch, and takes seconds."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._pool: ProcessPoolExecutor | None = None

    async def plan(self, document: dict[str, Any]) -> Plan:
        """Return what a valid study would do; Problem if planning takes too long."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        future = self._pool.submit(plan_study, document, self._runs)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), PLAN_TIMEOUT_SECONDS)
        except (TimeoutError, BrokenProcessPool) as error:
            self.close()
            raise Problem(503, "this study could not be planned in time; try a smaller one") from error

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            for process in list(self._pool._processes.values()):
                process.kill()
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def plan_study(document: dict[str, Any], runs: Path) -> Plan:
    """Return the trials of a study, its stage tree, and the cost of both."""
    spec = judged_before(documents.parse(StudySpec, document, source="study"))  # by the request that asks for the plan
    found = plan(spec)
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
