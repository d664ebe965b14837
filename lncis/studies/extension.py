"""A finished study extended: a study of its own that names its parent, and takes over what the parent has trained.

The configurations that the parent tried come first and in their order. Their finished stages are in the stage store,
so they cost no epoch, and the sampler is told of each as it was then; with what it has been told it goes on. A trial
that is to train longer goes on from the checkpoint of the whole one, where both have equal numbers up to there. So
there is one journal a study, the parent's result stays as it is, and an extended study is resumed, replayed and
extended like any other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lncis import documents
from lncis.config import NoNoise
from lncis.errors import ConfigError, StudyError
from lncis.execution.tasks import Task
from lncis.studies import folders
from lncis.studies.plan import Plan, plan
from lncis.studies.record import journal
from lncis.studies.record.history import History
from lncis.studies.record.journal import End
from lncis.studies.spec import Extends, StudySpec, judge
from lncis.studies.spec.files import changed_spec_document
from lncis.studies.spec.samplers import GridSampler
from lncis.studies.spec.space import outside
from lncis.studies.stages.store import StageStore
from lncis.studies.stages.tree import STAGES, StageTree, key_within_longer

MAY_DIFFER = (
    *("name", "question", "paper", "search", "baselines", "sampler", "pruner", "seeds", "noise_seeds"),
    *("base.schedule.epochs", "base.schedule.stage1_epochs", "base.schedule.lr_drops"),
    *("objective.select", "resources.max_concurrent_trials", "resources.price_per_worker_hour", "budget"),
    *("sensitivity_check", "keep_checkpoints"),
)
"""Fields that an extension may change; results under others could not be compared."""

OTHER_VAL = "folds"
"""With folds `val` is the part that is left out, and another number of them cuts other parts."""


@dataclass(frozen=True, kw_only=True)
class Extension:
    """A study that extends another one, before it runs."""

    parent: str
    planned: Plan
    differing: list[dict[str, Any]]
    """Each field that differs from the parent's: `path`, `earlier`, `now`."""
    finished: frozenset[str]
    """Keys of the stages that the parent finished."""

    @property
    def spec(self) -> StudySpec:
        """The study itself."""
        return self.planned.spec

    @property
    def differences(self) -> list[str]:
        """A line for each field that differs from the parent's."""
        return [f"{d['path']}: was {d['earlier']!r}, now {d['now']!r}" for d in self.differing]

    @property
    def trained(self) -> int:
        """Epochs of the plan that the parent has trained."""
        return self.planned.sharing.trained - self.to_train

    @property
    def to_train(self) -> int:
        """Epochs of the plan that are new: those behind the last stage of each trial that the parent finished."""
        new: dict[str, Task] = {}
        for _, tasks in self.planned.trials:
            known = max((number for number, task in enumerate(tasks, 1) if task.key in self.finished), default=0)
            new |= {task.key: task for task in tasks[known:]}
        return sum(task.until - (task.after.until if task.after else 0) for task in new.values())

    def lines(self) -> list[str]:
        """Return what to know before it starts: what differs, and what is taken over."""
        lines = [f"extends {self.parent}:", *(f"  {line}" for line in self.differences)]
        lines.append(f"{self.trained} epochs are taken over from it, {self.to_train} are to train")
        lines += [f"  {line}" for line in self.longer()]
        return lines

    def longer(self) -> Iterator[str]:
        """Yield from where trials go on that train longer than they did."""
        if not any(field["path"] == "base.schedule.epochs" for field in self.differing):
            return
        known = [[t.until for t in tasks if t.key in self.finished] for _, tasks in self.planned.trials]
        whole = self.spec.extends.epochs if self.spec.extends else []
        ends = sorted({until[-1] for until in known if until})
        if going_on := sum(bool(until) and until[-1] in whole for until in known):
            yield f"schedule.epochs: {going_on} trials go on from their last checkpoints: their numbers are equal there"
        if others := [end for end in ends if end not in whole]:
            yield (
                f"schedule.epochs: others train anew after epoch {', '.join(map(str, others))}, the end of the last "
                "stage whose numbers are equal under both schedules"
            )
        if not ends:
            yield "schedule.epochs: no stage has equal numbers under both schedules, so all trials train anew"


def extend(parent: str, runs: Path, changes: dict[str, Any]) -> Extension:
    """Return the study that differs from a finished one by `changes` (as in `changed_spec_document`); starts nothing.

    Raises ConfigError where there is no such study, or the changes make no extension; StudyError where it is not
    finished, or where nothing of it could be taken over.
    """
    before, folder = folders.read_spec(runs, parent), (runs / parent).absolute()
    history = History.of(before, journal.read(folder))
    _require_whole(before, history, parent)
    source = f"extend {parent}"
    asked = documents.parse(StudySpec, changed_spec_document(before, changes, source="--set"), source=source)
    differing = documents.differences(documents.dump(before), documents.dump(asked))
    started = {t.started.configuration: t.started for t in history.trials.values() if t.started.baseline is None}
    tried = [started[number].overrides for number in sorted(started)]
    if problems := list(_problems(before, asked, tried, differing)):
        raise ConfigError(source, problems)
    sampler = asked.sampler
    if not isinstance(sampler, GridSampler):
        known = set(map(repr, tried))
        sampler = replace(sampler, first=[*tried, *(point for point in sampler.first if repr(point) not in known)])
    ends = sorted({trial.epochs_to_train for trial in history.trials.values() if trial.end is End.FINISHED})
    extends = Extends(study=parent, epochs=[end for end in ends if end < asked.base.schedule.epochs])
    planned = plan(judge(replace(asked, extends=extends, sampler=sampler), source=source))
    stages = _finished_stages(before, history, folder, extends)
    return Extension(
        parent=parent,
        planned=planned,
        differing=differing,
        finished=frozenset(task.key for task in stages),
    )


def offer_stages(spec: StudySpec, runs: Path, store: StageStore) -> str:
    """See that the store has what the folder of the study's parent holds: it may have deleted that since.

    Return what to tell the user where nothing is there to be taken over; else empty.
    """
    if spec.extends is None:
        return ""
    parent = spec.extends.study
    try:
        before, folder = folders.read_spec(runs, parent), (runs / parent).absolute()
        stages = _finished_stages(before, History.of(before, journal.read(folder)), folder, spec.extends)
    except (ConfigError, StudyError) as error:
        return f"only what the stage store holds is taken over from study {parent}: {error}"
    for task in stages:
        if task.directory.exists():
            store.publish(task)
    return ""


def _finished_stages(before: StudySpec, history: History, folder: Path, extends: Extends) -> list[Task]:
    """Return the stages that a parent finished, also as those of longer trainings; StudyError where keys differ."""
    tree = StageTree(before, folder / STAGES)
    chains = [(trial, tree.chain(trial.trial)) for trial in history.trials.values()]
    if any(list(trial.started.stages) != [task.key for task in chain] for trial, chain in chains):
        raise StudyError(
            f"study {extends.study} was run with other code or on other data, so nothing of it could be taken over; "
            "bring those back, or run its spec.yaml as a new study"
        )
    finished = {key for key, stage in history.stages.items() if stage.epoch == stage.last_epoch}
    stages = [task for _, chain in chains for task in chain if task.key in finished]
    for trial, chain in chains:
        if trial.end is End.FINISHED and extends.epochs:
            key = key_within_longer(trial.trial, before.resources, tree.data_of(trial.trial.config.dataset))
            stages.append(replace(chain[-1], key=key))  # the same folder by another name
    return stages


def _require_whole(spec: StudySpec, history: History, parent: str) -> None:
    if not history.complete:
        raise StudyError(f"study {parent} is not finished; finish it first: lncis study run --resume {parent}")
    if not spec.sharing:
        raise StudyError(
            f"study {parent} trained every trial alone (sharing: false), so no other study can take anything over; run "
            "its spec.yaml with the changes as a new study"
        )


def _problems(
    before: StudySpec, asked: StudySpec, tried: Sequence[dict[str, Any]], differing: Sequence[dict[str, Any]]
) -> Iterator[str]:
    """Yield a line for each change that is no extension."""
    if not differing:
        yield "nothing differs from the finished study; say with --set what to add, such as seeds=[0,1,2]"
    for line in differing:
        if line["path"].partition(".")[0] == "extends":
            yield "extends: is set by lncis itself; leave it out"
        elif line["path"] == OTHER_VAL:
            yield (
                f"folds: was {line['earlier']!r}, now {line['now']!r}: trials would be judged on another val, and none "
                "of the earlier ones could be taken over; run it as a study of its own"
            )
        elif not any(line["path"] == path or line["path"].startswith(f"{path}.") for path in MAY_DIFFER):
            yield (
                f"{line['path']}: was {line['earlier']!r}, now {line['now']!r}: its results could not be compared with "
                "those before; run it as a study of its own"
            )
    if asked.base.schedule.epochs < before.base.schedule.epochs:
        yield f"schedule.epochs: must be {before.base.schedule.epochs} or more but got {asked.base.schedule.epochs}"
    drawn = [[] if isinstance(s.base.noise, NoNoise) else s.noise_seeds or [s.base.noise.seed] for s in (before, asked)]
    for field, (earlier, now) in (("seeds", (before.seeds, asked.seeds)), ("noise_seeds", drawn)):
        if missing := [seed for seed in earlier if seed not in now]:
            yield f"{field}: must keep {missing}, which the study was trained with; add to them"
    for name, overrides in before.baselines.items():
        if asked.baselines.get(name) != overrides:
            yield f"baselines.{name}: must stay as it was trained; add baselines beside it"
    for path in (*before.search, *asked.search):
        if path not in before.search or path not in asked.search:
            yield f"search.{path}: an extension searches the same parameters; run it as a study of its own"
            return
    for path, parameter in asked.search.items():
        if lost := [point[path] for point in tried if path in point and outside(parameter, point[path])]:
            yield f"search.{path}: must still hold what was tried, such as {lost[0]!r}; widen it, do not move it"
    sampler = asked.sampler
    if not isinstance(sampler, GridSampler) and sampler.configurations < len(tried):
        yield f"sampler.configurations: must be {len(tried)} or more, as were tried, but got {sampler.configurations}"
