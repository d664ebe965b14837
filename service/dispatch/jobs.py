"""Where studies run: Ray's jobs, one for each attempt at a study, by the REST API of its dashboard.

Ray's own client has no timeout, and while it waits for a head that hangs no study would be dispatched; so the five
requests are made here, each with a timeout.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import httpx2

from lncis.data_identity import ROOTS
from lncis.errors import LncisError
from service.settings import Settings


class RayAway(LncisError):
    """Ray does not answer, or answers with an error; what was asked may still have happened."""


class JobThere(LncisError):
    """There is a job with that id already."""


class JobStatus(StrEnum):
    """The status of a job, as Ray names it."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


JOB_OVER = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)


@dataclass(frozen=True, kw_only=True)
class JobReport:
    """What Ray says about a job."""

    job_id: str
    study_id: str
    attempt: int
    """The number of its study's attempt; 0: the job is no study's."""
    status: JobStatus
    exit_code: int | None = None
    """Of the process that ran the study; None if it was not that process that ended the job, but Ray or a user."""
    message: str = ""

    @property
    def over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.status in JOB_OVER


Reports = Mapping[str, Sequence[JobReport]]
"""Study -> its jobs, of all attempts."""


class Jobs(Protocol):
    """A place where jobs run, one for each attempt at a study. Every call may raise RayAway."""

    def reports(self) -> Reports:
        """Return the report of every known job."""

    def submit(self, study_id: str, attempt: int) -> None:
        """Start a job; JobThere if that attempt has one already, running or over."""

    def stop(self, job_id: str) -> None:
        """Ask a job to end; no effect on a job that is over or unknown."""

    def forget(self, job_id: str) -> None:
        """Drop the record of a job that is over."""

    def output(self, job_id: str) -> str:
        """Return what a job printed; empty if it printed nothing, or is unknown."""


ATTEMPT = "lncis_attempt"
_JOB_ID = re.compile(r"(?P<study>.+)\.attempt-(?P<attempt>[1-9][0-9]{0,8})")
TIMEOUT_SECONDS = 10.0


def job_id(study_id: str, attempt: int) -> str:
    """Return the id of an attempt's job.

    No two attempts share one: Ray's monitor of a job may write its end up to a second after that job was deleted, and
    would end the next job of the same id. What it writes then is a record that has the id and nothing else.
    """
    return f"{study_id}.attempt-{attempt}"


class RayJobs:
    """The jobs of the Ray cluster whose dashboard is at `ray_address`."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._address = settings, settings.ray_address.rstrip("/")
        # without idle connections: after a restart of the head they would fail
        self._http = httpx2.Client(limits=httpx2.Limits(max_keepalive_connections=0))

    def reports(self) -> dict[str, list[JobReport]]:
        """Return Ray's report of every submitted job; a head that restarts knows none."""
        found: dict[str, list[JobReport]] = {}
        for job in self._ask("GET", "/api/jobs/"):
            if job.get("submission_id"):
                report = _report(job)
                found.setdefault(report.study_id, []).append(report)
        return found

    def submit(self, study_id: str, attempt: int) -> None:
        """Start `lncis study run --resume`, which begins a new study or continues an old one."""
        settings = self._settings
        command = [settings.job_python, "-m", "lncis", "study", "run", "--resume", study_id]
        command += ["--runs", str(settings.runs.absolute()), "--store-gb", f"{settings.store_gb:g}"]
        passed = {name: os.environ[name] for name in ("LNCIS_CACHE", "PYTHONPATH") if name in os.environ}
        if settings.mlflow_tracking_uri:
            passed["MLFLOW_TRACKING_URI"] = settings.mlflow_tracking_uri
        if settings.storage:
            passed["LNCIS_STORAGE"] = settings.storage
        if settings.data_roots:
            passed[ROOTS] = ":".join(str(root.absolute()) for root in settings.data_roots)
        job = {
            "entrypoint": shlex.join(command),
            "submission_id": job_id(study_id, attempt),
            "metadata": {ATTEMPT: str(attempt)},
            "runtime_env": {"env_vars": passed},
        }
        self._ask("POST", "/api/jobs/", job)

    def stop(self, job_id: str) -> None:
        """Ask a job to end: SIGTERM, and SIGKILL after 3 seconds. Ray cannot stop one that is pending: ask again."""
        self._ask("POST", f"/api/jobs/{quote(job_id)}/stop", missing=None)

    def forget(self, job_id: str) -> None:
        """Drop Ray's record of a job that is over."""
        self._ask("DELETE", f"/api/jobs/{quote(job_id)}", missing=None)

    def output(self, job_id: str) -> str:
        """Return what a job printed."""
        return str(self._ask("GET", f"/api/jobs/{quote(job_id)}/logs", missing={}).get("logs") or "")

    def _ask(self, method: str, path: str, body: Any = None, *, missing: Any = RayAway) -> Any:
        if not self._address:
            raise RayAway("RAY_ADDRESS is not set")
        try:
            answer = self._http.request(
                method, f"{self._address}{path}", json=body, headers=_authorization(), timeout=TIMEOUT_SECONDS
            )
            if answer.is_success:
                return answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise RayAway(f"{self._address} does not answer: {error or type(error).__name__}") from error
        message = answer.text[:2000].strip()
        if answer.status_code == 404 and missing is not RayAway:
            return missing
        if "already exists" in message:
            raise JobThere(message.splitlines()[-1])
        raise RayAway(f"{self._address} answers {answer.status_code}: {message.splitlines()[-1] if message else ''}")


def error_message(output: str) -> str:
    """Return the error that a job printed, or its last line; empty if it printed nothing."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1][:2000]


def _report(job: Mapping[str, Any]) -> JobReport:
    named = _JOB_ID.fullmatch(job["submission_id"])
    return JobReport(
        job_id=job["submission_id"],
        study_id=named["study"] if named else job["submission_id"],  # as an earlier version of lncis named its jobs
        attempt=int(named["attempt"] if named else (job.get("metadata") or {}).get(ATTEMPT, 0)),
        status=JobStatus(job["status"].lower()),
        exit_code=job.get("driver_exit_code"),
        message=job.get("message") or "",
    )


def _authorization() -> dict[str, str]:
    """Return the header of Ray's own token, found where Ray looks for it."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if not token and file.is_file():
        token = file.read_text().strip()
    return {"Authorization": f"Bearer {token}"}
