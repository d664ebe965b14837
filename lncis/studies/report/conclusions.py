"""What a study found, in sentences: the best configuration, what cannot be told apart from it, failures, the cost."""

import math
from collections.abc import Sequence

from lncis.config import NoNoise
from lncis.metrics import AUTO_METRICS
from lncis.studies.record.journal import End
from lncis.studies.report.intervals import ONE_DRAW, SHARED_IMAGES, TWO_DRAWS, Interval, RankAgreement
from lncis.studies.report.result import (
    ConfigurationResult,
    StudyResult,
    TrialResult,
    of_one_draw,
    paired_difference,
)
from lncis.studies.report.statistics import importance, importance_method, variance_split
from lncis.studies.spec import SelectionObjective, StudySpec

CLEAN_AP = "test/segm_AP"
BEST, AS_GOOD, FRONT = MARKS = ("*", "=", "^")
"""Marks: the best, where it can be told apart from all others; else all that cannot be told apart; the Pareto front."""
FEWEST_DRAWS = 4
"""With fewer noise draws nothing is said of their share of the variance: of two, the estimate may be anything."""
AUTO_WORDS = dict(zip(AUTO_METRICS, (("gamma", " nats", 2), ("noise rate", " %", 1), ("E1", "", 0)), strict=True))
"""What a training sets itself: metric -> its name in a line, its unit, and how many decimals it is given with."""
NAMES = 6
"""Most configurations that a line names, and most failures that have a line each."""


def conclusions(result: StudyResult) -> list[str]:
    """Return, a line each, the best configuration, those not significantly different, what failed, and the cost."""
    return [
        *_unfinished(result),
        *([f"paper: {result.spec.paper.table}"] if result.spec.paper else []),
        *(_best(result) if result.searched else ["no configuration has finished with every seed"]),
        *_set_by_itself(result),
        *_statistics(result),
        *_pruned(result),
        *_failed(result),
        *_provenance(result),
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
    if spec.folds:
        lines.append(SHARED_IMAGES)
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


def _set_by_itself(result: StudyResult) -> list[str]:
    """Return what the trainings of each configuration have set themselves, with the range over its seeds."""
    lines = []
    for c in result.configurations:
        parts = []
        for metric, (word, unit, digits) in AUTO_WORDS.items():
            values = [value for t in c.trials if math.isfinite(value := t.last(metric))]
            if values:
                low, high = (f"{bound:.{digits}f}" for bound in (min(values), max(values)))
                parts.append(f"{word} {low}{unit}" if low == high else f"{word} {low} to {high}{unit}")
        if parts:
            lines.append(f"{c.trial.label} set itself: {', '.join(parts)}")
    return lines[:NAMES] + ([f"and {len(lines) - NAMES} more: see results.json"] if len(lines) > NAMES else [])


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


def _provenance(result: StudyResult) -> list[str]:
    extends = result.spec.extends
    return [f"extends {extends.study}, whose result is in its own folder"] if extends else []


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


def marks_of(result: StudyResult) -> dict[int, str]:
    """Return the marks of configurations by their numbers; none is best where there is nothing to compare it by."""
    group, front = best_group(result), best_and_front(result)[1]
    mark = BEST if len(group) == 1 else AS_GOOD if result.selection else ""
    return {n: (mark if n in group else "") + (FRONT if n in front else "") for n in sorted(group | front)}


def best_group(result: StudyResult) -> set[int]:
    """Return the numbers of the selected configuration and of those that cannot be told apart from it."""
    found = [result.best, *result.as_good_as_best] if result.searched else []
    return {c.trial.configuration for c in found}


def best_and_front(result: StudyResult) -> tuple[int | None, set[int]]:
    """Return the number of the selected configuration, and the numbers of the Pareto front if there is one."""
    if not result.searched:
        return None, set()
    front = {c.trial.configuration for c in result.pareto_front} if result.spec.secondary_objectives else set()
    return result.best.trial.configuration, front


def selected_by(objective: SelectionObjective) -> str:
    """Return the figure by which the best configuration is selected."""
    mean = f"mean {objective.metric}"
    if objective.select == "mean":
        return mean
    return f"the {'lower' if objective.mode == 'max' else 'upper'} bound of the 95 % interval of {mean}"


def replicates(spec: StudySpec) -> str:
    """Return what each configuration is trained with: `3 seeds x 2 noise draws`."""
    seeds = f"{len(spec.seeds)} seed{'s' if len(spec.seeds) > 1 else ''}"
    draws = f"{len(spec.noise_seeds)} noise draw{'s' if len(spec.noise_seeds) > 1 else ''}"
    parts = [seeds, *([draws] if spec.noise_seeds else []), *([f"{spec.folds} folds"] if spec.folds else [])]
    return " x ".join(parts)


def figure_of(result: StudyResult) -> str:
    """Return the objective without its split: `segm_AP`."""
    return result.spec.objective.metric.removeprefix("val/")


def percent(probability: float) -> str:
    """Return a probability as text; what is not certain is not said to be."""
    return "<1%" if probability < 0.005 else ">99%" if probability > 0.995 else f"{probability:.0%}"


def tau_text(found: RankAgreement) -> str:
    """Return Kendall's tau with its interval."""
    return f"Kendall's tau {found.tau:+.2f} (95 % CI {found.low:+.2f} to {found.high:+.2f})"
