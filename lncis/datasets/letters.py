"""Printed letters and signs in scenes composed like those of the digits: what `weights: letters` is trained on.

The glyphs come from the fonts that matplotlib brings. None of them is read as a digit. Left out are the letters that
are mistaken for digits or written for them: O o D Q C U a Θ Φ Ω (0), I i l L J (1), Z z Σ (2), E (3), A Y y (4),
S s $ (5), G b e (6), T (7), B & % (8), g q p (9), and their likes in other alphabets. Backgrounds are cut from the
columns of the photographs that belong to `train` of the digits. So `val` and `test` of the digits share neither glyphs
nor backgrounds with these scenes.
"""

import numpy as np
from numpy.typing import NDArray

from lncis.datasets import printed, scenes
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


def compose(scene_count: int, seed: int) -> tuple[NDArray[np.uint8], Document]:
    """Return images `(scene_count, 128, 128, 3)` and their COCO document; a function of the arguments alone."""
    rng = np.random.default_rng(seed)
    composed = [scenes.scene(rng, _glyph, "train") for _ in range(scene_count)]
    document = scenes.document(composed, GLYPHS, "letters", {"description": "lncis printed letters and signs"})
    return np.stack([image for image, _ in composed]), document


def _glyph(rng: np.random.Generator) -> Glyph:
    label, font = int(rng.integers(len(GLYPHS))), int(rng.integers(len(printed.FONTS)))
    return label, scenes.placed(rng, printed.raster(printed.drawn(GLYPHS[label], font), rng))
