"""What is odd about masks and image files: it takes every mask and the head of every image to see it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pycocotools import mask as rle

from lncis import files
from lncis.coco import geometry
from lncis.coco.exporters import where
from lncis.coco.findings import Severity, Tally
from lncis.coco.images import RESPELLED, USED_AS_STORED, UnusableImage, head_of
from lncis.coco.masks import to_rle
from lncis.noise import Document

OnProgress = Callable[[str, int, int], object]
"""Called with what is looked at, how many are done, and how many there are."""

NOT_TRAINED_ON = "training drops them, evaluation counts them"


def look_at_masks(document: Document, tally: Tally, on_progress: OnProgress, *, of_boxes: bool = False) -> int:
    """Count what is odd about masks, and return how many can be trained on.

    They are encoded as RLE, and judged there without their pixels. `of_boxes`: masks are meant to be rectangles.
    """
    fit = 0
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    instances = [a for a in document["annotations"] if not a["iscrowd"]]
    on_progress("masks", 0, len(instances))
    for start in range(0, len(instances), geometry.MASKS_PER_CALL):
        some = instances[start : start + geometry.MASKS_PER_CALL]
        encoded = [to_rle(a["segmentation"], *sizes[a["image_id"]]) for a in some]
        areas, boxes = rle.area(encoded), rle.toBbox(encoded)
        filled = areas == boxes[:, 2] * boxes[:, 3]
        for position, annotation in enumerate(some):
            if min(annotation["bbox"][2:]) < geometry.LEAST_SIDE_PIXELS:
                faults = [f"have a box below 1 px: {NOT_TRAINED_ON}"]
            elif areas[position] == 0:
                faults = [f"have an empty mask: {NOT_TRAINED_ON}"]
            else:
                fit += 1
                fills = bool(filled[position] and areas[position] > 1)
                faults = [*_mask_faults(annotation, *sizes[annotation["image_id"]])]
                faults += [] if of_boxes else [*_passes_as_mask(annotation["segmentation"], fills_its_box=fills)]
            for fault in faults:
                tally.add("warning", f"annotations {fault}", annotation, where(annotation))
        on_progress("masks", start + len(some), len(instances))
    return fit


def _mask_faults(annotation: dict[str, Any], height: int, width: int) -> Iterator[str]:
    parts = annotation["segmentation"] if isinstance(annotation["segmentation"], list) else []
    if any(p.min() < -1 or p[::2].max() > width + 1 or p[1::2].max() > height + 1 for p in parts if len(p)):
        yield "have a mask that runs off the image: it is cut off there"


def _passes_as_mask(segmentation: Any, *, fills_its_box: bool) -> Iterator[str]:
    if isinstance(segmentation, list):
        if geometry.is_rectangle(segmentation):
            yield "have a polygon that is an upright rectangle: is it a box passing as a mask?"
    elif fills_its_box:
        yield "have a mask that fills its box: is it a box passing as a mask?"


def look_at_image_files(document: Document, folder: Path, tally: Tally) -> dict[Path, dict[str, Any]]:
    """Count what is odd about the heads of image files; return those that can be decoded, with their entries."""
    readable = {}
    for entry in document["images"]:
        name = entry["file_name"]
        path = files.find(folder, name)
        if path != folder / name:
            tally.add("note", RESPELLED, entry, name)
        faults = [*_head_faults(path, entry, folder)]
        for severity, what in faults:
            tally.add(severity, what, entry, name)
        if not any(severity == "error" for severity, _ in faults):
            readable[path] = entry
    return readable


def _head_faults(path: Path, entry: dict[str, Any], folder: Path) -> Iterator[tuple[Severity, str]]:
    try:
        there = path.is_file()
    except OSError:
        there = False
    if not there:
        yield "error", f"image files are missing from {folder}"
        return
    try:
        head = head_of(path)
    except UnusableImage as error:
        yield "error", image_fault(error)
        return
    said, stored = (entry["width"], entry["height"]), (head.width, head.height)
    if said not in (stored, head.upright):
        yield "error", "image files have another size than their entry says"
    elif said == stored and head.orientation != 1:
        yield "warning", USED_AS_STORED


def image_fault(error: UnusableImage) -> str:
    """Return the kind of a fault, to be read after a count of files."""
    return f"image files cannot be used: {error.what}"
