"""Whether the masks and boxes of a document can be meant as they stand, judged without drawing a mask."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from lncis.datasets.exporters import where
from lncis.datasets.findings import Finding, Tally, error, warning
from lncis.datasets.masks import LEAST_COORDINATES, to_rle
from lncis.noise import Document

BOX_TOLERANCE_PIXELS = 2.0
"""A box may differ from its mask by so much: polygons are rounded to pixels, boxes are not."""
LEAST_SIDE_PIXELS = 1.0
"""Smaller boxes are not trained on: torchvision refuses those without extent, and they teach nothing."""
LEAST_SHARE_OF_BOXES = 0.9
"""From this share of rectangles on, a file is taken for one of bounding boxes."""
LEAST_SHARE_OF_ODDITIES = 0.9
"""From this share on, all masks of a file are taken to be in another convention."""
LEAST_SHARE_OF_CROWDS = 0.3
"""Of the annotations; COCO's own files have 0.01."""
FARTHEST_IMAGES = 10
"""A polygon may run off its image by so many times its longer side; what is drawn takes memory by its length."""
ANNOTATIONS_AT_A_TIME = 10_000
MASKS_PER_CALL = 255
"""Masks measured in one call; from 256 on rle.area overflows (pycocotools 2.0.11)."""

Entry = dict[str, Any]
Boxes = NDArray[np.float64]
"""`(n, 4)` as x1, y1, x2, y2 in pixels."""


def settle(document: Document) -> list[Finding]:
    """Return what is odd about masks and boxes, and take boxes that fit no reading of theirs, but x1, y1, x2, y2, out.

    Errors are what cannot be meant so: coordinates that are no numbers or far away, normalised ones, RLEs row by row.
    """
    entries: list[Entry] = document["annotations"]
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    tally = Tally()
    normalised, polygons, misfit_rles, row_by_row = list[str](), 0, 0, list[str]()
    for start in range(0, len(entries), ANNOTATIONS_AT_A_TIME):
        some = entries[start : start + ANNOTATIONS_AT_A_TIME]
        bounds = _bounds(some, sizes)
        image_sizes = np.array([sizes[a["image_id"]] for a in some], dtype=np.float64)
        reach = FARTHEST_IMAGES * image_sizes.max(axis=1)
        low, high = bounds.min(axis=1), bounds.max(axis=1)
        has_mask = ~np.isnan(bounds).all(axis=1)
        for k in np.flatnonzero(has_mask & ~np.isfinite(bounds).all(axis=1)):
            tally.add("error", "annotations have coordinates that are no finite numbers; correct them", where(some[k]))
        with np.errstate(invalid="ignore"):
            far = has_mask & np.isfinite(bounds).all(axis=1) & ((low < -reach) | (high > reach))
        for k in np.flatnonzero(far):
            what = f"annotations have coordinates over {FARTHEST_IMAGES} images away from their image; correct them"
            tally.add("error", what, where(some[k]))
        is_polygon = np.array([isinstance(a["segmentation"], list) for a in some]) & has_mask
        polygons += int(is_polygon.sum())
        normalised += [where(some[k]) for k in np.flatnonzero(is_polygon & (low >= 0) & (high <= 1))]
        boxed = [k for k in np.flatnonzero(has_mask & ~far) if "bbox" in some[k]]
        given = np.array([some[k]["bbox"] for k in boxed], dtype=np.float64).reshape(-1, 4)
        corners, shown = _corners(given), np.clip(bounds, 0, image_sizes[:, [1, 0, 1, 0]])  # cut off at the image
        fit = _fit(corners, bounds[boxed]) | _fit(corners, shown[boxed])
        for k, box in zip(np.array(boxed, dtype=np.int64)[~fit], given[~fit], strict=True):
            entry = some[k]
            if min(box[2:]) < LEAST_SIDE_PIXELS:
                tally.add("note", "annotations have a bbox below 1 px: it is measured on their masks", where(entry))
                del entry["bbox"]
                continue
            if (_fit(box[None], bounds[k][None]) | _fit(box[None], shown[k][None]))[0]:
                what = "annotations have a bbox of x1, y1, x2, y2: x, y, width, height are measured on their masks"
                tally.add("note", what, where(entry))
                del entry["bbox"]
                continue
            if not is_polygon[k]:
                misfit_rles += 1
                if _fits_row_by_row(entry["segmentation"], box):
                    row_by_row.append(where(entry))
            what = f"annotations have a bbox more than {BOX_TOLERANCE_PIXELS:g} px off their mask; which is right?"
            tally.add("warning", what, where(entry))
    findings = tally.findings()
    if polygons and len(normalised) >= LEAST_SHARE_OF_ODDITIES * polygons:
        what = "annotations have coordinates from 0 to 1: normalised ones; multiply them by width and height"
        findings.append(error(what, normalised))
    if row_by_row and len(row_by_row) >= LEAST_SHARE_OF_ODDITIES * misfit_rles:
        what = "annotations have RLE counts row by row, while COCO's go down the columns; encode them so"
        findings.append(error(what, row_by_row))
    return findings


def crowds(document: Document) -> Iterator[Finding]:
    """Yield what is odd about the crowds of a document."""
    found = [where(a) for a in document["annotations"] if a.get("iscrowd", 0)]
    if len(found) >= LEAST_SHARE_OF_CROWDS * len(document["annotations"]):
        yield warning(
            f"of {len(document['annotations'])} annotations have iscrowd 1: not trained on, they are background "
            "then; CVAT writes it for masks of the brush, set it to 0 where each is one object",
            found,
        )


def boxes_as_masks(document: Document) -> Finding | None:
    """Return the fault of a file whose polygons are bounding boxes, as in the circulating pascal_train2012.json."""
    outlined = [a for a in document["annotations"] if isinstance(a["segmentation"], list) and a["segmentation"]]
    boxes = [a for a in outlined if is_rectangle(a["segmentation"])]
    if not boxes or len(boxes) < LEAST_SHARE_OF_BOXES * len(outlined):
        return None
    return error(
        f"of {len(outlined)} polygons are upright rectangles: bounding boxes passing as masks, as in the circulating "
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


def _bounds(entries: Sequence[Entry], sizes: dict[int, tuple[int, int]]) -> Boxes:
    """Return the bounds of each mask; NaN where there is none, or no pixel in its RLE."""
    bounds = np.full((len(entries), 4), np.nan)
    polygons: list[NDArray[np.float64]] = []
    owners: list[int] = []
    encoded: list[int] = []
    for k, entry in enumerate(entries):
        if isinstance(entry["segmentation"], list):
            parts = [part for part in entry["segmentation"] if len(part) >= LEAST_COORDINATES]
            polygons += parts
            owners += [k] * len(parts)
        else:
            encoded.append(k)
    if polygons:
        points = np.concatenate(polygons).reshape(-1, 2)
        starts = np.cumsum([0, *(len(part) // 2 for part in polygons[:-1])])
        low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
        first = np.flatnonzero(np.diff([-1, *owners]))  # the parts of one annotation stand together
        of = np.array(owners)[first]
        bounds[of, :2], bounds[of, 2:] = np.minimum.reduceat(low, first), np.maximum.reduceat(high, first)
    for start in range(0, len(encoded), MASKS_PER_CALL):
        ks = encoded[start : start + MASKS_PER_CALL]
        masks = [to_rle(entries[k]["segmentation"], *sizes[entries[k]["image_id"]]) for k in ks]
        boxes = _corners(rle.toBbox(masks))
        filled = np.all(boxes[:, 2:] > boxes[:, :2], axis=1, keepdims=True)
        bounds[ks] = np.where(filled, boxes, np.nan)
    return bounds


def _corners(boxes: NDArray[np.float64]) -> Boxes:
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
    return bool(_fit(_corners(box[None]), np.array([[x, y, x + w, y + h]]))[0])
