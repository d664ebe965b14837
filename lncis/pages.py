"""Pages of one HTML file, which open without a server and load nothing: their templates, and pictures in them."""

import base64
import io
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from matplotlib.figure import Figure


def template(path: Path) -> Template:
    """Return a template, which writes names that hold HTML as text; it may include others of its folder."""
    environment = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(path.name)


def embedded(figure: Figure, dpi: float) -> str:
    """Return a figure as the source of an image, PNG: thousands of dots and curves are large as SVG."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi)
    return f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
