"""Scenes of 128 pixels, composed of glyphs on photographs, with exact masks.

One compositor for two sources of glyphs: handwritten digits (lncis.datasets.digits) and printed letters
(lncis.datasets.letters). Backgrounds are cut from scikit-learn's two bundled photographs, for each split from
columns of its own.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lncis.coco.masks import instance
from lncis.noise import Document

SIDE = 128
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Glyph = tuple[int, NDArray[np.float64]]
"""A class, counted from 0, and the opacity `(128, 128)` in [0, 1] of its ink."""
Scene = tuple[NDArray[np.uint8], list[tuple[int, NDArray[np.bool_]]]]
"""An image `(128, 128, 3)` and its instances: class and visible mask `(128, 128)`."""

BACKGROUND_COLUMNS = {"train": (0, 384), "val": (384, 512), "test": (512, 640)}
"""First column of the photographs that a split may use, and the first one that it may not."""
_LEAST_VISIBLE = 0.9
_DIMMED = 0.5
"""Photographs are darkened so that bright ink stands out: the task is to tell glyphs apart, not to find them."""
_LEAST_CONTRAST = 60.0


def scene(rng: np.random.Generator, draw_glyph: Callable[[np.random.Generator], Glyph], split: Split) -> Scene:
    """Return two to five glyphs on a background of a split; a tenth of each may be covered by later ones."""
    canvas = background(rng, split)
    wanted = int(rng.integers(2, 6))
    placed: list[tuple[int, NDArray[np.bool_]]] = []
    full_areas: list[int] = []
    for _ in range(10 * wanted):
        if len(placed) == wanted:
            break
        label, alpha = draw_glyph(rng)
        ink = rng.uniform(140, 255, size=3)
        mask = alpha > 0.5
        if ink.mean() - canvas[mask].mean() < _LEAST_CONTRAST:
            continue
        visible = [earlier & ~mask for _, earlier in placed]
        if any(m.sum() < _LEAST_VISIBLE * a for m, a in zip(visible, full_areas, strict=True)):
            continue
        canvas = canvas * (1 - alpha[..., None]) + ink * alpha[..., None]
        placed = [(d, m) for (d, _), m in zip(placed, visible, strict=True)]
        placed.append((label, mask))
        full_areas.append(int(mask.sum()))
    return canvas.round().astype(np.uint8), placed


def background(rng: np.random.Generator, split: Split) -> NDArray[np.float64]:
    """Return a darkened cut `(128, 128, 3)` of a photograph, from the columns of a split."""
    photograph = photographs()[rng.integers(len(photographs()))]
    low, high = BACKGROUND_COLUMNS[split]
    side = int(rng.integers(96, 129))
    left = int(rng.integers(low, high - side + 1))
    top = int(rng.integers(0, photograph.shape[0] - side + 1))
    crop = Image.fromarray(photograph[top : top + side, left : left + side])
    resized = crop.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return _DIMMED * np.asarray(resized, dtype=np.float64)


def placed(rng: np.random.Generator, raster: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the opacity `(128, 128)` of a small raster of ink in [0, 255], scaled to 24-48 px and slightly rotated."""
    size = int(rng.integers(24, 49))
    glyph = Image.fromarray(raster).resize((size, size), Image.Resampling.BICUBIC)
    glyph = glyph.rotate(float(rng.uniform(-15, 15)), Image.Resampling.BICUBIC, expand=True)
    layer = Image.new("L", (SIDE, SIDE))
    layer.paste(
        glyph,
        (int(rng.integers(0, SIDE - glyph.width)), int(rng.integers(0, SIDE - glyph.height))),
    )
    # strokes are made opaque: the antialiased rim stays translucent
    return np.clip(np.asarray(layer) / 255 * 1.6, 0, 1)


def document(scenes: Iterable[Scene], names: Iterable[str], prefix: str, info: dict[str, Any]) -> Document:
    """Return scenes as a COCO document: image `i` has the id `i`, class `k` the category id `k + 1`."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (_, instances) in enumerate(scenes):
        images.append({"id": image_id, "file_name": f"{prefix}-{image_id:05d}.png", "width": SIDE, "height": SIDE})
        for label, mask in instances:
            numbers = {"id": len(annotations) + 1, "image_id": image_id}
            annotations.append(numbers | instance(label + 1, mask))
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(names)]
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


@cache
def photographs() -> list[NDArray[np.uint8]]:
    """Return scikit-learn's two photographs, `(427, 640, 3)`."""
    from sklearn.datasets import load_sample_images  # slow to import, used once

    images: list[NDArray[np.uint8]] = load_sample_images().images
    return images
