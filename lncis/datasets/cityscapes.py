"""Cityscapes with fine instance masks, as COCO files."""

from functools import partial
from pathlib import Path

import numpy as np

from lncis.datasets import conversion
from lncis.datasets.conversion import Conversion, Masks
from lncis.errors import DataError
from lncis.noise.names import CITYSCAPES

CATEGORIES = dict(zip((24, 25, 26, 27, 28, 31, 32, 33), CITYSCAPES, strict=True))
"""The classes with instances, under the ids of the release."""

IMAGES = {"train": 2975, "val": 500}

_INSTANCES_EACH = 1000
"""A pixel of an instance is `1000 * class + number`; one below 1000 is of a group whose members are not separated."""

_IMAGE, _MASKS = "_leftImg8bit.png", "_gtFine_instanceIds.png"


def conversions(source: Path, out: Path, *, accept_subset: bool = False) -> list[Conversion]:
    """Return what makes `train.json` and `test.json` of the train and val cities; the release's test has no masks.

    `source` holds `gtFine` and `leftImg8bit`. Raises DataError where files are missing.
    """
    truth, images = source / "gtFine", source / "leftImg8bit"
    conversion.require_paths(
        {truth / part: "gtFine_trainvaltest.zip" for part in IMAGES}
        | {images / part: "leftImg8bit_trainvaltest.zip" for part in IMAGES}
    )
    made = []
    for part, target in (("train", "train.json"), ("val", "test.json")):
        names = sorted(str(path.relative_to(truth)) for path in (truth / part).glob(f"*/*{_MASKS}"))
        what = f"{truth / part}/*/*{_MASKS}"
        conversion.require_all(what, len(names), IMAGES[part], accept_subset=accept_subset)
        made.append(
            Conversion(
                name=f"Cityscapes {part}, fine",
                target=out / target,
                images=images,
                file_names=[name.removesuffix(_MASKS) + _IMAGE for name in names],
                categories=CATEGORIES,
                read=partial(_read, truth),
            )
        )
    return made


def _read(truth: Path, file_name: str) -> Masks:
    path = truth / (file_name.removesuffix(_IMAGE) + _MASKS)
    values = conversion.read_indices(path)
    masks: Masks = []
    for value in np.unique(values).tolist():
        group = value < _INSTANCES_EACH
        category = value if group else value // _INSTANCES_EACH
        if not group and not 0 < category < 34:
            raise DataError(f"{path}: holds the value {value}, which no instance has; is it another kind of image?")
        if category in CATEGORIES:
            masks.append((category, values == value, group))
    return masks
