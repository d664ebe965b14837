"""Starts studies, follows them and ends them: one thread that brings the database and Ray into agreement.

The database says what is wanted, Ray says what runs, the journal says what is done; each turn reads all three and takes
the missing steps. Nothing else is remembered between turns, so a service may be killed anywhere. docs/dispatcher.md has
the rules.
"""

import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sqlalchemy.engine import Connection

from lncis import documents
from lncis.api import ENDED, State
from lncis.errors import ConfigError, LncisError, StudyError
from lncis.studies import folders
from lncis.studies.record.logs import DRIVER, LOGS, Log
from lncis.studies.record.requests import Requests, write_requests
from lncis.studies.spec import StudySpec
from service.dispatch import waiting
from service.dispatch.jobs import JobReport, Jobs, JobStatus, JobThere, RayAway, Reports, error_message
from service.dispatch.outcome import Outcome, outcome
from service.dispatch.progress import Follower
from service.settings import Settings
from service.store import findings
from service.store import studies as store
from service.store.database import Database, DatabaseAway, Leadership
from service.store.states import Job, Wanted
from service.store.tables import Study
from service.store.worker_hours import owners_over_quota

log = logging.getLogger("lncis.service")

HEARTBEAT_SECONDS = 3.0
"""Between two heartbeats in the database."""
SHORTEST_PAUSE_SECONDS = 0.1
"""Between two turns, however many requests ask for the next one."""
RETRY_SECONDS = 30.0
"""Until a study that could not be submitted is submitted again."""
FORGET_BATCH_SIZE = 10
"""Jobs that Ray is told to forget in one turn: each is a request, and there may be many after a restart."""
OUTPUT_CHARACTERS = 16_384
"""Of what a job printed that died, kept in the study's log."""


class Dispatcher:
    """Dispatches studies for one of the services on a database; the other services wait until that one is gone."""

    def __init__(self, settings: Settings, database: Database, jobs: Jobs) -> None:
        self._settings, self._database, self._jobs = settings, database, jobs
        self._leadership = Leadership(database.engine)
        self._name = f"{socket.gethostname()}, process {os.getpid()}"
        self._seen = replace(waiting.NEVER_SEEN, holder=self._name, ray_since=time.time())
        self.heartbeats = waiting.HeartbeatWatch()
        self._followers: dict[str, Follower] = {}
        self._over_quota: Mapping[str, str] = {}  # owner -> why their studies wait, as of this turn
        self.leads = False
        """Whether this service dispatches, and no other on its database."""
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Take the next turn at once."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread after its turn; jobs keep running."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self.leads = self._leadership.held()
                if self.leads:
                    self.turn()
                else:
                    self._followers.clear()  # another service copies the journals now
                    self._database.read(self.heartbeats.load)
            except LncisError as error:
                log.warning("%s", error)
            except Exception:  # a mistake with one study must not leave all others waiting
                log.exception("a turn of the dispatcher failed")
            self._stop.wait(min(SHORTEST_PAUSE_SECONDS, self._settings.poll_seconds))
            self._wake.wait(self._settings.poll_seconds)
        self._leadership.release()

    def turn(self) -> None:
        """Read the state of everything once, and take every missing step."""
        reports = self._ask_ray()
        self._over_quota = self._database.read(lambda connection: owners_over_quota(connection, self._settings))
        studies = self._database.read(store.list_studies_with_job)
        for study in studies:
            try:
                self._reconcile(study, reports)
            except DatabaseAway:
                raise
            except (LncisError, OSError) as error:  # the next turn repeats it; other studies need not wait
                log.warning("study %s: %s", study.id, error)
            except Exception:
                log.exception("study %s could not be dispatched", study.id)
        if reports is not None:
            self._tidy({study.id: study for study in studies}, reports)
            self._start(reports)

    def _ask_ray(self) -> Reports | None:
        """Return Ray's jobs, None if it does not answer; write the heartbeat."""
        reports: Reports | None = None
        try:
            reports, detail = self._jobs.reports(), "answers"
        except RayAway as error:
            detail = str(error)
        now, ok = time.time(), reports is not None
        since = self._seen.ray_since if ok == self._seen.ray_ok else now
        seen = waiting.DispatcherStatus(holder=self._name, seen_at=now, ray_ok=ok, ray_detail=detail, ray_since=since)
        if replace(seen, seen_at=self._seen.seen_at) != self._seen or now - self._seen.seen_at > HEARTBEAT_SECONDS:
            self._database.write(lambda connection: waiting.save_status(connection, seen))
            self._seen = seen
        return reports

    def _reconcile(self, study: Study, reports: Reports | None) -> None:
        """Bring one study and its job into agreement."""
        if study.job is Job.NONE:
            return
        report, others = _of_attempt(study, reports or {})
        try:
            self._catch_up(study)
        except (StudyError, ConfigError, OSError) as error:
            self._unreadable(study, report, error, ray_answers=reports is not None)
            raise
        if reports is None:
            self._away(study)
            return
        if report is None and study.job is Job.SUBMITTING:
            self._never_arrived(study, others)
        elif report is not None and not report.over:
            self._runs(study, report)
        else:
            self._over(study, report)

    def _unreadable(self, study: Study, report: JobReport | None, error: Exception, *, ray_answers: bool) -> None:
        """Say that a journal cannot be read, and end the study with its job; wait for a file system that fails."""
        if ray_answers and (report is None or report.over):
            if study.wanted is Wanted.CANCEL:
                self._change(study, state=State.CANCELLED, job=Job.NONE, reason="")
                return
            if not isinstance(error, OSError):
                self._change(study, state=State.FAILED, job=Job.NONE, reason=str(error))
                return
        elif report is not None and study.wanted in (Wanted.PAUSE, Wanted.CANCEL):
            self._jobs.stop(report.job_id)
        if study.reason != (reason := f"its journal cannot be read: {error}"):
            self._change(study, reason=reason)

    def _away(self, study: Study) -> None:
        silence = time.time() - self._seen.ray_since
        if study.state is State.RUNNING and silence > self._settings.ray_grace_seconds:
            reason = f"Ray is away ({self._seen.ray_detail}); the study continues when Ray answers"
            self._change(study, state=State.QUEUED, reason=reason)

    def _never_arrived(self, study: Study, others: Sequence[JobReport]) -> None:
        if study.wanted is Wanted.CANCEL:
            self._change(study, state=State.CANCELLED, reason="", job=Job.NONE)
        else:
            self._submit(study, others)

    def _runs(self, study: Study, report: JobReport) -> None:
        self._pass_requests_on(study)
        if study.wanted is Wanted.DRAIN:
            reason = store.DRAINING
        elif study.wanted is not Wanted.RUN:
            self._jobs.stop(report.job_id)
            reason = "is being paused" if study.wanted is Wanted.PAUSE else "is being cancelled"
        elif held := self._over_quota.get(study.owner):
            self._jobs.stop(report.job_id)
            reason = held
        else:
            reason = "its job is pending in Ray" if report.status is JobStatus.PENDING else ""
        if (study.state, study.job, study.reason) != (State.RUNNING, Job.SUBMITTED, reason):
            self._change(study, state=State.RUNNING, job=Job.SUBMITTED, reason=reason)

    def _over(self, study: Study, report: JobReport | None) -> None:
        """Decide what follows a job that ended, or that Ray no longer knows."""
        follower = self._catch_up(study, final=True)
        study = self._database.read(lambda connection: store.load_study(connection, study.id))
        failed = report is not None and report.status is JobStatus.FAILED
        output = self._jobs.output(report.job_id) if report is not None and failed else ""
        progressed = follower.epochs > study.epochs_at_start
        decided: Outcome = outcome(
            study,
            report,
            error_message(output),
            complete=follower.complete,
            progressed=progressed,
            settings=self._settings,
            spent=follower.spent,
            raised=bool(follower.spent) and self._was_raised(study),
            held=self._over_quota.get(study.owner, ""),
        )
        if report is not None and failed and decided["state"] is not State.SPENT:
            self._keep_output(study, report.job_id, output)
        self._change(study, job=Job.NONE, **decided)
        del self._followers[study.id]

    def _was_raised(self, study: Study) -> bool:
        """Say whether a study has another budget now than its job, which has just ended, began with."""
        return folders.read_spec(self._settings.runs, study.id).budget != self._spec(study).budget

    def _keep_output(self, study: Study, job_id: str, output: str) -> None:
        """Write what a job printed before it died into the study's log: Ray forgets it, and a mistake may be there."""
        with Log(self._settings.runs / study.id / LOGS, DRIVER) as log:
            log.line(f"job {job_id} failed; the end of what it printed:")
            log.write(f"{output[-OUTPUT_CHARACTERS:].rstrip()}\n")

    def _start(self, reports: Reports) -> None:
        """Submit queued studies within the limits, by priority and then first come."""
        running = self._database.read(store.list_studies_with_job)
        by_owner = Counter(study.owner for study in running)
        for _ in range(self._settings.max_running - len(running)):
            full = [owner for owner, number in by_owner.items() if number >= self._settings.max_running_per_user]
            full += self._over_quota
            study = self._database.write(lambda connection, full=full: store.begin_next_study(connection, full))  # type: ignore[misc]
            if study is None:
                return
            by_owner[study.owner] += 1
            try:
                self._submit(study, _of_attempt(study, reports)[1])
            except (RayAway, JobThere) as error:
                log.warning("study %s: %s", study.id, error)

    def _submit(self, study: Study, others: Sequence[JobReport]) -> None:
        """Submit a study whose row says "submitting", once the jobs of its other attempts are over."""
        if run_still := [report.job_id for report in others if not report.over]:
            for job_id in run_still:
                self._jobs.stop(job_id)
            if study.reason != (reason := f"waits until its earlier job has ended: {', '.join(run_still)}"):
                self._change(study, reason=reason)
            return
        try:
            spec = self._spec(study)
        except ConfigError as error:
            self._postpone(study, f"this version of the service does not understand its spec ({error}); cancel it")
            return
        try:
            self._write_spec(study, spec)
            self._pass_requests_on(study)
        except (ConfigError, OSError) as error:
            self._postpone(study, f"its folder cannot be written: {error}")
            return
        try:
            self._jobs.submit(study.id, study.attempt)
        except RayAway as error:  # it may have arrived: the next turn asks
            self._change(study, reason=f"Ray has not confirmed its job yet: {error}")
            raise
        self._change(study, state=State.RUNNING, job=Job.SUBMITTED, reason="its job is pending in Ray")
        log.info("study %s: attempt %d submitted", study.id, study.attempt)

    def _postpone(self, study: Study, reason: str) -> None:
        """Put a study that cannot be submitted back into the queue for a while."""
        self._change(study, state=State.QUEUED, job=Job.NONE, reason=reason, retry_at=time.time() + RETRY_SECONDS)

    def _write_spec(self, study: Study, spec: StudySpec) -> None:
        """Write the spec into the study's folder, where its job reads it."""
        folders.claim_folder(self._settings.runs, study.id, spec, update=True)

    def _pass_requests_on(self, study: Study) -> None:
        """Have the study's driver know what users ask of it."""
        stop = self._database.read(lambda connection: findings.trials_to_stop(connection, study))
        requests = Requests(drain=study.wanted is Wanted.DRAIN, stop=stop)
        write_requests(self._settings.runs / study.id, requests)

    def _spec(self, study: Study) -> StudySpec:
        document = self._database.read(lambda connection: store.load_spec(connection, study))
        return documents.parse(StudySpec, document, source=study.id)

    def _catch_up(self, study: Study, *, final: bool = False) -> Follower:
        """Copy what is new in a study's journal and return its follower; after a failure the next one begins anew."""
        follower = self._followers.pop(study.id, None)
        if follower is None:
            follower = Follower(study.id, self._spec(study), self._settings)
        follower.catch_up(self._database, final=final)
        self._followers[study.id] = follower
        return follower

    def _tidy(self, with_job: Mapping[str, Study], reports: Reports) -> None:
        """Stop jobs that arrived after they were given up; make Ray forget those of other attempts and of the ended."""
        ids = [study_id for study_id in reports if study_id not in with_job]
        without = self._database.read(lambda connection: store.studies_without_job(connection, ids)) if ids else {}
        unneeded = []
        for study in [*with_job.values(), *without.values()]:
            report, others = _of_attempt(study, reports)
            if report is not None and study.id in without:
                others = [*others, report] if study.state in ENDED or not report.over else others
            unneeded += others
        for report in (report for report in unneeded if not report.over):
            self._jobs.stop(report.job_id)
        for report in [report for report in unneeded if report.over][:FORGET_BATCH_SIZE]:
            with suppress(RayAway):  # Ray lists it again in the next turn
                self._jobs.forget(report.job_id)

    def _change(self, study: Study, **columns: Any) -> None:
        """Change a study unless it is over by now; what users asked of it meanwhile wins."""

        def write(connection: Connection) -> None:
            now = store.load_study(connection, study.id, to_change=True)
            if now.state in ENDED:
                return
            waits = columns.get("job") is Job.NONE and columns.get("state") is State.QUEUED
            stopped = _STOPPED.get(now.wanted, {}) if waits else {}
            store.update_study(connection, now, **{**columns, **stopped})  # a new dict: a write may be called again

        self._database.write(write)


_STOPPED: dict[Wanted, dict[str, Any]] = {
    Wanted.PAUSE: {"state": State.PAUSED, "reason": ""},
    Wanted.DRAIN: {"state": State.PAUSED, "reason": ""},
    Wanted.CANCEL: {"state": State.CANCELLED, "reason": ""},
}
"""Changes of a study that would return to the queue, although a user stopped it."""


def _of_attempt(study: Study, reports: Reports) -> tuple[JobReport | None, list[JobReport]]:
    """Return the job of a study's present attempt, if Ray knows it, and those of its other attempts."""
    present, others = None, []
    for report in reports.get(study.id, ()):
        if report.attempt == study.attempt:
            present = report
        elif report.attempt:
            others.append(report)
    return present, others
