"""Tells another server when a study has ended, failed, or waits too long: a signed POST, repeated until it is answered.

Where it goes is a setting of the service: a study cannot name an address, so no user makes the service send anything
anywhere. Redirects are not followed. A notice may come twice; `Lncis-Delivery` is the same both times.
"""

import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Callable
from itertools import islice

import httpx2
from pydantic_core import to_json

from lncis.api import StudySummary
from lncis.backoff import backoff
from lncis.errors import LncisError
from service.settings import Settings
from service.store import notices
from service.store.database import Database
from service.store.tables import Study

log = logging.getLogger("lncis.service")

POLL_SECONDS = 2.0
TIMEOUT_SECONDS = 10.0
BATCH_SIZE = 20
BACKOFF_SECONDS = (5.0, 30.0, 120.0, 600.0, 1800.0)
"""Before the next attempt."""
MAX_ATTEMPTS = 12
"""Then a notice is given up, after about four hours."""
OLD_SECONDS = 24 * 3600.0
"""What ended so long before the service knew whom to notify is not sent."""


class Notifier:
    """Sends what is due, in a thread of its own: who is slow to answer keeps no study waiting."""

    def __init__(self, settings: Settings, database: Database, leads: Callable[[], bool]) -> None:
        """Of several services on one database the one that dispatches sends (`leads`)."""
        self._settings, self._database, self._leads = settings, database, leads
        self._http = httpx2.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False)
        self._wait_again = 0.0  # a study that waits is no end: whoever cannot be reached is asked again in a while
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)

    def start(self) -> None:
        """Start the thread, if anybody is to be notified."""
        if self._settings.notify_url:
            self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=TIMEOUT_SECONDS + 5)
        self._http.close()

    def _run(self) -> None:
        forgot = False
        while not self._stop.wait(min(POLL_SECONDS, self._settings.poll_seconds * 10)):
            try:
                if self._leads():
                    if not forgot:
                        self._database.write(lambda connection: notices.forget_old_ends(connection, OLD_SECONDS))
                        forgot = True
                    self._send_due()
            except LncisError as error:
                log.warning("notices: %s", error)
            except Exception:
                log.exception("notices could not be sent")

    def _send_due(self) -> None:
        for study in self._database.read(lambda connection: notices.due_ends(connection, BATCH_SIZE)):
            if self._stop.is_set():
                return
            if self._send(study, study.state) or study.notice_attempts + 1 >= MAX_ATTEMPTS:
                self._database.write(lambda connection, study=study: notices.note_end_sent(connection, study))  # type: ignore[misc]
            else:
                pause = next(islice(backoff(BACKOFF_SECONDS), study.notice_attempts, None))
                self._database.write(
                    lambda connection, study=study, pause=pause: notices.postpone_end(connection, study, pause)  # type: ignore[misc]
                )
        seconds = self._settings.notify_waiting_seconds
        if time.monotonic() < self._wait_again:
            return
        for study in self._database.read(lambda connection: notices.due_waits(connection, seconds, BATCH_SIZE)):
            if self._stop.is_set():
                return
            if not self._send(study, "waiting"):
                self._wait_again = time.monotonic() + BACKOFF_SECONDS[0]
                return
            self._database.write(lambda connection, study=study: notices.note_wait_sent(connection, study))  # type: ignore[misc]

    def _send(self, study: Study, event: str) -> bool:
        """Say whether a notice was taken: answered by 2xx."""
        summary = StudySummary.model_validate(study)
        body = to_json({"event": event, "study": summary.model_dump(mode="json")})
        delivery = f"{study.id}.{event}.{study.state_since:.3f}"
        headers = {
            "Content-Type": "application/json",
            "Lncis-Delivery": delivery,
            "Lncis-Signature": signature(self._settings.notify_secret, body, int(time.time())),
        }
        try:
            answer = self._http.post(self._settings.notify_url, content=body, headers=headers)
        except httpx2.HTTPError as error:
            log.warning("notice %s: not taken (%s)", delivery, type(error).__name__)
            return False
        if not answer.is_success:
            log.warning("notice %s: answered %d", delivery, answer.status_code)
        return answer.is_success


def signature(secret: str, body: bytes, at: int) -> str:
    """Return what shows that a notice is from here, and from when: `t=TIME,v1=HMAC`.

    HMAC-SHA-256 with the secret over the time in seconds since 1970, a dot, and the body, in hex digits.
    """
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"
