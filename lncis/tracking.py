"""Runs in MLflow: an experiment for each study name, a run for each study, a child run for each trial and shared stage.

Runs are found again by their tags, so a call that is repeated after a crash or an outage changes nothing. Only run ids
are used, never MLflow's fluent "active run".
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # studies.driver.mirror waits until an outage is over
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from lncis.errors import StudyError
from lncis.metrics import Record

logging.getLogger("mlflow").setLevel(logging.WARNING)  # the first run of all creates the database, and says so

DEFAULT_URI = "sqlite:///mlflow.db"
STUDY_TAG, PART_TAG, OVER_TAG = "lncis.study", "lncis.part", "lncis.over"
METRICS_A_CALL = 1000  # MLflow's own limit

Outage = (MlflowException, OSError)
"""What a call raises while MLflow is away."""


def tracking_uri() -> str:
    """Return where runs go: `$MLFLOW_TRACKING_URI`, else `mlflow.db` in the working directory; absolute."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    relative = "sqlite:///" in uri and not uri.startswith("sqlite:////")
    return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}" if relative else uri


def check_uri() -> None:
    """Raise StudyError if the tracking URI can never be used; a server that is away may come back."""
    uri = tracking_uri()
    remedy = "correct MLFLOW_TRACKING_URI"
    if uri.startswith("sqlite:///"):
        if not Path(uri.removeprefix("sqlite:///")).parent.is_dir():
            raise StudyError(f"MLflow at {uri} cannot be used: there is no such folder; {remedy}")
    elif not uri.startswith(("http://", "https://")):
        try:
            mlflow.MlflowClient(uri)
        except MlflowException as error:
            raise StudyError(f"MLflow at {uri} cannot be used: {error}; {remedy}") from error


class StudyRuns:
    """The MLflow run of one study and those of its parts: trials and shared stages.

    Each method may be called again with the same arguments; each raises `Outage` while MLflow is
    away.
    """

    def __init__(self, study_name: str, study_id: str, tags: Mapping[str, str]) -> None:
        """Find the runs of a study, or create its own."""
        self._client = mlflow.MlflowClient(tracking_uri())
        found = self._client.get_experiment_by_name(study_name)
        self._experiment = found.experiment_id if found else self._client.create_experiment(study_name)
        runs = self._search(f"tags.`{STUDY_TAG}` = '{study_id}'")
        self._parts: dict[str, Run] = {}
        if not runs:
            run = self._client.create_run(self._experiment, run_name=study_id, tags={STUDY_TAG: study_id, **tags})
        else:
            run = runs[0]
            children = self._search(f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
            self._parts = {child.data.tags[PART_TAG]: child for child in children}
            self._client.update_run(run.info.run_id, status="RUNNING")
        self.run_id: str = run.info.run_id
        self.experiment_id: str = self._experiment

    def _search(self, filter_string: str) -> list[Run]:
        runs: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs([self._experiment], filter_string, max_results=1000, page_token=token)
            runs, token = runs + list(page), page.token
            if not token:
                return runs

    def is_over(self, part: str) -> bool:
        """Say whether the run of a trial or stage is complete."""
        return part in self._parts and self._parts[part].data.tags.get(OVER_TAG) == "true"

    def start(self, part: str, run_name: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Open the run of a trial or stage, or open it again."""
        if part in self._parts:
            run = self._parts[part]
            self._client.set_tag(run.info.run_id, OVER_TAG, "false")
            self._client.update_run(run.info.run_id, status="RUNNING")
        else:
            run = self._client.create_run(
                self._experiment,
                run_name=run_name,
                tags={**tags, PART_TAG: part, "mlflow.parentRunId": self.run_id},
            )
        # also of a run that was there: its creator may have died before this
        params = [Param(key, str(value)) for key, value in parameters.items()]
        for start in range(0, len(params), 100):  # MLflow's own limit
            self._client.log_batch(run.info.run_id, params=params[start : start + 100])
        self._parts[part] = run

    def log_epochs(self, part: str, records: Sequence[tuple[Record, float]]) -> None:
        """Log the records of epochs with their times, at step = finished epochs."""
        metrics = [
            Metric(key, value, int(time * 1000), int(record["epoch"]))
            for record, time in records
            for key, value in record.items()
            if key != "epoch"
        ]
        for start in range(0, len(metrics), METRICS_A_CALL):
            self._client.log_batch(self._parts[part].info.run_id, metrics=metrics[start : start + METRICS_A_CALL])

    def end(
        self, part: str, status: str, *, reason: str = "", artifacts: Sequence[Path] = (), over: bool = True
    ) -> None:
        """Close the run of a trial or stage: FINISHED, FAILED or KILLED, with a reason if there is one.

        One that is not `over` is logged from its beginning when the study goes on.
        """
        run_id = self._parts[part].info.run_id
        self._close(run_id, status, reason, artifacts)
        self._client.set_tag(run_id, OVER_TAG, str(over).lower())  # last: until then all is logged again

    def log_study(self, metrics: Mapping[str, float], time: float) -> None:
        """Log metrics of the study as a whole."""
        figures = [Metric(key, value, int(time * 1000), 0) for key, value in metrics.items()]
        self._client.log_batch(self.run_id, metrics=figures)

    def end_study(self, status: str, *, reason: str = "", artifacts: Sequence[Path] = ()) -> None:
        """Close the study's run."""
        self._close(self.run_id, status, reason, artifacts)

    def _close(self, run_id: str, status: str, reason: str, artifacts: Sequence[Path]) -> None:
        for artifact in artifacts:
            self._client.log_artifact(run_id, str(artifact))
        if reason:
            self._client.log_batch(run_id, tags=[RunTag("lncis.reason", reason)])
        self._client.set_terminated(run_id, status)
