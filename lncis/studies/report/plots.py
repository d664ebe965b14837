"""The figures of a study: effects of the parameters, learning curves, val against test, trade-offs."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure  # not pyplot: no global state, no window
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lncis.studies.report.conclusions import CLEAN_AP, best_and_front, best_group, figure_of
from lncis.studies.report.result import ConfigurationResult, StudyResult
from lncis.studies.spec import value_text
from lncis.studies.spec.space import STAGE1_EPOCHS, Categorical, Range

MANY = 8
"""Most configurations that have a colour each."""

WHISKERS = 40
"""Most intervals that are drawn; more hide each other."""

COLUMNS = 3
"""Parameters in a row of plots."""

TEST_COLOR, VAL_COLOR, FAINT = "tab:blue", "tab:orange", "0.6"
BASELINE_STYLES, BASELINE_MARKERS = ("--", ":", "-."), ("D", "s", "^")


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
    """Return the objective's figure on clean test against the objective, a dot for each searched configuration."""
    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    axes = figure.subplots()
    shown = _baselines(result) + result.searched
    metric = result.spec.objective.metric
    x, y = ([c.over_seeds(one) for c in shown] for one in (metric, f"test/{figure_of(result)}"))
    points = {c.trial.configuration: (a.mean, b.mean) for c, a, b in zip(shown, x, y, strict=True)}
    if has_whiskers(result, shown):
        axes.errorbar(
            *_columns(list(points.values())),
            xerr=[one.half_width for one in x],
            yerr=[one.half_width for one in y],
            fmt="none",
            ecolor=FAINT,
            elinewidth=0.6,
        )
    searched = [points[c.trial.configuration] for c in result.searched]
    axes.plot(
        *_columns(searched), "o", color=TEST_COLOR, markersize=5, alpha=0.5 if many_configurations(result) else 1.0
    )
    for c in _baselines(result):
        mark = BASELINE_MARKERS[c.trial.configuration % len(BASELINE_MARKERS)]
        axes.plot(*points[c.trial.configuration], mark, color="black", markersize=5, label=_legible(c.trial.label))
    _mark_selected(result, points, axes, TEST_COLOR)
    axes.set_xlabel(f"{metric}, {result.spec.base.val_labels} (%)")
    axes.set_ylabel(f"test/{figure_of(result)}, clean (%)")
    axes.legend(fontsize=7)
    return figure


def pareto(result: StudyResult) -> Figure:
    """Return each secondary objective against the objective, with the Pareto front."""
    first, *others = result.spec.objectives
    labels = result.spec.base.val_labels
    figure = Figure(figsize=(5.2 * len(others), 4.4), layout="constrained")
    front = best_and_front(result)[1]
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
        _mark_selected(result, points, axes, TEST_COLOR)
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


def selected_name(result: StudyResult) -> str:
    """Return what a legend calls the selected configuration: best only where it can be told apart from the others."""
    return "selected" if result.as_good_as_best else "best"


def _mark_selected(result: StudyResult, points: Mapping[int, tuple[float, float]], axes: Axes, color: str) -> None:
    """Draw a star on the best configuration, or rings on all that cannot be told apart from the selected one."""
    if not result.searched:
        return
    selected, group = result.best.trial.configuration, best_group(result)
    rings = dict.fromkeys(sorted(group), "cannot be told apart") if result.selection else {}
    for number, label in {**rings, selected: selected_name(result)}.items():
        if number not in points:
            continue
        known = label in axes.get_legend_handles_labels()[1]
        (mark,) = axes.plot(*points[number], "*", color=color, markersize=13, markeredgecolor="black", zorder=4)
        mark.set_label("_" if known else label)
        if len(group) > 1:
            mark.set(marker="o", markersize=11, markerfacecolor="none")
            mark.set_markeredgewidth(1.6 if number == selected else 0.8)


def _wanted(mode: str) -> str:
    return "more is better" if mode == "max" else "less is better"


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _legible(label: str) -> str:
    """Return a label cut for a legend, in which matplotlib sees no formula and no leading underscore, which hides."""
    short = label if len(label) <= 48 else f"{label[:47]}…"
    return f" {short}".replace("$", r"\$") if short.startswith("_") else short.replace("$", r"\$")


def many_configurations(result: StudyResult) -> bool:
    """Say whether there are too many configurations for a colour each."""
    return sum(c.trial.baseline is None for c in result.configurations) > MANY


def _baselines(result: StudyResult) -> list[ConfigurationResult]:
    """Return the baselines that have a finite test AP."""
    found = [c for c in result.configurations if c.trial.baseline is not None]
    return [c for c in found if math.isfinite(c.over_seeds(CLEAN_AP).mean)]


def _baseline_style(configuration: ConfigurationResult) -> str:
    return BASELINE_STYLES[configuration.trial.configuration % len(BASELINE_STYLES)]  # baselines are numbered first


def has_whiskers(result: StudyResult, shown: Sequence[ConfigurationResult]) -> bool:
    """Say whether intervals are drawn: with two seeds they are larger than the plot."""
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


def _draw_response(result: StudyResult, path: str, metric: str, axes: Axes, color: str) -> None:
    """Draw a metric against one parameter: each seed as a dot, means, baselines, and what was selected.

    Means of choices are joined by a line where no other parameter varies.
    """
    parameter = result.spec.search[path]
    shown = [c for c in result.searched if path in c.trial.overrides]
    values = [c.trial.overrides[path] for c in shown]
    x = _positions(parameter, values)
    intervals = [c.over_seeds(metric) for c in shown]
    means = [interval.mean for interval in intervals]
    dots = [(at, t.last(metric)) for at, c in zip(x, shown, strict=True) for t in c.trials]
    axes.plot(*_columns(dots), ".", color=color, alpha=0.5 if len(dots) < 200 else 0.2, markersize=4)
    axes.plot(x, means, "o", color=color, markersize=5 if len(means) <= WHISKERS else 3)
    if has_whiskers(result, shown):
        widths = [interval.half_width for interval in intervals]
        axes.errorbar(x, means, yerr=widths, fmt="none", ecolor=color, elinewidth=0.8, capsize=2, alpha=0.6)
    if isinstance(parameter, Categorical) and all(values.count(choice) <= 1 for choice in parameter.choices):
        axes.plot(x, means, "-", color=color)
    points = {c.trial.configuration: (at, mean) for at, mean, c in zip(x, means, shown, strict=True)}
    _mark_selected(result, points, axes, color)
    for c in _baselines(result):
        level, name = c.over_seeds(metric).mean, _legible(c.trial.label)
        axes.axhline(level, color="black", linestyle=_baseline_style(c), linewidth=1, label=name)
    _scale(parameter, axes)


def _scale(parameter: Categorical | Range, axes: Axes) -> None:
    """Give the x axis the names of choices, or a logarithmic scale."""
    if isinstance(parameter, Range):
        if parameter.log:
            axes.set_xscale("log")
        return
    names = [_legible(value_text(choice)) for choice in parameter.choices]
    tilted = max(map(len, names)) * len(names) > 36
    axes.set_xticks(range(len(names)), names, rotation=30 if tilted else 0, ha="right" if tilted else "center")
    axes.set_xlim(-0.5, len(names) - 0.5)


def _positions(parameter: Categorical | Range, values: Sequence[Any]) -> list[float]:
    """Return where values stand on the x axis: at the number of their choice, several of one choice side by side."""
    if isinstance(parameter, Range):
        return [float(value) for value in values]
    counts = [values.count(choice) for choice in parameter.choices]
    x, seen = [], [0] * len(counts)
    for value in values:
        number = parameter.choices.index(value)
        aside = (seen[number] + 0.5) / counts[number] - 0.5  # from -0.5 to 0.5; 0 for the only one
        x.append(number + 0.5 * aside)
        seen[number] += 1
    return x


def _draw_curves(result: StudyResult, axes: Axes) -> None:
    """Draw a line for each training and their mean; of many configurations only best and baselines in colour."""
    metric, best = result.spec.objective.metric, best_and_front(result)[0]
    many, colors = many_configurations(result), iter(f"C{number}" for number in range(MANY))
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
        label = _legible(c.trial.label) + (f" ({selected_name(result)})" if chosen else "")
        axes.plot(*_mean(lines), color=color, linestyle=style, linewidth=2, label=label, zorder=3)
    if faint:
        axes.add_collection(
            LineCollection(faint, colors=FAINT, linewidths=0.7, alpha=max(0.08, 0.5 * 60 / (60 + len(faint))))
        )
        axes.autoscale_view()
    if STAGE1_EPOCHS not in result.spec.search and result.spec.base.schedule.stage1_epochs != "auto":
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
