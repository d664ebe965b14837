"""Drawing noisy labels from a transition matrix.

The result is a function of the annotations and the noise alone: the order of the file does not matter. Background is
never drawn, crowds are left alone, and each annotation keeps its clean label as `clean_category_id`.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lncis.config import AsymmetricNoise, MatrixNoise, NoiseConfig, NoNoise, SymmetricNoise
from lncis.errors import DataError
from lncis.noise.transitions import transition_matrix

NOISE_MANIFEST = "noise.json"
"""The file in a stage's folder that holds the manifest of each noisy split."""

Document = dict[str, Any]
"""A COCO instances document: `images`, `annotations`, `categories`."""


def corrupt(document: Document, noise: NoiseConfig, *, stream: str) -> tuple[Document, dict[str, Any]]:
    """Return a copy of `document` with noisy `category_id`s, and the manifest of what was flipped.

    `stream` names an independent draw of the same seed ("train", "val"). The manifest holds the requested and realised
    rate, overall and by class, the transition matrix and the realised counts, both `[given_clean, given_noisy]`, and a
    hash of the labels. Raises DataError for a document that is no COCO document, or that is noisy already: its flips
    are never flipped again. With NoNoise its labels stay, and the manifest counts the flips that it came with.
    """
    categories = sorted(_entries(document, "categories", id=int, name=str), key=lambda category: category["id"])
    annotations = _entries(document, "annotations", id=int, category_id=int)
    _check_names(categories)
    place = {category["id"]: k for k, category in enumerate(categories)}
    _check_labels(annotations, place)
    matrix = transition_matrix(categories, noise)
    if not isinstance(noise, NoNoise):
        _check_clean(annotations)

    flippable = [k for k, annotation in enumerate(annotations) if not annotation.get("iscrowd", 0)]
    flippable.sort(key=[annotation["id"] for annotation in annotations].__getitem__)
    given = np.array([place[annotations[k]["category_id"]] for k in flippable], dtype=np.int64)
    noisy = given
    if not isinstance(noise, NoNoise):
        rng = np.random.default_rng([noise.seed, *stream.encode()])
        if isinstance(noise, SymmetricNoise | AsymmetricNoise) and noise.exact:
            noisy = _draw_exactly(given, matrix, noise.rate, rng)
        else:
            noisy = _draw(given, matrix, rng)

    labels = [annotation["category_id"] for annotation in annotations]
    for k, label in zip(flippable, noisy.tolist(), strict=True):
        labels[k] = categories[label]["id"]
    relabelled = [
        # a clean label that is there already stays
        {"clean_category_id": annotation["category_id"], **annotation, "category_id": label}
        for annotation, label in zip(annotations, labels, strict=True)
    ]
    names = [category["name"] for category in categories]
    clean = np.array([place[relabelled[k]["clean_category_id"]] for k in flippable], dtype=np.int64)
    return {**document, "annotations": relabelled}, _manifest(noise, stream, names, matrix, clean, noisy)


def _draw(clean: NDArray[np.int64], matrix: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a label for each clean one by inverse-CDF sampling, one uniform number each, in order."""
    uniform = rng.random(len(clean))
    noisy = np.empty_like(clean)
    for label in np.unique(clean):
        thresholds = np.cumsum(matrix[label])
        thresholds[np.flatnonzero(matrix[label])[-1] :] = 1.0  # rounding must not run past the last class of the row
        of_class = clean == label
        noisy[of_class] = np.searchsorted(thresholds, uniform[of_class], side="right")
    return noisy


def _draw_exactly(
    clean: NDArray[np.int64], matrix: NDArray[np.float64], rate: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return labels of which the share `rate` of those that can flip are others, drawn given that they flip."""
    can_flip = np.flatnonzero(matrix.diagonal()[clean] < 1)
    flipped = rng.permutation(can_flip)[: round(rate * len(can_flip))]
    others = matrix * (1 - np.eye(len(matrix)))
    noisy = clean.copy()
    noisy[flipped] = _draw(clean[flipped], others / np.maximum(others.sum(axis=1, keepdims=True), 1e-300), rng)
    return noisy


def _manifest(
    noise: NoiseConfig,
    stream: str,
    names: list[str],
    matrix: NDArray[np.float64],
    clean: NDArray[np.int64],
    noisy: NDArray[np.int64],
) -> dict[str, Any]:
    counts = np.zeros_like(matrix, dtype=np.int64)
    np.add.at(counts, (clean, noisy), 1)
    totals = counts.sum(axis=1)
    flipped, everything = totals - counts.diagonal(), max(totals.sum(), 1)
    leaves = 1 - matrix.diagonal()
    expected = float(totals @ leaves / everything)
    if isinstance(noise, NoNoise | MatrixNoise):  # a matrix has a rate for each class
        requested, requested_by_class = expected, leaves
    else:
        requested, requested_by_class = noise.rate, np.where(leaves > 0, noise.rate, 0.0)
    labels = np.stack([clean, noisy]).astype("<i8").tobytes()
    return {
        "type": noise.type,
        "seed": None if isinstance(noise, NoNoise) else noise.seed,
        "stream": stream,
        "exact": isinstance(noise, SymmetricNoise | AsymmetricNoise) and noise.exact,
        "requested_rate": requested,
        "expected_rate": expected,
        "realised_rate": float(flipped.sum() / everything),
        "annotations": int(totals.sum()),
        "classes": names,
        "requested_rate_by_class": dict(zip(names, requested_by_class.tolist(), strict=True)),
        "realised_rate_by_class": {
            name: float(f / max(t, 1)) for name, f, t in zip(names, flipped, totals, strict=True)
        },
        "transition_matrix": matrix.tolist(),
        "counts_given_clean_given_noisy": counts.tolist(),
        "labels_sha256": hashlib.sha256(labels).hexdigest(),
    }


def _entries(document: Any, part: str, **fields: type) -> list[dict[str, Any]]:
    """Return the list `document[part]`, whose entries have these fields, of these types; ids differ."""
    if not isinstance(document, dict):
        raise DataError(f"a COCO document must be an object with {part} but is {document!r:.60}")
    if not isinstance(entries := document.get(part), list):
        got = f"are {entries!r:.60}" if part in document else "are missing"
        raise DataError(f"{part} must be a list but {got}; is this a COCO instances document?")
    for name, kind in fields.items():
        odd = (k for k, entry in enumerate(entries) if not isinstance(entry, dict) or type(entry.get(name)) is not kind)
        if (k := next(odd, None)) is not None:
            wanted = {int: "a whole number", str: "a name"}[kind]
            got = repr(entries[k][name])[:60] if isinstance(entries[k], dict) and name in entries[k] else "none"
            raise DataError(f"{part}[{k}]: {name} must be {wanted} but got {got}; correct that entry")
    if twice := _repeated([entry["id"] for entry in entries]):
        raise DataError(f"{part}: id {twice[0]} stands there more than once; give each entry an id of its own")
    return entries


def _check_names(categories: list[dict[str, Any]]) -> None:
    if not categories:
        raise DataError("categories must name at least one class but are empty; add them")
    if twice := _repeated([category["name"] for category in categories]):
        raise DataError(f"categories: two are named {twice[0]}; noise goes by name, so rename one")


def _check_labels(annotations: list[dict[str, Any]], known: Mapping[int, int]) -> None:
    for label in ("category_id", "clean_category_id"):
        unknown = next((a for a in annotations if label in a and a[label] not in known), None)
        if unknown is not None:
            raise DataError(
                f"annotation {unknown['id']} has {label} {unknown[label]}, which is not among the categories "
                f"({', '.join(map(str, known))}); add the category or drop the annotation"
            )


def _check_clean(annotations: list[dict[str, Any]]) -> None:
    flipped = next((a for a in annotations if a.get("clean_category_id", a["category_id"]) != a["category_id"]), None)
    if flipped is not None:
        raise DataError(
            f"annotation {flipped['id']} has category_id {flipped['category_id']} and clean_category_id "
            f"{flipped['clean_category_id']}: it holds label noise already; give the clean document, or take "
            "the labels as they are with noise of type: none"
        )


def _repeated(values: Sequence[Any]) -> list[Any]:
    if len(set(values)) == len(values):  # a tenth of the time that counting takes
        return []
    return [value for value, times in Counter(values).items() if times > 1]
