"""What a study will do, and how long it will take, before it starts."""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lncis.config import NoNoise
from lncis.errors import ConfigError
from lncis.execution.queue import TaskQueue
from lncis.execution.tasks import Task
from lncis.studies.report.intervals import TWO_DRAWS
from lncis.studies.search import Suggester
from lncis.studies.spec import StudySpec, Trial, judge
from lncis.studies.spec.samplers import OptunaSampler
from lncis.studies.spec.space import STAGE1_EPOCHS, Range
from lncis.studies.stages.tree import Sharing, StageTree, sharing

SHOWN_TRIALS = 60


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The trials of a study and what they cost."""

    tree: StageTree
    trials: list[tuple[Trial, list[Task]]]
    exact: bool
    """False where the sampler decides from results: then these are random draws from the same space."""

    @property
    def spec(self) -> StudySpec:
        """The study that is planned."""
        return self.tree.spec

    @property
    def sharing(self) -> Sharing:
        """The epochs requested, and those to train."""
        return sharing([tasks for _, tasks in self.trials])

    def view(self) -> RenderableType:
        """Return the plan for a terminal."""
        view = Table(title=f"{self.spec.name}: {self.spec.question}", title_justify="left", title_style="bold")
        for heading in ("trial", "seed", "stages (epochs)", ""):
            view.add_column(heading)
        users: dict[str, int] = {}
        for _, tasks in self.trials:
            for task in tasks:
                users[task.key] = users.get(task.key, 0) + 1
        for trial, tasks in self.trials[:SHOWN_TRIALS]:
            starts = [task.after.until if task.after else 0 for task in tasks]
            stages = " -> ".join(f"{t.key[:6]} ({s + 1}-{t.until})" for s, t in zip(starts, tasks, strict=True))
            shared = [f"{task.key[:6]} shared by {users[task.key]}" for task in tasks if users[task.key] > 1]
            view.add_row(trial.label, str(trial.replicate), stages, ", ".join(shared))
        return Group(view, *(Text(line) for line in self._remarks()))

    def _remarks(self) -> list[str]:
        spec, cost = self.spec, self.sharing
        hidden = len(self.trials) - SHOWN_TRIALS
        about = "" if self.exact else "about "
        lines = [f"and {hidden} more trials"] if hidden > 0 else []
        if not self.exact:
            lines.append(
                f"{spec.sampler.type.upper()} decides from results: the configurations above are random draws from the "
                "same space"
            )
        number = spec.resources.max_concurrent_trials
        at_a_time = f"{number} at a time" if number != "auto" else "as many at a time as there is room for"
        lines.append(
            f"{spec.total_trials} trials, {at_a_time}; {about}{cost.trained} epochs to train "
            f"for {cost.requested} requested"
        )
        if isinstance(parameter := spec.search.get(STAGE1_EPOCHS), Range) and spec.sharing:
            lengths = {trial.config.schedule.switch_epoch for trial, _ in self.trials}
            lines.append(
                f"E1 is drawn from {parameter.low:g} to {parameter.high:g}: {len(lengths)} different values share one "
                f"stage 1 for each seed, which saves {about}{cost.requested - cost.trained} epochs"
            )
        if len(spec.noise_seeds) == 2 and not isinstance(spec.base.noise, NoNoise):
            lines.append(TWO_DRAWS)
        if rungs := self.tree.rungs:
            lines.append(
                f"{spec.pruner.type} decides after epochs {', '.join(map(str, rungs))}; the configurations that it "
                "stops there train fewer epochs"
            )
        return lines


def plan(spec: StudySpec) -> Plan:
    """Return the plan of a study; runs nothing. ConfigError where the study cannot be run."""
    tree = StageTree(judge(spec), Path())
    trials = [
        trial
        for number, (name, changes) in enumerate(spec.baselines.items())
        for trial in spec.trials(number, changes, baseline=name)
    ]
    drawn = spec
    if isinstance(spec.sampler, OptunaSampler):  # a random sampler's draws do not depend on results
        drawn = replace(spec, sampler=replace(spec.sampler, type="random", warm_start=None))
    suggester = Suggester(drawn)
    while (suggested := suggester.ask()) is not None:
        number, overrides = suggested
        try:
            trials += spec.trials(len(spec.baselines) + number, overrides)
        except ConfigError:  # the study leaves it out too, and says so
            continue
    exact = spec.sampler.type not in ("tpe", "gp")
    return Plan(tree=tree, trials=[(trial, tree.chain(trial)) for trial in trials], exact=exact)


def makespan(chains: Sequence[Sequence[Task]], worker_groups: int, seconds_per_epoch: float) -> float:
    """Return the seconds that `worker_groups` take for chains of tasks, as the study's own queue hands them out."""
    queue, waiting = TaskQueue(), deque(enumerate(chains))
    following: dict[str, Sequence[Task]] = {}  # the trials that are being followed, at most one a worker group
    busy: list[tuple[float, int, str, int]] = []  # end, worker group, key, epoch
    idle, now = list(range(worker_groups)), 0.0
    while waiting or following:
        while waiting and len(following) < worker_groups:
            number, tasks = waiting.popleft()
            following[str(number)] = tasks
            queue.submit(str(number), tasks)
        for worker_group in list(idle):
            task = queue.take(str(worker_group))
            if isinstance(task, Task):
                epochs = task.until - (task.after.until if task.after else 0)
                heapq.heappush(busy, (now + epochs * seconds_per_epoch, worker_group, task.key, task.until))
                idle.remove(worker_group)
        if busy:
            now, worker_group, key, until = heapq.heappop(busy)
            queue.report(key, {"epoch": float(until)})
            queue.finish(key)
            idle.append(worker_group)
        for owner in [o for o in following if queue.progress(o).state.value == "done"]:
            del following[owner]
    return now
