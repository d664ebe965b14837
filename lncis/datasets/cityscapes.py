"""Cityscapes with fine instance masks, as COCO files."""

from functools import partial
from pathlib import Path

import numpy as np

from lncis.datasets import conversion
from lncis.datasets.conversion import Conversion, Masks
from lncis.errors import DataError

CATEGORIES = {
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
"""The classes with instances, under the ids of the release."""

IMAGES = {"train": 2975, "val": 500}

_INSTANCES_EACH = 1000
"""A pixel of an instance is `1000 * class + number`; one below 1000 is of a group that was not told apart."""

_IMAGE, _MASKS = "_leftImg8bit.png", "_gtFine_instanceIds.png"


def conversions(source: Path, out: Path, *, accept_subset: bool = False) -> list[Conversion]:
    """Return what makes `train.json` and `test.json` of the train and val cities; the release's test has no masks.

    `source` holds `gtFine` and `leftImg8bit`. Raises DataError where files are missing.
    """
    truth, images = source / "gtFine", source / "leftImg8bit"
    conversion.see_that_there_is(
        {truth / part: "gtFine_trainvaltest.zip" for part in IMAGES}
        | {images / part: "leftImg8bit_trainvaltest.zip" for part in IMAGES}
    )
    made = []
    for part, target in (("train", "train.json"), ("val", "test.json")):
        names = sorted(str(path.relative_to(truth)) for path in (truth / part).glob(f"*/*{_MASKS}"))
        what = f"{truth / part}/*/*{_MASKS}"
        conversion.see_that_all_are_there(what, len(names), IMAGES[part], accept_subset=accept_subset)
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
