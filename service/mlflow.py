"""Where a study is found in MLflow, asked of its server by its REST API in a thread of its own.

The service never waits for MLflow: while it is away, studies have no link.
"""

import base64
import json
import logging
import threading
import time
import urllib.request
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from lncis.errors import LncisError
from service.settings import Settings
from service.store import tables
from service.store.database import Database

TAG = "lncis.study"  # lncis.tracking.STUDY_TAG; importing that loads MLflow
PATIENCE = 5.0
PAUSE = 5.0
AT_ONCE = 20

log = logging.getLogger("lncis.service")


class Mlflow:
    """What is known of a tracking server."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._uri, self._database = settings.mlflow_tracking_uri.rstrip("/"), database
        self._authorization = _authorization(settings)
        self.ok, self.detail, self.since = False, "has not been asked yet", time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)

    @property
    def served(self) -> bool:
        """Whether there is a server to ask and to link to."""
        return self._uri.startswith(("http://", "https://"))

    def start(self) -> None:
        """Begin to ask."""
        if self.served:
            self._thread.start()
        else:
            self.ok, self.detail = bool(self._uri), (self._uri and "a database, not a server") or "is not set"

    def stop(self) -> None:
        """Cease."""
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self._look()
                self._see(True, "answers")
            except (OSError, ValueError, KeyError, HTTPException) as error:
                self._see(False, f"does not answer: {error}")
            except LncisError as error:  # the database is away, MLflow is not
                log.warning("%s", error)
            self._stop.wait(PAUSE)

    def _see(self, ok: bool, detail: str) -> None:
        if ok != self.ok:
            self.since = time.time()
        self.ok, self.detail = ok, detail

    def _look(self) -> None:
        with self._answer(urllib.request.Request(f"{self._uri}/health")):
            pass
        for number, name, study_id in self._database.read(_without_link):
            if url := self._url(name, study_id):
                self._database.write(lambda c, number=number, url=url: _link(c, number, url))  # type: ignore[misc]

    def _url(self, name: str, study_id: str) -> str | None:
        where = f"{self._uri}/api/2.0/mlflow"
        experiments = self._ask(f"{where}/experiments/search", {"filter": f"name = '{name}'", "max_results": 1})
        for experiment in experiments.get("experiments", []):
            number = experiment["experiment_id"]
            wanted = {"experiment_ids": [number], "filter": f"tags.`{TAG}` = '{study_id}'", "max_results": 1}
            for run in self._ask(f"{where}/runs/search", wanted).get("runs", []):
                return f"{self._uri}/#/experiments/{quote(number)}/runs/{quote(run['info']['run_id'])}"
        return None

    def _ask(self, url: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with self._answer(request) as answer:
            return dict(json.load(answer))

    def _answer(self, request: urllib.request.Request) -> HTTPResponse:
        if self._authorization:
            request.add_unredirected_header("Authorization", self._authorization)
        answer: HTTPResponse = urllib.request.urlopen(request, timeout=PATIENCE)
        return answer


def _authorization(settings: Settings) -> str:
    """Return what MLflow's own client sends with the same variables: a user and password before a token."""
    if settings.mlflow_tracking_username and settings.mlflow_tracking_password:
        both = f"{settings.mlflow_tracking_username}:{settings.mlflow_tracking_password}"
        return f"Basic {base64.b64encode(both.encode()).decode()}"
    return settings.mlflow_tracking_token and f"Bearer {settings.mlflow_tracking_token}"


def _without_link(connection: Connection) -> list[tuple[int, str, str]]:
    """Return the latest studies that have begun and are not linked yet."""
    columns = tables.studies.c
    rows = connection.execute(
        sa.select(columns.number, columns.name, columns.id)
        .where(columns.mlflow_url.is_(None), columns.started_at > time.time() - 7 * 86400)
        .order_by(columns.started_at.desc())
        .limit(AT_ONCE)
    )
    return [(row.number, row.name, row.id) for row in rows]


def _link(connection: Connection, number: int, url: str) -> None:
    columns = tables.studies.c
    connection.execute(
        tables.studies.update().where(columns.number == number).values(mlflow_url=url, revision=columns.revision + 1)
    )
