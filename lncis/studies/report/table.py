"""What a study found, as text: the table, the conclusions, the best configuration, a CSV line for each trial."""

import csv
import io
import math
import shlex
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lncis import documents
from lncis.config import CocoData, MatrixNoise, NoiseConfig, NoNoise, TrainConfig
from lncis.metrics import TEST_METRICS, VAL_METRICS
from lncis.studies.journal import End
from lncis.studies.report.intervals import ONE_DRAW, TWO_DRAWS, Interval, RankAgreement, interval
from lncis.studies.report.result import (
    ConfigurationResult,
    StudyResult,
    TrialResult,
    of_one_draw,
    paired_difference,
)
from lncis.studies.report.statistics import importance, importance_method, ranked, variance_split
from lncis.studies.spec import Objective, PaperRow, SelectionObjective, StudySpec
from lncis.studies.spec.space import STAGE1_EPOCHS

FIGURES = ("AP", "AP50", "AP75")
CLEAN_AP = "test/segm_AP"
BEST, AS_GOOD, FRONT = MARKS = ("*", "=", "^")
"""Marks: the best, where it can be told apart from all others; else all that cannot be told apart; the Pareto front."""
FEWEST_DRAWS = 4
"""With fewer noise draws nothing is said of their share of the variance: of two, the estimate may be anything."""
ROWS = 30
"""Most searched configurations in the table of a terminal; all are in table.csv."""
NAMES = 6
"""Most configurations that a line names, and most failures that have a line each."""


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


def best_and_front(result: StudyResult) -> tuple[int | None, set[int]]:
    """Return the number of the selected configuration, and the numbers of the Pareto front if there is one."""
    if not result.searched:
        return None, set()
    front = {c.trial.configuration for c in result.pareto_front} if result.spec.secondary_objectives else set()
    return result.best.trial.configuration, front


def best_group(result: StudyResult) -> set[int]:
    """Return the numbers of the selected configuration and of those that cannot be told apart from it."""
    found = [result.best, *result.as_good_as_best] if result.searched else []
    return {c.trial.configuration for c in found}


def marks_of(result: StudyResult) -> dict[int, str]:
    """Return the marks of configurations by their numbers; none is best where there is nothing to compare it by."""
    group, front = best_group(result), best_and_front(result)[1]
    mark = BEST if len(group) == 1 else AS_GOOD if result.selection else ""
    return {n: (mark if n in group else "") + (FRONT if n in front else "") for n in sorted(group | front)}


def study_title(result: StudyResult) -> str:
    """Return one line that says what was trained: data, noise, schedule, seeds."""
    spec, schedule = result.spec, result.spec.base.schedule
    parts = [
        spec.base.dataset.type,
        _noise(spec) + _realised(result),
        f"E = {schedule.epochs}",
        *(["oracle val"] if spec.base.val_labels == "oracle" else []),
        *([] if STAGE1_EPOCHS in spec.search else [f"E1 = {schedule.switch_epoch}"]),
        replicates(spec),
        *(
            [f"mean ± 95 % CI {ONE_DRAW}" if of_one_draw(spec) else "mean ± 95 % CI"]
            if len(spec.replicates) > 1
            else []
        ),
    ]
    return f"{spec.name}: {', '.join(parts)}"


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


def replicates(spec: StudySpec) -> str:
    """Return with which seeds each configuration is trained: `3 seeds x 2 noise draws`."""
    seeds = f"{len(spec.seeds)} seed{'s' if len(spec.seeds) > 1 else ''}"
    draws = f"{len(spec.noise_seeds)} noise draw{'s' if len(spec.noise_seeds) > 1 else ''}"
    return f"{seeds} x {draws}" if spec.noise_seeds else seeds


def selected_by(objective: SelectionObjective) -> str:
    """Return the figure by which the best configuration is selected."""
    mean = f"mean {objective.metric}"
    if objective.select == "mean":
        return mean
    return f"the {'lower' if objective.mode == 'max' else 'upper'} bound of the 95 % interval of {mean}"


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
    failed = [t.trial.replicate for t in trials if t.end is End.FAILED]
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


def conclusions(result: StudyResult) -> list[str]:
    """Return, a line each, the best configuration, those not significantly different, what failed, and the cost."""
    return [
        *_unfinished(result),
        *([f"paper: {result.spec.paper.table}"] if result.spec.paper else []),
        *(_best(result) if result.searched else ["no configuration has finished with every seed"]),
        *_statistics(result),
        *_pruned(result),
        *_failed(result),
        *_cost(result),
    ]


def _unfinished(result: StudyResult) -> list[str]:
    ended = sum(t.end is not None for t in result.trials)
    return [] if result.complete else [f"unfinished: {ended} of {result.spec.total_trials} trials ended"]


def _best(result: StudyResult) -> list[str]:
    spec, best = result.spec, result.best
    so_far = "" if result.complete else "so far "
    mark = marks_of(result)[best.trial.configuration].removesuffix(FRONT)
    lines = [f"{mark} best {so_far}by {selected_by(spec.objective)}: {best.trial.label}".lstrip()]
    lines += _told_apart(result)
    for c in result.configurations:
        found = paired_difference(best, c, CLEAN_AP)
        if c.trial.baseline is not None and math.isfinite(found.mean):
            lines.append(f"  {found:+} test AP over {c.trial.baseline} ({_paired(spec, found)})")
    if spec.secondary_objectives:
        front, objectives = result.pareto_front, " and ".join(objective.metric for objective in spec.objectives)
        lines.append(
            f"{FRONT} on the Pareto front of {objectives}: {len(front)} of {len(result.searched)}: {_names(front)}"
        )
    if len(spec.noise_seeds) == 2 and not isinstance(spec.base.noise, NoNoise):
        lines.append(TWO_DRAWS)
    return lines


def _told_apart(result: StudyResult) -> list[str]:
    """Return what the replicates say about the selected configuration beside the others."""
    others, said = len(result.searched) - 1, result.selection
    if others == 0:
        return []
    if said is None:
        return ["  one seed: differences may be chance; more seeds would show"]
    lines = []
    if as_good := result.as_good_as_best:
        lines.append(f"  cannot be told apart from it (95 %, all comparisons together): {_names(as_good)}")
    else:
        lines.append("  told apart from all others (95 %, all comparisons together)")
    chances = sorted(result.probability_of_best.items(), key=lambda item: -item[1])[:NAMES]
    labels = {c.trial.configuration: c.trial.label for c in result.searched}
    named = ", ".join(f"{labels[number]} {percent(chance)}" for number, chance in chances)
    lines.append(f"  probability of having the best expectation, given these figures: {named}")
    if result.spec.objective.select == "mean":
        lines.append(
            f"  its mean is about {max(0.0, said.optimism):.1f} too good, as it was picked as the best of {others + 1}"
        )
    return lines


def percent(probability: float) -> str:
    """Return a probability as text; what is not certain is not said to be."""
    return "<1%" if probability < 0.005 else ">99%" if probability > 0.995 else f"{probability:.0%}"


def _paired(spec: StudySpec, difference: Interval) -> str:
    """Return over what a difference is paired, with the number of pairs where some are missing."""
    wanted = len(spec.replicates)
    if wanted == 1:
        return "one seed"
    number = "" if difference.number == wanted else f"{difference.number} pairs of "
    return f"paired over {number}{replicates(spec)}" + (f", {ONE_DRAW}" if of_one_draw(spec) else "")


def _names(configurations: Sequence[ConfigurationResult]) -> str:
    named = "; ".join(c.trial.label for c in configurations[:NAMES])
    return named + (f"; and {len(configurations) - NAMES} more" if len(configurations) > NAMES else "")


def _statistics(result: StudyResult) -> list[str]:
    lines, found = [], result.rank_agreement
    number = f"{len(result.searched)} configurations"
    if found:
        lines.append(
            f"rank agreement of {result.spec.base.val_labels} val with clean test in {figure_of(result)}: "
            f"{tau_text(found)} over {number} (+1: same order)"
        )
    if shares := importance(result):
        named = ", ".join(f"{path} {share:.0%}" for path, share in shares.items())
        lines.append(
            f"importance for {result.spec.objective.metric}: {named} ({importance_method(result)} over {number})"
        )
    for metric in dict.fromkeys((result.spec.objective.metric, CLEAN_AP)):
        if (split := variance_split(result, metric)) and len(result.spec.noise_seeds) >= FEWEST_DRAWS:
            lines.append(
                f"spread of {metric} within a configuration: standard deviation {split.deviation:.1f}; of the variance "
                f"{split.noise_draw:.0%} noise draw, {split.training_seed:.0%} training seed, {split.rest:.0%} the rest"
            )
    return lines


def tau_text(found: RankAgreement) -> str:
    """Return Kendall's tau with its interval."""
    return f"Kendall's tau {found.tau:+.2f} (95 % CI {found.low:+.2f} to {found.high:+.2f})"


def figure_of(result: StudyResult) -> str:
    """Return the objective without its split: `segm_AP`."""
    return result.spec.objective.metric.removeprefix("val/")


def _pruned(result: StudyResult) -> list[str]:
    found = {t.trial.configuration for t in result.trials if t.end is End.PRUNED}
    if not found:
        return []
    searched = sum(c.trial.baseline is None for c in result.configurations)
    return [f"pruned by {result.spec.pruner.type}: {len(found)} of {searched} configurations"]


def _failed(result: StudyResult) -> list[str]:
    by_reason: dict[str, list[TrialResult]] = {}
    for t in result.trials:
        if t.end is End.FAILED:
            by_reason.setdefault(t.reason, []).append(t)
    lines = []
    for reason, trials in list(by_reason.items())[:NAMES]:
        more = f" and {len(trials) - 1} more" if len(trials) > 1 else ""
        lines.append(f"failed: {trials[0].trial.label}, seed {trials[0].trial.replicate}{more}: {reason}")
    if len(by_reason) > NAMES:
        lines.append(f"failed for {len(by_reason) - NAMES} other reasons: see table.csv")
    return lines


def _cost(result: StudyResult) -> list[str]:
    cost, running = result.cost, any(t.end is None for t in result.trials)
    skipped = "not trained yet or skipped" if running else "skipped by pruning or failure"
    time = (
        f"  {cost.seconds / 60:.1f} min, {cost.training_seconds / 60:.1f} worker-minutes of training of "
        f"{cost.held_seconds / 60:.1f} held"
    )
    if cost.wasted:
        time += f"; {cost.wasted} epochs wasted on failed trials"
    if cost.lost_seconds > 0:
        time += f"; {cost.lost_seconds / 60:.1f} worker-minutes lost to killed workers"
    return [
        f"cost: {cost.trained} epochs trained for {cost.requested} requested ({cost.shared} shared, {cost.reused} from "
        f"earlier studies, {cost.skipped} {skipped})",
        time,
    ]


def best_yaml(result: StudyResult) -> str:
    """Return the best configuration as a file that `lncis train` runs unchanged; StudyError if none finished."""
    spec, trial, path = result.spec, result.best.trial, result.directory / "best.yaml"
    draws = f" and noise draws {', '.join(map(str, spec.noise_seeds))}" if spec.noise_seeds else ""
    comment = (
        f"Best of study {result.study_id} by {selected_by(spec.objective)} over seeds "
        f"{', '.join(map(str, spec.seeds))}{draws}: {trial.label}\n"
        f"Train it with: lncis train {shlex.quote(str(path))} --out {shlex.quote(str(path.with_suffix('')))}"
    )
    return documents.to_yaml(trial.config, comment=comment)


def trials_csv(result: StudyResult) -> str:
    """Return a CSV line for each trial: its hyperparameters and seeds, its last metrics, and how it ended."""
    paths, text = list(result.spec.search), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["configuration", "baseline", *paths, "seed", "noise_seed", "epochs"]
    writer.writerow([*head, *VAL_METRICS, *TEST_METRICS, "end", "reason"])
    for t in (t for c in result.configurations for t in c.trials):
        changes = [t.trial.overrides.get(path, "") if t.trial.baseline is None else "" for path in paths]
        figures = [t.last(metric) for metric in (*VAL_METRICS, *TEST_METRICS)]
        writer.writerow(
            [
                t.trial.configuration,
                _cell(t.trial.baseline or ""),
                *map(_cell, changes),
                t.trial.seed,
                "" if t.trial.noise_seed is None else t.trial.noise_seed,
                int(t.records[-1]["epoch"]) if t.records else 0,
                *(f"{figure:.4f}" if math.isfinite(figure) else "" for figure in figures),
                t.end or "",
                _cell(t.reason),
            ]
        )
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Return a cell of a CSV file; text that a spreadsheet would take for a formula begins with an apostrophe."""
    if not isinstance(value, str):
        return value
    text = "".join(character if character.isprintable() else "?" for character in value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
