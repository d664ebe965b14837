"""What the page of a study shows, read from the database."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from lncis import documents
from lncis.api import ENDED, Configuration, State
from lncis.studies.report.intervals import ONE_DRAW
from lncis.studies.report.result import of_one_draw
from lncis.studies.spec import StudySpec
from service.api.links import run_url
from service.dispatch import waiting
from service.dispatch.waiting import DispatcherStatus
from service.settings import Settings
from service.store import findings, tables
from service.store import studies as store
from service.store.best import best_configurations, configuration_yaml
from service.store.tables import Study
from service.store.trial_table import WHOLE_TABLE, Asked, read_table
from service.store.worker_hours import owners_over_quota
from service.ui import curves, parallel
from service.ui.importance import importance
from service.ui.suspects_page import gallery_of

TRIALS_SHOWN = 100
"""On a page of the table."""
CHILDREN_SHOWN = 20
"""Latest studies that extend it."""
BEST_SHOWN = 5
"""Finished configurations, and as many unfinished ones."""
CURVES, EPOCHS_SHOWN = 6, 600
"""Learning curves of a study; the last epochs of each."""
MOST_CURVES = 12
"""That a reader may pick."""
PARALLEL_TRIALS = 1500
"""Latest trials whose configurations are drawn in parallel coordinates."""
REASONS = 10
OTHERS = 50
"""Latest studies, with which one can be compared."""
SORT_NAMES = {
    "number": "number",
    "label": "configuration",
    "seed": "seed",
    "state": "state",
    "epoch": "epoch",
    "objective": "objective",
    "test": "test AP",
    "started_at": "start",
}
TRIAL_STATES = ("running", "unfinished", "finished", "pruned", "failed")
NOT_PLOTTED = {"epoch"}

FILES = {
    "report.html": "text/html; charset=utf-8",
    "best.yaml": "application/yaml",
    "table.txt": "text/plain; charset=utf-8",
    "table.csv": "text/csv; charset=utf-8",
    "results.json": "application/json",
}
"""The files in a study's folder that are served; no other file is."""


@dataclass(frozen=True, kw_only=True)
class StudyPage:
    """What a reader wants to see on the page of a study: the query of its address."""

    page: int = 1
    """Of the table of trials."""
    table: Asked = WHOLE_TABLE
    curves: tuple[int, ...] = ()
    """Numbers of the trials whose curves are drawn; none: those of the best configurations, and the newest ones."""
    metric: str | None = None
    """What the curves are of; None: the objective."""

    def query(self, **changes: Any) -> str:
        """Return the query of the page with changes; what is usual stands in none."""
        given = {name: value for name, value in (self._values() | changes).items() if value is not None}
        return f"?{urlencode(given, safe=',/')}" if given else "?"

    def fields(self, without: Collection[str]) -> list[tuple[str, Any]]:
        """Return what a form of this page must send beside its own fields."""
        return [(name, value) for name, value in self._values().items() if value is not None and name not in without]

    def _values(self) -> dict[str, Any]:
        return {
            "page": self.page if self.page > 1 else None,
            "sort": self.table.sort if self.table.sort != "number" else None,
            "order": "desc" if self.table.descending else None,
            "state": self.table.state,
            "text": self.table.text or None,
            "curves": ",".join(map(str, self.curves)) or None,
            "metric": self.metric,
        }


def study(
    connection: Connection, settings: Settings, status: DispatcherStatus, study_id: str, asked: StudyPage
) -> dict[str, Any]:
    """Return what the page of a study shows, with one page of its trials; UnknownStudy."""
    found = store.load_study(connection, study_id)
    document = store.load_spec(connection, found)
    spec = documents.parse(StudySpec, document, source=found.id)
    running, over_quota = store.list_studies_with_job(connection), owners_over_quota(connection, settings)
    queue = waiting.describe_queue([found], running, status, settings, over_quota)
    entries = best_configurations(connection, found, spec, BEST_SHOWN)
    skip = (asked.page - 1) * TRIALS_SHOWN
    table = read_table(connection, found, spec, asked.table, skip=skip, limit=TRIALS_SHOWN)
    pages = max(1, math.ceil(table.total / TRIALS_SHOWN))
    if asked.page > pages:
        asked, skip = replace(asked, page=pages), (pages - 1) * TRIALS_SHOWN
        table = read_table(connection, found, spec, asked.table, skip=skip, limit=TRIALS_SHOWN)
    columns = tables.trials.c
    objectives = connection.execute(
        sa.select(columns.number, columns.objective).where(columns.study == found.number).order_by(columns.number)
    )
    metric = asked.metric or spec.objective.metric
    picked = list(asked.curves) or usual_curves(connection, found, entries)
    drawn = learning_curves(connection, found, picked, metric)
    configurations = _configurations(connection, found)
    return {
        "study": found,
        "mlflow_url": run_url(settings, found),
        "spec": spec,
        "why": queue.studies[0].why if found.state in store.ACTIVE else found.reason,
        **_family(connection, found),
        "left": seconds_left(found, findings.seconds_an_epoch(connection, found)),
        "best": entries,
        "one_draw": ONE_DRAW if of_one_draw(spec) else "",
        "best_yaml": configuration_yaml(found, spec, entries[0]) if entries else None,
        "by_trial": curves.by_trial([(row.number, row.objective) for row in objectives.all()], spec.objective.mode),
        "by_epoch": curves.by_epoch(drawn),
        "parallel": parallel.parallel(configurations, spec),
        "importance": importance([row[1:3] for row in configurations], spec),
        "plotted": curves.plotted(drawn),
        "metric": metric,
        "metrics": sorted(
            {metric, spec.objective.metric} | {key for _, trial in table.rows for key in trial.metrics} - NOT_PLOTTED
        ),
        "picked": picked,
        "failures": _failures(connection, found),
        "trials_shown": TRIALS_SHOWN,
        "trials": table.rows,
        "matching": table.total,
        "first": skip + 1 if table.rows else 0,
        "last": skip + len(table.rows),
        "asked": asked,
        "sorts": {**SORT_NAMES, **{path: path for path in spec.search}},
        "trial_states": TRIAL_STATES,
        "page": asked.page,
        "pages": pages,
        "spec_yaml": documents.to_yaml(spec),
        "files": [name for name in FILES if path_of(settings, found, name)],
        "suspects": gallery_of(settings.runs, found.id) is not None,
        "others": [one for one in store.list_studies(connection, before=None, limit=OTHERS) if one.id != found.id],
        "actions": found.legal,
        "budget": vars(spec.budget),
        "limits": {name: limit for name, limit in vars(spec.budget).items() if limit is not None},
        "over": found.state in ENDED,
    }


def _family(connection: Connection, study: Study) -> dict[str, Any]:
    """Return the study that a study extends, where it is still there, and the latest that extend it."""
    mine = tables.studies.c
    parents = store.studies_where(connection, mine.id == study.extends, order=None, limit=1) if study.extends else []
    children = store.studies_where(connection, mine.extends == study.id, order=mine.number.desc(), limit=CHILDREN_SHOWN)
    return {"parent": next(iter(parents), None), "children": children}


def seconds_left(study: Study, seconds_an_epoch: float | None) -> float | None:
    """Return the estimated time to the end of a running study, at its latest pace; None without a pace."""
    if study.state is not State.RUNNING or seconds_an_epoch is None or study.trials_total == 0:
        return None
    to_end = study.trials_total - study.trials_finished - study.trials_pruned - study.trials_failed
    epochs = min(study.epochs_total - study.epochs_done, to_end * study.epochs_total / study.trials_total)
    return seconds_an_epoch * max(0.0, epochs)


def path_of(settings: Settings, study: Study, name: str) -> Path | None:
    """Return the path of one of FILES; None if it does not exist or leads out of the study's folder."""
    folder = (settings.runs / study.id).resolve()
    path = (folder / name).resolve()
    return path if name in FILES and path.parent == folder and path.is_file() else None


def usual_curves(connection: Connection, study: Study, entries: Sequence[Configuration]) -> list[int]:
    """Return the numbers of a trial of each of the best configurations, and of the newest trials."""
    columns = tables.trials.c
    names = [entry.trials[0] for entry in entries][:BEST_SHOWN]
    chosen = sa.select(columns.number).where(columns.study == study.number, columns.name.in_(names))
    numbers = sorted(connection.execute(chosen).scalars())
    newest = [n for n in range(study.trials_started, max(0, study.trials_started - CURVES), -1) if n not in numbers]
    return sorted([*numbers, *newest[: max(0, CURVES - len(numbers))]])


def learning_curves(
    connection: Connection, study: Study, numbers: Sequence[int], metric: str
) -> list[tuple[str, list[curves.Point]]]:
    """Return a metric over the epochs of some trials, each with its label."""
    columns, events = tables.trials.c, tables.events.c
    rows = connection.execute(
        sa.select(columns.number, columns.label, columns.seed, columns.fold)
        .where(columns.study == study.number, columns.number.in_(numbers))
        .order_by(columns.number)
    ).all()
    from_the_last = sa.func.row_number().over(partition_by=events.trial, order_by=events.number.desc())
    of_them = (  # of all trials at once, as it goes through all events of the study
        sa.select(events.trial, events.data, from_the_last.label("from_the_last"))
        .where(events.study == study.number, events.trial.in_(numbers), events.type == "epoch_finished")
        .subquery()
    )
    latest = sa.select(of_them.c.trial, of_them.c.data).where(of_them.c.from_the_last <= EPOCHS_SHOWN)
    epochs: dict[int, list[Any]] = {row.number: [] for row in rows}
    for event in connection.execute(latest):
        epochs[event.trial].append(event.data)
    found = []
    for row in rows:
        said = [(data["epoch"], data["metrics"].get(metric)) for data in epochs[row.number]]
        points = sorted((float(epoch), float(value)) for epoch, value in said if value is not None)
        fold = "" if row.fold is None else f", fold {row.fold}"
        found.append((f"{row.label}, seed {row.seed}{fold}", points))
    return found


def _configurations(connection: Connection, study: Study) -> list[parallel.Row]:
    """Return the latest searched configurations: label, values, mean of the objective so far, latest trial."""
    columns = tables.trials.c
    rows = connection.execute(
        sa.select(columns.number, columns.configuration, columns.label, columns.overrides, columns.objective)
        .where(columns.study == study.number, columns.baseline.is_(None), columns.objective.is_not(None))
        .order_by(columns.number.desc())
        .limit(PARALLEL_TRIALS)
    ).all()
    groups: dict[int, list[Any]] = {}
    for row in rows:
        groups.setdefault(row.configuration, []).append(row)
    return [
        (of[0].label, of[0].overrides, sum(row.objective for row in of) / len(of), of[0].number)
        for of in groups.values()
    ]


def _failures(connection: Connection, study: Study) -> list[Any]:
    """Return the most frequent reasons of failed trials: reason, number of trials, the first of them."""
    if not study.trials_failed:
        return []
    columns, count = tables.trials.c, sa.func.count()
    return list(
        connection.execute(
            sa.select(columns.reason, count.label("trials"), sa.func.min(columns.number).label("first"))
            .where(columns.study == study.number, columns.state == "failed")
            .group_by(columns.reason)
            .order_by(count.desc())
            .limit(REASONS)
        )
    )
