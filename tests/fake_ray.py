"""A Ray head for tests: its REST API for jobs, and jobs that write a study's journal as a real one does, but faster."""

import json
import re
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lncis.studies.budget import Spending
from lncis.studies.record.journal import (
    End,
    EpochFinished,
    Journal,
    SessionEnded,
    SessionStarted,
    TrialEnded,
    TrialStarted,
    WorkerGroupsUp,
)
from lncis.studies.record.requests import read_requests
from lncis.studies.spec import StudySpec
from lncis.studies.spec.files import load_stored_spec
from lncis.studies.stages.tree import StageTree


@dataclass
class FakeJob:
    study_id: str
    attempt: int
    status: str = "RUNNING"
    exit_code: int | None = None
    logs: str = ""
    ghost: bool = False
    """A record that a monitor wrote after its job was deleted: it has the job's id, and no metadata."""
    stopped: threading.Event = field(default_factory=threading.Event)


class FakeRay:
    """`epoch_seconds` paces its jobs; one whose study has `hold_after` epochs waits until that is changed."""

    def __init__(self, runs: Path, epoch_seconds: float = 0.0) -> None:
        self.runs, self.epoch_seconds = runs, epoch_seconds
        self.hold_after: int | None = None
        self.jobs: dict[str, FakeJob] = {}
        """By their ids, of all attempts."""
        self.monitor_seconds: float | None = None
        """As Ray: so long after a job was deleted its monitor writes that it failed, into the record with its id."""
        self.submissions: list[str] = []
        self.refused: list[str] = []
        self.trained: Counter[tuple[str, str, int]] = Counter()
        self.exits: dict[int | str, tuple[int, str]] = {}
        """Attempt, or study -> exit code and last line, of a job that ends before it does anything."""
        self.held_hours = 0.0
        """For which each session holds a worker, by its journal."""
        self.report_seconds = 0.0
        """Between the end of a journal and that of its job."""
        self.report_exits: dict[int, tuple[int, str]] = {}
        """Attempt -> exit code and last line of a job that dies when nothing is left to train."""
        self.before_answer = lambda: None
        self.at_once: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.start()

    def job(self, study_id: str) -> FakeJob:
        """Return the job of a study's last attempt."""
        return max((job for job in self.jobs.values() if job.study_id == study_id), key=lambda job: job.attempt)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer("GET")

            def do_POST(self) -> None:
                self._answer("POST")

            def do_DELETE(self) -> None:
                self._answer("DELETE")

            def _answer(self, method: str) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
                code, answer = fake._call(method, self.path, body)
                fake.before_answer()
                content = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *said: Any) -> None:
                pass

        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def go_away(self) -> None:
        """Stop answering; jobs go on."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def kill_head(self) -> None:
        """Lose the table of jobs, and the jobs."""
        self.go_away()
        with self._lock:
            for job in self.jobs.values():
                job.stopped.set()
        while any(self.at_once.values()):
            time.sleep(0.01)
        self.jobs.clear()

    def _call(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        with self._lock:
            found = re.fullmatch(r"/api/jobs/(?:([^/]+)(/stop|/logs)?)?", path)
            assert found, path
            job_id, what = found[1], found[2]
            if job_id is None and method == "GET":
                return 200, [self._told(id, job) for id, job in self.jobs.items()]
            if job_id is None:
                return self._submit(body)
            job = self.jobs.get(job_id)
            if job is None:
                return 404, f"Job {job_id} does not exist"
            if what == "/logs":
                return 200, {"logs": job.logs}
            if what == "/stop":
                if job.status == "PENDING":  # as Ray: it cannot stop one that has not begun
                    return 200, {"stopped": False}
                job.stopped.set()
                return 200, {"stopped": True}
            assert method == "DELETE"
            assert job.status not in ("PENDING", "RUNNING")
            del self.jobs[job_id]
            if self.monitor_seconds is not None:
                threading.Timer(self.monitor_seconds, self._monitor, (job_id, job)).start()
            return 200, {"deleted": True}

    def _monitor(self, job_id: str, watched: FakeJob) -> None:
        """Write FAILED as Ray's `_monitor_job` does, once, after the job that it watched has gone."""
        if not watched.ghost:
            with self._lock:
                ghost = FakeJob(watched.study_id, watched.attempt, status="FAILED", ghost=True)
                self.jobs.setdefault(job_id, ghost).status = "FAILED"

    def _told(self, job_id: str, job: FakeJob) -> dict[str, Any]:
        return {
            "submission_id": job_id,
            "status": job.status,
            "metadata": None if job.ghost else {"lncis_attempt": str(job.attempt)},
            "message": "",
            "driver_exit_code": job.exit_code,
        }

    def _submit(self, body: Any) -> tuple[int, Any]:
        job_id, attempt = body["submission_id"], int(body["metadata"]["lncis_attempt"])
        study_id = job_id.removesuffix(f".attempt-{attempt}")
        if job_id in self.jobs:
            self.refused.append(study_id)
            return 500, f"ValueError: Job with submission_id {job_id} already exists. Please use a different one."
        assert f"--resume {study_id} " in body["entrypoint"]
        self.submissions.append(study_id)
        job = self.jobs[job_id] = FakeJob(study_id, attempt)
        self.at_once[study_id] += 1
        assert self.at_once[study_id] == 1, "a study runs twice"
        threading.Thread(target=self._run, args=(study_id, job), daemon=True).start()
        return 200, {"submission_id": job_id}

    def _run(self, study_id: str, job: FakeJob) -> None:
        try:
            status, code = self._end_of(study_id, job)
        except Exception as error:  # of a study that this fake cannot run, or whose folder was deleted
            status, code, job.logs = "FAILED", 1, repr(error)
        self.at_once[study_id] -= 1
        job.status, job.exit_code = status, code

    def _end_of(self, study_id: str, job: FakeJob) -> tuple[str, int | None]:
        """Do what a study's job does, and return its status and exit code."""
        if ended := self.exits.get(job.attempt) or self.exits.get(study_id):
            code, job.logs = ended
            return "FAILED", code
        if not (whole := self._train(study_id, job)) or job.stopped.wait(self.report_seconds):
            return "STOPPED", None
        if ended := self.report_exits.get(job.attempt):
            code, job.logs = ended
            return "FAILED", code
        if isinstance(whole, str):
            job.logs = f"error: 1 trials did not end: its budget is spent ({whole})"
            return "FAILED", 3
        return "SUCCEEDED", 0

    def _train(self, study_id: str, job: FakeJob) -> bool | str:
        """Write the journal from where it stands; False where the job was stopped, as by SIGKILL.

        Where its budget is spent, the limits that were reached.
        """
        folder = self.runs / study_id
        spec = load_stored_spec(folder / "spec.yaml")
        (folder / "mlflow.json").write_text(json.dumps({"experiment_id": "7", "run_id": f"run-of-{study_id}"}))
        with closing(Journal(folder)) as journal:
            return self._train_on(study_id, job, spec, folder, journal)

    def _train_on(self, study_id: str, job: FakeJob, spec: StudySpec, folder: Path, journal: Journal) -> bool:
        tree = StageTree(spec, folder / "stages")
        done = {(e.trial, int(e.record["epoch"])) for e in journal.events if isinstance(e, EpochFinished)}
        over = {e.trial for e in journal.events if isinstance(e, TrialEnded)}
        begun = {e.trial for e in journal.events if isinstance(e, TrialStarted)}
        journal.append(SessionStarted(worker_groups=1, versions={}, code="fake", storage=""))
        if self.held_hours:
            journal.append(WorkerGroupsUp(worker_groups=1))
            held = time.time() + 3600 * self.held_hours
            journal.append(WorkerGroupsUp(time=held, worker_groups=0))
        spending = Spending(spec)
        for configuration, overrides in enumerate(spec.grid):
            for trial in spec.trials(configuration, overrides):
                if trial.name in over:
                    continue
                if read_requests(folder).drain:
                    return False
                if trial.name not in begun:
                    journal.append(
                        TrialStarted(
                            configuration=configuration,
                            overrides=overrides,
                            seed=trial.seed,
                            noise_seed=trial.noise_seed,
                            fold=trial.fold,
                            baseline=None,
                            stages={task.key: task.until for task in tree.chain(trial)},
                            reused=[],
                        )
                    )
                stopped = ""
                for epoch in range(1, trial.config.schedule.epochs + 1):
                    if (trial.name, epoch) in done:
                        continue
                    asked = read_requests(folder).stop
                    while self._holds(study_id) and not job.stopped.wait(0.01) and trial.name not in asked:
                        asked = read_requests(folder).stop
                    if trial.name in asked:
                        stopped = f"stopped by {asked[trial.name]}"
                        break
                    if job.stopped.wait(self.epoch_seconds):
                        return False
                    if reached := spending.reached(journal.events, time.time()):
                        journal.append(SessionEnded(reason="its budget is spent", lost_seconds=0.0, spent=reached))
                        journal.close()
                        return reached
                    self.trained[study_id, trial.name, epoch] += 1
                    journal.append(
                        EpochFinished(trial=trial.name, record=record(configuration, trial.seed, epoch), reused=False)
                    )
                end = End.FAILED if stopped else End.FINISHED
                journal.append(TrialEnded(trial=trial.name, end=end, reason=stopped))
        journal.append(SessionEnded(reason="", lost_seconds=0.0))
        return True

    def _holds(self, study_id: str) -> bool:
        trained = sum(number for (study, _, _), number in self.trained.items() if study == study_id)
        return self.hold_after is not None and trained >= self.hold_after


def record(configuration: int, seed: int, epoch: int) -> dict[str, float]:
    """Return an epoch's figures: the second configuration is best, by 2 AP."""
    best = 10.0 + 2.0 * (configuration == 1) + 0.5 * seed
    ap = best * epoch / 4
    return {"epoch": float(epoch), "seconds": 0.1, "lr": 1e-3, "val/segm_AP": ap, "test/segm_AP": 2 * ap}


SPEC = {
    "name": "tiny",
    "base": {
        "schedule": {"epochs": 4},
        "dataset": {"type": "digits", "train_scenes": 8, "val_scenes": 4, "test_scenes": 4},
    },
    "search": {"loss.gamma": {"type": "categorical", "choices": [4.0, 6.0, 8.0]}},
    "seeds": [0, 1],
}
"""Six trials of four epochs."""
