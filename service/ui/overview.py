"""What the page of all studies shows, read from the database."""

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from lncis.api import ENDED, Dependency, State
from service.api.links import run_url
from service.api.submission.presets import presets
from service.dispatch import waiting
from service.dispatch.waiting import DispatcherStatus
from service.settings import Settings
from service.store import findings, tables
from service.store import studies as store
from service.store.studies import Which
from service.store.tables import Study
from service.store.worker_hours import owners_over_quota
from service.ui import curves
from service.ui.views import seconds_left

ACTIVE_SHOWN, ENDED_SHOWN = 50, 25
"""Active studies; studies that are over, on a page."""
QUEUE_LOOKED_AT = 500
"""Active studies whose place in the queue a filtered page knows."""
RECENT_TRIALS = 60
"""In the small curve of a study."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which studies a reader wants to see: the query of the page of all studies."""

    state: State | None = None
    """Of those that are over."""
    text: str = ""
    label: str | None = None
    archived: bool = False
    before: int | None = None
    """Those that are over and older than this number."""

    @property
    def which(self) -> Which:
        """The studies in whatever state."""
        return Which(text=self.text, label=self.label, archived=self.archived)

    @property
    def filtered(self) -> bool:
        """Whether some are left out, beside those that usually are."""
        return self.which != store.ALL

    def query(self, **changes: Any) -> str:
        """Return the query of the page with changes, for the first of the studies that are over."""
        usual = {"state": self.state, "text": self.text or None, "label": self.label}
        wanted = usual | {"archived": "true" if self.archived else None} | changes
        given = {name: str(value) for name, value in wanted.items() if value is not None}
        return f"?{urlencode(given)}" if given else ""


def overview(
    connection: Connection, settings: Settings, status: DispatcherStatus, mlflow: Dependency, wanted: Wanted
) -> dict[str, Any]:
    """Return the active studies, why each one waits, and a page of the studies that are over."""
    running, which = store.list_studies_with_job(connection), wanted.which
    in_line = store.list_active_studies(connection, QUEUE_LOOKED_AT if wanted.filtered else ACTIVE_SHOWN)
    over_quota = owners_over_quota(connection, settings)
    queue = waiting.describe_queue(in_line, running, status, settings, over_quota)
    shown = store.list_active_studies(connection, ACTIVE_SHOWN, which) if wanted.filtered else in_line
    entries = {entry.id: entry for entry in queue.studies}
    over = replace(which, states=[wanted.state] if wanted.state in ENDED else ENDED)
    ended = store.list_studies(connection, over, before=wanted.before, limit=ENDED_SHOWN + 1)
    counts, anywhere = store.count_studies(connection, which), store.count_studies(connection)
    return {
        "queue": queue,
        "active": [
            {
                **_card(connection, settings, study),
                "position": entries[study.id].position if study.id in entries else None,
                "why": entries[study.id].why if study.id in entries else "it is far back in the queue",
            }
            for study in shown
        ],
        "active_total": sum(counts[state] for state in store.ACTIVE),
        "ended": [
            {**_card(connection, settings, study), "position": None, "why": study.reason}
            for study in ended[:ENDED_SHOWN]
        ],
        "older": ended[ENDED_SHOWN - 1].number if len(ended) > ENDED_SHOWN else None,
        "counts": counts,
        "anywhere": sum(anywhere.values()),
        "archived_total": sum(store.count_studies(connection, Which(archived=True)).values()),
        "wanted": wanted,
        "ended_states": ENDED,
        "ended_total": sum(counts[state] for state in ENDED),
        "presets": {name: str(spec.get("question", "")) for name, spec in presets(settings.presets).items()}
        if not any(anywhere.values())
        else {},
        "mlflow": mlflow,
        "mlflow_wanted": bool(settings.mlflow_tracking_uri),
        "mlflow_server": uri if (uri := settings.mlflow_tracking_uri.rstrip("/")).startswith("http") else "",
    }


def _card(connection: Connection, settings: Settings, study: Study) -> dict[str, Any]:
    """Return what a list shows of a study."""
    columns = tables.trials.c
    recent = connection.execute(
        sa.select(columns.number, columns.objective)
        .where(columns.study == study.number, columns.objective.is_not(None))
        .order_by(columns.number.desc())
        .limit(RECENT_TRIALS)
    ).all()
    spec = tables.studies.c.spec
    mode = connection.execute(
        sa.select(spec["objective"]["mode"].as_string()).where(tables.studies.c.number == study.number)
    ).scalar_one()
    return {
        "study": study,
        "mlflow_url": run_url(settings, study),
        "left": seconds_left(study, findings.seconds_an_epoch(connection, study)),
        "chart": curves.by_trial([(row.number, row.objective) for row in reversed(recent)], mode),
    }
