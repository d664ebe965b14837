"""lncis.tracking against the real MLflow: its databases, what passes by itself and what does not, and no password."""

import http.server
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
import sqlalchemy
from mlflow.entities import LifecycleStage, ViewType

from lncis import tracking
from lncis.errors import StudyError
from lncis.tracking import StudyRuns, check_uri, is_outage, shown_uri, without_credentials

SECRET = "S3cret"


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def raised_by_study_runs() -> BaseException:
    with pytest.raises((mlflow.MlflowException, sqlalchemy.exc.DBAPIError)) as caught:
        StudyRuns("shapes", "shapes-1", {})
    return caught.value


@pytest.mark.parametrize("name", ["my%20study", "50% done? #1 [x] ü@b", "plain"])
def test_a_folder_of_any_name_holds_database_and_artifacts(tmp_path, monkeypatch, name):
    folder = tmp_path / "all" / name
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    file = tmp_path / "best.yaml"
    file.write_text("loss: {}")
    check_uri()
    runs = StudyRuns("shapes", "shapes-1", {})
    runs.end_study("FINISHED", artifacts=[file])
    assert sorted(path.name for path in folder.iterdir()) == [".mlflow.db.lock", "mlflow.db", "mlruns"]
    assert list(folder.parent.iterdir()) == [folder], "nothing beside it"
    (stored,) = folder.glob("mlruns/**/best.yaml")
    client = mlflow.MlflowClient(tracking.tracking_uri())
    assert [artifact.path for artifact in client.list_artifacts(runs.run_id)] == ["best.yaml"]
    assert stored.read_text() == "loss: {}"
    assert StudyRuns("shapes", "shapes-1", {}).run_id == runs.run_id, "found again"


def test_artifacts_lie_beside_the_database_wherever_one_works(tmp_path, monkeypatch):
    (tmp_path / "all here").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/all here/other.db")
    (elsewhere := tmp_path / "nobody writes here").mkdir()
    monkeypatch.chdir(elsewhere)
    file = tmp_path / "best.yaml"
    file.write_text("loss: {}")
    StudyRuns("shapes", "shapes-1", {}).end_study("FINISHED", artifacts=[file])
    assert list(elsewhere.iterdir()) == []
    assert len([*tmp_path.glob("all here/mlruns/shapes/**/best.yaml")]) == 1


def test_an_experiment_in_the_bin_is_restored():
    first = StudyRuns("shapes", "shapes-1", {})
    assert not first.restored
    client = mlflow.MlflowClient(tracking.tracking_uri())
    client.delete_experiment(first.experiment_id)
    again = StudyRuns("shapes", "shapes-2", {})
    assert again.restored
    assert again.experiment_id == first.experiment_id
    (experiment,) = client.search_experiments(view_type=ViewType.ALL, filter_string="name = 'shapes'")
    assert experiment.lifecycle_stage == LifecycleStage.ACTIVE
    assert {run.info.run_id for run in client.search_runs([first.experiment_id])} == {first.run_id, again.run_id}

    client.delete_experiment(first.experiment_id)  # in the course of a study
    with pytest.raises(mlflow.MlflowException) as caught:
        again.start("0000-0", "trial", {"a": 1}, {})
    assert not is_outage(caught.value)


AT_ONCE = """
import sys, time
from lncis.tracking import StudyRuns
time.sleep(max(0, float(sys.argv[2]) - time.time()))
print(StudyRuns(sys.argv[1], sys.argv[1] + "-1", {}).run_id)
"""


@pytest.mark.processes
def test_studies_that_create_one_database_at_the_same_moment_all_stand_in_it():
    names, moment = ["a", "b", "b"], str(time.time() + 12)
    started = [
        subprocess.Popen([sys.executable, "-c", AT_ONCE, name, moment], stdout=subprocess.PIPE, text=True)
        for name in names
    ]
    answers = [process.communicate(timeout=120)[0].strip() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    client = mlflow.MlflowClient(tracking.tracking_uri())
    assert {client.get_run(run_id).info.run_name for run_id in answers} == {"a-1", "b-1"}


def test_a_database_that_is_away_is_so_at_once(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://mlflow:{SECRET}@127.0.0.1:1/mlflow")  # nobody listens
    check_uri()
    started = time.monotonic()
    error = raised_by_study_runs()
    assert time.monotonic() - started < 20, "MLflow itself tries for 100 s"
    assert is_outage(error)
    assert SECRET not in str(error)
    assert caplog.text == "", "no traceback"


def test_a_database_that_has_gone_away_is_so_to_mlflow(monkeypatch, caplog):
    runs = StudyRuns("shapes", "shapes-1", {})
    engine = sqlalchemy.create_engine(tracking.tracking_uri(), connect_args={"timeout": 0})
    with engine.begin() as connection:
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
        with pytest.raises(sqlalchemy.exc.OperationalError) as caught, engine.connect() as other:
            other.exec_driver_sql("SELECT * FROM runs")
    assert is_outage(caught.value), "locked"
    Path("mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(mlflow.MlflowException) as refused:
        runs.log_study({"best/val/segm_AP": 1.0}, 0.0)
    assert not is_outage(refused.value)
    assert caplog.text == "", "no traceback"


def test_a_file_that_is_no_database_will_not_become_one():
    Path("mlflow.db").write_bytes(b"no database" * 1000)
    error = raised_by_study_runs()
    assert isinstance(error.__cause__, sqlite3.DatabaseError)
    assert not is_outage(error)


@contextmanager
def server_that_answers(status: int, body: bytes) -> Iterator[str]:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "passes"),
    [
        (401, b"Unauthorized", False),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}', False),
        (404, b"<html>", False),
        (400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}', False),
        (500, b'{"error_code": "INTERNAL_ERROR", "message": "try again"}', True),
        (502, b"Bad Gateway", True),
        (503, b'{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "the database is away"}', True),
    ],
)
def test_what_a_server_answers_passes_by_itself_or_does_not(monkeypatch, status, body, passes):
    with server_that_answers(status, body) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{address}")
        assert is_outage(raised_by_study_runs()) is passes


def test_a_server_that_is_away_may_come_back_and_its_password_is_not_in_the_reason(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://alice:{SECRET}@127.0.0.1:1")
    error = raised_by_study_runs()
    assert is_outage(error)
    assert SECRET in str(error), "MLflow says it, so this test shows something"
    assert SECRET not in without_credentials(str(error))
    assert "alice" not in without_credentials(str(error))
    assert "http://127.0.0.1:1/api" in without_credentials(str(error))


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        (f"postgresql://alice:{SECRET}@db.example.org/mlflow", "postgresql://db.example.org/mlflow"),
        (f"postgresql+psycopg://alice:{SECRET}%40%2F@db:5432/mlflow", "postgresql+psycopg://db:5432/mlflow"),
        (f"postgresql://alice:/@{SECRET}@db/mlflow", "postgresql://db/mlflow"),
        (f"postgresql://alice:?{SECRET}@db/mlflow", "postgresql://..."),
        (f"postgresql://db/mlflow?user=a@b&password={SECRET}", "postgresql://..."),
        (f"mysql://db/mlflow?password={SECRET}", "mysql://db/mlflow"),
        (f"https://{SECRET}@mlflow.example.org/", "https://mlflow.example.org/"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////data/a@b/mlflow.db", "sqlite:////data/a@b/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_what_is_shown_holds_no_login(monkeypatch, uri, shown):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert shown_uri() == shown
    assert without_credentials(f"{uri} failed: no {uri}") == f"{shown} failed: no {shown}"


@pytest.mark.parametrize("password", [SECRET, f"{SECRET}%40", "db"])
def test_a_password_alone_is_not_shown_either(monkeypatch, password):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://alice:{password}@host/mlflow")
    alone = password.replace("%40", "@")
    assert (
        without_credentials(f"login of mlflow failed ('{alone}', {password})") == "login of mlflow failed ('***', ***)"
    )
    assert without_credentials("the mlflowdb") == "the mlflowdb", "a word that holds it is another word"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("sqlite:///nowhere/mlflow.db", "there is no folder .*/nowhere"),
        ("sqlite:////no%20where/mlflow.db", "there is no folder /no where"),
        (f"postgresql+other://alice:{SECRET}@db/mlflow", "postgresql.other"),
        (f"postgresql://alice:a@{SECRET}:b@db/mlflow", "no URL of a database"),
        ("ftp://somewhere", "ftp"),
    ],
)
def test_what_can_never_be_used_is_said_before_the_study(monkeypatch, uri, reason):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(StudyError, match=f"cannot be used: .*{reason}.*; correct MLFLOW_TRACKING_URI") as caught:
        check_uri()
    assert SECRET not in str(caught.value)


def test_a_relative_database_keeps_its_settings(monkeypatch, working_directory):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db?timeout=5")
    assert tracking.tracking_uri() == f"sqlite:///{working_directory}/other.db?timeout=5"
