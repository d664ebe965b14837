"""What a study found, as text: the table, the best configuration, a CSV line for each trial."""

import csv
import io
import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lncis import documents
from lncis.config import CocoData, MatrixNoise, NoiseConfig, NoNoise, Schedule, TrainConfig
from lncis.metrics import TEST_METRICS, VAL_METRICS
from lncis.spreadsheet import cell
from lncis.studies.record.journal import End
from lncis.studies.report.conclusions import (
    conclusions,
    marks_of,
    percent,
    replicates,
    selected_by,
)
from lncis.studies.report.intervals import ONE_DRAW, interval
from lncis.studies.report.result import (
    ConfigurationResult,
    StudyResult,
    TrialResult,
    of_one_draw,
)
from lncis.studies.report.statistics import ranked
from lncis.studies.spec import Objective, PaperRow, StudySpec
from lncis.studies.spec.space import STAGE1_EPOCHS

FIGURES = ("AP", "AP50", "AP75")
ROWS = 30
"""Most searched configurations in the table of a terminal; all are in table.csv."""


def result_table(result: StudyResult) -> RenderableType:
    """Return a table of the configurations in the paper's format, with the paper's figures, and the conclusions."""
    spec, shown = result.spec, shown_first(result, ROWS)
    states = {c.trial.configuration: configuration_state(result, c) for c in shown}
    marks = marks_of(result)
    table = Table(title=Text(study_title(result), style="bold"), title_justify="left")
    table.add_column("configuration", overflow="fold")
    for objective in spec.objectives:
        table.add_column(Text(objective_heading(spec, objective)), justify="right")
    if chances := result.probability_of_best:
        table.add_column("best with\nprobability", justify="right")
    for figure in FIGURES:
        table.add_column(f"test {figure}\n(clean)", justify="right")
    if spec.paper:
        table.add_column(f"paper\n{'  '.join(FIGURES[: paper_figures(spec)])}", justify="right", style="dim")
    if any(states.values()):
        table.add_column("state")
    for number, c in enumerate(shown):
        row, mine = paper_row(spec, c), c.trial.configuration
        table.add_row(
            Text(f"{marks.get(mine, ''):<{3 if spec.secondary_objectives else 2}}{c.trial.label}"),
            *(f"{c.over_seeds(objective.metric)}" for objective in spec.objectives),
            *([percent(chances[mine]) if mine in chances else ""] if chances else []),
            *(f"{c.over_seeds(f'test/segm_{figure}')}" for figure in FIGURES),
            *([row.text if row else ""] if spec.paper else []),
            *([Text(states[mine])] if any(states.values()) else []),
            end_section=number == len(spec.baselines) - 1,
        )
    hidden = len(result.configurations) - len(shown)
    more = [f"the best {ROWS} are shown; {hidden} more are in table.csv"] if hidden else []
    return Group(table, *(Text(line) for line in [*more, *conclusions(result)]))


def shown_first(result: StudyResult, most: int) -> list[ConfigurationResult]:
    """Return the baselines and the searched configurations in the order of the search; of more than `most` the best."""
    baselines = [c for c in result.configurations if c.trial.baseline is not None]
    searched = result.configurations[len(baselines) :]
    return [*baselines, *(searched if len(searched) <= most else ranked(result)[:most])]


def study_title(result: StudyResult) -> str:
    """Return one line that says what was trained: data, noise, schedule, seeds."""
    spec, schedule = result.spec, result.spec.base.schedule
    parts = [
        spec.base.dataset.type,
        _noise(spec) + _realised(result),
        f"E = {schedule.epochs}",
        *(["oracle val"] if spec.base.val_labels == "oracle" else []),
        *([] if STAGE1_EPOCHS in spec.search else [f"E1 = {_e1(schedule)}"]),
        replicates(spec),
        *(
            [f"mean ± 95 % CI {ONE_DRAW}" if of_one_draw(spec) else "mean ± 95 % CI"]
            if len(spec.replicates) > 1
            else []
        ),
    ]
    return f"{spec.name}: {', '.join(parts)}"


def _e1(schedule: Schedule) -> int | str:
    return "auto" if schedule.stage1_epochs == "auto" else schedule.switch_epoch


def realised(result: StudyResult) -> str:
    """Return the share of labels that was really flipped, or from least to most over the noise draws; may be empty."""
    rates = sorted({f"{100 * rate:.1f}" for rate in result.realised_noise.values()}, key=float)
    if not rates or isinstance(result.spec.base.noise, NoNoise):
        return ""
    return f"realised {rates[0]}%" if len(rates) == 1 else f"realised {rates[0]} to {rates[-1]}%"


def _realised(result: StudyResult) -> str:
    return f" ({text})" if (text := realised(result)) else ""


def _noise(spec: StudySpec) -> str:
    if {"noise.type", "noise.rate"} & spec.search.keys():
        return "noise as searched"
    as_they_are = isinstance(spec.base.noise, NoNoise) and isinstance(spec.base.dataset, CocoData)  # which may be noisy
    return "labels as they are" if as_they_are else described(spec.base.noise)


def described(noise: NoiseConfig) -> str:
    """Return what people call a noise: `symmetric noise 40%`."""
    if isinstance(noise, NoNoise):
        return "no noise"
    return "noise by a matrix" if isinstance(noise, MatrixNoise) else f"{noise.type} noise {noise.rate:.0%}"


def objective_heading(spec: StudySpec, objective: Objective) -> str:
    """Return the heading of an objective's column."""
    return f"{objective.metric}\n({spec.base.val_labels}{', min' if objective.mode == 'min' else ''})"


def configuration_state(result: StudyResult, configuration: ConfigurationResult) -> str:
    """Return why a configuration has not finished with every seed; empty if it has."""
    metric, trials = result.spec.objective.metric, configuration.trials
    parts = [_pruned_state(trials, metric), _failed_state(trials), _unfinished_state(result.spec, trials)]
    state = "; ".join(part for part in parts if part)
    if not state and not all(math.isfinite(t.last(metric)) for t in trials):
        return f"{metric} is not finite"
    return state


def _pruned_state(trials: Sequence[TrialResult], metric: str) -> str:
    """Return after which epoch trials were pruned, and their mean objective there."""
    pruned = [t for t in trials if t.end is End.PRUNED]
    if not pruned:
        return ""
    epoch = min((t.records[-1]["epoch"] for t in pruned if t.records), default=0)
    mean = interval([r[metric] for t in pruned for r in t.records if r["epoch"] == epoch and metric in r]).mean
    return f"pruned after epoch {epoch:.0f}" + (f", at {mean:.1f}" if math.isfinite(mean) else "")


def _failed_state(trials: Sequence[TrialResult]) -> str:
    """Return which trials failed, by seed, unless all did."""
    failed = [str(t.trial.replicate) for t in trials if t.end is End.FAILED]
    if not failed:
        return ""
    return "failed" if len(failed) == len(trials) else f"seed {'; '.join(failed)} failed"


def _unfinished_state(spec: StudySpec, trials: Sequence[TrialResult]) -> str:
    """Return how many trainings are done, if some did not end."""
    wanted = len(spec.replicates)
    if sum(t.end is not None for t in trials) == wanted:
        return ""
    done = sum(t.end is End.FINISHED for t in trials)
    return f"{done} of {wanted} trainings done" if wanted > 1 else "unfinished"


def paper_row(spec: StudySpec, configuration: ConfigurationResult) -> PaperRow | None:
    """Return the paper's figures for a configuration; None if it has none."""
    rows = spec.paper.rows if spec.paper else []
    base = documents.dump(spec.base)
    return next((row for row in rows if row.set == configuration.trial.overrides and _holds(row.given, base)), None)


def paper_figures(spec: StudySpec) -> int:
    """Return how many of AP, AP50 and AP75 the paper gives."""
    rows = spec.paper.rows if spec.paper else []
    return max((len(row.text.split()) for row in rows), default=0)


def _holds(given: dict[str, Any], base: dict[str, Any]) -> bool:
    return documents.with_overrides(base, given, schema=TrainConfig) == base


def best_yaml(result: StudyResult) -> str:
    """Return the best configuration as a file that `lncis train` runs unchanged; StudyError if none finished."""
    spec, trial, path = result.spec, result.best.trial, result.directory / "best.yaml"
    draws = f" and noise draws {', '.join(map(str, spec.noise_seeds))}" if spec.noise_seeds else ""
    folds = f", without each of {spec.folds} folds; this one trains on all images" if spec.folds else ""
    comment = (
        f"Best of study {result.study_id} by {selected_by(spec.objective)} over seeds "
        f"{', '.join(map(str, spec.seeds))}{draws}{folds}: {trial.label}\n"
        f"Train it with: lncis train {shlex.quote(str(path))} --out {shlex.quote(str(path.with_suffix('')))}"
    )
    config = replace(trial.config, fold=None) if spec.folds else trial.config
    return documents.to_yaml(config, comment=comment)


def trials_csv(result: StudyResult) -> str:
    """Return a CSV line for each trial: its hyperparameters and seeds, its last metrics, and how it ended."""
    paths, text = list(result.spec.search), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["configuration", "baseline", *paths, "seed", "noise_seed", "fold", "epochs"]
    writer.writerow([*head, *VAL_METRICS, *TEST_METRICS, "end", "reason"])
    for t in (t for c in result.configurations for t in c.trials):
        changes = [t.trial.overrides.get(path, "") if t.trial.baseline is None else "" for path in paths]
        figures = [t.last(metric) for metric in (*VAL_METRICS, *TEST_METRICS)]
        writer.writerow(
            [
                t.trial.configuration,
                cell(t.trial.baseline or ""),
                *map(cell, changes),
                t.trial.seed,
                "" if t.trial.noise_seed is None else t.trial.noise_seed,
                t.trial.fold.number if t.trial.fold else "",
                int(t.records[-1]["epoch"]) if t.records else 0,
                *(f"{figure:.4f}" if math.isfinite(figure) else "" for figure in figures),
                t.end or "",
                cell(t.reason),
            ]
        )
    return text.getvalue()
