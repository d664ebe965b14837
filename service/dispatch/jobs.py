"""Where studies run: Ray's jobs, one a study, by the REST API of its dashboard.

Ray's own client waits without a limit for a head that hangs, and one study's wait would be everybody's; so the five
calls are made here, each with a time limit.
"""

import json
import os
import shlex
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from lncis.errors import LncisError
from service.settings import Settings


class RayAway(LncisError):
    """Ray does not answer, or does not understand; what was asked may have happened."""


class JobThere(LncisError):
    """There is a job of that id already."""


class Life(StrEnum):
    """Where a job is."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


OVER = (Life.SUCCEEDED, Life.FAILED, Life.STOPPED)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What Ray says of a job."""

    life: Life
    attempt: int
    """Which of the study's attempts it is."""
    exit_code: int | None = None
    message: str = ""


class Jobs(Protocol):
    """A place where jobs run; a job's id is its study's id. Every call may raise RayAway."""

    def reports(self) -> Mapping[str, Report]:
        """Return what is known of every job there."""

    def submit(self, study_id: str, attempt: int) -> None:
        """Start a job; JobThere where one of that id is known, running or over."""

    def stop(self, study_id: str) -> None:
        """Ask a job to end; one that has ended, or is not there, is left as it is."""

    def forget(self, study_id: str) -> None:
        """Drop what is known of a job that is over: its study may have another, or needs none any more."""

    def last_words(self, study_id: str) -> str:
        """Return the error that a job printed, or its last line; empty where there is nothing."""


ATTEMPT = "lncis_attempt"
PATIENCE = 10.0


class RayJobs:
    """The jobs of the Ray cluster whose dashboard a setting names."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._address = settings, settings.ray_address.rstrip("/")

    def reports(self) -> dict[str, Report]:
        """Return what Ray knows of every submitted job; its table is in the head's memory, and goes with the head."""
        return {
            job["submission_id"]: Report(
                life=Life(job["status"].lower()),
                attempt=int((job.get("metadata") or {}).get(ATTEMPT, 0)),
                exit_code=job.get("driver_exit_code"),
                message=job.get("message") or "",
            )
            for job in self._ask("GET", "/api/jobs/")
            if job.get("submission_id")
        }

    def submit(self, study_id: str, attempt: int) -> None:
        """Start `lncis study run --resume`, which begins a study as well as it goes on with one."""
        settings = self._settings
        command = [settings.job_python, "-m", "lncis", "study", "run", "--resume", study_id]
        command += ["--runs", str(settings.runs.absolute()), "--store-gb", f"{settings.store_gb:g}"]
        passed = {name: os.environ[name] for name in ("LNCIS_CACHE", "PYTHONPATH") if name in os.environ}
        if settings.mlflow_tracking_uri:
            passed["MLFLOW_TRACKING_URI"] = settings.mlflow_tracking_uri
        if settings.storage:
            passed["LNCIS_STORAGE"] = settings.storage
        job = {
            "entrypoint": shlex.join(command),
            "submission_id": study_id,
            "metadata": {ATTEMPT: str(attempt)},
            "runtime_env": {"env_vars": passed},
        }
        self._ask("POST", "/api/jobs/", job)

    def stop(self, study_id: str) -> None:
        """Ask a job to end: SIGTERM, and SIGKILL after 3 seconds. Ray cannot stop one that is pending: ask again."""
        self._ask("POST", f"/api/jobs/{quote(study_id)}/stop", missing=None)

    def forget(self, study_id: str) -> None:
        """Drop Ray's memory of a job that is over."""
        self._ask("DELETE", f"/api/jobs/{quote(study_id)}", missing=None)

    def last_words(self, study_id: str) -> str:
        """Return the error that a job printed, or its last line."""
        logs = self._ask("GET", f"/api/jobs/{quote(study_id)}/logs", missing={}).get("logs") or ""
        lines = [line.strip() for line in logs.splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return (errors or lines or [""])[-1][:2000]

    def _ask(self, method: str, path: str, body: Any = None, *, missing: Any = RayAway) -> Any:
        if not self._address:
            raise RayAway("RAY_ADDRESS is not set")
        request = urllib.request.Request(
            f"{self._address}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **_authorization()},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            said = _said(error)
            if error.code == 404 and missing is not RayAway:
                return missing
            if "already exists" in said:
                raise JobThere(said.splitlines()[-1]) from error
            raise RayAway(f"{self._address} answers {error.code}: {said.splitlines()[-1] if said else ''}") from error
        except (OSError, ValueError, HTTPException) as error:
            raise RayAway(f"{self._address} does not answer: {getattr(error, 'reason', error)}") from error


def _said(error: urllib.error.HTTPError) -> str:
    """Return what stands beside the code of an answer; nothing where it was cut."""
    with error, suppress(OSError, HTTPException):
        return error.read(2000).decode(errors="replace").strip()
    return ""


def _authorization() -> dict[str, str]:
    """Return the header of Ray's own token, found where Ray looks for it."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if not token and file.is_file():
        token = file.read_text().strip()
    return {"Authorization": f"Bearer {token}"}
