"""The report of a list of suspects: one HTML file, which loads nothing and runs no script."""

from dataclasses import dataclass
from pathlib import Path

from lncis import pages
from lncis.suspects.report.assessment import Assessment
from lncis.suspects.report.plots import pictures
from lncis.suspects.report.quality import PRECISION_AT
from lncis.suspects.suspect import Suspect

TEMPLATE = Path(__file__).with_name("report.html.j2")
DPI = 130
"""Of its pictures."""
FIRST = 100
"""Suspects that the report lists; all are in the list itself."""


def report_html(title: str, listed: list[Suspect], assessed: Assessment, remark: str = "") -> str:
    """Return the report; `remark` says what people should know of how the labels were judged."""
    return pages.template(TEMPLATE).render(
        title=title,
        listed=listed,
        first=listed[:FIRST],
        assessed=assessed,
        truth=assessed.truth,
        firsts=PRECISION_AT,
        remark=remark,
        noise=noise_rows(assessed),
        percent=lambda share: f"{100 * share:.1f}\N{NO-BREAK SPACE}%",
        pictures={title: pages.embedded(figure, DPI) for title, figure in pictures(listed, assessed).items()},
    )


@dataclass(frozen=True, kw_only=True)
class NoiseRow:
    """What becomes of a class: an entry of the transition matrix, as estimated and as known."""

    true: str
    label: str
    share: float
    interval: tuple[float, float]
    """95 %."""
    known: float | None
    """None where the truth is not known, or no label is of this class."""


def noise_rows(assessed: Assessment) -> list[tuple[NoiseRow, NoiseRow | None]]:
    """Return for each class how often its labels are right, and the wrong label that it gets most often."""
    matrix, (low, high) = assessed.noise.transition_matrix, assessed.transition_interval
    known = assessed.truth.transition_matrix if assessed.truth else None

    def row(true: int, label: int) -> NoiseRow:
        return NoiseRow(
            true=assessed.classes[true],
            label=assessed.classes[label],
            share=float(matrix[true, label]),
            interval=(float(low[true, label]), float(high[true, label])),
            known=None if known is None or not known[true].any() else float(known[true, label]),
        )

    found = []
    for true in range(len(matrix)):
        others = matrix[true].copy()
        others[true] = -1.0
        found.append((row(true, true), row(true, int(others.argmax())) if len(others) > 1 else None))
    return found
