"""What a study leaves to be read: table, plots, best configuration, all its figures."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import matplotlib
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lncis import documents
from lncis.studies.result import ConfigurationResult, StudyResult, paired_difference, summary
from lncis.studies.spec import Categorical, PaperRow

matplotlib.use("agg")

FIGURES = ("AP", "AP50", "AP75")
CLEAN_AP = "test/segm_AP"


def write(result: StudyResult) -> list[Path]:
    """Write table.txt, table.csv, results.json, plot.png and best.yaml into the study's folder; return their paths.

    Raises StudyError where no configuration finished, after writing what there is.
    """
    folder = result.directory
    (folder / "results.json").write_text(json.dumps(summary(result), indent=1, allow_nan=False))
    (folder / "table.csv").write_text(_csv(result))
    with (folder / "table.txt").open("w") as file:
        Console(file=file, width=120).print(table(result))
    _plot(result, folder / "plot.png")
    best = result.best
    comment = (
        f"Best of study {result.study_id} by mean {result.spec.objective.metric} over seeds "
        f"{', '.join(str(t.trial.seed) for t in best.trials)}: {best.trial.label}\n"
        f"Train it with: lncis train {folder / 'best.yaml'} --out {folder / 'best'}"
    )
    (folder / "best.yaml").write_text(documents.to_yaml(best.trial.config, comment=comment))
    return [folder / name for name in ("best.yaml", "table.txt", "table.csv", "plot.png", "results.json")]


def table(result: StudyResult) -> RenderableType:
    """Return the configurations in the paper's shape, what the paper got beside each, and what may be concluded."""
    spec, seeds = result.spec, len(result.spec.seeds)
    noise = spec.base.noise
    title = (
        f"{spec.name}: {spec.base.dataset.name}, "
        f"{'no noise' if noise.kind == 'none' else f'{noise.kind} noise {noise.rate:.0%}'}, "
        f"E = {spec.base.schedule.epochs}, E1 = {spec.base.schedule.switch_epoch}, "
        f"{seeds} seed{'s, mean ± 95 % CI' if seeds > 1 else ''}"
    )
    view = Table(title=title, title_justify="left", title_style="bold")
    view.add_column("configuration")
    view.add_column(f"{spec.objective.metric}\n(noisy)", justify="right")
    for figure in FIGURES:
        view.add_column(f"test {figure}\n(clean)", justify="right")
    if spec.paper:
        view.add_column("paper\nAP  AP50  AP75", justify="right", style="dim")
    for configuration in result.configurations:
        row = _paper_row(result, configuration)
        best = bool(result.searched) and configuration.trial.configuration == result.best.trial.configuration
        view.add_row(
            ("* " if best else "  ") + configuration.trial.label,
            f"{configuration.over_seeds(spec.objective.metric)}",
            *(f"{configuration.over_seeds(f'test/segm_{figure}')}" for figure in FIGURES),
            *([f"{row.AP:.1f}  {row.AP50:.1f}  {row.AP75:.1f}" if row else ""] if spec.paper else []),
            end_section=configuration.trial.baseline is not None,
        )
    return Group(view, *(Text(line) for line in conclusions(result)))


def conclusions(result: StudyResult) -> list[str]:
    """Return, a line each, what was found best, what cannot be told from it, what failed, and what it cost."""
    lines = []
    if result.spec.paper:
        lines.append(f"paper: {result.spec.paper.table}")
    if result.searched:
        metric, best = result.spec.objective.metric, result.best
        lines.append(f"* best by mean {metric}: {best.trial.label}")
        paired = f"paired over {len(result.spec.seeds)} seeds" if len(result.spec.seeds) > 1 else "one seed"
        lines += [
            f"  {paired_difference(best, c, CLEAN_AP):+} test AP over {c.trial.baseline} ({paired})"
            for c in result.configurations
            if c.trial.baseline is not None and math.isfinite(c.over_seeds(CLEAN_AP).mean)
        ]
        if len(result.spec.seeds) == 1 and len(result.searched) > 1:
            lines.append("  one seed: differences of this size may be chance; add seeds to tell")
        elif result.as_good_as_best:
            names = "; ".join(c.trial.label for c in result.as_good_as_best)
            lines.append(f"  not told apart from it by {len(result.spec.seeds)} seeds (95 % CI): {names}")
    lines += [f"failed: {t.trial.label}, seed {t.trial.seed}: {t.reason}" for t in result.trials if t.reason]
    saved = 1 - result.sharing.trained / max(result.sharing.asked, 1)
    lines.append(
        f"cost: {result.sharing.trained} epochs trained for {result.sharing.asked} asked "
        f"({saved:.0%} saved by sharing stage 1), {result.seconds / 60:.1f} min"
    )
    return lines


def _paper_row(result: StudyResult, configuration: ConfigurationResult) -> PaperRow | None:
    rows = result.spec.paper.rows if result.spec.paper else []
    return next((row for row in rows if row.set == configuration.trial.overrides), None)


def _csv(result: StudyResult) -> str:
    """Return a line for each trial: its overrides, seed and last figures."""
    paths = sorted({path for t in result.trials for path in t.trial.overrides if t.trial.baseline is None})
    metrics = [m for m in ("val", "test") for m in (f"{m}/segm_AP", f"{m}/segm_AP50", f"{m}/segm_AP75")]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["configuration", "baseline", *paths, "seed", *metrics, "failed"])
    for t in result.trials:
        changes = [t.trial.overrides.get(path, "") if t.trial.baseline is None else "" for path in paths]
        figures = [f"{t.last(metric):.2f}" for metric in metrics]
        writer.writerow([t.trial.configuration, t.trial.baseline or "", *changes, t.trial.seed, *figures, t.reason])
    return text.getvalue()


def _plot(result: StudyResult, path: Path) -> None:
    """Draw the objective and the clean test AP against the first searched parameter, and the learning curves."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no window

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    response, curves = figure.subplots(1, 2)
    _plot_response(result, response)
    _plot_curves(result, curves)
    figure.suptitle(f"{result.spec.name}: {result.spec.question}", fontsize=10)
    figure.savefig(path, dpi=110)


def _plot_response(result: StudyResult, axes: Any) -> None:
    """Draw each seed as a dot; over choices also the mean as a line, and its interval from three seeds on."""
    parameter = next(iter(result.spec.search))
    chosen = isinstance(result.spec.search[parameter], Categorical)
    values = [c.trial.overrides[parameter] for c in result.searched]
    places = list(dict.fromkeys(values))
    at = [places.index(value) if chosen else value for value in values]
    several = len(places) < len(values) or not chosen  # other parameters vary too: a line would join unlike things
    for metric, name, color in (
        (CLEAN_AP, "test, clean", "tab:blue"),
        (result.spec.objective.metric, f"{result.spec.objective.metric}, noisy", "tab:orange"),
    ):
        means = [c.over_seeds(metric) for c in result.searched]
        whiskers = [m.half_width for m in means] if len(result.spec.seeds) > 2 else None
        line = "o" if several else "-"
        axes.errorbar(at, [m.mean for m in means], yerr=whiskers, fmt=line, capsize=3, color=color, label=name)
        for seed in range(len(result.spec.seeds)):
            axes.plot(at, [c.trials[seed].last(metric) for c in result.searched], ".", color=color, alpha=0.5)
        for c in result.configurations:
            if c.trial.baseline is not None:
                mean = c.over_seeds(metric).mean
                axes.axhline(mean, color=color, linestyle=":", label=f"{c.trial.baseline}, {name}")
    if chosen:
        axes.set_xticks(range(len(places)), [str(place) for place in places])
    axes.set_xlabel(parameter)
    axes.set_ylabel("AP (%)")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)


def _plot_curves(result: StudyResult, axes: Any) -> None:
    metric = result.spec.objective.metric
    for number, c in enumerate(result.configurations):
        for t in c.trials:
            points = [(r["epoch"], r[metric]) for r in t.records if metric in r]
            first = t is c.trials[0]
            axes.plot(
                [epoch for epoch, _ in points],
                [value for _, value in points],
                color="black" if c.trial.baseline else f"C{number % 10}",
                linestyle="--" if c.trial.baseline else "-",
                alpha=1.0 if first else 0.5,
                label=c.trial.label if first else None,
            )
    switch = result.spec.base.schedule.switch_epoch
    axes.axvline(switch, color="grey", linewidth=0.8)
    axes.annotate(" stage 2", (switch, 0), fontsize=7, color="grey", xycoords=("data", "axes fraction"))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{metric} (%)")
    axes.legend(fontsize=7)
