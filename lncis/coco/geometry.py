"""Whether the masks and boxes of a document can be meant as they stand, judged without drawing a mask."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from lncis.coco.exporters import where
from lncis.coco.findings import Finding, Severity, Tally, error, note
from lncis.coco.masks import LEAST_COORDINATES, to_rle
from lncis.noise import Document

BOX_TOLERANCE_PIXELS = 2.0
"""A box may differ from its mask by so much: polygons are rounded to pixels, boxes are not."""
LEAST_SIDE_PIXELS = 1.0
"""Smaller boxes are not trained on: torchvision refuses those without extent, and they teach nothing."""
LEAST_SHARE_OF_BOXES = 0.9
"""From this share of rectangles on, a file is taken for one of bounding boxes."""
LEAST_SHARE_OF_ODDITIES = 0.9
"""From this share on, all masks of a file are taken to be in another convention."""
FARTHEST_IMAGES = 10
"""A polygon may run off its image by so many times its longer side; what is drawn takes memory by its length."""
ANNOTATIONS_AT_A_TIME = 10_000
MASKS_PER_CALL = 255
"""Masks measured in one call; from 256 on rle.area overflows (pycocotools 2.0.11)."""

Entry = dict[str, Any]
Boxes = NDArray[np.float64]
"""`(n, 4)` as x1, y1, x2, y2 in pixels."""


def settle(document: Document) -> list[Finding]:
    """Return what is odd about masks and boxes; boxes that are to be measured on their masks are taken out.

    Errors are what cannot be meant so: coordinates that are no numbers or far away, normalised ones, RLEs row by row.
    """
    entries: list[Entry] = document["annotations"]
    sides = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    sizes = np.array([sides[a["image_id"]] for a in entries], dtype=np.float64)
    bounds = _bounds(entries, sides)
    there = np.asarray(~np.isnan(bounds).all(axis=1))
    finite = np.isfinite(bounds).all(axis=1)
    reach = FARTHEST_IMAGES * sizes.max(axis=1, keepdims=True)
    far = finite & ~(np.abs(bounds) <= reach).all(axis=1)
    unreal = {
        "coordinates that are no finite numbers; correct them": there & ~finite,
        f"coordinates over {FARTHEST_IMAGES} images away from their image; correct them": far,
    }
    findings = [
        error(f"annotations have {what}", [where(entries[k]) for k in np.flatnonzero(which)])
        for what, which in unreal.items()
        if which.any()
    ]
    is_polygon = there & np.array([isinstance(a["segmentation"], list) for a in entries])
    shares = is_polygon & ((bounds >= 0) & (bounds <= 1)).all(axis=1)
    if shares.any() and shares.sum() >= LEAST_SHARE_OF_ODDITIES * there.sum():
        what = "annotations have coordinates from 0 to 1: normalised ones; multiply them by width and height"
        findings.append(error(what, [where(entries[k]) for k in np.flatnonzero(shares)]))
    alone = [k for k in np.flatnonzero(~there) if "bbox" in entries[k]]
    if adrift := [where(entries[k]) for k in alone if not all(abs(side) <= reach[k, 0] for side in entries[k]["bbox"])]:
        what = f"annotations have no mask, and a bbox over {FARTHEST_IMAGES} images away from their image; correct them"
        findings.append(error(what, adrift))
    shares_alone = [k for k in alone if all(0 <= side <= 1 for side in entries[k]["bbox"])]
    if shares_alone and len(shares_alone) >= LEAST_SHARE_OF_ODDITIES * len(alone):
        what = "annotations have no mask, and a bbox from 0 to 1: normalised ones; multiply them by width and height"
        findings.append(error(what, [where(entries[k]) for k in shares_alone]))
    boxed = [k for k in np.flatnonzero(finite & ~far) if "bbox" in entries[k]]
    of_boxes, corners_meant = _settle_boxes([entries[k] for k in boxed], bounds[boxed], sizes[boxed])
    findings += of_boxes
    if corners_meant and (turned := [k for k in alone if _between_corners(entries[k])]):
        what = "annotations have no mask, and a bbox of x1, y1, x2, y2 as others of the file: read as that"
        findings.append(note(what, [where(entries[k]) for k in turned]))
    return findings


def _between_corners(entry: Entry) -> bool:
    """Take the box of an annotation for two corners; say whether that can be."""
    x1, y1, x2, y2 = entry["bbox"]
    can_be = bool(x2 > x1 and y2 > y1)
    if can_be:
        entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    return can_be


def _settle_boxes(entries: list[Entry], bounds: Boxes, sizes: NDArray[np.float64]) -> tuple[list[Finding], bool]:
    """Return what is odd about the boxes of annotations with masks of these bounds, in images of (height, width).

    Then whether the file's boxes are meant as two corners.
    """
    given = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    shown = np.clip(bounds, 0, sizes[:, [1, 0, 1, 0]])  # cut off at the image
    corners = _corners(given)
    fits, fits_as_corners = (_fit(boxes, bounds) | _fit(boxes, shown) for boxes in (corners, given))
    small = ~fits & (given[:, 2:].min(axis=1, initial=np.inf) < LEAST_SIDE_PIXELS)
    as_corners = ~fits & ~small & fits_as_corners
    corners_meant = bool(as_corners.sum() > (fits & ~fits_as_corners).sum())
    if corners_meant:
        as_corners |= fits & fits_as_corners  # where both readings fit, the file is meant as a whole
    off = ~fits & ~small & ~as_corners
    reach = FARTHEST_IMAGES * sizes.max(axis=1, keepdims=True, initial=0)
    far = off & ~(np.abs(corners) <= reach).all(axis=1)
    apart = off & ~far & ((corners[:, 2:] <= bounds[:, :2]) | (corners[:, :2] >= bounds[:, 2:])).any(axis=1)
    tally = Tally()

    def say(severity: Severity, what: str, which: NDArray[np.bool_]) -> None:
        for k in np.flatnonzero(which):
            tally.add(severity, f"annotations have a bbox {what}", entries[k], where(entries[k]))

    say("note", "below 1 px: boxes are measured on their masks", small)
    say("note", "of x1, y1, x2, y2: boxes are measured on their masks", as_corners)
    what = f"over {FARTHEST_IMAGES} images away from their image: boxes are measured on their masks; which is right?"
    say("warning", what, far)
    say("warning", "apart from their mask: boxes are measured on their masks; which is right?", apart)
    say("warning", f"more than {BOX_TOLERANCE_PIXELS:g} px off their mask; which is right?", off & ~apart & ~far)
    for k in np.flatnonzero(small | as_corners | apart | far):
        del entries[k]["bbox"]
    encoded = [k for k in np.flatnonzero(off) if isinstance(entries[k]["segmentation"], dict)]
    row_by_row = [where(entries[k]) for k in encoded if _fits_row_by_row(entries[k]["segmentation"], given[k])]
    findings = tally.findings()
    if row_by_row and len(row_by_row) >= LEAST_SHARE_OF_ODDITIES * len(encoded):
        what = "annotations have RLE counts row by row, while COCO's go down the columns; encode them so"
        findings.append(error(what, row_by_row))
    return findings, corners_meant


def boxes_as_masks(document: Document) -> Finding | None:
    """Return the fault of a file whose polygons are bounding boxes, as in the circulating pascal_train2012.json."""
    masked = [a for a in document["annotations"] if has_mask(a) and not a.get("iscrowd", 0)]
    boxes = [a for a in masked if isinstance(a["segmentation"], list) and is_rectangle(a["segmentation"])]
    if not boxes or len(boxes) < LEAST_SHARE_OF_BOXES * len(masked):
        return None
    return error(
        f"of {len(masked)} masks are upright rectangles: bounding boxes passing as masks, as in the circulating "
        "pascal_train2012.json, from which no mask can be learned; convert masks that are ones (`lncis data prepare`), "
        "or train on boxes as masks with box_masks: rectangles",
        [where(a) for a in boxes],
    )


def is_rectangle(polygons: list[Any]) -> bool:
    """Say whether a segmentation is one polygon of four corners with upright sides."""
    if len(polygons) != 1 or len(polygons[0]) not in (8, 10):
        return False
    corners = {(float(x), float(y)) for x, y in polygons[0].reshape(-1, 2)}
    return len(corners) == 4 and len({x for x, _ in corners}) == len({y for _, y in corners}) == 2


def has_mask(entry: Entry) -> bool:
    """Say whether the segmentation is an RLE, or has a polygon of three corners."""
    shape = entry["segmentation"]
    return not isinstance(shape, list) or any(len(polygon) >= LEAST_COORDINATES for polygon in shape)


def _bounds(entries: Sequence[Entry], sides: dict[int, tuple[int, int]]) -> Boxes:
    """Return the bounds of each mask; NaN where there is none, or no pixel in its RLE."""
    bounds = np.full((len(entries), 4), np.nan)
    outlined = [k for k, entry in enumerate(entries) if isinstance(entry["segmentation"], list)]
    for some in _in_parts(outlined, ANNOTATIONS_AT_A_TIME):
        parts = [(k, p) for k in some for p in entries[k]["segmentation"] if len(p) >= LEAST_COORDINATES]
        if parts:
            points = np.concatenate([part for _, part in parts]).reshape(-1, 2)
            points = np.nan_to_num(points, nan=np.inf)  # NaN stands for no mask here
            owners = np.array([k for k, _ in parts])
            owned = np.repeat(owners, [len(part) // 2 for _, part in parts])
            first = np.flatnonzero(np.diff(owned, prepend=-1))  # the points of one annotation stand together
            low, high = np.minimum.reduceat(points, first), np.maximum.reduceat(points, first)
            bounds[owned[first]] = np.concatenate([low, high], axis=1)
    encoded = [k for k, entry in enumerate(entries) if not isinstance(entry["segmentation"], list)]
    for some in _in_parts(encoded, MASKS_PER_CALL):
        masks = [to_rle(entries[k]["segmentation"], *sides[entries[k]["image_id"]]) for k in some]
        boxes = _corners(rle.toBbox(masks))
        filled = np.all(boxes[:, 2:] > boxes[:, :2], axis=1, keepdims=True)
        bounds[some] = np.where(filled, boxes, np.nan)
    return bounds


def _in_parts(positions: list[int], length: int) -> Iterator[list[int]]:
    return (positions[start : start + length] for start in range(0, len(positions), length))


def _corners(boxes: NDArray[np.float64]) -> Boxes:
    with np.errstate(over="ignore"):  # a side of 1e308 is apart from any mask
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _fit(boxes: Boxes, bounds: Boxes) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        fits: NDArray[np.bool_] = np.abs(boxes - bounds).max(axis=1, initial=0) <= BOX_TOLERANCE_PIXELS
    return fits | np.isnan(bounds).any(axis=1)


def _fits_row_by_row(segmentation: Any, box: NDArray[np.float64]) -> bool:
    """Say whether a box is that of an RLE, were its counts to go along the rows."""
    height, width = segmentation["size"]
    turned = to_rle({"size": [width, height], "counts": segmentation["counts"]}, width, height)
    y, x, h, w = rle.toBbox(turned).tolist()
    bounds = np.array([[x, y, x + w, y + h]])
    return bool(_fit(_corners(box[None]), bounds)[0] or _fit(box[None], bounds)[0])
