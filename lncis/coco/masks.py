"""COCO segmentations, in each of their three forms, as run-length encoding."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

LEAST_COORDINATES = 6
"""A polygon has three corners; pycocotools would take four numbers for a box."""

MOST_CHARACTERS = 8
"""Of a run length in compressed counts; 2^40 pixels."""

Rle = dict[str, Any]
"""`size` (height, width) and compressed `counts`."""


def to_rle(segmentation: Any, height: int, width: int) -> Rle:
    """Return a segmentation as compressed RLE, as pycocotools' `annToRLE` does.

    Polygons are joined, those with fewer than three corners left out; an RLE keeps the size that it says.
    """
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if len(polygon) >= LEAST_COORDINATES]
        if not polygons:
            return empty(height, width)
        encoded: Rle = rle.merge(rle.frPyObjects(polygons, height, width))
        return encoded
    if isinstance(segmentation["counts"], list):
        converted: Rle = rle.frPyObjects(segmentation, *segmentation["size"])
        return converted
    return {"size": segmentation["size"], "counts": segmentation["counts"]}


def run_lengths(counts: str) -> NDArray[np.int64]:
    """Return the run lengths that compressed `counts` stand for; ValueError where they stand for none.

    pycocotools does not look: of counts that end too early it decodes whatever was in memory. The code is LEB128 in six
    bits a character, from the third run on as the difference to the last but one (pycocotools, rleFrString).
    """
    bits = np.frombuffer(counts.encode(), dtype=np.uint8).astype(np.int64) - ord("0")
    last = (bits & 0x20) == 0
    if len(bits) == 0 or bits.min() < 0 or bits.max() > 0x3F or not last[-1]:
        raise ValueError("no run lengths")
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    place = np.arange(len(bits)) - np.repeat(starts, np.diff([*starts, len(bits)]))
    if place.max() > MOST_CHARACTERS:
        raise ValueError("a run longer than any image")
    runs = np.add.reduceat((bits & 0x1F) << 5 * place, starts)
    runs -= np.where(bits[last] & 0x10, 1 << 5 * (place[last] + 1), 0)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    if runs.min() < 0:
        raise ValueError("a negative run length")
    return runs


def empty(height: int, width: int) -> Rle:
    """Return the encoding of no pixel."""
    return from_array(np.zeros((height, width), dtype=np.bool_))


def from_array(mask: NDArray[Any]) -> Rle:
    """Return a mask `(H, W)` as RLE that JSON can hold."""
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def instance(category_id: int, mask: NDArray[np.bool_], *, iscrowd: int = 0) -> dict[str, Any]:
    """Return the COCO annotation of a mask `(H, W)` without its numbers; box and area are measured from it."""
    encoded = from_array(mask)
    return {
        "category_id": category_id,
        "segmentation": encoded,
        "bbox": [float(side) for side in rle.toBbox(encoded)],
        "area": int(mask.sum()),
        "iscrowd": iscrowd,
    }
