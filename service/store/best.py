"""The best configurations of a study, finished or so far, from its trials in the database."""

from collections import defaultdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from lncis import documents
from lncis.config import TrainConfig
from lncis.documents import plain
from lncis.studies.report.result import interval, score
from lncis.studies.spec import StudySpec
from service.store import tables
from service.store.studies import Study

_OUT = ("failed", "pruned")


def best(connection: Connection, study: Study, spec: StudySpec, top: int) -> list[dict[str, Any]]:
    """Return up to `top` configurations that finished with every seed, then up to `top` that have not, each best first.

    What finished ranks as in the study's own report. The others rank behind, by what they reached at their last
    evaluation; where some seeds are still to come, the interval is over those that are there. A configuration of which
    a trial failed or was pruned is never among them, nor is a baseline.
    """
    finished, others = _ranked(connection, study, spec)
    chosen = [
        *enumerate(finished[:top], start=1),
        *enumerate(others[:top], start=len(finished) + 1),
    ]
    return [_described(connection, study, spec, rank, rank <= len(finished), trials) for rank, trials in chosen]


def of_rank(connection: Connection, study: Study, spec: StudySpec, rank: int) -> dict[str, Any] | None:
    """Return the configuration that `best` gives a rank; None if there are fewer."""
    finished, others = _ranked(connection, study, spec)
    every = finished + others
    if rank > len(every):
        return None
    return _described(connection, study, spec, rank, rank <= len(finished), every[rank - 1])


def _ranked(connection: Connection, study: Study, spec: StudySpec) -> tuple[list[list[int]], list[list[int]]]:
    """Return the configurations that finished with every seed and those that have not, best first, as trial numbers."""
    columns = tables.trials.c
    rows = connection.execute(
        sa.select(columns.number, columns.configuration, columns.state, columns.objective)
        .where(columns.study == study.number, columns.baseline.is_(None))
        .order_by(columns.number)
    )
    groups: dict[int, list[Any]] = defaultdict(list)
    for row in rows.all():
        groups[row.configuration].append(row)
    ranked: dict[bool, list[tuple[float, list[int]]]] = {True: [], False: []}
    for trials in groups.values():
        values = [trial.objective for trial in trials if trial.objective is not None]
        if not values or any(trial.state in _OUT for trial in trials):
            continue
        finished = len(values) == len(spec.replicates) and all(trial.state == "finished" for trial in trials)
        ranked[finished].append((score(spec.objective, values), [trial.number for trial in trials]))
    for entries in ranked.values():
        entries.sort(key=lambda entry: -entry[0])  # stable: of equals the one that was tried first
    return [numbers for _, numbers in ranked[True]], [numbers for _, numbers in ranked[False]]


def _described(
    connection: Connection, study: Study, spec: StudySpec, rank: int, finished: bool, numbers: list[int]
) -> dict[str, Any]:
    columns = tables.trials.c
    trials = connection.execute(
        sa.select(tables.trials)
        .where(columns.study == study.number, columns.number.in_(numbers))
        .order_by(columns.number)
    ).all()
    metrics = sorted({key for trial in trials for key in trial.metrics if key.startswith(("val/", "test/"))})
    first = trials[0]
    return {
        "rank": rank,
        "status": "finished" if finished else ("running" if study.finished_at is None else "unfinished"),
        "configuration": first.configuration,
        "label": first.label,
        "overrides": first.overrides,
        "objective": _over_seeds([trial.objective for trial in trials]),
        "metrics": {key: _over_seeds([trial.metrics.get(key) for trial in trials]) for key in metrics},
        "seeds_finished": sum(trial.state == "finished" for trial in trials),
        "seeds_total": len(spec.replicates),
        "epoch": min(trial.epoch for trial in trials),
        "epochs": first.epochs,
        "trials": [trial.name for trial in trials],
        "config": plain(documents.dump(_config(spec, first.overrides))),
    }


def _over_seeds(values: list[float | None]) -> dict[str, float | int | None]:
    there = [value for value in values if value is not None]
    reached = interval(there)
    return {"mean": plain(reached.mean), "ci95": plain(reached.half_width), "seeds": len(there)}


def _config(spec: StudySpec, overrides: dict[str, Any]) -> TrainConfig:
    seed, noise_seed = spec.replicates[0]
    return spec.configure(overrides, seed, noise_seed)


def as_yaml(study: Study, spec: StudySpec, entry: dict[str, Any]) -> str:
    """Return one of the best as a file that `lncis train` runs unchanged."""
    reached, metric = entry["objective"], spec.objective.metric
    spread = "" if reached["ci95"] is None else f" ± {reached['ci95']:.1f}"
    when = (
        ""
        if entry["status"] == "finished"
        else f", {entry['status']}: after epoch {entry['epoch']} of {entry['epochs']}"
    )
    seeds = f"{reached['seeds']} seed{'s' if reached['seeds'] > 1 else ''}"
    comment = (
        f"Number {entry['rank']} of study {study.id}: {entry['label']}\n"
        f"{metric} {reached['mean']:.1f}{spread} over {seeds}{when}\n"
        "Train it with: lncis train this.yaml --out runs/best"
    )
    return documents.to_yaml(_config(spec, entry["overrides"]), comment=comment)
