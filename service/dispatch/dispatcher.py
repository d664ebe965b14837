"""Starts studies, follows them, and ends them: one thread that brings the database and Ray to agree.

The database says what is wanted, Ray says what is, the journal says what was done; each turn looks at all three and
takes the steps that are missing. Nothing is remembered between turns that is not in one of them, so it does not matter
where a service is killed. "Submitting" is written before a job is submitted and "submitted" after it: what is found in
between may be there, and Ray, which takes an id once only, is asked before it is submitted again.
"""

import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sqlalchemy.engine import Connection

from lncis import documents, files
from lncis.errors import ConfigError, LncisError, StudyError
from lncis.studies import folders
from lncis.studies.spec import StudySpec
from service.dispatch import waiting
from service.dispatch.jobs import OVER, Jobs, JobThere, Life, RayAway, Report
from service.dispatch.outcome import Outcome, outcome
from service.dispatch.progress import Follower
from service.settings import Settings
from service.store import studies as store
from service.store.database import Database, DatabaseAway, Leadership
from service.store.states import ENDED, Job, State, Wanted
from service.store.studies import Study

log = logging.getLogger("lncis.service")

NOTE_SECONDS = 3.0
"""Between two signs of life in the database."""
SHORTEST_PAUSE = 0.1
"""Between two turns, however many studies come meanwhile."""
RETRY_SECONDS = 30.0
"""Until a study that could not be submitted is tried again."""
FORGOTTEN_AT_ONCE = 10
"""Jobs that a turn has Ray forget: each is a call, and a service that was away may find many."""


class Dispatcher:
    """The one of all services on a database that acts; the others look on until it is gone."""

    def __init__(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        self._settings, self._database, self._jobs = settings, database, jobs
        self._leadership = Leadership(database.engine)
        self._name = f"{socket.gethostname()}, process {os.getpid()}"
        self._seen = replace(waiting.NOBODY, holder=self._name, ray_since=time.time())
        self._followers: dict[str, Follower] = {}
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Begin to act, or to wait for the turn."""
        self._thread.start()

    def wake(self) -> None:
        """Take the next turn at once."""
        self._wake.set()

    def stop(self) -> None:
        """Finish the turn and leave the rest to whoever comes; jobs go on."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                if self._leadership.held():
                    self.turn()
                else:
                    self._followers.clear()  # another service copies their journals now
            except LncisError as error:
                log.warning("%s", error)
            except Exception:  # a mistake with one study must not leave all others waiting
                log.exception("a turn of the dispatcher failed")
            self._stop.wait(min(SHORTEST_PAUSE, self._settings.poll_seconds))
            self._wake.wait(self._settings.poll_seconds)
        self._leadership.release()

    def turn(self) -> None:
        """Look once, and do what is to be done."""
        reports = self._look()
        studies = self._database.read(store.with_job)
        for study in studies:
            try:
                self._settle(study, reports)
            except DatabaseAway:
                raise
            except (LncisError, OSError) as error:  # what it did before shows in the next turn; others need not wait
                log.warning("study %s: %s", study.id, error)
            except Exception:
                log.exception("study %s could not be looked at", study.id)
        if reports is not None:
            self._tidy({study.id for study in studies}, reports)
            self._start(reports)

    def _look(self) -> Mapping[str, Report] | None:
        """Return Ray's jobs, None while it is away; note which."""
        reports: Mapping[str, Report] | None = None
        try:
            reports, detail = self._jobs.reports(), "answers"
        except RayAway as error:
            detail = str(error)
        now, ok = time.time(), reports is not None
        since = self._seen.ray_since if ok == self._seen.ray_ok else now
        seen = waiting.Outlook(holder=self._name, seen_at=now, ray_ok=ok, ray_detail=detail, ray_since=since)
        if replace(seen, seen_at=self._seen.seen_at) != self._seen or now - self._seen.seen_at > NOTE_SECONDS:
            self._database.write(lambda connection: waiting.note_outlook(connection, seen))
            self._seen = seen
        return reports

    def _settle(self, study: Study, reports: Mapping[str, Report] | None) -> None:
        """Bring one study to agree with its job."""
        if study.job is Job.NONE:
            return
        report = reports.get(study.id) if reports is not None else None
        try:
            self._catch_up(study)
        except (StudyError, ConfigError, OSError) as error:
            self._unreadable(study, report, error, heard=reports is not None)
            raise
        if reports is None:
            self._away(study)
            return
        if report is not None and report.attempt < study.attempt:
            self._clear_earlier(study, report)
            report = None
            if study.job is Job.SUBMITTING:
                return  # the next turn finds no job, and submits one
        if report is None and study.job is Job.SUBMITTING:
            self._never_arrived(study)
        elif report is not None and report.life not in OVER:
            self._runs(study, report)
        else:
            self._over(study, report)

    def _unreadable(self, study: Study, report: Report | None, error: Exception, *, heard: bool) -> None:
        """What a study did cannot be read: it says so, and ends with its job. A file system may come back: wait."""
        if heard and (report is None or report.life in OVER):
            if study.wanted is Wanted.CANCEL:
                self._change(study, state=State.CANCELLED, job=Job.NONE, reason="cancelled")
                return
            if not isinstance(error, OSError):
                self._change(study, state=State.FAILED, job=Job.NONE, reason=str(error))
                return
        elif heard and study.wanted is not Wanted.RUN:
            self._jobs.stop(study.id)
        if study.reason != (reason := f"what it did cannot be read: {error}"):
            self._change(study, reason=reason)

    def _away(self, study: Study) -> None:
        silent = time.time() - self._seen.ray_since
        if study.state is State.RUNNING and silent > self._settings.ray_grace_seconds:
            reason = f"Ray is away ({self._seen.ray_detail}); it goes on where it was when Ray is back"
            self._change(study, state=State.QUEUED, reason=reason)

    def _clear_earlier(self, study: Study, report: Report) -> None:
        """An earlier attempt of the study has its id: it must be over and forgotten before the next one."""
        if report.life in OVER:
            self._jobs.forget(study.id)
        else:
            self._jobs.stop(study.id)

    def _never_arrived(self, study: Study) -> None:
        if study.wanted is Wanted.CANCEL:
            self._change(study, state=State.CANCELLED, reason="cancelled", job=Job.NONE)
        else:
            self._submit(study)

    def _runs(self, study: Study, report: Report) -> None:
        if study.wanted is not Wanted.RUN:
            self._jobs.stop(study.id)
            reason = "is being paused" if study.wanted is Wanted.PAUSE else "is being cancelled"
        else:
            reason = "its job waits for a place in Ray" if report.life is Life.PENDING else ""
        if (study.state, study.job, study.reason) != (State.RUNNING, Job.SUBMITTED, reason):
            self._change(study, state=State.RUNNING, job=Job.SUBMITTED, reason=reason)

    def _over(self, study: Study, report: Report | None) -> None:
        """A job ended, or Ray no longer knows it; the journal says how far it came."""
        follower = self._catch_up(study, final=True)
        study = self._database.read(lambda connection: store.get(connection, study.id))
        words = self._jobs.last_words(study.id) if report is not None and report.life is Life.FAILED else ""
        progressed = follower.epochs > study.epochs_at_start
        decided: Outcome = outcome(
            study, report, words, complete=follower.complete, progressed=progressed, settings=self._settings
        )
        self._change(study, job=Job.NONE, **decided)
        del self._followers[study.id]

    def _start(self, reports: Mapping[str, Report]) -> None:
        """Give the free places to those that wait, by priority and then in the order in which they came."""
        running = self._database.read(store.with_job)
        by_owner = Counter(study.owner for study in running)
        for _ in range(self._settings.max_running - len(running)):
            full = [owner for owner, number in by_owner.items() if number >= self._settings.max_running_per_user]
            study = self._database.write(lambda connection, full=full: _begin(connection, full))  # type: ignore[misc]
            if study is None:
                return
            by_owner[study.owner] += 1
            try:
                if study.id in reports:  # of an earlier attempt
                    self._clear_earlier(study, reports[study.id])
                else:
                    self._submit(study)
            except (RayAway, JobThere) as error:
                log.warning("study %s: %s", study.id, error)

    def _submit(self, study: Study) -> None:
        """Submit a study of which "submitting" is written."""
        try:
            spec = self._spec(study)
        except ConfigError as error:
            self._wait(study, f"this version of the service does not understand what it is to do ({error}); cancel it")
            return
        try:
            self._write_spec(study, spec)
        except (ConfigError, OSError) as error:
            self._wait(study, f"its folder cannot be written: {error}")
            return
        try:
            self._jobs.submit(study.id, study.attempt)
        except RayAway as error:  # it may have arrived all the same: the next turn asks
            self._change(study, reason=f"Ray has not taken it yet: {error}")
            raise
        self._change(study, state=State.RUNNING, job=Job.SUBMITTED, reason="its job waits for a place in Ray")
        log.info("study %s: attempt %d submitted", study.id, study.attempt)

    def _wait(self, study: Study, reason: str) -> None:
        """Have a study that cannot be submitted make room for others, and try again."""
        self._change(study, state=State.QUEUED, job=Job.NONE, reason=reason, retry_at=time.time() + RETRY_SECONDS)

    def _write_spec(self, study: Study, spec: StudySpec) -> None:
        """Leave the spec in the study's folder, where its job looks for it."""
        folder = folders.claim(self._settings.runs, study.id, spec)
        if folders.read_spec(self._settings.runs, study.id) != spec:  # another max_concurrent_trials
            files.replace(folder / folders.SPEC, documents.to_yaml(spec))

    def _spec(self, study: Study) -> StudySpec:
        document = self._database.read(lambda connection: store.spec_of(connection, study))
        return documents.parse(StudySpec, document, source=study.id)

    def _catch_up(self, study: Study, *, final: bool = False) -> Follower:
        """Copy what is new in a study's journal, and return who follows it; one that failed is not asked again."""
        follower = self._followers.pop(study.id, None)
        if follower is None:
            follower = Follower(study.id, self._spec(study), self._settings.runs)
        follower.catch_up(self._database, final=final)
        self._followers[study.id] = follower
        return follower

    def _tidy(self, with_job: set[str], reports: Mapping[str, Report]) -> None:
        """Stop jobs that arrived after they had been given up; have Ray forget those of studies that have ended."""
        ours = [study_id for study_id, report in reports.items() if report.attempt and study_id not in with_job]
        states = self._database.read(lambda connection: store.jobless(connection, ours)) if ours else {}
        over = [study_id for study_id in states if reports[study_id].life in OVER]
        for study_id in states.keys() - over:
            self._jobs.stop(study_id)
        for study_id in [study_id for study_id in over if states[study_id] in ENDED][:FORGOTTEN_AT_ONCE]:
            with suppress(RayAway):  # Ray lists it again in the next turn
                self._jobs.forget(study_id)

    def _change(self, study: Study, **columns: Any) -> None:
        """Change a study unless it is over by now; what people asked of it meanwhile stays."""

        def write(connection: Connection) -> None:
            now = store.get(connection, study.id, to_change=True)
            if now.state in ENDED:
                return
            waits = columns.get("job") is Job.NONE and columns.get("state") is State.QUEUED
            stopped = _STOPPED.get(now.wanted, {}) if waits else {}
            store.change(connection, now, **{**columns, **stopped})  # a new dict: a write may be called again

        self._database.write(write)


_STOPPED: dict[Wanted, dict[str, Any]] = {
    Wanted.PAUSE: {"state": State.PAUSED, "reason": "paused"},
    Wanted.CANCEL: {"state": State.CANCELLED, "reason": "cancelled"},
}
"""What becomes of a study that would wait for another job, but is wanted to stop."""


def _begin(connection: Connection, full: list[str]) -> Study | None:
    """Write of the study whose turn it is that it is about to be submitted; None where none waits."""
    found = store.next_in_line(connection, without=full)
    study = found and store.get(connection, found.id, to_change=True)
    if study is None or study.state is not State.QUEUED or study.job is not Job.NONE:  # cancelled just now
        return None
    return store.change(
        connection,
        study,
        job=Job.SUBMITTING,
        attempt=study.attempt + 1,
        epochs_at_start=study.epochs_done,
        reason="is being submitted to Ray",
    )
