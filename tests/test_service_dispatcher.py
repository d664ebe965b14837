"""The dispatcher: whose turn it is, what becomes of a job, and every way in which Ray or a service goes away."""

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fake_ray import SPEC, FakeJob, FakeRay
from served import eventually

from lncis import documents
from lncis.api import Action, State
from lncis.documents import plain
from lncis.studies.record.journal import JOURNAL, End, Journal, TrialEnded
from lncis.studies.spec import StudySpec
from service.dispatch import waiting
from service.dispatch.dispatcher import Dispatcher
from service.dispatch.jobs import JobReport, JobStatus, RayAway, RayJobs
from service.dispatch.outcome import outcome
from service.settings import Settings
from service.store import studies as store
from service.store import tables
from service.store.adjustments import adjust_study
from service.store.database import Database, DatabaseAway
from service.store.states import Job, Wanted

Turns = Callable[..., Dispatcher]


@pytest.fixture
def dispatcher(tmp_path: Path, ray: FakeRay, database: Database) -> Turns:
    """Makes a dispatcher whose turns the test takes."""

    def make(**changes: Any) -> Dispatcher:
        settings = Settings(
            **{"runs": tmp_path / "runs", "ray_address": ray.address, "ray_grace_seconds": 0.0, **changes}
        )
        return Dispatcher(settings, database, RayJobs(settings))

    return make


def queued(database: Database, owner: str = "anna", priority: int = 0, **changes: Any) -> tables.Study:
    spec = documents.parse(StudySpec, {**SPEC, **changes}, source="test")
    new = store.NewStudy(
        name=spec.name,
        owner=owner,
        spec=plain(documents.dump(spec)),
        priority=priority,
        max_concurrent_trials=2,
        trials_total=spec.total_trials,
        epochs_total=spec.total_trials * spec.base.schedule.epochs,
        key=None,
        request=None,
    )
    return database.write(lambda connection: store.create_study(connection, new))[0]


def now(database: Database, study: tables.Study) -> tables.Study:
    return database.read(lambda connection: store.load_study(connection, study.id))


def ask(database: Database, study: tables.Study, action: Action) -> tables.Study:
    return database.write(lambda connection: store.request_action(connection, study.id, action))


def until(dispatcher: Dispatcher, database: Database, study: tables.Study, *states: State, seconds: float = 60) -> Any:
    """Take turns until the study is in one of the states."""
    end = time.monotonic() + seconds
    while (found := now(database, study)).state not in states:
        assert time.monotonic() < end, found
        dispatcher.turn()
        time.sleep(0.01)
    return found


def trained_once(ray: FakeRay, study: tables.Study) -> bool:
    mine = {key: number for key, number in ray.trained.items() if key[0] == study.id}
    return len(mine) == 24 and set(mine.values()) == {1}


def test_priority_then_first_come_within_the_limits(dispatcher, database, ray):
    ray.epoch_seconds = 60.0
    first, second, urgent, of_bilal = (
        queued(database, owner, priority) for owner, priority in [("anna", 0), ("anna", 0), ("anna", 9), ("bilal", -1)]
    )
    acting = dispatcher(max_running=3, max_running_per_user=2)
    acting.turn()
    assert ray.submissions == [urgent.id, first.id, of_bilal.id]
    assert now(database, second).state is State.QUEUED
    acting.turn()
    assert len(ray.submissions) == 3


def test_a_free_place_goes_to_the_next(dispatcher, database, ray):
    studies = [queued(database) for _ in range(3)]
    acting = dispatcher(max_running=1)
    for study in studies:
        until(acting, database, study, State.SUCCEEDED)
    assert ray.submissions == [study.id for study in studies]


def test_pause_and_resume_go_on_from_the_last_epochs(dispatcher, database, ray):
    ray.hold_after = 5
    study, acting = queued(database), dispatcher()
    until(acting, database, study, State.RUNNING)
    while now(database, study).epochs_done < 5:
        acting.turn()
    ask(database, study, Action.PAUSE)
    paused = until(acting, database, study, State.PAUSED)
    assert (paused.job, paused.reason) == (Job.NONE, "")
    assert ask(database, study, Action.RESUME).state is State.QUEUED
    ray.hold_after = None
    until(acting, database, study, State.SUCCEEDED)
    assert trained_once(ray, study)
    assert ray.submissions == [study.id] * 2
    assert now(database, study).attempt == 2


def test_cancelling_a_running_study_stops_its_job(dispatcher, database, ray):
    ray.epoch_seconds = 60.0
    study, acting = queued(database), dispatcher()
    until(acting, database, study, State.RUNNING)
    ask(database, study, Action.CANCEL)
    assert until(acting, database, study, State.CANCELLED).finished_at
    assert ray.job(study.id).status == "STOPPED"


def test_the_run_in_mlflow_is_linked_as_soon_as_there_is_one(dispatcher, database, ray):
    ray.hold_after = 5
    study, acting = queued(database), dispatcher(mlflow_tracking_uri="http://mlflow:5000")
    assert study.mlflow_run is None
    while now(database, study).epochs_done < 5:
        acting.turn()
    assert now(database, study).mlflow_run == {"experiment_id": "7", "run_id": f"run-of-{study.id}"}


def test_a_cancel_between_two_calls_of_a_write_is_not_lost(dispatcher, database, ray, monkeypatch):
    """Another service cancels a study between a write of the dispatcher that was rolled back and its second call."""
    ray.hold_after = 5
    study, acting = queued(database), dispatcher()
    until(acting, database, study, State.RUNNING)
    running = now(database, study)
    ask(database, study, Action.PAUSE)
    real = database.write

    def write(work: Callable[[Any], Any]) -> Any:
        monkeypatch.setattr(database, "write", real)
        with database.engine.connect() as connection:
            work(connection)
            connection.rollback()
        ask(database, study, Action.CANCEL)
        return real(work)

    monkeypatch.setattr(database, "write", write)
    acting._change(running, state=State.QUEUED, job=Job.NONE, reason="its job died")
    cancelled = now(database, study)
    assert (cancelled.state, cancelled.reason) == (State.CANCELLED, "")


def test_a_pending_job_is_asked_to_stop_until_it_does(dispatcher, database, ray):
    ray.epoch_seconds = 60.0
    study, acting = queued(database), dispatcher()
    until(acting, database, study, State.RUNNING)
    ray.job(study.id).status = "PENDING"
    acting.turn()
    assert now(database, study).reason == "its job is pending in Ray"
    ask(database, study, Action.CANCEL)
    acting.turn()
    acting.turn()
    assert now(database, study).reason == "is being cancelled"
    ray.job(study.id).status = "RUNNING"
    until(acting, database, study, State.CANCELLED)


def test_a_job_that_dies_is_started_again_and_in_the_end_given_up(dispatcher, database, ray, monkeypatch):
    monkeypatch.setattr("service.dispatch.outcome.BACKOFF_SECONDS", (0.0,))
    ray.exits = dict.fromkeys(range(1, 9), (1, "error: no memory"))
    study = queued(database)
    failed = until(dispatcher(max_setbacks=3), database, study, State.FAILED)
    assert failed.reason == "its job died 3 times in a row without progress: no memory"
    assert ray.submissions == [study.id] * 3


def test_a_job_that_dies_once_goes_on(dispatcher, database, ray, monkeypatch):
    monkeypatch.setattr("service.dispatch.outcome.BACKOFF_SECONDS", (0.0,))
    ray.exits = {1: (1, "error: no memory")}
    study, acting = queued(database), dispatcher()
    until(acting, database, study, State.SUCCEEDED)
    assert ray.submissions == [study.id] * 2


def test_a_mistake_of_the_user_is_not_tried_again(dispatcher, database, ray):
    ray.exits = {1: (2, "error: momentum changes nothing; drop it from search")}
    study = queued(database)
    failed = until(dispatcher(), database, study, State.FAILED)
    assert failed.reason == "momentum changes nothing; drop it from search"
    assert ray.submissions == [study.id]


def test_ray_away_before_the_start(dispatcher, database, ray):
    ray.go_away()
    study, acting = queued(database), dispatcher()
    acting.turn()
    assert (now(database, study).state, now(database, study).attempt) == (State.QUEUED, 0)
    ray.start()
    until(acting, database, study, State.SUCCEEDED)
    assert trained_once(ray, study)


def test_ray_away_while_a_study_runs_and_back_with_the_job(dispatcher, database, ray):
    ray.hold_after = 5
    study, acting = queued(database), dispatcher()
    until(acting, database, study, State.RUNNING)
    ray.go_away()
    queued_again = until(acting, database, study, State.QUEUED)
    assert "Ray is away" in queued_again.reason
    assert "refused" in queued_again.reason
    ray.hold_after = None
    ray.start()
    until(acting, database, study, State.SUCCEEDED)
    assert ray.submissions == [study.id]
    assert trained_once(ray, study)


def test_the_head_is_killed_and_comes_back_knowing_nothing(dispatcher, database, ray):
    ray.hold_after = 3
    study, acting = queued(database), dispatcher()
    until(acting, database, study, State.RUNNING)
    while now(database, study).epochs_done < 3:
        acting.turn()
    ray.kill_head()
    acting.turn()
    ray.hold_after = None
    ray.start()
    until(acting, database, study, State.SUCCEEDED)
    assert ray.submissions == [study.id] * 2
    assert trained_once(ray, study)


def test_a_head_lost_after_the_last_epoch_costs_no_epoch(dispatcher, database, ray):
    study, acting = queued(database), dispatcher()
    acting.turn()
    while ray.job(study.id).status == "RUNNING":
        time.sleep(0.01)
    ray.kill_head()
    ray.start()
    until(acting, database, study, State.SUCCEEDED)
    assert ray.submissions == [study.id] * 2  # whether its report was written, nobody knows
    assert trained_once(ray, study)


def test_a_study_paused_while_its_report_is_written_is_no_failure(dispatcher, database, ray, tmp_path):
    ray.report_seconds = 60.0
    study, acting = queued(database), dispatcher()
    until(acting, database, study, State.RUNNING)
    while "session_ended" not in (tmp_path / "runs" / study.id / JOURNAL).read_text():
        time.sleep(0.01)
    ask(database, study, Action.PAUSE)
    until(acting, database, study, State.PAUSED)
    ray.report_seconds = 0.0
    ask(database, study, Action.RESUME)
    until(acting, database, study, State.SUCCEEDED)
    assert ray.submissions == [study.id] * 2
    assert trained_once(ray, study)


@pytest.mark.parametrize(
    ("deaths", "state", "reason"),
    [(1, State.SUCCEEDED, ""), (9, State.FAILED, "its job died 3 times in a row without progress: No space left")],
)
def test_a_job_that_dies_over_its_report_writes_it_again(dispatcher, database, ray, monkeypatch, deaths, state, reason):
    monkeypatch.setattr("service.dispatch.outcome.BACKOFF_SECONDS", (0.0,))
    ray.report_exits = dict.fromkeys(range(1, deaths + 1), (1, "error: No space left"))
    study, acting = queued(database), dispatcher(max_setbacks=3)
    assert until(acting, database, study, State.SUCCEEDED, State.FAILED).reason == reason
    assert now(database, study).state is state
    assert ray.submissions == [study.id] * min(deaths + 1, 3)
    assert trained_once(ray, study)


def test_a_study_none_of_whose_configurations_finished_has_failed_at_once(database):
    died = JobReport(job_id="j", study_id="s", status=JobStatus.FAILED, attempt=1, exit_code=1)
    words = "no configuration of study tiny finished: out of memory"
    decided = outcome(queued(database), died, words, complete=True, progressed=True, settings=Settings())
    assert decided == {"state": State.FAILED, "reason": words}


@pytest.mark.parametrize("arrived", [True, False])
def test_a_service_gone_between_writing_and_hearing_of_a_submission(dispatcher, database, ray, monkeypatch, arrived):
    """The call is lost on its way there, or its answer on its way back; a service of a later process finds out."""
    study, acting = queued(database), dispatcher()
    real = RayJobs.submit

    def cut(self: RayJobs, study_id: str, attempt: int) -> None:
        if arrived:
            real(self, study_id, attempt)
        raise RayAway("cut")

    monkeypatch.setattr(RayJobs, "submit", cut)
    acting.turn()
    assert now(database, study).job is Job.SUBMITTING
    monkeypatch.setattr(RayJobs, "submit", real)
    until(dispatcher(), database, study, State.SUCCEEDED)
    assert ray.submissions == [study.id]
    assert trained_once(ray, study)


def test_a_cancelled_study_whose_submission_arrives_late_is_stopped(dispatcher, database, ray, monkeypatch):
    ray.epoch_seconds = 60.0
    study, acting = queued(database), dispatcher()
    real = RayJobs.submit
    monkeypatch.setattr(RayJobs, "submit", lambda *_: (_ for _ in ()).throw(RayAway("cut")))
    acting.turn()
    assert ask(database, study, Action.CANCEL).wanted is Wanted.CANCEL
    acting.turn()
    assert now(database, study).state is State.CANCELLED
    real(acting._jobs, study.id, 1)
    job = ray.job(study.id)  # a turn may already make Ray forget it
    while job.status == "RUNNING":
        acting.turn()
        time.sleep(0.01)
    assert now(database, study).state is State.CANCELLED


def test_jobs_of_studies_that_have_ended_are_forgotten(dispatcher, database, ray, monkeypatch):
    ended, paused, acting = queued(database), queued(database), dispatcher()
    until(acting, database, ended, State.SUCCEEDED)
    until(acting, database, paused, State.SUCCEEDED)
    database.write(lambda c: store.update_study(c, store.load_study(c, paused.id), state=State.PAUSED))
    ray.jobs["of-another-service"] = FakeJob("of-another-service", 1, status="SUCCEEDED")
    real = RayJobs.forget
    monkeypatch.setattr(RayJobs, "forget", lambda *_: (_ for _ in ()).throw(RayAway("cut")))
    after = queued(database)
    acting.turn()
    assert after.id in ray.submissions  # nothing waits for it
    monkeypatch.setattr(RayJobs, "forget", real)
    dispatcher().turn()  # a service that was started anew
    assert {job.study_id for job in ray.jobs.values()} == {"of-another-service", paused.id, after.id}
    until(acting, database, after, State.SUCCEEDED)
    assert ray.submissions == [ended.id, paused.id, after.id]


def test_a_folder_that_cannot_be_written_leaves_the_study_queued(dispatcher, database, ray, tmp_path):
    (tmp_path / "runs").write_text("a file where a folder should be")
    study, acting = queued(database), dispatcher()
    acting.turn()
    waits = now(database, study)
    assert (waits.state, waits.job) == (State.QUEUED, Job.NONE)
    assert "its folder cannot be written" in waits.reason
    (tmp_path / "runs").unlink()
    database.write(lambda c: store.update_study(c, store.load_study(c, study.id), retry_at=0.0))
    until(acting, database, study, State.SUCCEEDED)


def test_a_waiting_study_that_a_newer_service_does_not_understand_says_so_and_holds_nobody_up(
    dispatcher, database, ray
):
    odd = queued(database)
    database.write(lambda c: store.update_study(c, store.load_study(c, odd.id), spec={"name": "tiny", "gone": 1}))
    fine, acting = queued(database), dispatcher(max_running=1)
    until(acting, database, fine, State.SUCCEEDED)
    waits = now(database, odd)
    assert (waits.state, waits.job) == (State.QUEUED, Job.NONE)
    assert "does not understand its spec" in waits.reason
    assert "gone: no such field" in waits.reason
    assert ask(database, odd, Action.CANCEL).state is State.CANCELLED
    assert ray.submissions == [fine.id]


def test_another_number_of_trials_at_a_time_reaches_the_next_start(dispatcher, database, ray, tmp_path):
    ray.hold_after = 3
    study, acting = queued(database), dispatcher()
    until(acting, database, study, State.RUNNING)
    etag = now(database, study).etag
    database.write(lambda c: adjust_study(c, study.id, etag, priority=None, max_concurrent_trials=9))
    ask(database, study, Action.PAUSE)
    until(acting, database, study, State.PAUSED)
    ask(database, study, Action.RESUME)
    until(acting, database, study, State.RUNNING)
    from lncis.studies import folders

    assert folders.read_spec(tmp_path / "runs", study.id).resources.max_concurrent_trials == 9
    ray.hold_after = None
    until(acting, database, study, State.SUCCEEDED)
    assert trained_once(ray, study)


def test_progress_is_copied_once_whoever_copies(dispatcher, database, ray):
    ray.epoch_seconds = 0.02
    study = queued(database)
    acting = dispatcher()
    until(acting, database, study, State.RUNNING)
    while now(database, study).state is State.RUNNING:  # each turn as if it were a new process
        dispatcher().turn()
    from service.store import findings

    done = now(database, study)
    told = database.read(lambda c: findings.list_events(c, done, after=0, limit=1000))
    epochs = [(event.data["trial"], event.data["epoch"]) for event in told if event.type == "epoch_finished"]
    assert len(epochs) == len(set(epochs)) == 24
    assert [event.number for event in told] == list(range(1, done.events + 1))


def test_what_a_locked_database_did_not_take_is_copied_later(dispatcher, database, ray, tmp_path, monkeypatch):
    from service.store import findings

    monkeypatch.setattr("service.dispatch.dispatcher.HEARTBEAT_SECONDS", 3600.0)
    study, acting = queued(database), dispatcher()
    acting.turn()
    while ray.job(study.id).status == "RUNNING":
        time.sleep(0.01)
    monkeypatch.setattr("service.store.database.WRITE_TIMEOUT_SECONDS", 0.5)
    sa.event.listen(database.engine, "begin", lambda c: c.exec_driver_sql("PRAGMA busy_timeout=50"), insert=True)
    other = sqlite3.connect(tmp_path / "lncis.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseAway, match="locked"):
        acting.turn()
    other.execute("ROLLBACK")
    other.close()
    done = until(acting, database, study, State.SUCCEEDED)
    trials = [trial for _, trial in database.read(lambda c: findings.list_trials(c, done, after=0, limit=100))]
    assert [(trial.state, trial.epoch) for trial in trials] == [("finished", 4)] * 6
    assert done.best["label"] == trials[2].label
    told = database.read(lambda c: findings.list_events(c, done, after=0, limit=1000))
    assert sum(event.type == "epoch_finished" for event in told) == 24


def test_a_broken_journal_holds_up_its_own_study_alone(dispatcher, database, ray, tmp_path):
    broken, fine, acting = queued(database), queued(database), dispatcher()
    (tmp_path / "runs" / broken.id).mkdir(parents=True)
    (tmp_path / "runs" / broken.id / "journal.jsonl").write_text("nonsense\n")
    ray.exits = {broken.id: (1, "error: cannot read the journal")}
    until(acting, database, fine, State.SUCCEEDED)
    assert "is not an event of a study: b'nonsense" in until(acting, database, broken, State.FAILED).reason


def test_a_journal_that_does_not_fit_together_holds_up_its_own_study_alone(dispatcher, database, ray, tmp_path):
    odd, fine, acting = queued(database), queued(database), dispatcher()
    (tmp_path / "runs" / odd.id).mkdir(parents=True)
    journal = Journal(tmp_path / "runs" / odd.id)
    journal.append(TrialEnded(trial="c000-s0", end=End.FINISHED, reason=""))
    journal.close()
    ray.exits = {odd.id: (1, "error: died")}
    until(acting, database, fine, State.SUCCEEDED)
    assert "journal.jsonl does not fit together: KeyError" in until(acting, database, odd, State.FAILED).reason


@pytest.mark.parametrize("ends", ["it is mended", "it is cancelled"])
def test_a_journal_that_the_file_system_does_not_give_is_waited_for(
    dispatcher, database, ray, tmp_path, monkeypatch, ends
):
    monkeypatch.setattr("service.dispatch.outcome.BACKOFF_SECONDS", (0.0,))
    waits, fine, acting = queued(database), queued(database), dispatcher(max_running=2)
    journal = tmp_path / "runs" / waits.id / JOURNAL
    journal.mkdir(parents=True)
    ray.exits = {waits.id: (1, "error: Is a directory")}
    until(acting, database, fine, State.SUCCEEDED)
    held = now(database, waits)
    assert (held.state, held.job) == (State.RUNNING, Job.SUBMITTED)
    entry = waiting.describe_queue([held], [held], acting._seen, acting._settings, {}).studies[0]
    assert entry.why == f"its journal cannot be read: [Errno 21] Is a directory: '{journal}'"
    acting.turn()
    assert now(database, waits).events == held.events  # said once
    if ends == "it is cancelled":
        ask(database, waits, Action.CANCEL)
        until(acting, database, waits, State.CANCELLED)
    else:
        journal.rmdir()
        ray.exits.clear()
        until(acting, database, waits, State.SUCCEEDED)
        assert trained_once(ray, waits)


@pytest.mark.parametrize(("cancelled", "state"), [(True, State.CANCELLED), (False, State.FAILED)])
def test_a_broken_journal_whose_job_nobody_knows_gives_its_place_back(
    dispatcher, database, ray, tmp_path, cancelled, state
):
    ray.epoch_seconds = 60.0
    study, acting = queued(database), dispatcher()
    until(acting, database, study, State.RUNNING)
    journal = tmp_path / "runs" / study.id / JOURNAL
    while not journal.exists() or journal.read_bytes().count(b"\n") < 2:  # until it trains its first epoch
        time.sleep(0.01)
    with journal.open("a") as file:
        file.write("nonsense\n")
    ray.kill_head()
    acting.turn()
    if cancelled:
        ask(database, study, Action.CANCEL)
    ray.start()
    ended = until(acting, database, study, state)
    assert ended.job is Job.NONE
    assert cancelled or "is not an event of a study" in ended.reason


def test_a_spec_that_a_newer_service_does_not_know_can_be_cancelled(dispatcher, database, ray):
    ray.epoch_seconds = 60.0
    study = queued(database)
    until(dispatcher(), database, study, State.RUNNING)
    database.write(lambda c: store.update_study(c, store.load_study(c, study.id), spec={"name": "tiny", "gone": 1}))
    newer = dispatcher()
    newer.turn()
    assert "gone: no such field" in now(database, study).reason
    ask(database, study, Action.CANCEL)
    until(newer, database, study, State.CANCELLED)
    assert ray.job(study.id).status == "STOPPED"


def test_a_head_that_hangs_is_away(dispatcher, database, ray, monkeypatch):
    monkeypatch.setattr("service.dispatch.jobs.TIMEOUT_SECONDS", 0.2)
    gate = threading.Event()
    ray.before_answer = lambda: gate.wait(30)
    study, acting = queued(database), dispatcher()
    acting.turn()
    assert now(database, study).state is State.QUEUED
    gate.set()
    until(acting, database, study, State.SUCCEEDED)
    assert ray.submissions == [study.id]


@pytest.mark.parametrize("pauses", [1, 4])
def test_a_resume_at_once_outlives_the_monitor_of_the_job_before(dispatcher, database, ray, pauses):
    """Ray writes FAILED into a record after its job was deleted: into no record that another attempt has."""
    ray.monitor_seconds, ray.epoch_seconds = 0.05, 0.03
    study, acting = queued(database), dispatcher()
    for _ in range(pauses):
        begun = until(acting, database, study, State.RUNNING).epochs_done
        while now(database, study).epochs_done <= begun:
            acting.turn()
            time.sleep(0.01)
        ask(database, study, Action.PAUSE)
        until(acting, database, study, State.PAUSED)
        ask(database, study, Action.RESUME)
    done = until(acting, database, study, State.SUCCEEDED, State.FAILED)
    assert (done.state, done.attempt, done.setbacks) == (State.SUCCEEDED, pauses + 1, 0)
    assert trained_once(ray, study)
    time.sleep(0.2)
    for _ in range(3):  # what the monitors wrote last is forgotten too
        acting.turn()
        time.sleep(0.1)
    assert ray.jobs == {}


@pytest.mark.parametrize("attempt", [1, 3])
def test_no_attempt_begins_while_a_job_of_another_one_runs(dispatcher, database, ray, attempt):
    """Also not beside one of a later attempt, as a database from yesterday's backup finds them."""
    ray.epoch_seconds = 60.0
    study, acting = queued(database), dispatcher()
    database.write(lambda c: store.update_study(c, store.load_study(c, study.id, to_change=True), attempt=1))
    stray = ray.jobs[f"{study.id}.attempt-{attempt}"] = FakeJob(study.id, attempt)
    acting._start(acting._jobs.reports())
    assert stray.stopped.is_set()
    assert (now(database, study).job, now(database, study).attempt) == (Job.SUBMITTING, 2)
    assert now(database, study).reason.startswith("waits until its earlier job has ended")
    for _ in range(3):
        acting.turn()
    assert ray.submissions == []
    stray.status = "STOPPED"
    until(acting, database, study, State.RUNNING)
    assert ray.submissions == [study.id]


def test_a_job_of_the_version_before_is_followed(dispatcher, database, ray):
    """Its id is its study's id."""
    ray.epoch_seconds = 0.05
    study, acting = queued(database), dispatcher()
    until(acting, database, study, State.RUNNING)
    ray.jobs[study.id] = ray.jobs.pop(f"{study.id}.attempt-1")
    until(dispatcher(), database, study, State.SUCCEEDED)
    assert ray.submissions == [study.id]
    acting.turn()
    assert ray.jobs == {}


def end_as_ray_does(ray, study, status):
    """End a study's job without an exit code."""
    job = ray.job(study.id)
    job.stopped.set()
    while job.status == "RUNNING":
        time.sleep(0.01)
    job.status = status


def at_once(database, study):
    """Have a study wait no longer."""
    database.write(lambda c: store.update_study(c, store.load_study(c, study.id), retry_at=0.0))


def test_a_job_that_somebody_stops_in_the_dashboard_is_no_setback_of_its_study(dispatcher, database, ray):
    """Five times, and it goes on."""
    ray.epoch_seconds = 600.0
    study, acting = queued(database), dispatcher(max_setbacks=3, max_lost_jobs=3)
    for _ in range(5):
        until(acting, database, study, State.RUNNING)
        end_as_ray_does(ray, study, "STOPPED")
        acting.turn()
        waits = now(database, study)
        assert (waits.state, waits.setbacks, waits.lost_jobs) == (State.QUEUED, 0, 0)
        assert waits.reason.startswith("its job was stopped")
        at_once(database, study)
    ray.epoch_seconds = 0.0
    until(acting, database, study, State.SUCCEEDED)


@pytest.mark.parametrize("restarts", [False, True], ids=["Ray ends its job", "the head restarts"])
def test_a_study_whose_jobs_ray_loses_waits_longer_each_time_and_fails_in_the_end(
    dispatcher, database, ray, monkeypatch, restarts
):
    monkeypatch.setattr("service.dispatch.outcome.LOST_SECONDS", (100.0, 300.0, 700.0))
    ray.epoch_seconds = 600.0
    study, acting = queued(database), dispatcher(max_setbacks=1, max_lost_jobs=4)
    pauses = []
    for lost in (1, 2, 3, 4):
        until(acting, database, study, State.RUNNING)
        end_as_ray_does(ray, study, "FAILED")
        if restarts:
            ray.jobs.clear()
        before = time.time()
        acting.turn()
        waits = now(database, study)  # after the first restart of a head the turn has submitted it again
        assert waits.setbacks == 0
        if lost == 4:
            break
        assert (waits.state is State.QUEUED, waits.lost_jobs) == (not restarts or lost > 1, lost)
        if lost > 1:
            assert f"lost {lost} times in a row without an epoch" in waits.reason
        pauses.append(max(0.0, waits.retry_at - before))
        at_once(database, study)
    assert pauses == pytest.approx([0.0 if restarts else 100.0, 300.0, 700.0], abs=60)
    assert waits.state is State.FAILED
    assert waits.reason.startswith("its job was lost 4 times in a row before it finished an epoch: Ray ")


def test_a_finished_epoch_begins_the_count_of_lost_jobs_anew(dispatcher, database, ray):
    study, acting = queued(database), dispatcher(max_lost_jobs=2)
    for epochs in (1, 2, 3, 4):
        ray.hold_after = epochs
        until(acting, database, study, State.RUNNING)
        eventually(lambda epochs=epochs: sum(ray.trained.values()) >= epochs)
        end_as_ray_does(ray, study, "FAILED")
        acting.turn()
        waits = now(database, study)
        assert (waits.state, waits.lost_jobs) == (State.QUEUED, 1)
        at_once(database, study)
    ray.hold_after = None
    until(acting, database, study, State.SUCCEEDED)


@pytest.mark.parametrize("hours", [-2.0, 2.0])
def test_a_dispatcher_whose_clock_is_wrong_is_alive_until_its_heartbeat_stops(database, monkeypatch, hours):
    """It dispatches on another machine; the watch has the clock of this one, and its own since when."""
    watch, now = waiting.HeartbeatWatch(), [100.0]
    monkeypatch.setattr("service.dispatch.waiting.time.monotonic", lambda: now[0])
    study = queued(database)

    def why(beats: bool) -> str:
        now[0] += 10.0
        if beats:
            seen_at = time.time() + hours * 3600 + now[0]
            beat = waiting.DispatcherStatus(holder="b", seen_at=seen_at, ray_ok=True, ray_detail="answers", ray_since=0)
            database.write(lambda connection: waiting.save_status(connection, beat))
        seen = database.read(watch.load)
        assert waiting.ray_dependency(seen).ok is not seen.silent
        return waiting.why_not_running(study, seen, Settings(), running=0, of_owner=0, position=1)

    assert why(beats=False) == "no service has started to dispatch studies yet"
    assert [why(beats=True) for _ in range(3)] == ["starts as soon as it is its turn"] * 3
    assert why(beats=False) == "starts as soon as it is its turn"
    assert "is it stuck or gone?" in why(beats=False)
    assert why(beats=True) == "starts as soon as it is its turn"
