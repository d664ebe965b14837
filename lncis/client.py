"""The service from Python: submit a study, follow it, take the best configurations home.

    with Client() as service:
        study = service.submit(load(Path("studies/first.yaml")))
        for event in service.watch(study.id):
            print(event.type, event.data)
        print(service.best_yaml(study.id))

What the service refuses is a ServiceError with every mistake that it named.
"""

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import httpx2
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import to_json

from lncis import documents
from lncis.errors import ConfigError, ServiceError
from lncis.studies.spec import StudySpec

Answer = TypeVar("Answer")

URL, TOKEN = "LNCIS_SERVICE_URL", "LNCIS_TOKEN"
DEFAULT_URL = "http://127.0.0.1:8000"

PAGE = 200
SILENCE = 45.0
"""A stream of events shows a sign of life every 15 seconds; without one for so long it is broken."""
PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before the next attempt to go on with a stream."""

State = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a study is."""

    trials_total: int
    trials_started: int
    trials_finished: int
    trials_pruned: int
    trials_failed: int
    epochs_total: int
    epochs_done: int
    fraction: float


@dataclass(frozen=True, kw_only=True)
class OverSeeds:
    """A mean over seeds, with half of its 95 % confidence interval; None with one seed."""

    mean: float | None
    ci95: float | None
    seeds: int

    def __str__(self) -> str:
        spread = "" if self.ci95 is None else f" ± {self.ci95:.1f}"
        return "-" if self.mean is None else f"{self.mean:.1f}{spread}"


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best configuration so far, in few words."""

    metric: str
    label: str
    objective: OverSeeds
    status: str


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study as the service knows it; a list leaves out `spec` and `cost`."""

    id: str
    name: str
    owner: str
    state: State
    reason: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    priority: int
    legal: tuple[str, ...]
    progress: Progress
    best: Best | None
    mlflow_url: str | None
    last_event: int
    cost: dict[str, Any] | None = None
    spec: dict[str, Any] | None = None

    @property
    def over(self) -> bool:
        """Whether it succeeded, failed or was cancelled."""
        return self.state in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training."""

    name: str
    configuration: int
    label: str
    overrides: dict[str, Any]
    seed: int
    noise_seed: int | None
    state: str
    reason: str
    epoch: int
    epochs: int
    objective: float | None
    metrics: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One of the best; `status` is finished, running or unfinished."""

    rank: int
    status: str
    label: str
    overrides: dict[str, Any]
    objective: OverSeeds
    metrics: dict[str, OverSeeds]
    seeds_finished: int
    seeds_total: int
    epoch: int
    epochs: int
    config: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A study that is not over: its place among those that wait, and why it is not running."""

    position: int | None
    id: str
    state: State
    why: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened: state, trial_started, epoch_finished, trial_ended, trial_retried; the last is `end`."""

    number: int
    type: str
    data: dict[str, Any]


class Client:
    """The service at an address; close it, or use it as a context.

    Without arguments `$LNCIS_SERVICE_URL` is the address, else this machine's port 8000, and `$LNCIS_TOKEN` the token.
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, timeout: float = 30.0) -> None:
        self.url = (url or os.environ.get(URL) or DEFAULT_URL).rstrip("/")
        token = token or os.environ.get(TOKEN) or ""
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise ConfigError(URL, [f"must be an address such as {DEFAULT_URL} but got {self.url!r}"])
        if not (token.isascii() and token.isprintable()):
            raise ConfigError(TOKEN, ["must be printable ASCII, as it stands in the service's LNCIS_TOKENS"])
        self._http = httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=timeout,
            trust_env=urlsplit(self.url).hostname not in ("127.0.0.1", "::1", "localhost"),  # no proxy leads here
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def submit(self, study: StudySpec | Mapping[str, Any], *, priority: int = 0, key: str | None = None) -> Study:
        """Return a study that was queued.

        A mapping is what POST /studies takes: a study, or `{"preset": NAME, "set": {path: value}}`; what is relative in
        it is so to the service's folder, while a StudySpec names files by absolute paths. Submitted again
        with the same `key` it is the same study; another study with that key is a ServiceError naming what differs.
        """
        document = study if isinstance(study, Mapping) else documents.dump(study)
        answer = self._ask(
            "POST",
            "/studies",
            params={"priority": priority},
            content=to_json(document, inf_nan_mode="constants"),
            headers={"Content-Type": "application/json", "Idempotency-Key": key or uuid.uuid4().hex},
        )
        return self._read(Study, answer)

    def get(self, study_id: str) -> Study:
        """Return a study as it is now."""
        return self._read(Study, self._ask("GET", _path(study_id)))

    def list(self, *, state: State | None = None, owner: str | None = None) -> Iterator[Study]:
        """Yield the studies, newest first, as far as they are wanted."""
        return self._pages(Study, "/studies", "studies", {"state": state, "owner": owner})

    def trials(self, study_id: str) -> Iterator[Trial]:
        """Yield the trials of a study in the order in which they were started."""
        return self._pages(Trial, _path(study_id, "trials"), "trials", {})

    def best(self, study_id: str, *, top: int = 3) -> Sequence[Configuration]:
        """Return the best configurations: up to `top` that finished, then up to `top` that have not."""
        answer = self._ask("GET", _path(study_id, "best"), params={"top": top})
        return self._read(tuple[Configuration, ...], answer, "configurations")

    def best_yaml(self, study_id: str, *, rank: int = 1) -> str:
        """Return one of the best configurations as a file that `lncis train` runs unchanged."""
        return self._ask("GET", _path(study_id, "best"), params={"format": "yaml", "rank": rank}).text

    def queue(self) -> Sequence[Waiting]:
        """Return the studies that are not over, in the order in which they get their turn."""
        return self._read(tuple[Waiting, ...], self._ask("GET", "/queue"), "studies")

    def cancel(self, study_id: str) -> Study:
        """Return a study that ends for good; what it found stays. Asked again it changes nothing."""
        return self._read(Study, self._ask("POST", _path(study_id, "cancel")))

    def pause(self, study_id: str) -> Study:
        """Return a running study that stops; its finished epochs stay. Asked again it changes nothing."""
        return self._read(Study, self._ask("POST", _path(study_id, "pause")))

    def resume(self, study_id: str) -> Study:
        """Return a paused study that is back in the queue; ServiceError where it is not paused."""
        return self._read(Study, self._ask("POST", _path(study_id, "resume"), again=False))

    def watch(self, study_id: str, *, after: int = 0, patience: float = 300.0) -> Iterator[Event]:
        """Yield what happens to a study until it is over, beginning after an event; each event comes once.

        A lost connection is taken up again where it broke off. ServiceError where the service has not answered for
        `patience` seconds; the study goes on without anybody watching.
        """
        attempt, heard, trouble = 0, time.monotonic(), ""
        while True:
            try:
                with self._http.stream(
                    "GET",
                    _path(study_id, "events"),
                    headers={"Last-Event-ID": str(after)},
                    timeout=httpx2.Timeout(SILENCE, connect=5.0),
                ) as answer:
                    if answer.status_code == 204:
                        return
                    if answer.status_code in (429, 503):
                        trouble = f"answers {answer.status_code}"
                    else:
                        self._see_that_it_is_good(answer)
                        for said in httpx2.EventSource(answer):
                            attempt, heard = 0, time.monotonic()
                            after = int(said.id) if said.event != "end" else after
                            yield Event(number=after, type=said.event, data=json.loads(said.data))
                            if said.event == "end":
                                return
                        attempt, heard = 0, time.monotonic()  # the service ended it in order
            except httpx2.TransportError as error:
                trouble = str(error) or type(error).__name__
            if time.monotonic() - heard > patience:
                raise ServiceError(
                    f"{self.url} has not answered for {patience:.0f} s ({trouble}); {study_id} may go on"
                )
            time.sleep(PAUSES[min(attempt, len(PAUSES) - 1)])
            attempt += 1

    def _ask(self, method: str, path: str, *, again: bool = True, **more: Any) -> httpx2.Response:
        """Return a good answer; what may be asked `again` is, once, where the connection broke before the answer."""
        try:
            answer = self._http.request(method, path, **more)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.UnsupportedProtocol) as error:
            raise ServiceError(f"{self.url} does not answer ({error}); start it, or name another by {URL}") from error
        except httpx2.TransportError as error:
            if again and not isinstance(error, httpx2.TimeoutException):
                return self._ask(method, path, again=False, **more)
            raise ServiceError(f"{self.url} broke off ({error or type(error).__name__}); ask again") from error
        self._see_that_it_is_good(answer)
        return answer

    def _see_that_it_is_good(self, answer: httpx2.Response) -> None:
        if answer.is_success:
            return
        answer.read()
        try:
            problem = dict(answer.json())
            detail = str(problem["detail"])
        except (ValueError, TypeError, KeyError):
            raise ServiceError(
                f"{self.url} answered {answer.status_code} as the lncis service does not; does {URL} name it?",
                status=answer.status_code,
            ) from None
        mistakes = [": ".join(filter(None, (e["path"], e["problem"]))) for e in problem.get("errors", [])]
        mistakes += [f"{d['path']}: was {d['earlier']!r}, now {d['now']!r}" for d in problem.get("differing", [])]
        remedy = f" (set {TOKEN})" if answer.status_code == 401 else ""
        raise ServiceError(
            f"{self.url}: {detail}{remedy}",
            status=answer.status_code,
            problems=mistakes,
            legal=problem.get("legal"),
        )

    def _read(self, kind: type[Answer], answer: httpx2.Response, part: str | None = None) -> Answer:
        try:
            document = answer.json()
            return TypeAdapter(kind).validate_python(document if part is None else document[part])
        except (ValidationError, ValueError, TypeError, KeyError) as error:
            raise ServiceError(
                f"{self.url} answered what this lncis does not understand; is it the lncis service, of this version?",
                status=answer.status_code,
            ) from error

    def _pages(self, kind: type[Answer], path: str, name: str, asked: Mapping[str, str | None]) -> Iterator[Answer]:
        params: dict[str, Any] = {key: value for key, value in asked.items() if value is not None} | {"limit": PAGE}
        while True:
            answer = self._ask("GET", path, params=params)
            yield from self._read(tuple[kind, ...], answer, name)  # type: ignore[valid-type]
            params["cursor"] = self._read(dict[str, Any], answer).get("next_cursor")
            if params["cursor"] is None:
                return


def _path(study_id: str, part: str = "") -> str:
    """Return a study's path; an id that cannot be one gets no further."""
    if not (study_id.isascii() and study_id and all(c.isalnum() or c in "._-" for c in study_id)) or ".." in study_id:
        raise ConfigError("study", [f"an id has letters, digits, dots, dashes and underscores but got {study_id!r}"])
    return f"/studies/{study_id}" + (f"/{part}" if part else "")
