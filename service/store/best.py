"""The best configurations of a study, finished or so far, from its trials in the database."""

import math
from collections import defaultdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from lncis import api, documents
from lncis.config import Fold, NoNoise, TrainConfig
from lncis.documents import plain
from lncis.studies.report.intervals import Replicate, interval
from lncis.studies.report.result import score
from lncis.studies.spec import StudySpec
from service.store import tables
from service.store.tables import Study

_OUT = ("failed", "pruned")


def best_configurations(connection: Connection, study: Study, spec: StudySpec, top: int) -> list[api.Configuration]:
    """Return up to `top` configurations that finished with every seed, then up to `top` that have not, each best first.

    Finished configurations rank as in the study's own report. The others rank behind, by their last evaluation; if
    some seeds are still to come, the interval is over the seeds so far. A configuration with a failed or pruned trial
    is left out, and so is a baseline.
    """
    finished, others = _ranked(connection, study, spec)
    chosen = [
        *enumerate(finished[:top], start=1),
        *enumerate(others[:top], start=len(finished) + 1),
    ]
    return [_described(connection, study, spec, rank, rank <= len(finished), trials) for rank, trials in chosen]


def configuration_of_rank(connection: Connection, study: Study, spec: StudySpec, rank: int) -> api.Configuration | None:
    """Return the configuration with a rank of `best_configurations`; None if there are fewer."""
    finished, others = _ranked(connection, study, spec)
    every = finished + others
    if rank > len(every):
        return None
    return _described(connection, study, spec, rank, rank <= len(finished), every[rank - 1])


def _ranked(connection: Connection, study: Study, spec: StudySpec) -> tuple[list[list[int]], list[list[int]]]:
    """Return the configurations that finished with every seed and those that have not, best first, as trial numbers."""
    columns = tables.trials.c
    bounded = spec.objective.select == "lower_bound"
    replicated = (columns.seed, columns.noise_seed, columns.fold) if bounded else ()
    rows = connection.execute(
        sa.select(columns.number, columns.configuration, columns.state, columns.objective, *replicated)
        .where(columns.study == study.number, columns.baseline.is_(None))
        .order_by(columns.number)
    ).all()
    numbers: dict[int, list[int]] = defaultdict(list)
    valued: dict[int, list[Any]] = defaultdict(list)
    out, unfinished = set[int](), set[int]()
    for row in rows:  # there may be ten thousand
        number, configuration, state, objective = row[:4]
        numbers[configuration].append(number)
        if objective is not None:
            valued[configuration].append(row)
        if state in _OUT:
            out.add(configuration)
        elif state != "finished":
            unfinished.add(configuration)
    ranked: dict[bool, list[tuple[float, list[int]]]] = {True: [], False: []}
    wanted = len(spec.replicates)
    for configuration, trials in valued.items():
        if configuration in out:
            continue
        replicates = [_replicate(spec, trial) for trial in trials] if bounded else []
        reached = score(spec.objective, [trial[3] for trial in trials], replicates)
        finished = len(trials) == wanted and configuration not in unfinished
        ranked[finished].append((reached, numbers[configuration]))
    for entries in ranked.values():
        # of equals the one that was tried first
        entries.sort(key=lambda entry: (-entry[0], entry[1][0]))
    return [trials for _, trials in ranked[True]], [trials for _, trials in ranked[False]]


def _described(
    connection: Connection, study: Study, spec: StudySpec, rank: int, finished: bool, numbers: list[int]
) -> api.Configuration:
    columns = tables.trials.c
    trials = connection.execute(
        sa.select(tables.trials)
        .where(columns.study == study.number, columns.number.in_(numbers))
        .order_by(columns.number)
    ).all()
    metrics = sorted({key for trial in trials for key in trial.metrics if key.startswith(("val/", "test/"))})
    first = trials[0]
    replicates = [_replicate(spec, trial) for trial in trials]
    return api.Configuration(
        rank=rank,
        status="finished" if finished else study.unended,
        configuration=first.configuration,
        label=first.label,
        overrides=first.overrides,
        objective=_over_seeds([trial.objective for trial in trials], replicates),
        metrics={key: _over_seeds([trial.metrics.get(key) for trial in trials], replicates) for key in metrics},
        seeds_finished=sum(trial.state == "finished" for trial in trials),
        seeds_total=len(spec.replicates),
        epoch=min(trial.epoch for trial in trials),
        epochs=first.epochs,
        trials=[trial.name for trial in trials],
        config=plain(documents.dump(_config(spec, first.overrides))),
    )


def _replicate(spec: StudySpec, trial: Any) -> Replicate:
    """Return what a trial replicates its configuration with; no configuration that is searched changes the noise."""
    fold = None if spec.folds is None else Fold(number=trial.fold, of=spec.folds, seed=trial.seed)
    return Replicate(trial.seed, None if isinstance(spec.base.noise, NoNoise) else trial.noise_seed, fold)


def _over_seeds(values: list[float | None], replicates: list[Replicate]) -> api.OverSeeds:
    reached = interval([math.nan if value is None else float(value) for value in values], replicates)
    there = sum(value is not None for value in values)
    return api.OverSeeds(mean=plain(reached.mean), ci95=plain(reached.half_width), seeds=there)


def _config(spec: StudySpec, overrides: dict[str, Any]) -> TrainConfig:
    """Return the training of a configuration, on all folds where the study has such."""
    return spec.configure(overrides, *spec.replicates[0][:2])


def configuration_yaml(study: Study, spec: StudySpec, one: api.Configuration) -> str:
    """Return a configuration as a file that `lncis train` runs unchanged."""
    reached = one.objective
    running = "" if one.status == "finished" else f", {one.status}: after epoch {one.epoch} of {one.epochs}"
    comment = (
        f"Number {one.rank} of study {study.id}: {one.label}\n"
        f"{spec.objective.metric} {reached} over {reached.seeds} seed{'s' if reached.seeds > 1 else ''}{running}\n"
        "Train it with: lncis train this.yaml --out runs/best"
    )
    return documents.to_yaml(_config(spec, one.overrides), comment=comment)
