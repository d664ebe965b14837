"""Studies on simulated workers: real queue, journal, sampler and stages; the training is made up."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

from lncis import documents
from lncis.errors import DivergedError
from lncis.execution.queue import TaskQueue
from lncis.execution.tasks import State, Task
from lncis.metrics import Record
from lncis.studies.record.journal import End, EpochFinished, Journal, SessionEnded, SessionStarted, TrialEnded
from lncis.studies.report.result import from_journal
from lncis.studies.search import Suggester
from lncis.studies.spec import StudySpec
from lncis.studies.stages.store import StageStore
from lncis.studies.stages.tree import STAGES, StageTree
from lncis.studies.study_run import StudyRun
from lncis.studies.trials import TrialScheduler
from lncis.testing import SimulatedWorkerGroup, directly

METRIC = "val/segm_AP"
GAMMAS = {"type": "categorical", "choices": [4.0, 6.0, 8.0]}
LR = {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}


def study(**fields) -> StudySpec:
    document = {
        "name": "s",
        "base": {"schedule": {"epochs": 6, "stage1_epochs": 2}},
        "search": {"loss.gamma": GAMMAS},
        **fields,
    }
    return documents.parse(StudySpec, document, source="study")


def made_up(config, epoch: int) -> Record:
    """What an epoch of a training yields: a function of the configuration, as a real one is."""
    gamma = getattr(config.loss, "gamma", 0.0) if epoch > config.schedule.switch_epoch else 0.0
    draw = random.Random(f"{config.seed} {config.noise.seed} {config.optimizer.lr} {gamma} {epoch}")
    value = 10 * epoch + gamma + 5 * draw.random()
    return {"epoch": float(epoch), "lr": config.optimizer.lr, "seconds": 1.0, METRIC: value, "val/bbox_AP": -value}


class Session:
    """A process that drives a study in `folder`, on worker groups that train an epoch each in turn."""

    def __init__(self, spec, folder, *, worker_groups=1, store=None, diverges=lambda config: None, retry_failed=False):
        folder.mkdir(exist_ok=True)
        self.spec, self.folder, self.diverges = spec, folder, diverges
        self.journal, self.queue = Journal(folder), TaskQueue()
        self.submitted, self.trained, self.notes = [], Counter(), []
        tree = StageTree(spec, folder / STAGES)
        run = StudyRun(spec=spec, folder=folder, tree=tree, journal=self.journal, observers=[self], published=None)
        self.trials = TrialScheduler(run, Suggester(spec), self, store)
        self.trials.resume(retry_failed=retry_failed)
        self.worker_groups = [
            SimulatedWorkerGroup(f"worker group {i}", directly(self.queue), self._train, self._found)
            for i in range(worker_groups)
        ]
        self.relays = worker_groups if spec.pruner.type == "none" else worker_groups + len(spec.replicates) - 1
        self.followed: dict[str, int] = {}
        self.drain_after: int | None = None
        """After so many epochs nothing more is to start but what others wait for."""

    def submit(self, owner, chain):
        self.submitted.append((owner, [task.key for task in chain]))
        self.queue.submit(owner, chain)

    def withdraw(self, owner, reason):
        self.queue.withdraw(owner, reason)

    def on_session_start(self): ...
    def on_trial_start(self, trial, tasks): ...

    def on_epoch(self, trial, record): ...

    def on_trial_end(self, trial, end, reason): ...

    def on_note(self, text):
        self.notes.append(text)

    def run(self, epochs: int | None = None) -> "Session":
        """Work to the end, or until so many epochs have been trained."""
        while self._start() and (epochs is None or self.trained.total() < epochs):
            steps = [worker_group.step() for worker_group in self.worker_groups]
            assert self._follow() or "trained" in steps, "nothing goes on"
        self.journal.close()
        left_out = sum("left out" in note for note in self.notes) * len(self.spec.replicates)
        ended = sum(end is not None for end in self.ends.values())
        assert self.trials.unfinished == self.spec.total_trials - left_out - ended
        return self

    def _start(self) -> bool:
        drains = self.drain_after is not None and self.trained.total() >= self.drain_after
        while len(self.followed) < self.relays and (trial := self.trials.start_next(only_awaited=drains)):
            self.followed[trial.name] = 0
        return bool(self.followed)

    def _train(self, task: Task, epoch: int) -> Record:
        """Train one epoch, from the checkpoint on the disk, which outlives the session."""
        if self.diverges(task.config) == epoch:
            raise DivergedError("the loss is nan")
        self.trained[task.key, epoch] += 1
        if not task.directory.exists():
            task.directory.mkdir(parents=True)
        partial = task.directory / ".partial"  # as the engine does: the store may hold a link to the earlier one
        partial.write_text(str(epoch))
        partial.replace(task.directory / "checkpoint.pt")
        return made_up(task.config, epoch)

    def _found(self, task: Task) -> list[Record]:
        return [made_up(task.config, epoch) for epoch in range(1, self._checkpoint(task) + 1)]

    @staticmethod
    def _checkpoint(task: Task) -> int:
        for directory in (task.directory, task.after.directory if task.after else Path("none")):
            if (directory / "checkpoint.pt").exists():
                return int((directory / "checkpoint.pt").read_text())
        return 0

    def _follow(self) -> bool:
        moved = False
        for name, seen in list(self.followed.items()):
            progress = self.queue.progress(name, seen)
            for record in progress.records:
                self.followed[name] += 1
                self.trials.epoch_finished(name, record)
                moved = True
            if progress.state in (State.DONE, State.FAILED):
                self.trials.trial_ended(name, progress.reason)
                del self.followed[name]
                moved = True
        return moved

    @property
    def result(self):
        return from_journal("s", self.spec, self.folder, self.journal.events)

    @property
    def outcome(self) -> dict[str, tuple[End | None, Record]]:
        """What a study comes to: how each trial ended, and its last record."""
        return {t.trial.name: (t.end, t.records[-1] if t.records else {}) for t in self.result.trials}

    @property
    def ends(self) -> dict[str, End | None]:
        return {name: end for name, (end, _) in self.outcome.items()}

    def history_reasons(self) -> dict[str, str]:
        return {e.trial: e.reason for e in self.journal.events if isinstance(e, TrialEnded) and e.reason}

    def epochs_of(self, name: str) -> int:
        return len({e.record["epoch"] for e in self.journal.events if isinstance(e, EpochFinished) and e.trial == name})


def written(folder: Path, spec: StudySpec, events: list[Any]) -> Path:
    """Write a study's folder, as the driver leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.yaml").write_text(documents.to_yaml(spec))
    journal = Journal(folder)
    for event in events:
        journal.append(event)
    journal.close()
    return folder


def finished(folder: Path, spec: StudySpec, store: StageStore | None = None, **session: Any) -> Session:
    """Return a study that ran to its end on simulated workers, with its folder as a driver leaves it."""
    written(folder, spec, [SessionStarted(worker_groups=1, versions={}, code="c", storage="")])
    ran = Session(spec, folder, store=store, **session).run()
    written(folder, spec, [SessionEnded(reason="", lost_seconds=0.0)])
    return ran
