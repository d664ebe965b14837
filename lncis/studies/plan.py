"""What a study will do, before it does it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lncis.studies.spec import StudySpec, Trial
from lncis.studies.stages import Sharing, chain, sharing, switch_epochs
from lncis.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The trials of a study and what they cost; `exact` unless a sampler decides as it goes."""

    spec: StudySpec
    trials: list[tuple[Trial, list[Task]]]
    """Those known beforehand; without a grid, of the searched configurations none is."""
    sharing: Sharing
    exact: bool

    def view(self) -> RenderableType:
        """Return the plan for a terminal."""
        view = Table(title=f"{self.spec.name}: {self.spec.question}", title_justify="left", title_style="bold")
        for heading in ("trial", "seed", "stages (epochs)", ""):
            view.add_column(heading)
        users: dict[str, int] = {}
        for _, tasks in self.trials:
            for task in tasks:
                users[task.key] = users.get(task.key, 0) + 1
        for trial, tasks in self.trials:
            starts = [task.after.until if task.after else 0 for task in tasks]
            stages = " -> ".join(f"{t.key[:6]} ({s + 1}-{t.until})" for s, t in zip(starts, tasks, strict=True))
            shared = [f"{task.key[:6]} shared by {users[task.key]}" for task in tasks if users[task.key] > 1]
            view.add_row(trial.label, str(trial.seed), stages, ", ".join(shared))
        bound = "" if self.exact else "at most "
        return Group(
            view,
            Text(
                f"{self.spec.total_trials} trials, {self.spec.resources.max_concurrent_trials} at a time; "
                f"{bound}{self.sharing.trained} epochs to train for {self.sharing.asked} asked"
            ),
        )


def plan(spec: StudySpec) -> Plan:
    """Return the plan of a study; runs nothing."""
    exact = spec.sampler.type == "grid"
    configurations: list[tuple[dict[str, Any], str | None]] = [(c, name) for name, c in spec.baselines.items()]
    configurations += [(changes, None) for changes in (spec.grid if exact else [])]
    cuts = switch_epochs(spec)
    trials = [
        (trial, chain(trial, spec.resources, Path(), cuts))
        for number, (changes, name) in enumerate(configurations)
        for trial in spec.trials(number, changes, baseline=name)
    ]
    known = sharing([tasks for _, tasks in trials])
    unknown = 0 if exact else spec.configurations * len(spec.seeds) * spec.base.schedule.epochs
    return Plan(
        spec=spec,
        trials=trials,
        sharing=Sharing(asked=known.asked + unknown, trained=known.trained + unknown),
        exact=exact,
    )
