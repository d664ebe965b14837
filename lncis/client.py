"""The service from Python: submit a study, follow it, get the best configurations.

    with Client() as service:
        study = service.submit(load(Path("studies/first.yaml")))
        for event in service.watch(study.id):
            print(event.type, event.data)
        print(service.best_yaml(study.id))

A refused request raises ServiceError with every mistake that the service named.
"""

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from lncis import documents
from lncis.api import (
    BestConfigurations,
    Configuration,
    Event,
    ExtensionPlan,
    ProblemDocument,
    Queue,
    QueueEntry,
    Removed,
    State,
    Study,
    StudyPage,
    StudySummary,
    Trial,
    TrialPage,
)
from lncis.backoff import backoff
from lncis.downloads import download
from lncis.errors import ConfigError, ServiceError
from lncis.service_paths import path_of_log, path_of_study, path_of_trial
from lncis.studies.spec import StudySpec

Answer = TypeVar("Answer", bound=BaseModel)
Page = TypeVar("Page", StudyPage, TrialPage)

URL, TOKEN = "LNCIS_SERVICE_URL", "LNCIS_TOKEN"
DEFAULT_URL = "http://127.0.0.1:8000"

PAGE_SIZE, LOG_BYTES = 200, 2**20
PLAN_TIMEOUT_SECONDS = 150.0
"""The service may take two minutes to see what an extension takes over."""
HEARTBEAT_TIMEOUT_SECONDS = 45.0
"""A stream of events sends something every 15 seconds; after so long without, it is broken."""
BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Before the next attempt to continue a stream."""


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
        self._timeout = timeout
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
        return self._read(Study, self._post("/studies", document, {"priority": priority}, key))

    def extend(self, study_id: str, changes: Mapping[str, Any], *, priority: int = 0, key: str | None = None) -> Study:
        """Return an extension of a finished study that was queued: dotted path of what differs -> value.

        ServiceError with every mistake, or where the study has not succeeded; with `key` as in `submit`.
        """
        answer = self._post(path_of_study(study_id, "extend"), {"set": changes}, {"priority": priority}, key)
        return self._read(Study, answer)

    def plan_extension(self, study_id: str, changes: Mapping[str, Any]) -> ExtensionPlan:
        """Return what an extension would do: what differs field by field, what is taken over, what is to train."""
        answer = self._post(path_of_study(study_id, "extend"), {"set": changes}, {"dry_run": "true"})
        return self._read(ExtensionPlan, answer)

    def get(self, study_id: str) -> Study:
        """Return a study as it is now."""
        return self._read(Study, self._ask("GET", path_of_study(study_id)))

    def list(
        self,
        *,
        state: State | None = None,
        owner: str | None = None,
        archived: bool = False,
        text: str = "",
        label: str | None = None,
    ) -> Iterator[StudySummary]:
        """Yield the studies, newest first; pages are requested as the caller iterates.

        With `archived` those that are archived, in place of the others; `text` is part of a name, id, owner or label.
        """
        asked = {"state": state, "owner": owner, "text": text or None, "label": label}
        for page in self._pages(StudyPage, "/studies", asked | {"archived": "true" if archived else None}):
            yield from page.studies

    def trials(self, study_id: str) -> Iterator[Trial]:
        """Yield the trials of a study in the order in which they were started."""
        for page in self._pages(TrialPage, path_of_study(study_id, "trials"), {}):
            yield from page.trials

    def best(self, study_id: str, *, top: int = 3) -> Sequence[Configuration]:
        """Return the best configurations: up to `top` finished ones, then up to `top` unfinished ones."""
        answer = self._ask("GET", path_of_study(study_id, "best"), params={"top": top})
        return self._read(BestConfigurations, answer).configurations

    def best_yaml(self, study_id: str, *, rank: int = 1) -> str:
        """Return one of the best configurations as a file that `lncis train` runs unchanged."""
        return self._ask("GET", path_of_study(study_id, "best"), params={"format": "yaml", "rank": rank}).text

    def queue(self) -> Sequence[QueueEntry]:
        """Return the studies that are not over, in the order in which they start, and why each one is not running."""
        return self._read(Queue, self._ask("GET", "/queue")).studies

    def checkpoint(
        self, study_id: str, path: Path, *, trial: str | None = None, rank: int = 1, timeout: float = 300.0
    ) -> Path:
        """Download the checkpoint of the best configuration, of the one with another `rank`, or of a trial, to `path`.

        What an earlier call received is not received again, unless the file has changed; the whole is compared with its
        digest. ServiceError where there is none, or nothing has come for `timeout` seconds.
        """
        where = path_of_study(study_id, "checkpoint") if trial is None else path_of_trial(study_id, trial, "checkpoint")

        @contextmanager
        def ask(headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
            params = {} if trial else {"rank": rank}
            with self._http.stream("GET", where, params=params, headers=headers) as answer:
                if answer.status_code != 416:
                    self._raise_for_problem(answer)
                yield answer

        return download(ask, path, source=self.url, timeout=timeout)

    def log(self, study_id: str, trial: str | None = None) -> Iterator[str]:
        """Yield the log of a study's driver from its beginning, or that of a trial, part by part; no line is cut."""
        offset, path = 0, path_of_log(study_id, trial)
        while True:
            answer = self._ask("GET", path, params={"offset": offset, "limit": LOG_BYTES})
            try:
                after, end = int(answer.headers["Log-Next"]), int(answer.headers["Log-End"])
            except (LookupError, ValueError) as error:
                raise ServiceError(f"{self.url} answered without Log-Next; is it this version of lncis?") from error
            yield answer.text
            if after >= end or after == offset:
                return
            offset = after

    def follow_log(
        self, study_id: str, trial: str | None = None, *, after: int = 0, timeout: float = 300.0
    ) -> Iterator[str]:
        """Yield the log of a study's driver, or of a trial, as it grows, until the study is over; as `watch` does."""
        for event in self._follow(f"{path_of_log(study_id, trial)}/follow", after, timeout, study_id):
            if event.type == "lines":
                yield str(event.data["text"])

    def cancel(self, study_id: str) -> Study:
        """Return a study after asking it to end for good; its results stay. Asking again changes nothing."""
        return self._read(Study, self._ask("POST", path_of_study(study_id, "cancel")))

    def pause(self, study_id: str) -> Study:
        """Return a running study after asking it to stop; its finished epochs stay. Asking again changes nothing."""
        return self._read(Study, self._ask("POST", path_of_study(study_id, "pause")))

    def resume(self, study_id: str) -> Study:
        """Return a paused study, now back in the queue; ServiceError if it is not paused."""
        return self._read(Study, self._ask("POST", path_of_study(study_id, "resume"), retry=False))

    def drain(self, study_id: str) -> Study:
        """Return a running study after asking it to pause once its running trials have ended; no other begins."""
        return self._read(Study, self._ask("POST", path_of_study(study_id, "drain")))

    def set_budget(self, study_id: str, limits: Mapping[str, float | None]) -> Study:
        """Return a study with other limits, such as `{"epochs": 120}`; None takes one away, others stay.

        One whose budget is spent goes back into the queue; for others the limits count from their next start.
        """
        answer = self._ask("PATCH", path_of_study(study_id), json={"budget": dict(limits)}, headers={"If-Match": "*"})
        return self._read(Study, answer)

    def stop_trial(self, study_id: str, trial: str) -> Trial:
        """Return a running trial after asking it to end; it counts as failed, with the user's name as the reason."""
        return self._read(Trial, self._ask("POST", path_of_trial(study_id, trial, "stop")))

    def archive(self, study_id: str) -> Study:
        """Return a study that lists leave out from now on; ServiceError where it is not over."""
        return self._read(Study, self._ask("POST", path_of_study(study_id, "archive")))

    def unarchive(self, study_id: str) -> Study:
        """Return a study that lists show again."""
        return self._read(Study, self._ask("POST", path_of_study(study_id, "unarchive")))

    def label(self, study_id: str, labels: Sequence[str]) -> Study:
        """Return a study with these labels in place of those that it had."""
        return self._read(Study, self._ask("PUT", path_of_study(study_id, "labels"), json={"labels": [*labels]}))

    def delete(self, study_id: str) -> Removed:
        """Delete a study that is over, with its results and checkpoints, and return what is left of it."""
        return self._read(Removed, self._ask("DELETE", path_of_study(study_id), retry=False))

    def watch(self, study_id: str, *, after: int = 0, timeout: float = 300.0) -> Iterator[Event]:
        """Yield the events of a study until it is over, beginning after an event; each event comes once.

        After a lost connection it continues with the next event. ServiceError if the service has not answered for
        `timeout` seconds; the study keeps running.
        """
        yield from self._follow(path_of_study(study_id, "events"), after, timeout, study_id)

    def _follow(self, path: str, after: int, timeout: float, study_id: str) -> Iterator[Event]:
        """Yield the events of a stream after one of them, to its end, however often the connection breaks."""
        pauses, last_answer, trouble = backoff(BACKOFF_SECONDS), time.monotonic(), ""
        while True:
            try:
                with self._http.stream(
                    "GET",
                    path,
                    headers={"Last-Event-ID": str(after)},
                    timeout=httpx2.Timeout(HEARTBEAT_TIMEOUT_SECONDS, connect=5.0),
                ) as answer:
                    if answer.status_code == 204:
                        return
                    if answer.status_code in (429, 503):
                        trouble = f"answers {answer.status_code}"
                    else:
                        self._raise_for_problem(answer)
                        for event in httpx2.EventSource(answer):
                            pauses, last_answer = backoff(BACKOFF_SECONDS), time.monotonic()
                            after = int(event.id) if event.event != "end" else after
                            yield Event(number=after, type=event.event, data=json.loads(event.data))
                            if event.event == "end":
                                return
                        pauses, last_answer = backoff(BACKOFF_SECONDS), time.monotonic()  # the stream's own end
            except httpx2.TransportError as error:
                trouble = str(error) or type(error).__name__
            if time.monotonic() - last_answer > timeout:
                raise ServiceError(
                    f"{self.url} has not answered for {timeout:.0f} s ({trouble}); {study_id} may still run"
                )
            time.sleep(next(pauses))

    def _post(
        self, path: str, document: Mapping[str, Any], params: Mapping[str, Any], key: str | None = None
    ) -> httpx2.Response:
        """Return the answer to a request that makes a study, which is made once however often it arrives."""
        return self._ask(
            "POST",
            path,
            timeout=max(self._timeout, PLAN_TIMEOUT_SECONDS) if path.endswith("/extend") else self._timeout,
            params=params,
            content=to_json(document, inf_nan_mode="constants"),
            headers={"Content-Type": "application/json", "Idempotency-Key": key or uuid.uuid4().hex},
        )

    def _ask(self, method: str, path: str, *, retry: bool = True, **more: Any) -> httpx2.Response:
        """Return a successful answer; if the connection breaks before it, `retry` once."""
        try:
            answer = self._http.request(method, path, **more)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.UnsupportedProtocol) as error:
            raise ServiceError(f"{self.url} does not answer ({error}); start it, or name another by {URL}") from error
        except httpx2.TransportError as error:
            if retry and not isinstance(error, httpx2.TimeoutException):
                return self._ask(method, path, retry=False, **more)
            raise ServiceError(f"{self.url} closed the connection: {error or type(error).__name__}") from error
        self._raise_for_problem(answer)
        return answer

    def _raise_for_problem(self, answer: httpx2.Response) -> None:
        if answer.is_success:
            return
        answer.read()
        try:
            problem = ProblemDocument.model_validate_json(answer.content)
        except ValidationError:
            raise ServiceError(
                f"{self.url} answered {answer.status_code} as the lncis service does not; does {URL} name it?",
                status=answer.status_code,
            ) from None
        mistakes = [": ".join(filter(None, (error.path, error.problem))) for error in problem.errors]
        mistakes += [f"{field.path}: was {field.earlier!r}, now {field.now!r}" for field in problem.differing]
        remedy = f" (set {TOKEN})" if answer.status_code == 401 else ""
        raise ServiceError(
            f"{self.url}: {problem.detail}{remedy}",
            status=answer.status_code,
            problems=mistakes,
            legal=[str(action) for action in problem.legal or []],
        )

    def _read(self, kind: type[Answer], answer: httpx2.Response) -> Answer:
        try:
            return kind.model_validate_json(answer.content)
        except ValidationError as error:
            raise ServiceError(
                f"{self.url} answered what this lncis does not understand; is it the lncis service, of this version?",
                status=answer.status_code,
            ) from error

    def _pages(self, kind: type[Page], path: str, query: Mapping[str, str | None]) -> Iterator[Page]:
        params: dict[str, Any] = {key: value for key, value in query.items() if value is not None}
        params["limit"] = PAGE_SIZE
        while True:
            page = self._read(kind, self._ask("GET", path, params=params))
            yield page
            if page.next_cursor is None:
                return
            params["cursor"] = page.next_cursor
