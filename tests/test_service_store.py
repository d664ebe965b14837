"""One contract for the database, over SQLite and over PostgreSQL."""

import os
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lncis.api import Action, State
from lncis.errors import ConfigError
from service.dispatch import waiting
from service.settings import Settings
from service.store import studies as store
from service.store import tables
from service.store.adjustments import adjust_study
from service.store.database import Database, DatabaseAway, Leadership
from service.store.states import Job, Wanted

AS_POSTGRES = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []


def _postgresql_program(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A server of its own, on a unix socket, for as long as the tests."""
    initdb, pg_ctl = _postgresql_program("initdb"), _postgresql_program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("PostgreSQL is not installed here: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="lncis-pg", dir="/tmp"))  # pytest's own folders are its user's alone
    if AS_POSTGRES:
        shutil.chown(folder, "postgres", "postgres")
    data = str(folder / "data")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    subprocess.run([*AS_POSTGRES, initdb, "-D", data, "-A", "trust", "-U", "lncis"], check=True, capture_output=True)
    start = [*AS_POSTGRES, pg_ctl, "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start"]
    if subprocess.run(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/").returncode:
        pytest.skip(f"PostgreSQL does not start here: {(folder / 'log').read_text()[-300:]}")
    yield f"postgresql+psycopg://lncis@/postgres?host={folder}"
    subprocess.run(
        [*AS_POSTGRES, pg_ctl, "-D", data, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/"
    )
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.processes)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'lncis.db'}"
        return
    server = request.getfixturevalue("postgresql")
    yield server
    engine = sa.create_engine(server)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    made = Database(url)
    yield made
    made.close()


def new(**changes: Any) -> store.NewStudy:
    columns: dict[str, Any] = {
        "name": "sweep",
        "owner": "anna",
        "spec": {"name": "sweep", "resources": {"max_concurrent_trials": 2, "num_workers": 1}},
        "priority": 0,
        "max_concurrent_trials": 2,
        "trials_total": 6,
        "epochs_total": 60,
        "key": None,
        "request": {"name": "sweep"},
    }
    return store.NewStudy(**{**columns, **changes})


def create(database: Database, **changes: Any) -> tables.Study:
    return database.write(lambda connection: store.create_study(connection, new(**changes)))[0]


def change(database: Database, study: tables.Study, **columns: Any) -> tables.Study:
    return database.write(
        lambda connection: store.update_study(
            connection, store.load_study(connection, study.id, to_change=True), **columns
        )
    )


def test_a_study_is_found_again_as_it_was_made(database):
    study = create(database)
    assert database.read(lambda c: store.load_study(c, study.id)) == study
    assert database.read(lambda c: store.load_spec(c, study))["resources"]["num_workers"] == 1
    assert (study.state, study.job, study.wanted, study.etag) == (State.QUEUED, Job.NONE, Wanted.RUN, '"1"')
    with pytest.raises(store.UnknownStudy, match="there is no study other"):
        database.read(lambda c: store.load_study(c, "other"))


def test_it_is_there_after_the_service_is_gone(url):
    first = Database(url)
    study = create(first)
    first.close()
    second = Database(url)
    assert second.read(lambda c: store.load_study(c, study.id)) == study
    second.close()


def test_pages_are_newest_first_and_complete(database):
    made = [create(database, owner=owner) for owner in ["anna", "bilal"] * 3]
    change(database, made[0], state=State.RUNNING)

    def pages(**asked: Any) -> list[str]:
        found, before = [], None
        while part := database.read(
            lambda c, before=before: store.list_studies(c, store.Which(**asked), before=before, limit=2)
        ):
            found += [study.id for study in part]
            before = part[-1].number
        return found

    assert pages() == [study.id for study in reversed(made)]
    assert pages(owner="anna") == [made[4].id, made[2].id, made[0].id]
    assert pages(states=[State.RUNNING]) == [made[0].id]
    counts = database.read(store.count_studies)
    assert (counts[State.QUEUED], counts[State.RUNNING], counts[State.FAILED]) == (5, 1, 0)


def test_the_queue_is_by_priority_then_first_come(database):
    first, urgent, second, over = (create(database, priority=priority) for priority in (0, 9, 0, 5))
    change(database, over, state=State.FAILED)
    assert [study.id for study in database.read(lambda c: store.list_active_studies(c, 10))] == [
        urgent.id,
        first.id,
        second.id,
    ]


def test_a_key_makes_one_study_however_often_and_by_whom_at_once(database):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: database.write(lambda c: store.create_study(c, new(key="k1"))), range(24)))
    assert len({study.id for study, _ in made}) == 1
    assert sum(created for _, created in made) == 1
    other, created = database.write(lambda c: store.create_study(c, new(key="k1", owner="bilal")))
    assert created
    assert other.id != made[0][0].id
    with pytest.raises(store.KeyTaken) as caught:
        database.write(lambda c: store.create_study(c, new(key="k1", request={"name": "other"})))
    assert (caught.value.study_id, caught.value.earlier) == (made[0][0].id, {"name": "sweep"})


def test_a_key_that_another_service_is_just_writing_makes_one_study(database, url):
    """SQLite lets one writer begin at a time; PostgreSQL has the second one wait at the key's row, and refuses it."""
    other = Database(url)
    with other.engine.connect() as theirs:
        first, _ = store.create_study(theirs, new(key="k1"))
        mine = database.submit(lambda c: store.create_study(c, new(key="k1")))
        if database.engine.dialect.name == "postgresql":
            waits = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            while not database.read(lambda c: c.execute(waits).scalar()):
                time.sleep(0.01)
        theirs.commit()
    assert mine.result() == (first, False)
    other.close()


def test_a_row_that_came_meanwhile_is_met_by_a_second_call_and_no_third(database):
    calls = []

    def work(connection: Any, *, refused: int) -> int:
        calls.append(refused)
        study = store.create_study(connection, new(key=None))[0]
        if len(calls) <= refused:
            connection.execute(tables.studies.insert().from_select([*tables.studies.c.keys()], _again(study)))
        return len(calls)

    assert database.write(lambda c: work(c, refused=1)) == 2
    calls.clear()
    with pytest.raises(DatabaseAway, match=r"UNIQUE|unique"):
        database.write(lambda c: work(c, refused=9))
    assert calls == [9, 9]
    assert database.read(store.count_studies)[State.QUEUED] == 1


def _again(study: tables.Study) -> Any:
    return sa.select(*tables.studies.c).where(tables.studies.c.number == study.number)


def test_who_is_refused_costs_the_others_of_the_transaction_nothing(database):
    gate = threading.Event()
    held = database.submit(lambda c: gate.wait(10))  # what comes now waits together
    futures = [
        database.submit(lambda c, n=n: store.create_study(c, new(key="same", request={"n": n if n == 3 else 0})))
        for n in range(6)
    ]
    gate.set()
    assert held.result()
    assert isinstance(futures[3].exception(), store.KeyTaken)
    assert len({future.result()[0].id for n, future in enumerate(futures) if n != 3}) == 1


def test_what_a_function_wrote_before_it_failed_is_not_there(database):
    def half(connection: Any) -> None:
        store.create_study(connection, new())
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        database.write(half)
    assert database.read(store.count_studies)[State.QUEUED] == 0


def test_a_client_that_went_away_leaves_nothing(database):
    gate = threading.Event()
    held = database.submit(lambda c: gate.wait(10))
    while database._jobs.qsize():  # until the writer has it
        pass
    gone = database.submit(lambda c: store.create_study(c, new()))
    assert gone.cancel()
    gate.set()
    held.result()
    create(database)
    assert database.read(store.count_studies)[State.QUEUED] == 1


@pytest.mark.parametrize(
    ("state", "legal"),
    [
        (State.QUEUED, {Action.CANCEL}),
        (State.RUNNING, {Action.CANCEL, Action.PAUSE, Action.DRAIN}),
        (State.PAUSED, {Action.CANCEL, Action.RESUME}),
        (State.SUCCEEDED, set()),
        (State.FAILED, set()),
        (State.CANCELLED, set()),
    ],
)
def test_what_may_be_asked_in_each_state(database, state, legal):
    for action in Action:
        study = change(database, create(database), state=state)
        if action in legal:
            database.write(lambda c, id=study.id, action=action: store.request_action(c, id, action))
        else:
            with pytest.raises(store.IllegalAction) as caught:
                database.write(lambda c, id=study.id, action=action: store.request_action(c, id, action))
            assert set(caught.value.legal) == legal


def test_cancelling_is_done_at_once_where_there_is_no_job_and_wanted_where_there_is(database):
    waiting_study, running = create(database), create(database)
    change(database, running, state=State.RUNNING, job=Job.SUBMITTED)
    done = database.write(lambda c: store.request_action(c, waiting_study.id, Action.CANCEL))
    assert (done.state, done.finished_at is None) == (State.CANCELLED, False)
    asked = database.write(lambda c: store.request_action(c, running.id, Action.CANCEL))
    assert (asked.state, asked.wanted, asked.reason) == (State.RUNNING, Wanted.CANCEL, "is being cancelled")
    again = database.write(lambda c: store.request_action(c, running.id, Action.CANCEL))
    assert again == asked
    with pytest.raises(store.IllegalAction, match="running and being cancelled, so it cannot pause; legal now: cancel"):
        database.write(lambda c: store.request_action(c, running.id, Action.PAUSE))


def test_each_state_and_reason_is_an_event_with_its_time(database):
    study = change(database, create(database), state=State.RUNNING, reason="")
    study = change(database, study, priority=3)
    study = change(database, study, state=State.FAILED, reason="no disk")
    with database.engine.connect() as connection:
        rows = connection.execute(sa.select(tables.events).order_by(tables.events.c.number)).all()
    told = [(row.number, row.data["state"], row.data["reason"]) for row in rows]
    assert told == [(1, "queued", ""), (2, "running", ""), (3, "failed", "no disk")]
    assert rows[-1].at == study.finished_at == study.state_since
    assert study.started_at == rows[1].at
    assert (study.events, study.etag) == (3, '"4"')


def test_a_change_needs_the_present_etag(database):
    study = create(database)
    changed = database.write(lambda c: adjust_study(c, study.id, study.etag, priority=7, max_concurrent_trials=5))
    assert (changed.priority, changed.max_concurrent_trials) == (7, 5)
    assert database.read(lambda c: store.load_spec(c, study))["resources"] == {
        "max_concurrent_trials": 5,
        "num_workers": 1,
    }
    with pytest.raises(store.StaleRevision, match='its ETag is "2", If-Match says "1"'):
        database.write(lambda c: adjust_study(c, study.id, '"1"', priority=1, max_concurrent_trials=None))
    anyway = database.write(lambda c: adjust_study(c, study.id, "*", priority=1, max_concurrent_trials=None))
    assert (anyway.priority, anyway.max_concurrent_trials) == (1, 5)


def test_a_number_of_trials_may_be_left_to_the_cluster(database):
    study = create(database, max_concurrent_trials="auto")
    assert study.max_concurrent_trials == "auto"
    assert database.read(lambda c: store.load_study(c, study.id)) == study
    changed = database.write(lambda c: adjust_study(c, study.id, "*", priority=None, max_concurrent_trials=2))
    again = database.write(lambda c: adjust_study(c, study.id, "*", priority=None, max_concurrent_trials="auto"))
    assert (changed.max_concurrent_trials, again.max_concurrent_trials) == (2, "auto")
    assert database.read(lambda c: store.load_study(c, study.id)) == again
    assert database.read(lambda c: store.load_spec(c, again))["resources"]["max_concurrent_trials"] == "auto"


def test_what_the_dispatcher_sees_is_kept(database):
    assert database.read(waiting.load_status) == waiting.NEVER_SEEN
    for ok in (True, False):
        seen = waiting.DispatcherStatus(holder="me", seen_at=1.5, ray_ok=ok, ray_detail="x", ray_since=1.0)
        database.write(lambda c, seen=seen: waiting.save_status(c, seen))
        assert database.read(waiting.load_status) == seen


def test_the_migrations_lead_to_the_tables(database):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []


def test_services_that_start_at_once_migrate_once(url):
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(Database, [url] * 4))
    study = create(made[0])
    assert made[3].read(lambda c: store.load_study(c, study.id)) == study
    for database in made:
        database.close()


def test_a_new_file_that_another_is_turning_to_its_log_is_waited_for(tmp_path):
    path = tmp_path / "lncis.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # what a change of the journal's mode finds while another makes the same
    done = threading.Timer(0.5, lambda: other.execute("COMMIT"))
    done.start()
    database = Database(f"sqlite:///{path}")
    done.join()
    assert database.read(lambda c: c.execute(sa.text("PRAGMA journal_mode")).scalar()) == "wal"
    database.close()
    other.close()


def test_one_service_leads_and_the_next_when_it_is_gone(url):
    first, second = Database(url), Database(url)
    mine, theirs = Leadership(first.engine), Leadership(second.engine)
    assert mine.held()
    assert mine.held()
    assert not theirs.held()
    mine.release()
    assert theirs.held()
    assert not mine.held()
    theirs.release()
    for database in (first, second):
        database.close()


def test_a_database_of_a_newer_service_is_refused(url):
    database = Database(url)
    database.write(lambda c: c.execute(sa.text("UPDATE alembic_version SET version_num = '9999'")))
    database.close()
    with pytest.raises(ConfigError, match="of a newer lncis"):
        Database(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "must name a file"),
        ("mysql://x/y", "must be sqlite:///... or postgresql"),
        ("nonsense", "must be sqlite:///... or postgresql"),
    ],
)
def test_what_is_no_database_is_named(url, message):
    with pytest.raises(ConfigError, match=message):
        Database(url)


def test_a_database_that_cannot_be_reached_is_said(tmp_path):
    with pytest.raises(DatabaseAway, match="the database cannot be used"):
        Database(f"sqlite:///{tmp_path}/no/such/folder/lncis.db")


def test_a_full_disk_refuses_and_loses_nothing(small_disk):
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    database = Database(f"sqlite:///{small_disk / 'lncis.db'}")
    kept = []
    with pytest.raises(DatabaseAway, match=r"full|I/O"):
        while True:
            kept.append(create(database, request={"filler": "x" * 2000}))
    assert kept
    found = database.read(lambda c: store.list_studies(c, before=None, limit=200))
    assert {study.id for study in found} == {study.id for study in kept}
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    create(database)  # it goes on as soon as there is room
    database.close()


def test_a_running_study_without_an_epoch_says_what_it_may_wait_for(database: Database) -> None:
    study = create(database)

    def why(**columns: Any) -> str:
        running = change(database, study, state=State.RUNNING, **columns)
        later = replace(running, state_since=running.state_since - 2 * waiting.FIRST_EPOCH_SECONDS)
        return waiting.why_not_running(later, waiting.NEVER_SEEN, Settings(), running=1, of_owner=1, position=1)

    assert "wait for room in the cluster" in why(reason="", epochs_done=0)
    assert why(reason="its job is pending in Ray") == "its job is pending in Ray"
    assert why(reason="", epochs_done=1) == ""


def test_all_writers_that_wait_for_a_locked_database_have_one_deadline(tmp_path: Path, monkeypatch) -> None:
    """Each is told after its own time is up, not after those of all who asked before it."""
    monkeypatch.setattr("service.store.database.WRITE_TIMEOUT_SECONDS", 1.0)
    database = Database(f"sqlite:///{tmp_path / 'lncis.db'}")
    other = sqlite3.connect(tmp_path / "lncis.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    asked: list[tuple[float, Any]] = []
    answered: dict[int, float] = {}
    for number in range(30):
        asked.append((time.monotonic(), database.submit(lambda c: store.create_study(c, new()))))
        asked[-1][1].add_done_callback(lambda _, number=number: answered.update({number: time.monotonic()}))
        time.sleep(0.05)
    for _, future in asked[:10]:
        with pytest.raises(DatabaseAway, match="database is locked"):
            future.result(timeout=5)
    other.execute("ROLLBACK")
    outcomes = [future.exception(timeout=5) is None for _, future in asked]
    assert outcomes == sorted(outcomes), "who asked last was in time"
    assert outcomes[-1]
    for number, (since, _) in enumerate(asked):
        waited = answered[number] - since
        assert waited < 1.5
        assert outcomes[number] or waited > 0.9
    database.close()
    other.close()


def test_links_to_mlflow_of_older_databases_become_ids(tmp_path: Path) -> None:
    from alembic.command import upgrade
    from alembic.config import Config

    from service.store.database import MIGRATIONS, WRITE, _engine, migrate

    engine = _engine(f"sqlite:///{tmp_path / 'old.db'}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    links = ["http://old:5000/#/experiments/7/runs/a%2Fb", "http://old:5000/#/elsewhere", None]
    with engine.connect().execution_options(**WRITE) as connection, connection.begin():
        config.attributes["connection"] = connection
        upgrade(config, "0001")
        later = ("mlflow_run", "archived", "labels", "notice_due", "notice_attempts", "waiting_noticed", "lost_jobs")
        columns = [c.name for c in tables.studies.c if c.name not in (*later, "extends", "cost", "best")]
        values = dict.fromkeys(columns, "0") | {"state": "queued", "job": "none", "wanted": "run", "spec": "{}"}
        for number, link in enumerate(links, start=1):
            row = {**values, "number": number, "id": f"s-{number}", "mlflow_url": link}
            names = ", ".join(row)
            connection.execute(
                sa.text(f"INSERT INTO studies ({names}) VALUES ({', '.join(f':{name}' for name in row)})"), row
            )
    migrate(engine)
    with engine.connect() as connection:
        found = [store.load_study(connection, f"s-{number}").mlflow_run for number in (1, 2, 3)]
        made = connection.execute(sa.text("SELECT sql FROM sqlite_master WHERE name = 'studies'")).scalar_one()
    engine.dispose()
    assert found == [{"experiment_id": "7", "run_id": "a/b"}, None, None]
    assert "AUTOINCREMENT" in made, "numbers are not given twice"
    assert "mlflow_url" not in made


def test_writers_that_wait_for_a_table_are_told_in_time_too(url, monkeypatch) -> None:
    """PostgreSQL begins a transaction at once, and waits within it."""
    database = Database(url)
    monkeypatch.setattr("service.store.database.WRITE_TIMEOUT_SECONDS", 1.0)
    is_sqlite = database.engine.dialect.name == "sqlite"
    with database.engine.connect() as other:
        other.exec_driver_sql("SELECT 1" if is_sqlite else "LOCK TABLE studies IN ACCESS EXCLUSIVE MODE")
        if is_sqlite:
            other.rollback()
            other.execution_options(lncis_write=True).begin()
        begun = time.monotonic()
        asked = [database.submit(lambda c: store.create_study(c, new())) for _ in range(12)]
        failures = [future.exception(timeout=20) for future in asked]
        waited = time.monotonic() - begun
        other.rollback()
    assert all(isinstance(failure, DatabaseAway) for failure in failures)
    assert waited < 3
    create(database)
    database.close()
