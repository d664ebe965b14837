"""COCO instances files: read as they are meant, without decoding a mask, and refused where that cannot be."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pycocotools import mask as rle

from lncis import files
from lncis.coco import contents, exporters, geometry, structure
from lncis.coco.exporters import where
from lncis.coco.findings import Finding, Tally, error, note, warning
from lncis.coco.masks import LEAST_COORDINATES, to_rle
from lncis.documents import read_json
from lncis.errors import DataError
from lncis.noise import Document

Annotation = dict[str, Any]
BoxMasks = Literal["ignore", "rectangles"]
"""What becomes of a box without a mask (`CocoData.box_masks`)."""


class Reading(NamedTuple):
    """A file as it is meant."""

    document: Document
    """Whole and checked where no finding is an error: `iscrowd`, `bbox` and `area` are there, ids have 64 bits."""
    findings: list[Finding]
    box_only: int
    """Annotations with a box and no mask."""
    headings: Sequence[dict[str, Any]] = ()
    """Categories of the file that are none of the document: only the heading of the others."""

    @property
    def errors(self) -> list[Finding]:
        """The findings that keep the file from being trained on."""
        return [finding for finding in self.findings if finding.severity == "error"]


def read(path: Path, box_masks: BoxMasks = "ignore") -> Reading:
    """Return the COCO document of a file and what is odd about it, checked as far as can be without decoding masks.

    Training and evaluation read one document: what `look` changes is changed for both. Raises DataError with the
    first error.
    """
    reading = look(path, box_masks)
    if reading.errors:
        raise DataError(f"{path}: {reading.errors[0]}; `lncis data check {path}` lists all that is wrong")
    return reading


def look(path: Path, box_masks: BoxMasks = "ignore") -> Reading:
    """Return the document of a file and all findings; it is complete only where none is an error.

    Polygons come as arrays, which take a fraction of the memory of lists. Exporters' habits are read as they are meant.
    An annotation with a box alone is a crowd: no instance to train on, and detections there count neither way; with
    `rectangles` its box is its mask. Raises DataError where the file is missing or no JSON.
    """
    document, findings = _parsed(path, _compact)
    findings += exporters.read_as_meant(document)
    headings, notes = exporters.take_headings(document)
    findings += notes
    if faults := structure.faults(document):
        return Reading(document, findings + faults, 0)
    findings += geometry.settle(document)
    if box_masks == "ignore":
        findings += filter(None, [geometry.boxes_as_masks(document)])
    findings += contents.crowds(document)
    reading = Reading(document, findings, 0, headings)
    return reading if reading.errors else _completed(reading, box_masks)


def read_labels(path: Path) -> Reading:
    """Return a document for work on labels alone, which any segmentation, box and area may have, and its findings."""
    document, findings = _parsed(path, _compact_exactly)
    findings += exporters.read_as_meant(document, masks=False)
    headings, notes = exporters.take_headings(document)
    findings += notes
    # a file of labels may have no images
    faults = structure.faults(document, masks=False) if isinstance(document, dict) and document.get("images") else []
    return Reading(document, findings + faults, 0, headings)


def read_as_written(path: Path) -> Document:
    """Return the document of a file as it stands, unchecked, for a copy by `texts`; its numbers and ids stay.

    Entries are in the order in which `read_labels` has them.
    """
    document: Document = _parsed(path, _compact_exactly)[0]
    return document


def read_images(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the images and the categories of a file, which may lack annotations and sizes; DataError if it is none."""
    document = read_json(path)
    exporters.read_as_meant(document, masks=False)
    if faults := structure.faults_of_images(document, sizes=False):
        raise DataError(f"{path}: {faults[0]}; is this a COCO file?")
    return document["images"], document["categories"]


def _parsed(path: Path, hook: Callable[[list[tuple[str, Any]]], Any]) -> tuple[Document, list[Finding]]:
    constants = list[str]()
    try:
        document = read_json(path, object_pairs_hook=hook, on_constant=constants.append)
    except DataError as error:
        if isinstance(error.__cause__, _TwiceError):
            raise DataError(f"{path}: {error.__cause__}") from error
        raise
    what = "numbers are NaN or Infinity, which JSON has not: read as missing"
    return document, [note(what, constants)] if constants else []


class _TwiceError(ValueError):
    """A key stands twice in an entry."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        of = f"the entry {where(entry)}" if "id" in entry else "an entry"
        raise _TwiceError(f"{of} holds {twice!r:.60} twice; keep one of the two")
    return entry


def _compact(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = _once(pairs)
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, list):
        with suppress(ValueError, TypeError, OverflowError):  # not numbers: `structure` says so
            entry["segmentation"] = [np.array(polygon, dtype=np.float64) for polygon in segmentation]
    return entry


def _compact_exactly(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an entry whose polygons are arrays where they are numbers alone; `texts` makes lists of them again."""
    entry = _once(pairs)
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, list):
        with suppress(ValueError, OverflowError):
            polygons = [np.array(polygon) for polygon in segmentation]
            if all(polygon.ndim == 1 and polygon.dtype.kind in "if" for polygon in polygons):
                entry["segmentation"] = polygons
    return entry


def texts(document: Document) -> Iterator[str]:
    """Yield the JSON text of a document part by part; ValueError where it holds NaN or infinity."""
    before = "{"
    for key, value in document.items():
        yield f"{before}{json.dumps(key)}: "
        before = ", "
        if isinstance(value, list):
            yield "["
            yield from (f"{', ' if number else ''}{_text(entry)}" for number, entry in enumerate(value))
            yield "]"
        else:
            yield _text(value)
    yield "}"


def _text(value: Any) -> str:
    return json.dumps(value, default=np.ndarray.tolist, allow_nan=False)


def _completed(reading: Reading, box_masks: BoxMasks) -> Reading:
    """Return a document in which each annotation has mask, box and area, and what that took."""
    document, tally = reading.document, Tally()
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    kept, box_only, left_out = list[Annotation](), 0, list[str]()
    for annotation in document["annotations"]:
        annotation.setdefault("iscrowd", 0)
        size = sizes[annotation["image_id"]]
        if not geometry.has_mask(annotation):
            if "bbox" not in annotation:
                left_out.append(where(annotation))
                continue
            box_only += 1
            x, y, w, h = annotation["bbox"]
            if box_masks == "rectangles":
                annotation["segmentation"] = [np.array([x, y, x + w, y, x + w, y + h, x, y + h], dtype=np.float64)]
                tally.add(
                    "note", "annotations have a box and no mask: the box is their mask", annotation, where(annotation)
                )
            else:
                annotation["segmentation"] = _of_box(annotation["bbox"], *size)
                if not annotation["iscrowd"]:
                    what = "annotations have a box and no mask: not trained on, and detections there count neither way"
                    tally.add("warning", what, annotation, where(annotation))
                annotation["iscrowd"] = 1
        elif isinstance(annotation["segmentation"], list):
            parts = [part for part in annotation["segmentation"] if len(part) >= LEAST_COORDINATES]
            if len(parts) < len(annotation["segmentation"]):
                what = "annotations have a polygon of fewer than three corners: that part is left out"
                tally.add("note", what, annotation, where(annotation))
                annotation["segmentation"] = parts
        if "bbox" not in annotation or "area" not in annotation:
            mask = to_rle(annotation["segmentation"], *size)
            for key, measured in (("bbox", rle.toBbox(mask).tolist()), ("area", int(rle.area(mask)))):
                if key not in annotation:
                    annotation[key] = measured
        kept.append(annotation)
    completed = {**document, "annotations": kept}
    findings = [*reading.findings, *tally.findings(), *contents.oddities(completed)]
    if left_out:
        findings.append(warning("annotations have neither a mask nor a box: they are left out", left_out))
    if not any(not annotation["iscrowd"] for annotation in kept):
        remedy = "; with box_masks: rectangles boxes are trained on as masks" if box_only else ""
        what = f"annotations, and none is an instance with a mask; crowds are none{remedy}"
        findings.append(error(what, [where(annotation) for annotation in document["annotations"]]))
    return Reading(completed, findings, box_only, reading.headings)


def _of_box(box: list[float], height: int, width: int) -> dict[str, Any]:
    """Return the pixels of a box as RLE; parts outside the image are cut off."""
    (x0, x1), (y0, y1) = (
        (min(max(start, 0), side), min(max(start + extent, 0), side))
        for start, extent, side in ((box[0], box[2], width), (box[1], box[3], height))
    )
    return to_rle([np.array([x0, y0, x1, y0, x1, y1, x0, y1], dtype=np.float64)], height, width)


def is_degenerate(annotation: Annotation, *, height: int, width: int) -> str | None:
    """Return what makes an annotation unfit for training, or None; polygons inside the image are not rasterised."""
    x, y, w, h = annotation["bbox"]
    if min(w, h) < geometry.LEAST_SIDE_PIXELS:
        return "boxes below 1 px"
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list) and x < width and y < height and x + w > 0 and y + h > 0:
        return None if any(len(polygon) >= LEAST_COORDINATES for polygon in segmentation) else "empty masks"
    return None if rle.area(to_rle(segmentation, height, width)) else "empty masks"


def without_degenerate(document: Document) -> tuple[Document, dict[str, int]]:
    """Return a document without instances that cannot be trained on, and how many were dropped, by reason.

    Crowds stay: they are no instances.
    """
    sizes = {image["id"]: {"height": image["height"], "width": image["width"]} for image in document["images"]}
    dropped: dict[str, int] = {}
    kept = []
    for annotation in document["annotations"]:
        reason = None if annotation["iscrowd"] else is_degenerate(annotation, **sizes[annotation["image_id"]])
        if reason:
            dropped[reason] = dropped.get(reason, 0) + 1
        else:
            kept.append(annotation)
    return {**document, "annotations": kept}, dropped


def with_images(document: Document, chosen: set[int]) -> Document:
    """Return a document with the images of the given ids alone, and what is in them."""
    return {
        **document,
        "images": [image for image in document["images"] if image["id"] in chosen],
        "annotations": [a for a in document["annotations"] if a["image_id"] in chosen],
    }


def with_instances(document: Document) -> set[int]:
    """Return the ids of the images that hold an instance, crowds not counted."""
    return {a["image_id"] for a in document["annotations"] if not a.get("iscrowd", 0)}


def with_classes_of_each_other(readings: Iterable[Reading]) -> list[Reading]:
    """Return the readings of one training, in which a heading that is a class of another file is a class again."""
    readings = list(readings)
    classes = {(c["id"], c["name"]) for reading in readings for c in reading.document["categories"]}
    found = []
    for reading in readings:
        again = [c for c in reading.headings if (c["id"], c["name"]) in classes]
        headings = [c for c in reading.headings if c not in again]
        document = {**reading.document, "categories": [*reading.document["categories"], *again]}
        findings = [finding for finding in reading.findings if finding.what != exporters.HEADINGS]
        findings += exporters.notes_of_headings(headings)
        found.append(Reading(document, findings, reading.box_only, headings))
    return found


def held_out(document: Document, fraction: float, seed: int) -> tuple[Document, Document]:
    """Return the document without a share of its images, and with those alone; whatever the order of the file.

    Images of one file stay together: none is seen in training and held out as well.
    """
    ids = sorted(image["id"] for image in document["images"])
    if len(ids) < 2:
        raise DataError("holding a validation split out needs at least 2 images but got 1; give val a file of its own")
    count = min(max(round(fraction * len(ids)), 1), len(ids) - 1)
    chosen = set(np.random.default_rng(seed).permutation(ids)[:count].tolist())
    file_of = {image["id"]: files.spelt(image["file_name"]) for image in document["images"]}
    held_files = {file_of[image] for image in chosen}
    chosen = {image for image, file in file_of.items() if file in held_files}
    return with_images(document, set(ids) - chosen), with_images(document, chosen)


def with_clean_labels(document: Document) -> Document:
    """Return a document whose labels are the clean ones, where noise injected beforehand left them beside its own."""
    annotations = [{**a, "category_id": a.get("clean_category_id", a["category_id"])} for a in document["annotations"]]
    return {**document, "annotations": annotations}
