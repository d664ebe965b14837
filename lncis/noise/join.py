"""The truth about noisy labels from a second file: the same annotations with the labels before, or after.

A pair of annotations is known by ids or by masks; a class is known by its name, so the files may number classes in
their own ways.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle
from scipy.optimize import linear_sum_assignment

from lncis.config import NoNoise
from lncis.errors import DataError
from lncis.noise.draw import Document, corrupt

MaskOf = Callable[[Any, int, int], Any]
"""Returns a segmentation as compressed RLE, given height and width: `lncis.coco.masks.to_rle`."""

OnProgress = Callable[[int, int], object]
"""Called with the images that are done, and all that there are."""

BENCHMARK_KEYS = ("class_noise", "boundary_type")
"""Keys that COCO-N's script leaves in annotations (github.com/mkimhi/noisy_labels, noise_annotations.py)."""
CLEAN_LABEL = "clean_category_id"
MOST_APART = 0.5
"""From this share of boxes that do not touch on, ids are taken to mean other annotations."""


def partners_by_key(noisy: Sequence[Hashable], clean: Sequence[Hashable]) -> list[int | None]:
    """Return where the annotation of the same key stands among the clean ones, for each noisy one; else None."""
    positions = {key: at for at, key in enumerate(clean)}
    return [positions.get(key) for key in noisy]


def partners_by_mask(
    noisy: Document,
    clean: Document,
    mask_of: MaskOf,
    least_iou: float,
    on_progress: OnProgress = lambda done, total: None,
) -> list[int | None]:
    """Return where the annotation of the same mask stands in `clean`, for each of `noisy`; else None.

    Images are known by `file_name`. In each one the pairs are those of the greatest sum of IoUs, one partner each, and
    a pair counts from `least_iou` on. Crowds have crowds as partners.
    """
    both = (noisy, clean)
    images = [{image["id"]: image for image in document["images"]} for document in both]
    groups = [defaultdict[tuple[str, bool], list[int]](list) for _ in both]
    for document, image_of, group in zip(both, images, groups, strict=True):
        for at, annotation in enumerate(document["annotations"]):
            group[image_of[annotation["image_id"]]["file_name"], bool(annotation.get("iscrowd"))].append(at)
    found: list[int | None] = [None] * len(noisy["annotations"])
    for done, (key, ours) in enumerate(groups[0].items()):
        on_progress(done, len(groups[0]))
        if not (theirs := groups[1].get(key)):
            continue
        masks = [
            [_mask(document["annotations"][at], image_of, mask_of) for at in some]
            for document, image_of, some in zip(both, images, (ours, theirs), strict=True)
        ]
        if len({tuple(mask["size"]) for some in masks for mask in some}) > 1:
            raise DataError(f"image {key[0]} has another size in the two files; masks cannot be compared")
        ious = np.asarray(rle.iou(*masks, [0] * len(theirs)))
        for row, column in zip(*linear_sum_assignment(-ious), strict=True):
            if ious[row, column] >= least_iou:
                found[ours[row]] = theirs[column]
    return found


def _mask(annotation: dict[str, Any], image_of: dict[Any, Any], mask_of: MaskOf) -> Any:
    image = image_of[annotation["image_id"]]
    return mask_of(annotation["segmentation"], image["height"], image["width"])


def clean_labels(noisy: Document, clean: Document, partners: Sequence[int | None]) -> list[int | None]:
    """Return the clean class of each annotation of `noisy`, by the ids of `noisy`; None without a partner.

    Raises DataError where a clean class is none of `noisy`.
    """
    names = {category["id"]: category["name"] for category in clean["categories"]}
    ids = {category["name"]: category["id"] for category in noisy["categories"]}
    labels = list[int | None]()
    for partner in partners:
        if partner is None:
            labels.append(None)
            continue
        name = names[clean["annotations"][partner]["category_id"]]
        if name not in ids:
            raise DataError(f"the clean class {name!r:.60} is no category of the noisy file; add it there, or rename")
        labels.append(ids[name])
    return labels


def require_same_annotations(
    noisy: Document, clean: Document, partners: Sequence[int | None], of: str, there: str, by_mask: str
) -> int:
    """Return how many partners lie apart; DataError where there are none, or where the ids mean other annotations.

    `of` and `there` name the two files. `by_mask` is how they are joined without ids; empty: they were.
    """
    matched = len(partners) - list(partners).count(None)
    if not matched:
        remedy = f"where ids differ, {by_mask}" if by_mask else "are these the same images?"
        raise DataError(f"{of}: none of {len(partners)} annotations is in {there}; {remedy}")
    apart = boxes_apart(noisy, clean, partners)
    if by_mask and apart > MOST_APART * matched:
        raise DataError(
            f"{of}: {apart} of {matched} annotations lie apart from those of their ids in {there}: the ids mean "
            f"other annotations there; {by_mask}"
        )
    return apart


def boxes_apart(noisy: Document, clean: Document, partners: Sequence[int | None]) -> int:
    """Return how many partners have boxes that do not touch: those are hardly the same annotation."""
    pairs = [
        (a.get("bbox"), clean["annotations"][at].get("bbox"))
        for a, at in zip(noisy["annotations"], partners, strict=True)
        if at is not None
    ]
    both = [pair for pair in pairs if all(map(_is_box, pair))]
    if not both:
        return 0
    boxes: NDArray[np.float64] = np.array(both, dtype=np.float64)  # (n, 2, 4)
    low, high = boxes[:, :, :2].max(axis=1), (boxes[:, :, :2] + boxes[:, :, 2:]).min(axis=1)
    return int((low > high).any(axis=1).sum())


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(type(side) in (int, float) for side in box)


def join_manifest(noisy: Document, labels: Sequence[int | None]) -> dict[str, Any]:
    """Return what the noise is that two files differ by: rates and counts, crowds and unmatched ones left out."""
    matched = [
        {**annotation, CLEAN_LABEL: label}
        for annotation, label in zip(noisy["annotations"], labels, strict=True)
        if label is not None
    ]
    _, counted = corrupt({**noisy, "annotations": matched}, NoNoise(), stream="joined")
    kept = ("realised_rate", "annotations", "classes", "realised_rate_by_class")
    return {
        "type": "joined",
        **{name: counted[name] for name in kept},
        "unmatched": len(labels) - len(matched),
        "counts_given_clean_given_noisy": counted["counts_given_clean_given_noisy"],
        "labels_sha256": counted["labels_sha256"],
    }


def is_coco_n(document: Document) -> bool:
    """Say whether COCO-N's script wrote a file."""
    return any(all(key in annotation for key in BENCHMARK_KEYS) for annotation in document["annotations"])
