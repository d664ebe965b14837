"""PASCAL VOC 2012 with instance masks, from VOC's own segmentations or from SBD's, as COCO files.

The paper's 5,718 and 5,823 images are VOC's Main detection lists, which carry no masks. SBD has masks for most of them;
VOC's own segmentation lists are smaller.
"""

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from lncis.datasets import conversion
from lncis.datasets.conversion import Conversion, Masks
from lncis.errors import DataError
from lncis.noise.names import VOC

Source = Literal["sbd", "voc-seg"]

CATEGORIES = dict(enumerate(VOC, start=1))
"""The classes under their pixel values in SegmentationClass."""

IMAGES: dict[Source, dict[str, int]] = {
    "sbd": {"train": 5623, "val": 5732},
    "voc-seg": {"train": 1464, "val": 1449},
}
"""How many images of each list have instance masks."""

VOID = 255
"""Value of the pixels on the rim of objects, which VOC leaves undecided; they belong to no mask."""

_VOC = "VOCtrainval_11-May-2012.tar"
_SBD = "benchmark.tgz of SBD"


def conversions(
    source: Source, vocdevkit: Path, sbd: Path | None, out: Path, *, accept_subset: bool = False
) -> list[Conversion]:
    """Return what makes `train.json` and `test.json` of VOC's train and val lists.

    `vocdevkit` holds `VOC2012`; `sbd` is SBD's `dataset`, which holds `inst`. Raises DataError where files are missing.
    """
    voc = vocdevkit if vocdevkit.name == "VOC2012" else vocdevkit / "VOC2012"
    lists = voc / "ImageSets" / ("Main" if source == "sbd" else "Segmentation")
    needed = dict.fromkeys((voc / "JPEGImages", lists / "train.txt", lists / "val.txt"), _VOC)
    if source == "sbd":
        if sbd is None:
            raise DataError(f"the source sbd needs --sbd: the folder dataset of {_SBD}, which holds inst/*.mat")
        needed[sbd / "inst"] = _SBD
        read, with_masks = partial(_read_sbd, sbd / "inst"), {path.stem for path in (sbd / "inst").glob("*.mat")}
    else:
        needed |= {voc / "SegmentationObject": _VOC, voc / "SegmentationClass": _VOC}
        read, with_masks = partial(_read_voc, voc), None
    conversion.require_paths(needed)
    made = []
    for part, target in (("train", "train.json"), ("val", "test.json")):
        names = [name for name in conversion.listed(lists / f"{part}.txt") if with_masks is None or name in with_masks]
        what = f"{lists / part}.txt" + (" with masks in SBD" if source == "sbd" else "")
        conversion.require_all(what, len(names), IMAGES[source][part], accept_subset=accept_subset)
        made.append(
            Conversion(
                name=f"PASCAL VOC 2012 {part}, masks of {source}",
                target=out / target,
                images=voc / "JPEGImages",
                file_names=[f"{name}.jpg" for name in names],
                categories=CATEGORIES,
                read=read,
            )
        )
    return made


def _read_voc(voc: Path, file_name: str) -> Masks:
    """Return the instances of an image: SegmentationObject numbers them, SegmentationClass has their classes."""
    name = Path(file_name).with_suffix(".png")
    path = voc / "SegmentationObject" / name
    objects = conversion.read_indices(path)
    classes = conversion.read_indices(voc / "SegmentationClass" / name)
    if objects.shape != classes.shape:
        raise DataError(f"{path}: has another size than its SegmentationClass; unpack {_VOC} again")
    masks: Masks = []
    for number in np.unique(objects):
        if number in (0, VOID):
            continue
        mask = objects == number
        within = np.unique(classes[mask])
        if len(within) != 1 or within[0] not in CATEGORIES:
            raise DataError(
                f"{path}: object {number} has the classes {within.tolist()} in SegmentationClass, not one of "
                f"1..{len(CATEGORIES)}; unpack {_VOC} again"
            )
        masks.append((int(within[0]), mask, False))
    return masks


def _read_sbd(folder: Path, file_name: str) -> Masks:
    """Return the instances of an image from its `GTinst`: Segmentation numbers them, Categories has their classes."""
    path = (folder / file_name).with_suffix(".mat")
    try:
        truth = loadmat(path, struct_as_record=False, squeeze_me=True)["GTinst"]
        numbers, categories = np.asfortranarray(truth.Segmentation), np.atleast_1d(truth.Categories)
        found = [int(number) for number in np.unique(numbers) if number]
        masks: Masks = [(int(categories[number - 1]), numbers == number, False) for number in found]
        if unknown := [category for category, _, _ in masks if category not in CATEGORIES]:
            raise ValueError(f"it has the category {unknown[0]}, not one of 1..{len(CATEGORIES)}")
    except (OSError, MatReadError, KeyError, AttributeError, IndexError, ValueError, TypeError) as error:
        raise DataError(f"{path}: is no instance file of SBD ({error}); unpack {_SBD} again") from error
    return masks
