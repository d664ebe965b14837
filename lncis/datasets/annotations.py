"""COCO instances files: read without decoding a mask, and refused where they are not what they claim."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as rle

from lncis.datasets.masks import LEAST_COORDINATES, run_lengths, to_rle
from lncis.documents import read_json
from lncis.errors import DataError
from lncis.noise import Document

LEAST_SIDE_PIXELS = 1.0
"""Smaller boxes are not trained on: torchvision refuses those without extent, and they teach nothing."""
LEAST_SHARE_OF_BOXES = 0.9
"""From this share of rectangles on, a file is taken for one of bounding boxes."""
EXAMPLES_SHOWN = 3

Annotation = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of fault in a file."""

    severity: Literal["error", "warning"]
    """error: the file cannot be trained on, or not rightly; warning: it can, but is perhaps not what was meant."""
    what: str
    """What is so, and the remedy, to be read after the count."""
    where: list[str]
    """The entries that are so, all of them."""

    def __str__(self) -> str:
        shown = ", ".join(self.where[:EXAMPLES_SHOWN]) + (", ..." if len(self.where) > EXAMPLES_SHOWN else "")
        return f"{len(self.where)} {self.what} ({shown})"


def read(path: Path) -> Document:
    """Return the COCO document of a file, checked as far as can be without decoding masks.

    Polygons come as arrays, which take a fraction of the memory of lists; `iscrowd`, `bbox` and `area` are there also
    where the file leaves them out. Raises DataError with the first fault.
    """
    document: Document = parse(path)
    fault = next((finding for finding in structure(document)), None) or boxes_as_masks(document)
    if fault:
        raise DataError(f"{path}: {fault}; `lncis data check {path}` lists all that is wrong")
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    for annotation in document["annotations"]:
        annotation.setdefault("iscrowd", 0)
        if "bbox" not in annotation or "area" not in annotation:
            mask = to_rle(annotation["segmentation"], *sizes[annotation["image_id"]])
            annotation.setdefault("bbox", rle.toBbox(mask).tolist())
            annotation.setdefault("area", int(rle.area(mask)))
    return document


def parse(path: Path) -> Any:
    """Return what a JSON file holds, polygons as arrays; DataError where it is missing or no JSON."""
    return read_json(path, object_hook=_compact)


def _compact(entry: dict[str, Any]) -> dict[str, Any]:
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, list):
        try:
            entry["segmentation"] = [np.array(polygon, dtype=np.float64) for polygon in segmentation]
        except (ValueError, TypeError):
            entry["segmentation"] = None  # not numbers: `structure` says so
    return entry


def structure(document: Any) -> list[Finding]:
    """Return what keeps a document from being read as COCO instances: keys, types, ids, references, sizes of RLEs."""
    if not isinstance(document, dict):
        return [_error("JSON value at the top must be a mapping with images, annotations and categories", ["top"])]
    parts = ("images", "annotations", "categories")
    if lacking := [key for key in parts if not isinstance(document.get(key), list)]:
        return [_error("lists are missing; is this a COCO instances file?", lacking)]
    if empty := [key for key in parts if not document[key]]:
        return [_error("lists are empty: there is nothing to learn from", empty)]
    findings = [
        *_faults("images", document["images"], _image_fault),
        *_faults("categories", document["categories"], _category_fault),
    ]
    findings += [
        *_repeated("images", "id", _numbered(document["images"])),
        *_repeated("categories", "id", _numbered(document["categories"])),
    ]
    if findings:  # annotations could not be judged
        return findings
    sizes = {image["id"]: [image["height"], image["width"]] for image in document["images"]}
    known = {category["id"] for category in document["categories"]}
    return [
        *_repeated("categories", "name", document["categories"]),
        *_faults("annotations", document["annotations"], lambda a: _annotation_fault(a, sizes, known)),
        *_repeated("annotations", "id", _numbered(document["annotations"])),
    ]


def _error(what: str, where: list[str]) -> Finding:
    return Finding(severity="error", what=what, where=where)


def _faults(kind: str, entries: Sequence[Any], fault_of: Callable[[Any], str | None]) -> Iterator[Finding]:
    found: dict[str, list[str]] = {}
    for position, entry in enumerate(entries):
        fault = fault_of(entry) if isinstance(entry, dict) else "are no mappings"
        if fault:
            number = _id_of(entry)
            found.setdefault(fault, []).append(f"id {number}" if _is_id(number) else f"number {position + 1}")
    for fault, where in found.items():
        yield _error(f"{kind} {fault}", where)


def _repeated(kind: str, key: str, entries: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    seen, repeated = set[Any](), list[str]()
    for entry in entries:
        if entry[key] in seen:
            repeated.append(str(entry[key]))
        seen.add(entry[key])
    if repeated:
        yield _error(f"{kind} have the {key} of another; {key}s must be unique", repeated)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _id_of(entry: Any) -> object:
    return entry.get("id") if isinstance(entry, dict) else None


def _numbered(entries: Sequence[Any]) -> list[Any]:
    return [entry for entry in entries if _is_id(_id_of(entry))]


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _lacking(entry: dict[str, Any], keys: Iterable[str]) -> str | None:
    missing = [key for key in keys if key not in entry]
    return f"lack {', '.join(missing)}" if missing else None


def _image_fault(image: dict[str, Any]) -> str | None:
    if lacking := _lacking(image, ("id", "file_name", "width", "height")):
        return lacking
    if not _is_id(image["id"]):
        return "have an id that is not a whole number"
    if not isinstance(image["file_name"], str) or not image["file_name"]:
        return "have a file_name that is no text"
    if not all(_is_id(image[side]) and image[side] > 0 for side in ("width", "height")):
        return "have a width or height that is not a positive whole number"
    return None


def _category_fault(category: dict[str, Any]) -> str | None:
    if lacking := _lacking(category, ("id", "name")):
        return lacking
    if not _is_id(category["id"]):
        return "have an id that is not a whole number"
    return None if isinstance(category["name"], str) else "have a name that is no text"


def _annotation_fault(annotation: Annotation, sizes: dict[int, list[int]], known: set[int]) -> str | None:
    if lacking := _lacking(annotation, ("id", "image_id", "category_id", "segmentation")):
        return lacking
    if not _is_id(annotation["id"]):
        return "have an id that is not a whole number"
    if not _is_id(annotation["image_id"]) or annotation["image_id"] not in sizes:
        return "have an image_id that is not among the images; drop them or add the images"
    for key in ("category_id", "clean_category_id"):
        given = annotation.get(key, annotation["category_id"])
        if not _is_id(given) or given not in known:
            return f"have a {key} that is not among the categories; drop them or add the categories"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return "have an iscrowd that is neither 0 nor 1"
    box = annotation.get("bbox", (0, 0, 0, 0))
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(_is_number, box)):
        return "have a bbox that is not four numbers (x, y, width, height)"
    return _segmentation_fault(annotation["segmentation"], sizes[annotation["image_id"]])


def _segmentation_fault(segmentation: Any, size: list[int]) -> str | None:
    if isinstance(segmentation, list):
        if all(polygon.ndim == 1 and len(polygon) % 2 == 0 for polygon in segmentation):
            return None
        return "have a polygon that is not a flat list of x, y, x, y, ..."
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get("counts"), list | str):
        return "have a segmentation that is neither polygons nor RLE (size, counts)"
    if segmentation.get("size") != size:
        return "have an RLE whose size is not the [height, width] of its image"
    counts = segmentation["counts"]
    if isinstance(counts, list) and not all(_is_id(count) and count >= 0 for count in counts):
        return "have RLE counts that are not whole numbers"
    try:
        pixels = sum(counts) if isinstance(counts, list) else int(run_lengths(counts).sum())
    except ValueError:
        return "have corrupt RLE counts"
    return None if pixels == size[0] * size[1] else "have RLE counts that do not add up to the pixels of their image"


def boxes_as_masks(document: Document) -> Finding | None:
    """Return the fault of a file whose polygons are bounding boxes, as in the circulating pascal_train2012.json."""
    outlined = [a for a in document["annotations"] if isinstance(a["segmentation"], list)]
    boxes = [a for a in outlined if is_rectangle(a["segmentation"])]
    if not boxes or len(boxes) < LEAST_SHARE_OF_BOXES * len(outlined):
        return None
    return _error(
        f"of {len(outlined)} polygons are upright rectangles: bounding boxes passing as masks, as in the circulating "
        "pascal_train2012.json, from which no mask can be learned; convert masks that are ones (`lncis data prepare`)",
        [f"annotation {a['id']}" for a in boxes],
    )


def is_rectangle(polygons: list[Any]) -> bool:
    """Say whether a segmentation is one polygon of four corners with upright sides."""
    if len(polygons) != 1 or len(polygons[0]) not in (8, 10):
        return False
    corners = {(float(x), float(y)) for x, y in polygons[0].reshape(-1, 2)}
    return len(corners) == 4 and len({x for x, _ in corners}) == len({y for _, y in corners}) == 2


def is_degenerate(annotation: Annotation, *, height: int, width: int) -> str | None:
    """Return what makes an annotation unfit for training, or None; polygons are not rasterised for it."""
    if min(annotation["bbox"][2:]) < LEAST_SIDE_PIXELS:
        return "boxes below 1 px"
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
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


def held_out(document: Document, fraction: float, seed: int) -> tuple[Document, Document]:
    """Return the document without a share of its images, and with those alone; whatever the order of the file."""
    ids = sorted(image["id"] for image in document["images"])
    if len(ids) < 2:
        raise DataError("holding a validation split out needs at least 2 images but got 1; give val a file of its own")
    count = min(max(round(fraction * len(ids)), 1), len(ids) - 1)
    chosen = set(np.random.default_rng(seed).permutation(ids)[:count].tolist())
    return with_images(document, set(ids) - chosen), with_images(document, chosen)


def with_clean_labels(document: Document) -> Document:
    """Return a document whose labels are the clean ones, where noise injected beforehand left them beside its own."""
    annotations = [{**a, "category_id": a.get("clean_category_id", a["category_id"])} for a in document["annotations"]]
    return {**document, "annotations": annotations}
