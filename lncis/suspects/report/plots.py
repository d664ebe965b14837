"""The pictures of a list of suspects: what reviews find, the estimated noise beside the known, and the calibration."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot: no global state, no window

from lncis.noise.noise_model import Matrix
from lncis.suspects.report.assessment import Assessment
from lncis.suspects.report.quality import Bin
from lncis.suspects.suspect import Suspect

NAMED_CLASSES = 25
"""Most classes whose names stand at a matrix."""


def pictures(listed: list[Suspect], assessed: Assessment) -> dict[str, Figure]:
    """Return figures by their titles: review and estimated noise; with known truth, its noise and the reliability."""
    found = {
        "What a review finds": _review(listed, assessed),
        "Estimated noise": _matrix(assessed.noise.transition_matrix, assessed.classes),
    }
    if truth := assessed.truth:
        found["Known noise"] = _matrix(truth.transition_matrix, assessed.classes)
        found[f"Calibration (error {truth.calibration_error:.3f})"] = _reliability(truth.reliability)
    for title, figure in found.items():
        figure.suptitle(title)
    return found


def _panel() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.0, 4.2), layout="constrained")
    return figure, figure.subplots()


def _review(listed: list[Suspect], assessed: Assessment) -> Figure:
    figure, axes = _panel()
    wrong = np.array([suspect.wrong_probability for suspect in listed])
    reviews = np.arange(1, len(wrong) + 1)
    expected, spread = np.cumsum(wrong), 1.96 * np.sqrt(np.cumsum(wrong * (1 - wrong)))
    axes.plot(reviews, expected, color="tab:blue", label="expected, from the top of the list")
    axes.fill_between(reviews, expected - spread, expected + spread, color="tab:blue", alpha=0.2, linewidth=0)
    axes.plot([0, len(wrong)], [0, expected[-1]], color="0.6", linestyle="--", label="in random order")
    if assessed.truth:
        found = np.cumsum([suspect.true not in (None, suspect.given) for suspect in listed])
        axes.plot(reviews, found, color="tab:orange", label="really found")
        errors = assessed.truth.errors
        axes.plot([0, errors, len(wrong)], [0, errors, errors], color="0.3", linestyle=":", label="errors alone")
    axes.set(xlabel="labels reviewed", ylabel="wrong labels found")
    axes.set_xlim(0, len(wrong))
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _matrix(matrix: Matrix, classes: list[str]) -> Figure:
    figure, axes = _panel()
    shown = axes.imshow(matrix, vmin=0, vmax=1, cmap="Blues")
    axes.set(xlabel="label", ylabel="true class")
    if len(classes) <= NAMED_CLASSES:
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(len(classes)), classes, fontsize=8, parse_math=False)
    figure.colorbar(shown, ax=axes, shrink=0.8, label="share of the class")
    return figure


def _reliability(bins: list[Bin]) -> Figure:
    figure, axes = _panel()
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--")
    sizes = 12 + 150 * np.sqrt([some.labels / max(other.labels for other in bins) for some in bins])
    axes.scatter([some.said for some in bins], [some.is_so for some in bins], s=sizes, color="tab:blue", alpha=0.8)
    axes.set(
        xlabel="probability of a wrong label",
        ylabel="share that is wrong",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    return figure
