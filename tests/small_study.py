"""The study that tests of whole studies run on a real Ray: two trials that share a stage, a second an epoch."""

from typing import Any

import yaml

from lncis import documents
from lncis.metrics import Record
from lncis.studies.report.result import StudyResult
from lncis.studies.spec import StudySpec

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


def spec(**changes: Any) -> StudySpec:
    return documents.parse(StudySpec, STUDY | changes, source="test")


def figures(result: StudyResult) -> dict[str, list[Record]]:
    """Return what each trial reached in each epoch, without the time it took."""
    return {
        t.trial.label: [{key: value for key, value in r.items() if key != "seconds"} for r in t.records]
        for t in result.trials
    }
