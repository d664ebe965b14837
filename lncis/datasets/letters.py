"""Printed letters and signs in scenes composed like those of the digits: what `weights: letters` is trained on.

The glyphs come from the fonts that matplotlib brings. None of them is read as a digit. Left out are the letters that
are mistaken for digits or written for them: O o D Q C U a Θ Φ Ω (0), I i l L J (1), Z z Σ (2), E (3), A Y y (4),
S s $ (5), G b e (6), T (7), B & % (8), g q p (9), and their likes in other alphabets. Backgrounds are cut from the
columns of the photographs that belong to `train` of the digits. So `val` and `test` of the digits share neither glyphs
nor backgrounds with these scenes.
"""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lncis.datasets import scenes
from lncis.datasets.scenes import Glyph
from lncis.noise import Document

GLYPHS = (
    *("F", "H", "K", "M", "N", "P", "R", "V", "W", "X"),
    *("d", "f", "h", "m", "r", "t"),
    *("Γ", "Δ", "Ξ", "Π", "Ψ", "λ"),
    *("Ж", "Ш", "Я", "И"),
    *("#", "*", "+", "=", "<", ">"),
)
"""The 32 classes."""

FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
"""Files of matplotlib, each with all glyphs."""

RASTER = 8
"""Pixels of a glyph before it is enlarged, as many as a handwritten digit has."""
_DRAWN_PIXELS = 64
_LARGEST_SHEAR = 0.3
_NARROWEST = 0.6


def compose(scene_count: int, seed: int) -> tuple[NDArray[np.uint8], Document]:
    """Return images `(scene_count, 128, 128, 3)` and their COCO document; a function of the arguments alone."""
    rng = np.random.default_rng(seed)
    composed = [scenes.scene(rng, _glyph, "train") for _ in range(scene_count)]
    document = scenes.document(composed, GLYPHS, "letters", {"description": "lncis printed letters and signs"})
    return np.stack([image for image, _ in composed]), document


def _glyph(rng: np.random.Generator) -> Glyph:
    label, font = int(rng.integers(len(GLYPHS))), int(rng.integers(len(FONTS)))
    return label, scenes.placed(rng, raster(_drawn(label, font), rng))


def raster(drawn: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return `(8, 8)` ink in [0, 255] of a drawn glyph, sheared, narrowed and boldened at random as hands write."""
    shear = float(rng.uniform(-_LARGEST_SHEAR, _LARGEST_SHEAR))
    margin = round(_LARGEST_SHEAR * drawn.height / 2)
    wide = Image.new("L", (drawn.width + 2 * margin, drawn.height))
    wide.paste(drawn, (margin, 0))
    about = (1, shear, -shear * drawn.height / 2, 0, 1, 0)  # the middle row stays
    slanted = wide.transform(wide.size, Image.Transform.AFFINE, about, Image.Resampling.BILINEAR)
    ink = slanted.crop(slanted.getbbox() or (0, 0, *slanted.size))
    height = int(rng.integers(RASTER - 1, RASTER + 1))
    natural = height * ink.width / ink.height * rng.uniform(_NARROWEST, 1 / _NARROWEST)
    width = int(np.clip(round(natural), 3, RASTER))
    small = ink.resize((width, height), Image.Resampling.BOX)
    canvas = Image.new("L", (RASTER, RASTER))
    canvas.paste(small, ((RASTER - width) // 2, (RASTER - height) // 2))
    return np.clip(np.asarray(canvas) * rng.uniform(1.0, 1.8), 0, 255).astype(np.uint8)


@cache
def _drawn(label: int, font: int) -> Image.Image:
    """Return a glyph of a font, white on black, cut to its ink."""
    import matplotlib  # slow to import, and needed for its fonts alone

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{FONTS[font]}.ttf"
    canvas = Image.new("L", (3 * _DRAWN_PIXELS, 3 * _DRAWN_PIXELS))
    face = ImageFont.truetype(file, _DRAWN_PIXELS)
    ImageDraw.Draw(canvas).text((_DRAWN_PIXELS, _DRAWN_PIXELS), GLYPHS[label], fill=255, font=face)
    return canvas.crop(canvas.getbbox())
