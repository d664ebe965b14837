"""What a study found, as pictures: the effect of each parameter, learning curves, how the figures go together."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure  # not pyplot: no global state, no window
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lncis.studies.report import separation
from lncis.studies.report.result import ConfigurationResult, StudyResult
from lncis.studies.report.statistics import importance, importance_method
from lncis.studies.report.table import CLEAN_AP, VAL_AP, marked, value_text
from lncis.studies.spec.space import STAGE1_EPOCHS, Categorical, Range

MANY = 8
"""More configurations than these cannot be told apart by colour."""

WHISKERS = 40
"""More intervals than these hide each other."""

COLUMNS = 3
"""Parameters side by side."""

TEST_COLOR, VAL_COLOR, FAINT = "tab:blue", "tab:orange", "0.6"
BASELINE_STYLES, BASELINE_MARKERS = ("--", ":", "-."), ("D", "s", "^")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure and what it is about."""

    title: str
    caption: str
    """What is to be seen."""
    figure: Figure


def drawings(result: StudyResult) -> Iterator[Drawing]:
    """Yield every figure that the study has data for, one after another."""
    metric, several = result.spec.objective.metric, len(result.spec.replicates) > 1
    labels = result.spec.base.val_labels
    across = "; lines across are baselines" if result.spec.baselines else ""
    if result.searched:
        dots = "Large dots are means, small ones single trainings" if several else "A dot is a training"
        whiskers = ", whiskers 95 % intervals" if _whiskers(result, result.searched) else ""
        yield Drawing(
            title="Each parameter",
            caption=f"Clean test AP and {labels} {metric} against each searched parameter. {dots}{whiskers}{across}; "
            "the star is the best configuration.",
            figure=responses(result),
        )
    if any(metric in record for t in result.trials for record in t.records):
        lines = "means over the seeds in bold, single trainings thin" if several else "a line for each training"
        black = ", baselines black" if result.spec.baselines else ""
        faint = "; all but the best configuration are grey" if _many(result) else ""
        yield Drawing(
            title="Learning curves",
            caption=f"{metric} after each evaluated epoch: {lines}{black}{faint}.",
            figure=curves(result),
        )
    if shown := separation.losses(result):
        yield Drawing(
            title="Losses of clean and flipped samples",
            caption="Cross entropy of the foreground samples that the box head was trained on in an epoch, over all "
            "seeds, each kind in percent of its own; from 16 nats on all are in one bin. The further the two lie "
            "apart, the better a loss tells which labels are wrong (Figure 5 of the paper).",
            figure=separation.draw(shown, separation.gamma_shown(result)),
        )
    if len(result.searched) > 2:
        tau = result.rank_agreement
        yield Drawing(
            title=f"{labels.capitalize()} val against clean test",
            caption=f"Each dot is the mean of a configuration. Selection sees {labels} val alone; the nearer the dots "
            "lie to a rising line, the better that serves clean test"
            + (f" (Kendall's tau {tau:+.2f})." if math.isfinite(tau) else "."),
            figure=agreement(result),
        )
    if result.searched and result.spec.secondary_objectives:
        yield Drawing(
            title="Trade-offs",
            caption="Means of the configurations in the objectives of the study. On the Pareto front, in blue, lies "
            "what no other configuration beats in every objective.",
            figure=pareto(result),
        )
    if shares := importance(result):
        yield Drawing(
            title="Importance of the parameters",
            caption=f"Share of each parameter in what moves {metric} ({importance_method(result)} over "
            f"{len(result.searched)} configurations; with few of them a rough guide).",
            figure=importances(shares),
        )


def overview(result: StudyResult) -> Figure:
    """Return the one picture of a study: test AP and objective against the first parameter, and the learning curves."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplot_mosaic([["test", "curves"], ["val", "curves"]])
    _draw_parameter(result, next(iter(result.spec.search)), axes["test"], axes["val"])
    _draw_curves(result, axes["curves"])
    about = f"{result.spec.name}: {' '.join(result.spec.question.split())}".removesuffix(": ")
    figure.suptitle(textwrap.shorten(about, 150, placeholder=" …"), fontsize=10, parse_math=False)
    return figure


def responses(result: StudyResult) -> Figure:
    """Return test AP above the objective, against each searched parameter."""
    parameters = list(result.spec.search)
    rows = math.ceil(len(parameters) / COLUMNS)
    columns = math.ceil(len(parameters) / rows)
    figure = Figure(figsize=(6.6 if columns == 1 else 4.2 * columns, 4.2 * rows), layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False, sharey="row")
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        test, val = grid[2 * row, column], grid[2 * row + 1, column]
        if number >= len(parameters):
            test.set_axis_off()
            val.set_axis_off()
            continue
        _draw_parameter(result, parameters[number], test, val, named=column == 0)
    return figure


def curves(result: StudyResult) -> Figure:
    """Return the objective over the epochs."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    _draw_curves(result, figure.subplots())
    return figure


def agreement(result: StudyResult) -> Figure:
    """Return clean test AP against val AP, a dot for each searched configuration."""
    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    axes = figure.subplots()
    shown = _baselines(result) + result.searched
    x, y = ([c.over_seeds(metric) for c in shown] for metric in (VAL_AP, CLEAN_AP))
    points = {c.trial.configuration: (a.mean, b.mean) for c, a, b in zip(shown, x, y, strict=True)}
    if _whiskers(result, shown):
        axes.errorbar(
            *_columns(list(points.values())),
            xerr=[one.half_width for one in x],
            yerr=[one.half_width for one in y],
            fmt="none",
            ecolor=FAINT,
            elinewidth=0.6,
        )
    searched = [points[c.trial.configuration] for c in result.searched]
    axes.plot(*_columns(searched), "o", color=TEST_COLOR, markersize=5, alpha=0.5 if _many(result) else 1.0)
    for c in _baselines(result):
        mark = BASELINE_MARKERS[c.trial.configuration % len(BASELINE_MARKERS)]
        axes.plot(*points[c.trial.configuration], mark, color="black", markersize=5, label=_legible(c.trial.label))
    best = result.best.trial
    axes.plot(*points[best.configuration], "*", color=TEST_COLOR, markersize=14, label=_legible(best.label))
    axes.set_xlabel(f"{VAL_AP}, {result.spec.base.val_labels} (%)")
    axes.set_ylabel("test AP, clean (%)")
    axes.legend(fontsize=7)
    return figure


def pareto(result: StudyResult) -> Figure:
    """Return each further objective against the objective, with the front."""
    first, *others = result.spec.objectives
    labels = result.spec.base.val_labels
    figure = Figure(figsize=(5.2 * len(others), 4.4), layout="constrained")
    front = marked(result)[1]
    for axes, other in zip(figure.subplots(1, len(others), squeeze=False)[0], others, strict=True):
        points = {
            c.trial.configuration: (c.over_seeds(first.metric).mean, c.over_seeds(other.metric).mean)
            for c in result.searched
        }
        axes.plot(
            *_columns([p for n, p in points.items() if n not in front]), "o", color=FAINT, label="beaten by another"
        )
        along = sorted(points[number] for number in front)
        line = "o-" if len(others) == 1 else "o"  # with three objectives the front is a surface
        axes.plot(*_columns(along), line, color=TEST_COLOR, linewidth=0.8, label="Pareto front")
        chosen = points[result.best.trial.configuration]
        axes.plot(*chosen, "*", color=TEST_COLOR, markersize=14, label=_legible(result.best.trial.label))
        axes.set_xlabel(f"{first.metric}, {labels} (%), {_wanted(first.mode)}")
        axes.set_ylabel(f"{other.metric}, {labels} (%), {_wanted(other.mode)}")
        axes.legend(fontsize=7)
    return figure


def importances(shares: dict[str, float]) -> Figure:
    """Return a bar for each parameter."""
    figure = Figure(figsize=(7, 0.9 + 0.35 * len(shares)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(shares), [100 * share for share in shares.values()], color=TEST_COLOR)
    axes.bar_label(bars, fmt="%.0f %%", padding=3)
    axes.invert_yaxis()
    axes.set_xlim(0, 112)
    axes.set_xlabel("importance (%)")
    return figure


def _wanted(mode: str) -> str:
    return "more is better" if mode == "max" else "less is better"


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _legible(label: str) -> str:
    """Return a label that a legend has room for and does not take for a formula or something to hide."""
    short = label if len(label) <= 48 else f"{label[:47]}…"
    return f" {short}".replace("$", r"\$") if short.startswith("_") else short.replace("$", r"\$")


def _many(result: StudyResult) -> bool:
    return sum(c.trial.baseline is None for c in result.configurations) > MANY


def _baselines(result: StudyResult) -> list[ConfigurationResult]:
    """Return those that have a figure to draw."""
    found = [c for c in result.configurations if c.trial.baseline is not None]
    return [c for c in found if math.isfinite(c.over_seeds(CLEAN_AP).mean)]


def _baseline_style(configuration: ConfigurationResult) -> str:
    return BASELINE_STYLES[configuration.trial.configuration % len(BASELINE_STYLES)]  # baselines are numbered first


def _whiskers(result: StudyResult, shown: Sequence[ConfigurationResult]) -> bool:
    """Say whether intervals are drawn: with two seeds they would leave the picture."""
    return len(result.spec.replicates) > 2 and len(shown) <= WHISKERS


def _draw_parameter(result: StudyResult, parameter: str, test: Axes, val: Axes, named: bool = True) -> None:
    """Draw the clean test AP and, below it, the objective against one parameter."""
    metric = result.spec.objective.metric
    for axes, figure, name, color in ((test, CLEAN_AP, "test AP, clean", TEST_COLOR), (val, metric, metric, VAL_COLOR)):
        _draw_response(result, parameter, figure, axes, color)
        if named:
            axes.set_ylabel(f"{name} (%)" if axes is test else f"{name},\n{result.spec.base.val_labels} (%)")
    test.tick_params(labelbottom=False)
    val.set_xlabel(parameter)
    handles, labels = test.get_legend_handles_labels()
    if named and labels:
        test.legend(handles, labels, fontsize=7)


def _draw_response(result: StudyResult, parameter: str, metric: str, axes: Axes, color: str) -> None:
    """Draw each seed as a dot, and the means; over choices of which nothing else varies they are joined."""
    law, best = result.spec.search[parameter], marked(result)[0]
    shown = [c for c in result.searched if parameter in c.trial.overrides]
    at, alone = _places(law, [c.trial.overrides[parameter] for c in shown])
    means = [c.over_seeds(metric) for c in shown]
    dots = [(x, t.last(metric)) for x, c in zip(at, shown, strict=True) for t in c.trials]
    axes.plot(*_columns(dots), ".", color=color, alpha=0.5 if len(dots) < 200 else 0.2, markersize=4)
    axes.plot(at, [m.mean for m in means], "o", color=color, markersize=5 if len(means) <= WHISKERS else 3)
    if _whiskers(result, shown):
        widths = [m.half_width for m in means]
        axes.errorbar(
            at, [m.mean for m in means], yerr=widths, fmt="none", ecolor=color, elinewidth=0.8, capsize=2, alpha=0.6
        )
    if isinstance(law, Categorical) and alone:
        axes.plot(at, [m.mean for m in means], "-", color=color)
    for x, mean, c in zip(at, means, shown, strict=True):
        if c.trial.configuration == best:
            axes.plot(x, mean.mean, "*", color=color, markersize=13, markeredgecolor="black", label="best", zorder=4)
    for c in _baselines(result):
        level, name = c.over_seeds(metric).mean, _legible(c.trial.label)
        axes.axhline(level, color="black", linestyle=_baseline_style(c), linewidth=1, label=name)
    if isinstance(law, Categorical):
        names = [_legible(value_text(choice)) for choice in law.choices]
        tilted = max(map(len, names)) * len(names) > 36
        axes.set_xticks(range(len(names)), names, rotation=30 if tilted else 0, ha="right" if tilted else "center")
        axes.set_xlim(-0.5, len(names) - 0.5)
    elif law.log:
        axes.set_xscale("log")


def _places(law: Categorical | Range, values: Sequence[Any]) -> tuple[list[float], bool]:
    """Return where each value stands on the axis, those of one choice side by side, and whether each stands alone."""
    if isinstance(law, Range):
        return [float(value) for value in values], False
    at, counts = [], [values.count(choice) for choice in law.choices]
    seen = [0] * len(counts)
    for value in values:
        place = law.choices.index(value)
        spread = (seen[place] + 0.5) / counts[place] - 0.5
        at.append(place + 0.5 * spread if counts[place] > 1 else float(place))
        seen[place] += 1
    return at, max(counts) <= 1


def _draw_curves(result: StudyResult, axes: Axes) -> None:
    """Draw a line for each training, and their mean; of many configurations only best and baselines stand out."""
    metric, best = result.spec.objective.metric, marked(result)[0]
    many, colors = _many(result), iter(f"C{number}" for number in range(MANY))
    faint: list[list[tuple[float, float]]] = []
    for c in result.configurations:
        lines = [line for t in c.trials if (line := [(r["epoch"], r[metric]) for r in t.records if metric in r])]
        baseline, chosen = c.trial.baseline is not None, c.trial.configuration == best
        if many and not baseline and not chosen:
            faint += lines
            continue
        style = _baseline_style(c) if baseline else "-"
        color = "black" if baseline else VAL_COLOR if many else next(colors)
        for line in lines if len(lines) > 1 else []:
            axes.plot(*_columns(line), color=color, linestyle=style, alpha=0.35, linewidth=0.8)
        label = _legible(c.trial.label) + (" (best)" if chosen else "")
        axes.plot(*_mean(lines), color=color, linestyle=style, linewidth=2, label=label, zorder=3)
    if faint:
        axes.add_collection(
            LineCollection(faint, colors=FAINT, linewidths=0.7, alpha=max(0.08, 0.5 * 60 / (60 + len(faint))))
        )
        axes.autoscale_view()
    if STAGE1_EPOCHS not in result.spec.search:
        switch = result.spec.base.schedule.switch_epoch
        axes.axvline(switch, color="grey", linewidth=0.8)
        axes.annotate(" stage 2", (switch, 0.01), fontsize=7, color="grey", xycoords=("data", "axes fraction"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{metric}, {result.spec.base.val_labels} (%)")
    handles, labels = axes.get_legend_handles_labels()
    if faint:
        handles, labels = [*handles, Line2D([], [], color=FAINT)], [*labels, "the other configurations"]
    if labels:
        axes.legend(handles, labels, fontsize=7)


def _mean(lines: Sequence[Sequence[tuple[float, float]]]) -> tuple[list[float], list[float]]:
    """Return the mean of curves over the epochs that all of them have."""
    by_epoch: dict[float, list[float]] = {}
    for line in lines:
        for epoch, value in line:
            by_epoch.setdefault(epoch, []).append(value)
    common = sorted(epoch for epoch, values in by_epoch.items() if len(values) == len(lines))
    return common, [float(np.mean(by_epoch[epoch])) for epoch in common]
