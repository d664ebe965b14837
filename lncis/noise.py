"""Label noise: corrupted copies of COCO documents, and the manifest that says what was done.

The result is a function of (annotations, kind, rate, seed) alone: the order of the file does not matter. Background
is never drawn, crowds are left alone, and each annotation keeps its clean label as `clean_category_id`.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lncis.config import Noise
from lncis.errors import DataError

Document = dict[str, Any]
"""A COCO instances document: `images`, `annotations`, `categories`."""

MISTAKEN_FOR = {
    "1": "7", "7": "1", "3": "8", "8": "3", "4": "9", "9": "4", "5": "6", "6": "5",
}  # fmt: skip
"""Asymmetric noise on the digits, by class name; classes without an entry stay."""


def transition_matrix(class_names: list[str], kind: str, rate: float) -> NDArray[np.float64]:
    """Return `[given_clean, given_noisy]`, `(K, K)`, rows summing to 1: the law of the noise.

    Raises DataError for a kind that cannot be applied to these classes.
    """
    size = len(class_names)
    if kind == "none" or rate == 0:
        return np.eye(size)
    if kind == "symmetric":
        if size < 2:
            raise DataError("symmetric noise needs at least 2 classes but got 1; use kind: none")
        flip = (1 - np.eye(size)) / (size - 1)
        return (1 - rate) * np.eye(size) + rate * flip
    matrix = np.eye(size)
    mapped = {name: MISTAKEN_FOR[name] for name in class_names if MISTAKEN_FOR.get(name) in class_names}
    if not mapped:
        raise DataError(
            f"asymmetric noise knows no confusable pair among the classes {', '.join(class_names)}; use kind: symmetric"
        )
    for clean, noisy in mapped.items():
        row, target = class_names.index(clean), class_names.index(noisy)
        matrix[row, row], matrix[row, target] = 1 - rate, rate
    return matrix


def corrupt(document: Document, noise: Noise, *, stream: str) -> tuple[Document, dict[str, Any]]:
    """Return a copy of `document` with noisy `category_id`s, and the manifest of what was flipped.

    `stream` names an independent draw of the same seed ("train", "val"). The manifest holds the requested and realised
    rate, overall and by class, the realised counts `[given_clean, given_noisy]`, and a hash of the labels.
    """
    categories = sorted(document["categories"], key=lambda category: category["id"])
    names = [category["name"] for category in categories]
    ids = np.array([category["id"] for category in categories])
    matrix = transition_matrix(names, noise.kind, noise.rate)

    flippable = sorted((a for a in document["annotations"] if not a.get("iscrowd", 0)), key=lambda a: int(a["id"]))
    known = set(ids.tolist())
    unknown = next((a for a in document["annotations"] if a["category_id"] not in known), None)
    if unknown is not None:
        raise DataError(
            f"annotation {unknown['id']} has category_id {unknown['category_id']}, which is not among the categories "
            f"({', '.join(map(str, ids))}); add the category or drop the annotation"
        )
    clean = np.searchsorted(ids, [a["category_id"] for a in flippable])
    uniform = np.random.default_rng([noise.seed, *stream.encode()]).random(len(flippable))
    # inverse-CDF sampling; the last column is set to 1 so that rounding cannot run past it
    thresholds = np.cumsum(matrix, axis=1)
    thresholds[:, -1] = 1.0
    noisy = (uniform[:, None] >= thresholds[clean]).sum(axis=1)

    new_label = {a["id"]: int(ids[k]) for a, k in zip(flippable, noisy, strict=True)}
    annotations = [
        {
            "clean_category_id": annotation["category_id"],
            **annotation,  # a clean label that is there already stays
            "category_id": new_label.get(annotation["id"], annotation["category_id"]),
        }
        for annotation in document["annotations"]
    ]
    return {**document, "annotations": annotations}, _manifest(noise, stream, names, clean, noisy)


def _manifest(noise: Noise, stream: str, names: list[str], clean: NDArray[Any], noisy: NDArray[Any]) -> dict[str, Any]:
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(counts, (clean, noisy), 1)
    totals = counts.sum(axis=1)
    flipped = totals - counts.diagonal()
    labels = np.stack([clean, noisy]).astype("<i8").tobytes()
    return {
        "kind": noise.kind,
        "seed": noise.seed,
        "stream": stream,
        "requested_rate": 0.0 if noise.kind == "none" else noise.rate,
        "realised_rate": float(flipped.sum() / max(totals.sum(), 1)),
        "realised_rate_by_class": {
            name: float(f / max(t, 1)) for name, f, t in zip(names, flipped, totals, strict=True)
        },
        "annotations": int(totals.sum()),
        "counts_given_clean_given_noisy": counts.tolist(),
        "labels_sha256": hashlib.sha256(labels).hexdigest(),
    }
