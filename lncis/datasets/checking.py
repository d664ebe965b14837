"""All faults of a COCO file, found before anyone trains on it."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from lncis.datasets import annotations as files
from lncis.datasets.annotations import Finding
from lncis.datasets.images import size_of
from lncis.datasets.masks import LEAST_COORDINATES, to_rle
from lncis.errors import DataError
from lncis.noise import Document

BOX_TOLERANCE_PIXELS = 2.0
"""A box may differ from its mask by so much: polygons are rounded to pixels, boxes are not."""
MASKS_PER_CALL = 255
"""Masks measured in one call; from 256 on rle.area overflows (pycocotools 2.0.11)."""

OnProgress = Callable[[str, int, int], object]
"""Called with what is checked, how many are done, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a check of a COCO file found."""

    findings: list[Finding]
    images: int
    instances: int
    """Crowds not counted."""
    crowds: int
    instances_by_class: dict[str, int]
    flipped: float | None
    """Percentage of instances whose label is not the clean one; None where no clean labels are there."""

    @property
    def errors(self) -> list[Finding]:
        """The findings that keep the file from being trained on."""
        return [finding for finding in self.findings if finding.severity == "error"]


def check(path: Path, images: Path | None = None, on_progress: OnProgress = lambda what, done, total: None) -> Checked:
    """Return the faults of a COCO file, and what it holds; image files are checked where their folder is given.

    Raises DataError where the file is missing or no JSON. Masks are judged only in a file whose structure holds.
    """
    document = files.parse(path)
    if findings := files.structure(document):
        return Checked(findings=findings, images=0, instances=0, crowds=0, instances_by_class={}, flipped=None)
    findings = [*_masks(document, on_progress), *_contents(document)]
    if images is not None:
        findings += _images(document, images, on_progress)
    instances = [a for a in document["annotations"] if not a.get("iscrowd", 0)]
    names = {category["id"]: category["name"] for category in document["categories"]}
    counted = Counter(a["category_id"] for a in instances)
    clean = [a for a in instances if "clean_category_id" in a]
    return Checked(
        findings=sorted(findings, key=lambda finding: finding.severity),
        images=len(document["images"]),
        instances=len(instances),
        crowds=len(document["annotations"]) - len(instances),
        instances_by_class={names[number]: counted[number] for number in sorted(names)},
        flipped=100 * float(np.mean([a["category_id"] != a["clean_category_id"] for a in clean])) if clean else None,
    )


def _warning(what: str, where: list[str]) -> Finding:
    return Finding(severity="warning", what=what, where=where)


def _contents(document: Document) -> Iterator[Finding]:
    """Yield what is odd about images, categories and labels."""
    annotations = document["annotations"]
    if boxes := files.boxes_as_masks(document):
        yield boxes
    used = {a["category_id"] for a in annotations}
    if unused := [c["name"] for c in document["categories"] if c["id"] not in used]:
        yield _warning("categories have no annotation: they cannot be learned, and count as classes", unused)
    filled = files.with_instances(document)
    if empty := [i["file_name"] for i in document["images"] if i["id"] not in filled]:
        yield _warning("images have no instance: they are trained on only with train_on_empty_images", empty)
    times = Counter(image["file_name"] for image in document["images"])
    if shared := [name for name, count in times.items() if count > 1]:
        yield _warning("files belong to several images: a validation split may see what was trained on", shared)
    for key in ("bbox", "area"):
        if lacking := [f"id {a['id']}" for a in annotations if key not in a]:
            yield _warning(f"annotations lack {key}: it will be measured on their masks", lacking)
    labelled = [a for a in annotations if not a.get("iscrowd", 0)]
    unlabelled = [f"id {a['id']}" for a in labelled if "clean_category_id" not in a]
    if 0 < len(unlabelled) < len(labelled):
        yield _warning("annotations lack clean_category_id, which others have: none will be known", unlabelled)


def _masks(document: Document, on_progress: OnProgress) -> Iterator[Finding]:
    """Yield what is odd about masks and boxes; masks are encoded as RLE, and judged there without their pixels."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    found: dict[str, list[str]] = {}
    all_annotations = document["annotations"]
    on_progress("masks", 0, len(all_annotations))
    for start in range(0, len(all_annotations), MASKS_PER_CALL):
        some = all_annotations[start : start + MASKS_PER_CALL]
        encoded = [to_rle(a["segmentation"], *sizes[a["image_id"]]) for a in some]
        areas, boxes = rle.area(encoded), rle.toBbox(encoded)
        given = np.array([a.get("bbox", box) for a, box in zip(some, boxes, strict=True)], dtype=np.float64)
        misfits = np.abs(_corners(given) - _corners(boxes)).max(axis=1) > BOX_TOLERANCE_PIXELS
        filled = areas == boxes[:, 2] * boxes[:, 3]
        for position, annotation in enumerate(some):
            size = sizes[annotation["image_id"]]
            if min(given[position, 2:]) < files.LEAST_SIDE_PIXELS and not annotation.get("iscrowd", 0):
                faults = ["have a box below 1 px: training drops them"]
            elif areas[position] == 0:
                faults = ["have an empty mask: training drops them"]
            else:
                faults = [
                    *_mask_faults(annotation, *size, fills_its_box=bool(filled[position] and areas[position] > 1))
                ]
                if misfits[position]:
                    faults.append(
                        f"have a bbox more than {BOX_TOLERANCE_PIXELS:g} px off their mask; is it x, y, width, height?"
                    )
            for fault in faults:
                found.setdefault(fault, []).append(f"id {annotation['id']}")
        on_progress("masks", start + len(some), len(all_annotations))
    for what, where in found.items():
        yield _warning(f"annotations {what}", where)


def _corners(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _mask_faults(annotation: dict[str, Any], height: int, width: int, *, fills_its_box: bool) -> Iterator[str]:
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        if any(p.min() < -1 or p[::2].max() > width + 1 or p[1::2].max() > height + 1 for p in segmentation if len(p)):
            yield "have a mask that runs off the image: it is cut off there"
        if files.is_rectangle(segmentation):
            yield "have a polygon that is an upright rectangle: is it a box passing as a mask?"
        if any(len(polygon) < LEAST_COORDINATES for polygon in segmentation):
            yield "have a polygon of fewer than three corners: that part is left out"
    elif fills_its_box and not annotation.get("iscrowd", 0):
        yield "have a mask that fills its box: is it a box passing as a mask?"


def _images(document: Document, folder: Path, on_progress: OnProgress) -> Iterator[Finding]:
    """Yield what is wrong with image files, from their heads alone."""
    faults: dict[tuple[str, str], list[str]] = {}
    entries = document["images"]
    for done, entry in enumerate(entries):
        if done % MASKS_PER_CALL == 0:
            on_progress("images", done, len(entries))
        for fault in _image_faults(folder, entry):
            faults.setdefault(fault, []).append(entry["file_name"])
    on_progress("images", len(entries), len(entries))
    for (severity, what), where in faults.items():
        yield Finding(severity="error" if severity == "error" else "warning", what=what, where=where)


def _image_faults(folder: Path, entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    path = folder / entry["file_name"]
    if not path.is_file():
        yield "error", f"image files are missing from {folder}"
        return
    try:
        width, height, orientation = size_of(path)
    except DataError:
        yield "error", "image files cannot be read"
        return
    said = (entry["width"], entry["height"])
    upright = (height, width) if orientation >= 5 else (width, height)
    if said not in ((width, height), upright):
        yield "error", "image files have another size than their entry says"
    elif orientation != 1 and said == (width, height):
        yield "warning", "image files are to be turned or mirrored by their EXIF, but are used as they are stored"
