"""How well the loss separates clean from flipped samples, as in Figure 5 of the paper."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lncis.config import LncisLoss
from lncis.detection import histograms
from lncis.detection.histograms import BIN_NATS, BINS
from lncis.metrics import AUTO_METRICS
from lncis.studies.record.journal import End
from lncis.studies.report.result import ConfigurationResult, StudyResult

MOST_BASELINES = 2

AUTO_GAMMA, _, AUTO_STAGE1_EPOCHS = AUTO_METRICS

CLEAN_COLOR, FLIPPED_COLOR = "tab:blue", "tab:red"

EDGES = BIN_NATS * np.arange(BINS + 1)


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Foreground samples of one configuration in one epoch, over all seeds that kept them."""

    label: str
    epoch: int
    stage: str
    clean: NDArray[np.int64]
    flipped: NDArray[np.int64]


def foreground_losses(result: StudyResult) -> list[list[Losses]]:
    """Return the losses of the best configuration and the first baselines, a list for each: end of stage 1, end."""
    best = [result.best] if result.searched else []
    baselines = [c for c in result.configurations if c.trial.baseline is not None][:MOST_BASELINES]
    return [found for c in [*best, *baselines] if (found := _of(c))]


def draw_losses(shown: Sequence[Sequence[Losses]], gamma: float) -> Figure:
    """Return a row of histograms for each configuration, with the percentages above `gamma`."""
    columns = max(map(len, shown))
    figure = Figure(figsize=(5.4 * columns, 0.6 + 2.5 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), columns, squeeze=False, sharex=True, sharey=True)
    for row, found in zip(grid, shown, strict=True):
        for axes in row[len(found) :]:
            axes.set_axis_off()
        for axes, one in zip(row, found, strict=False):
            _draw(one, gamma, axes)
        row[0].set_ylabel("samples (%)")
    for axes in grid[-1]:
        axes.set_xlabel("cross entropy (nats)")
    used = np.sum([one.clean + one.flipped for found in shown for one in found], axis=0).nonzero()[0]
    grid[0, 0].set_xlim(0, EDGES[used.max() + 1])
    grid[0, 0].legend(fontsize=7, loc="upper right")
    return figure


def gamma_shown(result: StudyResult) -> float:
    """Return the gamma of the best configuration, or of the base; the paper's where they have none."""
    configs = [result.best.trial.config] if result.searched else []
    for loss in (config.loss for config in [*configs, result.spec.base]):
        if isinstance(loss, LncisLoss) and loss.gamma != "auto":
            return loss.gamma
        if isinstance(loss, LncisLoss) and math.isfinite(mean := result.best.over_seeds(AUTO_GAMMA).mean):
            return mean
    return LncisLoss().nats


def _of(configuration: ConfigurationResult) -> list[Losses]:
    schedule = configuration.trial.config.schedule
    finished = [t for t in configuration.trials if t.end is End.FINISHED]
    kept, found = [histograms.read(t.directory) for t in finished], []
    # of an E1 that each seed sets itself, the earliest: all are in stage 1 there
    earliest = min((e for t in finished if math.isfinite(e := t.last(AUTO_STAGE1_EPOCHS))), default=None)
    switch = schedule.switch_epoch if earliest is None else int(earliest)
    for epoch, stage in ((switch, "the last of stage 1"), (schedule.epochs, "the last")):
        of_epoch = [one for seed in kept for one in seed if one.epoch == epoch]
        if of_epoch:
            clean, flipped = (np.sum([getattr(one, kind) for one in of_epoch], axis=0) for kind in ("clean", "flipped"))
            found.append(
                Losses(label=configuration.trial.label, epoch=epoch, stage=stage, clean=clean, flipped=flipped)
            )
    return found


def _draw(one: Losses, gamma: float, axes: Axes) -> None:
    # a bin is above gamma or not: between two edges the higher one is taken, and shown
    edge = math.ceil(gamma / BIN_NATS) if gamma < EDGES[-2] else None
    shares_above = []
    for counts, name, color in ((one.clean, "clean", CLEAN_COLOR), (one.flipped, "flipped", FLIPPED_COLOR)):
        if counts.sum():
            shares = 100 * counts / counts.sum()
            axes.stairs(shares, EDGES, fill=True, color=color, alpha=0.35)
            axes.stairs(shares, EDGES, color=color, label=name)
            shares_above.append(f"{shares[edge:].sum():.3g} % of {name}" if edge is not None else "")
    axes.set_yscale("log")
    axes.set_ylim(0.05, 100)
    if edge is not None:
        axes.axvline(EDGES[edge], color="black", linewidth=0.8, linestyle="--")
        axes.annotate(
            f"above {EDGES[edge]:g}: {', '.join(shares_above)}",
            (0.98, 0.72),
            xycoords="axes fraction",
            fontsize=7,
            horizontalalignment="right",
        )
    label = one.label if len(one.label) <= 40 else f"{one.label[:39]}…"
    axes.set_title(f"{label}: epoch {one.epoch}, {one.stage}", fontsize=8, parse_math=False)
