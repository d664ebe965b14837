"""All faults of a COCO file, found before anyone trains on it."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from lncis import files
from lncis.coco import annotations, decoding, geometry
from lncis.coco.exporters import where
from lncis.coco.findings import Finding, Severity, Tally
from lncis.coco.images import RESPELLED, head_of
from lncis.coco.masks import to_rle
from lncis.errors import DataError
from lncis.noise import Document

OnProgress = Callable[[str, int, int], object]
"""Called with what is checked, how many are done, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a COCO file holds."""

    images: int
    instances: int
    """What can be trained on: crowds and boxes without masks not counted."""
    crowds: int
    box_only: int
    """Annotations with a box and no mask."""
    instances_by_class: dict[str, int]
    flipped: float | None
    """Percentage of instances whose label is not the clean one; None where no clean labels are there."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a check of a COCO file found."""

    findings: list[Finding]
    """Errors first, then warnings, then notes."""
    counts: Counts | None
    """None where errors in its structure keep the file from being counted."""

    @property
    def errors(self) -> list[Finding]:
        """The findings that keep the file from being trained on."""
        return [finding for finding in self.findings if finding.severity == "error"]


def check(path: Path, images: Path | None = None, on_progress: OnProgress = lambda what, done, total: None) -> Checked:
    """Return the faults of a COCO file, and what it holds; images are decoded where their folder is given.

    Raises DataError where the file is missing or no JSON. Masks and images are judged only in a file whose structure
    holds.
    """
    reading = annotations.look(path)
    document = reading.document
    if reading.errors:
        return Checked(findings=_sorted(reading.findings), counts=None)
    findings = [*reading.findings, *_masks(document, on_progress)]
    if images is not None:
        findings += _images(document, images, on_progress)
    instances = [a for a in document["annotations"] if not a["iscrowd"]]
    names = {category["id"]: category["name"] for category in document["categories"]}
    counted = Counter(a["category_id"] for a in instances)
    clean = [a for a in instances if "clean_category_id" in a]
    counts = Counts(
        images=len(document["images"]),
        instances=len(instances),
        crowds=len(document["annotations"]) - len(instances) - reading.box_only,
        box_only=reading.box_only,
        instances_by_class={names[number]: counted[number] for number in sorted(names)},
        flipped=100 * float(np.mean([a["category_id"] != a["clean_category_id"] for a in clean])) if clean else None,
    )
    return Checked(findings=_sorted(findings), counts=counts)


def _sorted(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def _masks(document: Document, on_progress: OnProgress) -> Iterator[Finding]:
    """Yield what is odd about masks; they are encoded as RLE, and judged there without their pixels."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    tally = Tally()
    instances = [a for a in document["annotations"] if not a["iscrowd"]]
    on_progress("masks", 0, len(instances))
    for start in range(0, len(instances), geometry.MASKS_PER_CALL):
        some = instances[start : start + geometry.MASKS_PER_CALL]
        encoded = [to_rle(a["segmentation"], *sizes[a["image_id"]]) for a in some]
        areas, boxes = rle.area(encoded), rle.toBbox(encoded)
        filled = areas == boxes[:, 2] * boxes[:, 3]
        for position, annotation in enumerate(some):
            if min(annotation["bbox"][2:]) < geometry.LEAST_SIDE_PIXELS:
                faults = ["have a box below 1 px: training drops them"]
            elif areas[position] == 0:
                faults = ["have an empty mask: training drops them"]
            else:
                fills = bool(filled[position] and areas[position] > 1)
                faults = [*_mask_faults(annotation, *sizes[annotation["image_id"]], fills_its_box=fills)]
            for fault in faults:
                tally.add("warning", f"annotations {fault}", annotation, where(annotation))
        on_progress("masks", start + len(some), len(instances))
    yield from tally.findings()


def _mask_faults(annotation: dict[str, Any], height: int, width: int, *, fills_its_box: bool) -> Iterator[str]:
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        if any(p.min() < -1 or p[::2].max() > width + 1 or p[1::2].max() > height + 1 for p in segmentation if len(p)):
            yield "have a mask that runs off the image: it is cut off there"
        if geometry.is_rectangle(segmentation):
            yield "have a polygon that is an upright rectangle: is it a box passing as a mask?"
    elif fills_its_box:
        yield "have a mask that fills its box: is it a box passing as a mask?"


def _images(document: Document, folder: Path, on_progress: OnProgress) -> Iterator[Finding]:
    """Yield what is wrong with image files."""
    tally = Tally()
    readable: list[tuple[Path, int, int]] = []
    name_of: dict[Path, str] = {}
    for entry in document["images"]:
        name = entry["file_name"]
        path = files.find(folder, name)
        name_of[path] = name
        if path != folder / name:
            tally.add("note", RESPELLED, entry, name)
        for severity, what in _head_faults(path, entry, folder):
            tally.add(severity, what, entry, name)
            if severity == "error":
                break
        else:
            readable.append((path, entry["width"], entry["height"]))
    for (path, _, _), fault in decoding.faults(readable, lambda done, total: on_progress("images", done, total)):
        reason = fault.removeprefix(f"{path}: ").partition(" (")[0]
        tally.add("error", f"image files cannot be used: {reason}", path, name_of[path])
    yield from tally.findings()


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
    except DataError:
        yield "error", "image files cannot be read"
        return
    said, stored = (entry["width"], entry["height"]), (head.width, head.height)
    if said not in (stored, head.upright):
        yield "error", "image files have another size than their entry says"
    elif head.orientation != 1 and said == stored:
        yield "warning", "image files are to be turned or mirrored by their EXIF, but are used as they are stored"
