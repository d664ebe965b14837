"""Runs in MLflow: an experiment for each study name, a run for each study, a child run for each trial and shared stage.

Runs are found again by their tags, so a call that is repeated after a crash or an outage changes nothing. Only run ids
are used, never MLflow's fluent "active run".
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # studies.driver.mirror waits until an outage is over
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow
import sqlalchemy
from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag
from mlflow.exceptions import InvalidUrlException, MlflowException
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

from lncis import files
from lncis.errors import StudyError
from lncis.metrics import Record

logging.getLogger("mlflow").setLevel(logging.WARNING)  # the first run of all creates the database, and says so
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # each error of a database, with its traceback

DEFAULT_URI = "sqlite:///mlflow.db"
STUDY_TAG, PART_TAG, OVER_TAG = "lncis.study", "lncis.part", "lncis.over"
METRICS_A_CALL = 1000  # MLflow's own limit

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""What MLflow reaches without a server of its own; experiments are then created by the study's process."""

CREATION_TIMEOUT_SECONDS = 60.0
"""How long a study waits for another one that creates the same SQLite database."""

PASSING_STATUS = (408, 429, 502, 503, 504)
"""HTTP statuses, which MLflow gives its own errors too, that another attempt may not meet."""

PASSING_IN_SQLITE = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR")


def tracking_uri() -> str:
    """Return where runs go: `$MLFLOW_TRACKING_URI`, else `mlflow.db` in the working directory; absolute.

    It may hold a password: print `shown_uri()`.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    path = _sqlite_file(uri)
    if path is None or path.is_absolute():
        return uri
    path, query = path.absolute(), "".join(uri.partition("?")[1:])
    if _sqlite_file(f"sqlite:///{path}") == path:
        return f"sqlite:///{path}{query}"
    # `%` and `?` are quoted; where a URI begins with sqlite:/// MLflow would make a folder of the quoted name
    return sqlalchemy.URL.create("sqlite+pysqlite", database=str(path)).render_as_string() + query


def shown_uri() -> str:
    """Return `tracking_uri()` as it may be printed: without user, password and query."""
    return without_credentials(tracking_uri())


def without_credentials(text: str) -> str:
    """Return a text, such as an error's, without the user, the password and the query of the tracking URI."""
    uri = tracking_uri()
    _, separator, rest = uri.partition("://")
    if not separator or _sqlite_file(uri):
        return text
    _, question, query = rest.partition("?")
    login = rest.rpartition("@")[0]
    if "@" in query:  # of a password that holds a question mark, or of the query itself: no telling
        text = text.replace(rest, "...")
    text = text.replace(question + query, "") if query else text
    text = text.replace(f"{login}@", "") if login else text
    password = login.partition(":")[2]
    for secret in sorted({password, unquote(password)} - {""}, key=len, reverse=True):  # alone, not as a part of a word
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    return text


def _sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite URI; None of another URI, and of a database that is no file."""
    if not uri.startswith("sqlite"):
        return None
    try:
        database = sqlalchemy.make_url(uri).database
    except (ArgumentError, ValueError):
        return None
    return Path(database) if database and database != ":memory:" and not database.startswith("file:") else None


def check_uri() -> None:
    """Raise StudyError if the tracking URI can never be used; a server or database that is away may come back."""
    uri = tracking_uri()
    if reason := _why_useless(uri):
        raise StudyError(f"MLflow at {shown_uri()} cannot be used: {reason}; correct MLFLOW_TRACKING_URI")


def _why_useless(uri: str) -> str | None:
    if path := _sqlite_file(uri):
        return None if path.parent.is_dir() else f"there is no folder {path.parent}"
    if uri.startswith(("http://", "https://")):
        return None
    try:
        if uri.startswith(DATABASES):
            sqlalchemy.create_engine(uri)  # which does not connect
        else:
            mlflow.MlflowClient(uri)
    except (MlflowException, NoSuchModuleError, ImportError) as error:
        return without_credentials(str(error))
    except (ArgumentError, ValueError):  # whose message may quote a part of the password
        return "it is no URL of a database; write special characters of a password as %XX"
    return None


def is_outage(error: BaseException) -> bool:
    """Say whether what a call to MLflow raised may pass by itself: a server or database that is away or busy.

    Else MLflow answered, and its answer will be the same: a wrong login, a file that cannot be opened, a run that was
    deleted, a schema of another version.
    """
    for cause in _causes(error):
        if name := getattr(cause, "sqlite_errorname", None):
            return str(name).startswith(PASSING_IN_SQLITE)
        if getattr(cause, "connection_invalidated", False):  # SQLAlchemy's, of whatever class
            return True
    if isinstance(error, InvalidUrlException):
        return False
    if isinstance(error, MlflowException):
        # no answer of a server is an INTERNAL_ERROR, too; of a database, which has other codes for that, it is a fault
        of_a_server = not tracking_uri().startswith(DATABASES)
        status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
        return status in PASSING_STATUS or (of_a_server and error.error_code == "INTERNAL_ERROR")
    if isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError):  # of a folder for artifacts
        return False
    return isinstance(error, OSError | OperationalError)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


class StudyRuns:
    """The MLflow run of one study and those of its parts: trials and shared stages.

    Each method may be called again with the same arguments; what each raises while MLflow is away `is_outage`.
    `restored` says that the experiment was in MLflow's bin.
    """

    def __init__(self, study_name: str, study_id: str, tags: Mapping[str, str]) -> None:
        """Find the runs of a study, or create its own."""
        uri = tracking_uri()
        self._client = _client(uri)
        self.restored = False
        self._experiment = self._active_experiment(study_name, _artifacts_of(uri, study_name))
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

    def _active_experiment(self, name: str, artifacts: str | None) -> str:
        """Return the id of an experiment, which is created, or restored from the bin, where it has to be."""
        try:
            return self._found_or_made(name, artifacts)
        except MlflowException as error:
            if is_outage(error):
                raise
            return self._found_or_made(name, artifacts)  # another study of this name may have been faster

    def _found_or_made(self, name: str, artifacts: str | None) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return str(self._client.create_experiment(name, artifacts))
        if found.lifecycle_stage == LifecycleStage.DELETED:
            self._client.restore_experiment(found.experiment_id)
            self.restored = True
        return str(found.experiment_id)

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


def _client(uri: str) -> mlflow.MlflowClient:
    """Return a client, which has created the tables of a new database; raise at once where the database is away."""
    if not uri.startswith(DATABASES):
        return mlflow.MlflowClient(uri)
    import mlflow.store.db.utils as databases  # slow to load, and of no use with a server

    databases.MAX_RETRY_COUNT = 1  # else it tries for 100 s
    path = _sqlite_file(uri)
    if path is None:
        return mlflow.MlflowClient(uri)
    with files.lock(path.with_name(f".{path.name}.lock"), timeout_seconds=CREATION_TIMEOUT_SECONDS):
        return mlflow.MlflowClient(uri)  # alone: two that create the tables at once fail, and leave them broken


def _artifacts_of(uri: str, study_name: str) -> str | None:
    """Return where the artifacts of an experiment go, None where a server decides: `mlruns` beside an SQLite database.

    MLflow's own default is the working directory, which a container may not write to; with other databases it is that
    here, too. As a URI: in a path MLflow takes %20 for a space.
    """
    if not uri.startswith(DATABASES):
        return None
    folder = file.parent if (file := _sqlite_file(uri)) else Path()
    return (folder / "mlruns" / study_name).absolute().as_uri()
