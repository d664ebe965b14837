"""The parts of a training set of which each is left out by one training, so that all labels are judged unseen."""

from collections import Counter

import numpy as np

from lncis.config import Fold
from lncis.datasets.coco import CocoInstances
from lncis.errors import DataError
from lncis.noise import Document


def without(dataset: CocoInstances, fold: Fold) -> CocoInstances:
    """Return the images that are not in a fold."""
    kept = {image for image, part in parts(dataset.document, fold).items() if part != fold.number}
    return dataset.of_images(kept)


def within(dataset: CocoInstances, fold: Fold) -> CocoInstances:
    """Return the images of a fold alone."""
    return dataset.of_images({image for image, part in parts(dataset.document, fold).items() if part == fold.number})


def parts(document: Document, fold: Fold) -> dict[int, int]:
    """Return the part, from 0 to `fold.of` - 1, of each image id; a function of images, labels and seed alone.

    Images are dealt out one by one, those with the most instances first, each to the part that has the least of its
    classes; those of one file stay together. Raises DataError where there are fewer files than parts.
    """
    labels: dict[int, Counter[int]] = {image["id"]: Counter() for image in document["images"]}
    for annotation in document["annotations"]:
        if not annotation.get("iscrowd", 0):
            labels[annotation["image_id"]][annotation["category_id"]] += 1
    files: dict[str, list[int]] = {}
    for image in sorted(document["images"], key=lambda image: int(image["id"])):
        files.setdefault(image["file_name"], []).append(image["id"])
    if len(files) < fold.of:
        raise DataError(f"fold.of must be at most the {len(files)} images of train but got {fold.of}")
    place = {category["id"]: k for k, category in enumerate(document["categories"])}
    totals = np.zeros(len(place))
    counts = []
    for ids in files.values():
        count = np.zeros(len(place))
        for image in ids:
            for category, number in labels[image].items():
                count[place[category]] += number
        counts.append(count)
        totals += count
    drawn = np.random.default_rng(fold.seed).permutation(len(files))
    dealt = sorted(drawn.tolist(), key=lambda k: -counts[k].sum())  # the sort is stable: ties stay drawn
    filled, sizes = np.zeros((fold.of, len(place))), np.zeros(fold.of)
    names, part_of = list(files), dict[int, int]()
    for k in dealt:
        # how full each part is of what the image holds, then how many images it has
        load = filled @ (counts[k] / np.maximum(totals, 1)) + 1e-6 * sizes
        part = int(load.argmin())
        filled[part] += counts[k] / np.maximum(totals, 1)
        sizes[part] += 1
        part_of |= dict.fromkeys(files[names[k]], part)
    return part_of
