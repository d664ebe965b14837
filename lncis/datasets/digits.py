"""The embedded data set: real handwritten digits composited on photographs, with exact masks.

The digits are scikit-learn's copy of the UCI handwritten digits (1,797 samples of 8x8 pixels), the backgrounds are
cut from its two bundled photographs. Samples and backgrounds are split by position, so train, val and test share
neither. The pixels are real but the scenes are composed: this is not natural-image evidence.

Printed signs can be further classes, since noise of one rate harms less the more classes there are. None of them is
among the letters that `weights: letters` is trained on. Each split has fonts of its own.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lncis import files
from lncis.config import CocoData, DigitsData
from lncis.datasets import printed, scenes
from lncis.datasets.scenes import SIDE, SPLITS, Glyph, Split
from lncis.errors import DataError
from lncis.noise import Document

FORMAT = 1
"""Goes up when the same config composes other scenes: a cache of another format is not read."""

SIGNS = ("k", "u", "w", "Λ", "Ы", "Д", "@", "±", "÷", "~")
"""The classes after the ten digits, as many as the config asks for."""
_SIGN_FONTS = {
    split: [font for font in range(len(printed.FONTS)) if font % 4 in styles]
    for split, styles in {"train": (0, 3), "val": (2,), "test": (1,)}.items()
}
_DIGIT_RANGE = {"train": (0, 1000), "val": (1000, 1300), "test": (1300, 1797)}


def prepare(config: DigitsData, cache_directory: Path) -> Path:
    """Return the folder with `{train,val,test}.json` (COCO) and `.npy` (`(N, 128, 128, 3)` uint8).

    Generated once for a config, in a few seconds; the folder appears whole or not at all.
    """
    sizes = "-".join(str(asdict(config)[f"{split}_scenes"]) for split in SPLITS)
    signs = f"-signs{config.signs}" if config.signs else ""
    folder = cache_directory / f"digits-v{FORMAT}-{sizes}-seed{config.seed}{signs}"
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
    folder, asked, done = out / "images", asdict(config), 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            images, document = compose(config, split)
            for entry, image in zip(document["images"], images, strict=True):
                Image.fromarray(image).save(folder / entry["file_name"])
                done += 1
                on_progress(done, sum(asked[f"{split}_scenes"] for split in SPLITS))
            files.replace(out / f"{split}.json", json.dumps(document))
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}; make room or name another folder") from error
    return CocoData(images=folder, train=out / "train.json", val=out / "val.json", test=out / "test.json")


def compose(config: DigitsData, split: Split) -> tuple[NDArray[np.uint8], Document]:
    """Return images `(N, 128, 128, 3)` and their COCO document; a function of the arguments alone."""
    rng = np.random.default_rng([config.seed, SPLITS.index(split)])
    draw = partial(_glyph, split=split, signs=config.signs)
    composed = [scenes.scene(rng, draw, split) for _ in range(asdict(config)[f"{split}_scenes"])]
    info = {"description": f"lncis digits, {split}", "version": str(FORMAT)}
    document = scenes.document(composed, [*map(str, range(10)), *SIGNS[: config.signs]], split, info)
    return np.stack([image for image, _ in composed]), document


def _glyph(rng: np.random.Generator, split: Split, signs: int = 0) -> Glyph:
    """Return a digit or, as often as each digit, one of the first signs; without signs nothing is drawn for them."""
    if signs and (label := int(rng.integers(10 + signs))) >= 10:
        sign = printed.drawn(SIGNS[label - 10], int(rng.choice(_SIGN_FONTS[split])))
        return label, scenes.placed(rng, printed.raster(sign, rng))
    digits, labels = _samples()
    sample = int(rng.integers(*_DIGIT_RANGE[split]))
    return int(labels[sample]), scenes.placed(rng, (digits[sample] * (255 / 16)).astype(np.uint8))


@cache
def _samples() -> tuple[NDArray[Any], NDArray[Any]]:
    from sklearn.datasets import load_digits  # slow to import, used once

    digits = load_digits()
    return digits.images, digits.target
