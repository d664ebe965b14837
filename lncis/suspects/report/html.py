"""The report of a list of suspects: one HTML file, which loads nothing and runs no script."""

import base64
import io
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from matplotlib.figure import Figure

from lncis.suspects.report.assessment import Assessment
from lncis.suspects.report.plots import overview
from lncis.suspects.suspect import Suspect

TEMPLATE = "report.html.j2"
FIRST = 100
"""Suspects that the report lists; all are in the list itself."""


def report_html(title: str, listed: list[Suspect], assessed: Assessment, in_sample: int) -> str:
    """Return the report; `in_sample` labels were scored by models that were trained on them."""
    return template(TEMPLATE).render(
        title=title,
        listed=listed,
        first=listed[:FIRST],
        assessed=assessed,
        truth=assessed.truth,
        in_sample=in_sample,
        percent=lambda share: f"{100 * share:.1f} %",
        picture=embedded(overview(listed, assessed)),
    )


def template(name: str) -> Template:
    """Return a template of this folder, which writes names that hold HTML as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def embedded(figure: Figure) -> str:
    """Return a figure as the source of an image, PNG."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    return f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
