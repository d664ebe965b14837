"""COCO documents and results at random, with all that an evaluator may stumble over."""

from typing import Any

import numpy as np
from pycocotools import mask as rle

Entry = dict[str, Any]

CATEGORY_IDS = [3, 1, 90, 7, 12]
DETECTION_LIMIT = 100


def random_documents(seed: int) -> tuple[Entry, list[Entry]]:
    """Return labels and results of a few small images.

    Among them: crowds, masks in all three forms, empty ones, polygons beyond the image; images without labels, without
    results, with more than 100 of them; results twice, equal scores; classes without instances; large ids, and ids with
    holes and in no order; areas that are not whole; keys that COCO does not know.
    """
    rng = np.random.default_rng(seed)
    first_id = int(rng.choice([0, 2**31, 2**40]))
    category_ids = CATEGORY_IDS[: int(rng.integers(1, 6))]
    different_scores = int(rng.choice([2, 5, 1000]))
    annotation_ids = (rng.permutation(200) * 7 + 1).tolist()
    images, annotations, results = list[Entry](), list[Entry](), list[Entry]()
    for index in rng.permutation(int(rng.integers(1, 7))):
        height, width = rng.integers(1, 40, 2).tolist()
        image_id = first_id + 3 * int(index)
        images.append({"id": image_id, "height": height, "width": width, "license": None})
        instances: list[tuple[np.ndarray, Entry]] = []
        for _ in range(int(rng.choice([0, 1, 3, 5]))):
            mask = random_mask(rng, height, width)
            annotation = {
                "id": annotation_ids.pop(),
                "image_id": image_id,
                # the last category may be without instances
                "category_id": int(rng.choice(category_ids[: max(1, len(category_ids) - 1)])),
                "iscrowd": int(rng.random() < 0.25),
                "area": float(mask.sum() * rng.uniform(0.9, 1.1)),
                "bbox": rle.toBbox(compressed(mask)).tolist(),
                "segmentation": random_form(rng, mask),
                "ignore": int(rng.random() < 0.1),
                "attributes": {"occluded": [None]},
            }
            annotations.append(annotation)
            instances.append((mask, annotation))
        for _ in range(int(rng.choice([0, 2, 5, 8, DETECTION_LIMIT + 30], p=[0.15, 0.4, 0.3, 0.12, 0.03]))):
            if instances and rng.random() < 0.75:
                mask, annotation = instances[int(rng.integers(len(instances)))]
                mask = np.roll(mask, int(rng.integers(-1, 2)), axis=int(rng.integers(2)))
                box = (annotation["bbox"] + rng.normal(0, 0.7, 4) * (rng.random(4) < 0.6)).tolist()
                right = rng.random() < 0.8
            else:
                mask, box, right = random_mask(rng, height, width), rng.uniform(-3, 40, 4).round(1).tolist(), False
            result = {
                "image_id": image_id,
                "category_id": annotation["category_id"] if right else int(rng.choice(category_ids)),
                "bbox": box,
                "score": int(rng.integers(different_scores + 1)) / different_scores,
                "segmentation": compressed(mask),
            }
            results += [dict(result) for _ in range(2 if rng.random() < 0.1 else 1)]
    document = {
        "images": images,
        "annotations": [annotations[i] for i in rng.permutation(len(annotations))],
        "categories": [{"id": number, "name": str(number), "supercategory": None} for number in category_ids],
    }
    return document, [results[i] for i in rng.permutation(len(results))]


def random_mask(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return an ellipse that may lie outside in part, or nothing."""
    y, x = np.mgrid[:height, :width]
    centre_x, centre_y = rng.uniform(-5, width + 5), rng.uniform(-5, height + 5)
    radius_x, radius_y = rng.uniform(0.5, width + 0.5), rng.uniform(0.5, height + 0.5)
    inside = ((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2 <= 1
    return inside & (rng.random() > 0.1)


def random_form(rng: np.random.Generator, mask: np.ndarray) -> Any:
    """Return the mask as compressed or uncompressed RLE, or polygons instead, as lists or as lncis reads them."""
    if (form := rng.random()) < 0.3:
        return compressed(mask)
    if form < 0.6:
        flat = mask.ravel(order="F")
        return {
            "size": list(mask.shape),
            "counts": np.diff(np.flatnonzero(np.diff(flat, prepend=False)), prepend=0, append=flat.size).tolist(),
        }
    polygons = [rng.uniform(-5, 1.3 * max(mask.shape), 2 * int(rng.integers(3, 8))) for _ in range(rng.integers(1, 3))]
    return polygons if form < 0.8 else [polygon.round(int(rng.integers(4))).tolist() for polygon in polygons]


def compressed(mask: np.ndarray) -> Entry:
    """Return the mask as RLE that JSON can hold."""
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def one_an_object(results: list[Entry]) -> list[Entry]:
    """Return the results that greedy suppression at a box IoU of 0.5 leaves, classes ignored: box by box."""
    kept: list[Entry] = []
    for result in sorted(results, key=lambda result: -result["score"]):  # stable, as COCO's own order
        if all(k["image_id"] != result["image_id"] or not _overlap(k["bbox"], result["bbox"]) for k in kept):
            kept.append(result)
    return kept


def _overlap(one: list[float], other: list[float]) -> bool:
    (x, y, w, h), (u, v, a, b) = one, other
    shared = max(0.0, min(x + w, u + a) - max(x, u)) * max(0.0, min(y + h, v + b) - max(y, v))
    union = w * h + a * b - shared
    return union != 0 and shared / union > 0.5
