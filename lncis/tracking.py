"""Runs in MLflow: an experiment for each study name, a run for each study, a child run for each trial.

One process writes, the one that drives the study, through run ids alone: MLflow's fluent "active run" is never used.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from lncis.errors import StudyError
from lncis.metrics import Record

DEFAULT_URI = "sqlite:///mlflow.db"


class StudyLog:
    """The MLflow run of one study and those of its trials."""

    def __init__(self, study_name: str, study_id: str, tags: Mapping[str, str]) -> None:
        """Open the study's run; StudyError where the tracking store cannot be used."""
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # the first run of all creates the database, and says so
        self.uri = tracking_uri()
        try:
            self._client = mlflow.MlflowClient(self.uri)
            found = self._client.get_experiment_by_name(study_name)
            self.experiment_id = found.experiment_id if found else self._client.create_experiment(study_name)
            run = self._client.create_run(self.experiment_id, run_name=study_id, tags=dict(tags))
        except (MlflowException, OSError) as error:
            raise StudyError(f"MLflow at {self.uri} cannot be used: {error}; correct MLFLOW_TRACKING_URI") from error
        self.run_id: str = run.info.run_id
        self._trials: dict[str, str] = {}

    def start_trial(self, name: str, run_name: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Open the run of a trial, once whatever the calls, and return its id."""
        if name not in self._trials:
            run = self._client.create_run(
                self.experiment_id, run_name=run_name, tags={**tags, "mlflow.parentRunId": self.run_id}
            )
            self._trials[name] = run.info.run_id
            params = [Param(key, str(value)) for key, value in parameters.items()]
            self._client.log_batch(run.info.run_id, params=params)
        return self._trials[name]

    def log_epoch(self, name: str, record: Record) -> None:
        """Log what an epoch of a trial yielded, at step = finished epochs, in one call."""
        now, step = int(time.time() * 1000), int(record["epoch"])
        metrics = [Metric(key, value, now, step) for key, value in record.items() if key != "epoch"]
        self._client.log_batch(self._trials[name], metrics=metrics)

    def end_trial(self, name: str, *, reason: str = "", artifacts: Sequence[Path] = ()) -> None:
        """Close the run of a trial: finished, or failed for a reason."""
        for artifact in artifacts:
            self._client.log_artifact(self._trials[name], str(artifact))
        if reason:
            self._client.set_tag(self._trials[name], "lncis.reason", reason)
        self._client.set_terminated(self._trials[name], "FAILED" if reason else "FINISHED")

    def log_study(self, *, metrics: Mapping[str, float] | None = None, artifacts: Sequence[Path] = ()) -> None:
        """Log to the study's run what concerns it as a whole."""
        now = int(time.time() * 1000)
        figures = [Metric(key, value, now, 0) for key, value in (metrics or {}).items()]
        self._client.log_batch(self.run_id, metrics=figures)
        for artifact in artifacts:
            self._client.log_artifact(self.run_id, str(artifact))

    def end_study(self, *, reason: str = "") -> None:
        """Close the study's run, and those of its trials that are still open as failed for the same reason."""
        for name, run_id in self._trials.items():
            if self._client.get_run(run_id).info.status == "RUNNING":
                self.end_trial(name, reason=reason or "the study ended before it")
        if reason:
            self._client.log_batch(self.run_id, tags=[RunTag("lncis.reason", reason)])
        self._client.set_terminated(self.run_id, "FAILED" if reason else "FINISHED")


def tracking_uri() -> str:
    """Return where runs go: `$MLFLOW_TRACKING_URI`, else `mlflow.db` in the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
