"""What keeps a document from being read as COCO instances: keys, types, ids, references, sizes of RLEs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from lncis.coco.exporters import is_finite, where
from lncis.coco.findings import Finding, error
from lncis.coco.masks import run_lengths

Entry = dict[str, Any]
MOST_PIXELS = 2**31 - 1
"""Of an image; pycocotools counts in 32 bits, and does not look (2.0.11)."""


def faults(document: Any, *, masks: bool = True) -> list[Finding]:
    """Return the errors of a document that `read_as_meant` has read; `masks=False`: segmentations may be anything."""
    if not isinstance(document, dict):
        return [error("JSON value at the top must be a mapping with images, annotations and categories", ["top"])]
    parts = ("images", "annotations", "categories")
    if lacking := [key for key in parts if not isinstance(document.get(key), list)]:
        return [error("lists are missing; is this a COCO instances file?", lacking)]
    if empty := [key for key in parts if not document[key]]:
        return [error("lists are empty: there is nothing to learn from", empty)]
    findings = faults_of_images(document)
    if findings:  # annotations could not be judged
        return findings
    sizes = {image["id"]: [image["height"], image["width"]] for image in document["images"]}
    known = {category["id"] for category in document["categories"]}
    return [
        *_repeated("categories", "name", document["categories"]),
        *_faults("annotations", document["annotations"], lambda a: _annotation_fault(a, sizes, known, masks)),
        *_repeated("annotations", "id", _numbered(document["annotations"])),
    ]


def faults_of_images(document: Any, *, sizes: bool = True) -> list[Finding]:
    """Return the errors of the images and categories of a document, which may lack the `sizes` of images."""
    if not isinstance(document, dict) or not all(isinstance(document.get(p), list) for p in ("images", "categories")):
        return [error("JSON value at the top must be a mapping with images and categories", ["top"])]
    return [
        *_faults("images", document["images"], lambda image: _image_fault(image, sizes)),
        *_faults("categories", document["categories"], _category_fault),
        *_repeated("images", "id", _numbered(document["images"])),
        *_repeated("categories", "id", _numbered(document["categories"])),
    ]


def _faults(kind: str, entries: Sequence[Any], fault_of: Callable[[Any], str | None]) -> Iterator[Finding]:
    found: dict[str, list[str]] = {}
    for position, entry in enumerate(entries):
        fault = fault_of(entry) if isinstance(entry, dict) else "are no mappings"
        if fault:
            found.setdefault(fault, []).append(where(entry) if _is_id(_id_of(entry)) else f"number {position + 1}")
    for fault, places in found.items():
        yield error(f"{kind} {fault}", places)


def _repeated(kind: str, key: str, entries: Sequence[Entry]) -> Iterator[Finding]:
    seen, repeated = set[Any](), list[str]()
    for entry in entries:
        if entry[key] in seen:
            repeated.append(str(entry[key]))
        seen.add(entry[key])
    if repeated:
        yield error(f"{kind} have the {key} of another; {key}s must be unique", repeated)


def _id_of(entry: Any) -> object:
    return entry.get("id") if isinstance(entry, dict) else None


def _numbered(entries: Sequence[Any]) -> list[Any]:
    return [entry for entry in entries if _is_id(_id_of(entry))]


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _lacking(entry: Entry, keys: Iterable[str]) -> str | None:
    missing = [key for key in keys if entry.get(key) is None]
    return f"lack {', '.join(missing)}" if missing else None


def _image_fault(image: Entry, sizes: bool) -> str | None:
    if lacking := _lacking(image, ("id", "file_name", *(("width", "height") if sizes else ()))):
        return lacking
    if not _is_id(image["id"]):
        return "have an id that is neither a number nor text of their own"
    if not isinstance(image["file_name"], str) or not image["file_name"] or "\0" in image["file_name"]:
        return "have a file_name that is no text"
    if not sizes:
        return None
    if not all(_is_id(image[side]) and image[side] > 0 for side in ("width", "height")):
        return "have a width or height that is not a positive whole number"
    if image["width"] * image["height"] > MOST_PIXELS:
        return f"have more than {MOST_PIXELS} pixels; correct their width and height, or cut them into tiles"
    return None


def _category_fault(category: Entry) -> str | None:
    if lacking := _lacking(category, ("id", "name")):
        return lacking
    if not _is_id(category["id"]):
        return "have an id that is neither a number nor text of their own"
    return None if isinstance(category["name"], str) else "have a name that is no text"


def _annotation_fault(annotation: Entry, sizes: dict[int, list[int]], known: set[int], masks: bool) -> str | None:
    if lacking := _lacking(annotation, ("id", "image_id", "category_id")):
        return lacking
    if not _is_id(annotation["id"]):
        return "have an id that is neither a number nor text of their own"
    # ids may be of any type: a list among them is no key of a mapping
    if not _is_id(annotation["image_id"]) or annotation["image_id"] not in sizes:
        return "have an image_id that is not among the images; add the images, or correct the ids"
    for key in ("category_id", "clean_category_id"):
        given = annotation.get(key, annotation["category_id"])
        if not _is_id(given) or given not in known:
            return f"have a {key} that is not among the categories; add the categories, or correct the ids"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return "have an iscrowd that is neither 0 nor 1"
    if not masks:
        return None
    box = annotation.get("bbox", (0, 0, 0, 0))
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(is_finite, box)):
        return "have a bbox that is not four numbers (x, y, width, height)"
    return _segmentation_fault(annotation["segmentation"], sizes[annotation["image_id"]])


def _segmentation_fault(segmentation: Any, size: list[int]) -> str | None:
    if isinstance(segmentation, list):
        if not all(isinstance(polygon, np.ndarray) and polygon.ndim == 1 for polygon in segmentation):
            return "have a polygon that is not a flat list of numbers x, y, x, y, ..."
        if not all(len(polygon) % 2 == 0 for polygon in segmentation):
            return "have a polygon with an odd count of numbers, in place of x, y, x, y, ..."
        return None
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get("counts"), list | str):
        return "have a segmentation that is neither polygons nor RLE (size, counts)"
    if segmentation.get("size") != size:
        return "have an RLE whose size is not the [height, width] of its image"
    counts = segmentation["counts"]
    if isinstance(counts, list) and not all(_is_id(count) and count >= 0 for count in counts):
        return "have RLE counts that are not whole numbers from 0 on"
    if isinstance(counts, str) and counts.startswith(("b'", 'b"')):
        return "have RLE counts that are Python bytes written as text; decode them (counts.decode()) and write again"
    try:
        pixels = sum(counts) if isinstance(counts, list) else int(run_lengths(counts).sum())
    except ValueError:
        return "have corrupt RLE counts; export them again"
    return None if pixels == size[0] * size[1] else "have RLE counts that do not add up to the pixels of their image"
