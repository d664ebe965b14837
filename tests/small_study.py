"""The studies that tests run on a real Ray, a second an epoch, and an observer that notes what it sees."""

from collections.abc import Sequence
from typing import Any

import yaml

from lncis import documents
from lncis.execution.tasks import Task
from lncis.metrics import Record
from lncis.studies.record.journal import End
from lncis.studies.report.result import StudyResult
from lncis.studies.spec import StudySpec, Trial

STUDY: dict[str, Any] = yaml.safe_load("""
name: small
base:
  dataset: {type: digits, train_scenes: 8, val_scenes: 4, test_scenes: 4}
  schedule: {epochs: 4, stage1_epochs: 2}
  optimizer: {type: adamw, lr: 1e-5}
search:
  loss.gamma: {type: categorical, choices: [2.4, 6.0]}
resources: {max_concurrent_trials: 1}
sensitivity_check: false
""")
"""Two trials that share a stage."""

WHOLE = """
name: whole
question: does a whole study run?
base:
  dataset: {type: digits, train_scenes: 8, val_scenes: 4, test_scenes: 4}
  schedule: {epochs: 6, stage1_epochs: 2}
  optimizer: {type: adamw, lr: 1e-5}
search:
  loss.gamma: {type: categorical, choices: [2.4, 6.0]}
baselines:
  cross entropy: {loss: {type: cross_entropy}}
  diverging: {optimizer.lr: 1e30}
  huge: {model: {type: digits_rcnn, min_size: 400_000, max_size: 400_000}}  # terabytes
"""
"""With baselines: one for comparison, and two that fail, each for a reason of its own."""


class Watch:
    """Notes what an observer is given."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.notes: list[str] = []

    def on_session_start(self) -> None: ...

    def on_trial_start(self, trial: Trial, tasks: Sequence[Task]) -> None:
        self.seen.append((trial.label, "start"))

    def on_epoch(self, trial: Trial, record: Record) -> None:
        self.seen.append((trial.label, f"epoch {record['epoch']:.0f}"))

    def on_trial_end(self, trial: Trial, end: End, reason: str) -> None:
        self.seen.append((trial.label, str(end)))

    def on_note(self, text: str) -> None:
        self.notes.append(text)


def spec(**changes: Any) -> StudySpec:
    return documents.parse(StudySpec, STUDY | changes, source="test")


def figures(result: StudyResult) -> dict[str, list[Record]]:
    """Return what each trial reached in each epoch, without the time it took."""
    return {t.trial.label: [without_time(record) for record in t.records] for t in result.trials}


def without_time(record: Record) -> Record:
    """Return what an epoch yielded, which is the same each time."""
    return {key: value for key, value in record.items() if key != "seconds"}
