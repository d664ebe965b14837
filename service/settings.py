"""Settings: what `python -m service` reads from the environment, once, before anything starts."""

import ipaddress
import logging
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import field
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from lncis import documents
from lncis.config import STRICT_KEYS
from lncis.errors import ConfigError
from service.auth import Token, parse_tokens

log = logging.getLogger("lncis.service")


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Settings:
    """Environment variables: `LNCIS_` and the field's name in capitals, unless the field names another one."""

    host: str = "127.0.0.1"
    """Address to listen on; without tokens it must be this machine's own (loopback)."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and prints it."""
    root_path: str = Field(default="", pattern=r"^(/[A-Za-z0-9._~-]+)*$")
    """Prefix under which a proxy shows the service, such as /lncis; the option --root-path says it too."""
    database_url: str = "sqlite:///lncis.db"
    """Where studies are kept: `sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql+psycopg://...`."""
    runs: Path = Path("runs")
    """Folder of the studies' folders; this process and the cluster's head node must see it under the same path."""
    presets: Path = Path("studies")
    """Folder of the shipped studies (YAML)."""
    tokens: list[Token] = field(default_factory=list, repr=False)
    """`user:scope:secret` separated by commas, scope read or write; write may read. Empty: no tokens, loopback only."""
    data_roots: list[Path] = field(default_factory=list)
    """Folders, separated by colons, below which the files that a spec names must lie. Empty: a spec may name none."""
    max_running: int = Field(default=2, ge=1)
    """Studies that run at the same time."""
    max_running_per_user: int = Field(default=2, ge=1)
    """Studies of one user that run at the same time."""
    max_worker_hours_per_user: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Hours for which the studies of one user may hold workers, summed over them; then they wait. Unset: no limit."""
    worker_hours_days: int = Field(default=30, ge=1, le=3660)
    """The hours of so many days count, today (UTC) and those before."""
    max_trials: int = Field(default=10_000, ge=1)
    """Trainings that one study may ask for."""
    max_epochs: int = Field(default=10_000, ge=1)
    """Epochs that one training may ask for."""
    max_scenes: int = Field(default=10_000, ge=1)
    """Scenes that one split of the digits may ask for: they are composed in memory."""
    max_image_size: int = Field(default=4096, ge=32)
    """Pixels of the longer image side that one training may ask for."""
    max_batch_size: int = Field(default=1024, ge=1)
    """Images an iteration that one training may ask for."""
    max_body_bytes: int = Field(default=256 * 1024, ge=1024)
    """Longest request body."""
    max_event_streams: int = Field(default=100, ge=1)
    """Event streams that are open at the same time."""
    event_stream_seconds: float = Field(default=600, gt=0)
    """After so long an event stream ends; its client reconnects with Last-Event-ID and misses nothing."""
    poll_seconds: float = Field(default=1.0, gt=0)
    """Between two turns of the dispatcher, which reads Ray's jobs and the journals of running studies."""
    ray_grace_seconds: float = Field(default=30.0, ge=0)
    """After so long without an answer of Ray, its studies are shown as queued until it answers."""
    max_setbacks: int = Field(default=3, ge=1)
    """A study fails when so many of its jobs in a row died without finishing an epoch."""
    max_lost_jobs: int = Field(default=8, ge=1)
    """A study fails when Ray lost so many of its jobs in a row before they finished an epoch."""
    job_python: str = sys.executable
    """The Python that runs a study on the head node; it must have lncis."""
    store_gb: float = Field(default=20.0, ge=0)
    """Room for finished stages of all studies."""
    storage: str = field(default="", repr=False)
    """URL below which studies publish stages and checkpoints, such as s3://bucket/lncis, without credentials; empty: in
    `runs`."""
    ray_address: str = ""
    """`$RAY_ADDRESS`, the address of Ray's dashboard such as http://127.0.0.1:8265; empty: studies wait."""
    mlflow_tracking_uri: str = ""
    """`$MLFLOW_TRACKING_URI`, without credentials; an http address is linked to."""

    notify_url: str = field(default="", repr=False)
    """Where the service sends a signed POST when a study has ended, failed, or waits too long; empty: nowhere."""
    notify_secret: str = field(default="", repr=False)
    """The key of those signatures, at least 16 characters."""
    notify_waiting_seconds: float = Field(default=3600.0, gt=0)
    """A study that has been in the queue for so long waits too long."""

    @model_validator(mode="after")
    def _notices_signed(self) -> "Settings":
        if self.notify_url and not self.notify_url.startswith(("http://", "https://")):
            raise ValueError("notify_url must be an http address such as https://hooks.example/lncis")
        if self.notify_url and len(self.notify_secret) < 16:
            raise ValueError("notify_secret must have at least 16 characters, as LNCIS_NOTIFY_URL is set")
        return self

    @model_validator(mode="after")
    def _loopback_without_tokens(self) -> "Settings":
        if not self.tokens and not is_loopback(self.host):
            raise ValueError(
                f"host must be a loopback address (127.0.0.1 or ::1) without tokens but got {self.host!r}; "
                "set LNCIS_TOKENS=user:write:secret"
            )
        if self.ray_address and not self.ray_address.startswith(("http://", "https://")):
            raise ValueError(
                f"ray_address must be the http address of Ray's dashboard, such as http://127.0.0.1:8265, but got "
                f"{self.ray_address!r}"
            )
        return self

    @model_validator(mode="after")
    def _without_credentials(self) -> "Settings":
        """Ray writes the environment of a job into its logs, and its dashboard shows it to every user."""
        if problems := [
            f"{variable(name)}: must be without credentials (user:password@, or a key, token or password after the ?) "
            f"as Ray logs the environment of a job; {remedy}"
            for name, remedy in _CREDENTIALS.items()
            if _has_credentials(getattr(self, name))
        ]:
            raise ValueError("\n".join(problems))
        return self


_CREDENTIALS = {
    "storage": "put them where the AWS tools look on each node: a role, ~/.aws, or AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY in the environment of the cluster",
    "mlflow_tracking_uri": "name a server, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the "
    "environment of the cluster",
}
"""Fields that jobs get -> where their credentials belong."""
_PASSWORD = re.compile(r"[^/:@]*:(?!\d+/)[^@]*@")  # which may hold a /, as AWS secrets do, where it is not quoted
_SECRET = re.compile(r"key|secret|token|passw|sig(nature)?$", re.IGNORECASE)


def _has_credentials(url: str) -> bool:
    place, _, query = url.partition("://")[2].partition("?")
    return bool(_PASSWORD.match(place)) or any(_SECRET.search(name) for name in parse_qs(query))


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


_OF_OTHERS = ("ray_address", "mlflow_tracking_uri")
"""Fields whose variables Ray and MLflow know too."""


def variable(name: str) -> str:
    """Return the environment variable of a field."""
    return name.upper() if name in _OF_OTHERS else f"LNCIS_{name.upper()}"


OTHERS_VARIABLES = frozenset(
    f"LNCIS_{name}"
    for name in (
        "CACHE",
        "COCO_EVAL",
        "SCRATCH",
        "SERVICE_URL",
        "TOKEN",
        "DATA",
        "DATA_SOURCE",
        "SHARED",
        "SHARED_SOURCE",
    )
)
"""What studies, the client and the cluster's scripts read."""


def _misspelt(environment: Mapping[str, str]) -> list[str]:
    """Return a problem for each variable that looks like a setting; log those that look like nothing."""
    known, problems = {variable(name) for name in Settings.__dataclass_fields__}, []
    for name in sorted(environment):
        if name.startswith("LNCIS_") and name not in known | OTHERS_VARIABLES:
            short = {setting.removeprefix("LNCIS_"): setting for setting in known}
            if near := get_close_matches(name.removeprefix("LNCIS_"), short, n=1, cutoff=0.75):
                problems.append(f"{name}: no such variable; did you mean {short[near[0]]}?")
            else:
                log.warning("%s: the service has no such variable; docs/service.md lists them", name)
    return problems


def _missing_folders(settings: Settings, given: Collection[str]) -> list[str]:
    """Return a problem for each folder that is named and not there; that of runs is made, but not those above it."""
    named = {"presets": [settings.presets], "data_roots": settings.data_roots, "runs": [settings.runs.parent]}
    return [
        f"{variable(name)}: must name a folder, but there is none at {folder}; correct or make it"
        for name, folders in named.items()
        if name in given
        for folder in folders
        if not folder.is_dir()
    ]


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Return the settings in an environment; ConfigError names every variable that is wrong."""
    if problems := _misspelt(environment):
        raise ConfigError("environment", problems)
    given: dict[str, Any] = {
        name: environment[variable(name)]
        for name in Settings.__dataclass_fields__
        if environment.get(variable(name), "") != ""
    }
    if "tokens" in given:
        given["tokens"] = parse_tokens(given["tokens"])
    if "data_roots" in given:
        given["data_roots"] = [root for root in given["data_roots"].split(":") if root]
    try:
        settings = documents.parse(Settings, given, source="environment")
    except ConfigError as error:
        spelt = [_spelt(problem, given) for problem in error.problems]
        raise ConfigError("environment", spelt) from None
    if problems := _missing_folders(settings, given):
        raise ConfigError("environment", problems)
    return settings


def _spelt(problem: str, given: Mapping[str, Any]) -> str:
    name, colon, rest = problem.partition(":")
    return f"{variable(name)}{colon}{rest}" if name in given else problem
