"""The embedded data set: real handwritten digits composited on photographs, with exact masks.

The digits are scikit-learn's copy of the UCI handwritten digits (1,797 samples of 8x8 pixels), the backgrounds are
cut from its two bundled photographs. Samples and backgrounds are split by position, so train, val and test share
neither. The pixels are real but the scenes are composed: this is not natural-image evidence.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lncis import files
from lncis.coco.masks import instance
from lncis.config import CocoData, DigitsData
from lncis.errors import DataError
from lncis.noise import Document

SIDE = 128
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
FORMAT = 1
"""Goes up when the same config composes other scenes: a cache of another format is not read."""

_DIGIT_RANGE = {"train": (0, 1000), "val": (1000, 1300), "test": (1300, 1797)}
_BACKGROUND_COLUMNS = {"train": (0, 384), "val": (384, 512), "test": (512, 640)}
_LEAST_VISIBLE = 0.9
_DIMMED = 0.5
"""Photographs are darkened so that bright ink stands out: the task is to tell digits apart, not to find them."""
_LEAST_CONTRAST = 60.0


def prepare(config: DigitsData, cache_directory: Path) -> Path:
    """Return the folder with `{train,val,test}.json` (COCO) and `.npy` (`(N, 128, 128, 3)` uint8).

    Generated once for a config, in a few seconds; the folder appears whole or not at all.
    """
    sizes = "-".join(str(asdict(config)[f"{split}_scenes"]) for split in SPLITS)
    folder = cache_directory / f"digits-v{FORMAT}-{sizes}-seed{config.seed}"
    if folder.is_dir():
        return folder
    try:
        with files.appearing(folder) as partial:
            for split in SPLITS:
                images, document = compose(config, split)
                np.save(partial / f"{split}.npy", images, allow_pickle=False)
                (partial / f"{split}.json").write_text(json.dumps(document))
    except OSError as error:
        if not folder.is_dir():  # another process may have finished first: its copy is as good
            raise DataError(
                f"cannot write the digits cache {cache_directory}: {error.strerror}; make room there, or set "
                "LNCIS_CACHE to a writable folder"
            ) from error
    return folder


def read(folder: Path, split: Split) -> tuple[NDArray[np.uint8], Document]:
    """Return the images `(N, 128, 128, 3)` and the COCO document of a split, image `i` having id `i`."""
    try:
        images = np.load(folder / f"{split}.npy", allow_pickle=False)
        document = json.loads((folder / f"{split}.json").read_text())
        if images.shape != (len(document["images"]), SIDE, SIDE, 3):
            raise ValueError(f"{split}.npy has the shape {images.shape}")
    except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{folder} does not hold a complete digits data set ({error}); delete it and it will be composed again"
        ) from error
    return images, document


def export(
    config: DigitsData, out: Path, on_progress: Callable[[int, int], object] = lambda done, total: None
) -> CocoData:
    """Return the data of a training on the same scenes as PNG images and COCO files, written to a folder."""
    folder, scenes, done = out / "images", asdict(config), 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            images, document = compose(config, split)
            for entry, image in zip(document["images"], images, strict=True):
                Image.fromarray(image).save(folder / entry["file_name"])
                done += 1
                on_progress(done, sum(scenes[f"{split}_scenes"] for split in SPLITS))
            files.replace(out / f"{split}.json", json.dumps(document))
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}; make room or name another folder") from error
    return CocoData(images=folder, train=out / "train.json", val=out / "val.json", test=out / "test.json")


def compose(config: DigitsData, split: Split) -> tuple[NDArray[np.uint8], Document]:
    """Return images `(N, 128, 128, 3)` and their COCO document; a function of the arguments alone."""
    rng = np.random.default_rng([config.seed, SPLITS.index(split)])
    images: list[NDArray[np.uint8]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(asdict(config)[f"{split}_scenes"]):
        image, instances = _scene(rng, split)
        images.append(image)
        for digit, mask in instances:
            numbers = {"id": len(annotations) + 1, "image_id": image_id}
            annotations.append(numbers | instance(digit + 1, mask))
    document = {
        "info": {"description": f"lncis digits, {split}", "version": str(FORMAT)},
        "images": [
            {"id": i, "file_name": f"{split}-{i:05d}.png", "width": SIDE, "height": SIDE} for i in range(len(images))
        ],
        "annotations": annotations,
        "categories": [{"id": digit + 1, "name": str(digit)} for digit in range(10)],
    }
    return np.stack(images), document


def _scene(rng: np.random.Generator, split: Split) -> tuple[NDArray[np.uint8], list[tuple[int, NDArray[np.bool_]]]]:
    canvas = _background(rng, split)
    wanted = int(rng.integers(2, 6))
    placed: list[tuple[int, NDArray[np.bool_]]] = []
    full_areas: list[int] = []
    for _ in range(10 * wanted):
        if len(placed) == wanted:
            break
        digit, alpha = _glyph(rng, split)
        ink = rng.uniform(140, 255, size=3)
        mask = alpha > 0.5
        if ink.mean() - canvas[mask].mean() < _LEAST_CONTRAST:
            continue
        visible = [earlier & ~mask for _, earlier in placed]
        if any(m.sum() < _LEAST_VISIBLE * a for m, a in zip(visible, full_areas, strict=True)):
            continue
        canvas = canvas * (1 - alpha[..., None]) + ink * alpha[..., None]
        placed = [(d, m) for (d, _), m in zip(placed, visible, strict=True)]
        placed.append((digit, mask))
        full_areas.append(int(mask.sum()))
    return canvas.round().astype(np.uint8), placed


def _background(rng: np.random.Generator, split: Split) -> NDArray[np.float64]:
    photographs, _, _ = _sources()
    photograph = photographs[rng.integers(len(photographs))]
    low, high = _BACKGROUND_COLUMNS[split]
    side = int(rng.integers(96, 129))
    left = int(rng.integers(low, high - side + 1))
    top = int(rng.integers(0, photograph.shape[0] - side + 1))
    crop = Image.fromarray(photograph[top : top + side, left : left + side])
    resized = crop.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return _DIMMED * np.asarray(resized, dtype=np.float64)


def _glyph(rng: np.random.Generator, split: Split) -> tuple[int, NDArray[np.float64]]:
    """Return a digit and its opacity `(128, 128)` in [0, 1], scaled to 24-48 px and slightly rotated."""
    _, digits, labels = _sources()
    sample = int(rng.integers(*_DIGIT_RANGE[split]))
    size = int(rng.integers(24, 49))
    glyph = Image.fromarray((digits[sample] * (255 / 16)).astype(np.uint8))
    glyph = glyph.resize((size, size), Image.Resampling.BICUBIC)
    glyph = glyph.rotate(float(rng.uniform(-15, 15)), Image.Resampling.BICUBIC, expand=True)
    layer = Image.new("L", (SIDE, SIDE))
    layer.paste(
        glyph,
        (int(rng.integers(0, SIDE - glyph.width)), int(rng.integers(0, SIDE - glyph.height))),
    )
    # strokes are made opaque: the antialiased rim stays translucent
    return int(labels[sample]), np.clip(np.asarray(layer) / 255 * 1.6, 0, 1)


@cache
def _sources() -> tuple[list[NDArray[np.uint8]], NDArray[Any], NDArray[Any]]:
    from sklearn.datasets import load_digits, load_sample_images  # slow to import, used once

    digits = load_digits()
    return load_sample_images().images, digits.images, digits.target
