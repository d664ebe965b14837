"""Characters of the fonts that matplotlib brings, as rasters of the size of a handwritten digit."""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
"""Files of matplotlib: each has all letters and signs that are used."""

RASTER = 8
"""Pixels of a glyph before it is enlarged, as many as a handwritten digit has."""
_DRAWN_PIXELS = 64
_LARGEST_SHEAR = 0.3
_NARROWEST = 0.6


def raster(glyph: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return `(8, 8)` ink in [0, 255] of a drawn glyph, sheared, narrowed and boldened at random as hands write."""
    shear = float(rng.uniform(-_LARGEST_SHEAR, _LARGEST_SHEAR))
    margin = round(_LARGEST_SHEAR * glyph.height / 2)
    wide = Image.new("L", (glyph.width + 2 * margin, glyph.height))
    wide.paste(glyph, (margin, 0))
    about = (1, shear, -shear * glyph.height / 2, 0, 1, 0)  # the middle row stays
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
def drawn(character: str, font: int) -> Image.Image:
    """Return a character of FONTS[font], white on black, cut to its ink."""
    import matplotlib  # slow to import, and needed for its fonts alone

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{FONTS[font]}.ttf"
    canvas = Image.new("L", (3 * _DRAWN_PIXELS, 3 * _DRAWN_PIXELS))
    face = ImageFont.truetype(file, _DRAWN_PIXELS)
    ImageDraw.Draw(canvas).text((_DRAWN_PIXELS, _DRAWN_PIXELS), character, fill=255, font=face)
    return canvas.crop(canvas.getbbox())
