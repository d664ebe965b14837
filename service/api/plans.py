"""What a study would do, as the answer to a dry run."""

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lncis import documents
from lncis.documents import plain
from lncis.errors import LncisError
from lncis.studies.estimate import estimate
from lncis.studies.plan import plan
from lncis.studies.spec import StudySpec
from lncis.studies.spec.judging import judged_before
from service.api.problems import Problem

SHOWN = 1000
"""Trials, and stages, that an answer lists."""
PATIENCE = 120.0


class Planner:
    """Plans in a process of its own, which starts with the first dry run: estimating needs torch, and takes seconds."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._pool: ProcessPoolExecutor | None = None

    async def plan(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return what a valid study would do; Problem where that takes too long to find out."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        future = self._pool.submit(planned, document, self._runs)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), PATIENCE)
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


def planned(document: dict[str, Any], runs: Path) -> dict[str, Any]:
    """Return the trials of a study, its stage tree, and what both cost."""
    spec = judged_before(documents.parse(StudySpec, document, source="study"))  # by the request that asks for the plan
    found = plan(spec)
    users: dict[str, list[str]] = {}
    tree: dict[str, dict[str, Any]] = {}
    for trial, tasks in found.trials:
        for task in tasks:
            after = task.after
            tree[task.key] = {
                "key": task.key,
                "after": after.key if after else None,
                "first_epoch": after.until + 1 if after else 1,
                "last_epoch": task.until,
            }
            users.setdefault(task.key, []).append(trial.name)
    sharing = found.sharing
    answer: dict[str, Any] = {
        "exact": found.exact,
        "trials_total": spec.total_trials,
        "epochs_to_train": sharing.trained,
        "epochs_without_sharing": sharing.requested,
        "trials": [
            {
                "name": t.name,
                "label": t.label,
                "seed": t.seed,
                "noise_seed": t.noise_seed,
                "stages": [k.key for k in keys],
            }
            for t, keys in found.trials[:SHOWN]
        ],
        "stages": [{**stage, "users": users[key]} for key, stage in list(tree.items())[:SHOWN]],
        "spec": documents.dump(spec),
    }
    try:
        answer["estimate"] = asdict(estimate(found, runs))
    except (LncisError, OSError) as error:  # the plan stands without
        answer["estimate"] = {"missing": str(error)}
    return dict(plain(answer))
