"""The page of a review that is under way: one HTML file, which loads nothing and runs no script."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lncis import pages
from lncis.suspects.report.html import DPI
from lncis.suspects.report.progress import Progress

TEMPLATE = Path(__file__).with_name("plan.html.j2")


def plan_html(title: str, so_far: Progress) -> str:
    """Return the page: what was found, what was expected, and the plan of the rest."""
    picture = pages.embedded(curve(so_far), DPI)
    return pages.template(TEMPLATE).render(title=title, so_far=so_far, plan=so_far.plan, picture=picture)


def curve(so_far: Progress) -> Figure:
    """Return the wrong labels found over the labels reviewed: so far, then as expected for the rest."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    rest = np.sort(so_far.after[so_far.open])[::-1]
    reviews = so_far.reviewed + np.arange(len(rest) + 1)
    found = so_far.found + np.concatenate([[0.0], np.cumsum(rest)])
    spread = 1.96 * np.sqrt(np.concatenate([[0.0], np.cumsum(rest * (1 - rest))]))
    axes.plot(reviews, found, color="tab:blue", label="expected from here on")
    axes.fill_between(reviews, found - spread, found + spread, color="tab:blue", alpha=0.2, linewidth=0)
    axes.plot([reviews[0], reviews[-1]], [found[0], found[-1]], color="0.6", linestyle="--", label="in random order")
    before = np.cumsum(so_far.before)
    axes.plot(np.arange(1, len(before) + 1), before, color="0.3", linestyle=":", label="expected before the review")
    axes.scatter([so_far.reviewed], [so_far.found], color="tab:orange", zorder=3, label="found so far")
    axes.set(xlabel="labels reviewed", ylabel="wrong labels found")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False)
    return figure
