"""COCO segmentations, in each of their three forms, as run-length encoding."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

LEAST_COORDINATES = 6
"""A polygon has three corners; pycocotools would take four numbers for a box."""

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
