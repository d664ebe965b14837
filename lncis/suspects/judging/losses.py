"""What trainings recorded of each annotation: its loss, and how often it was set aside."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lncis.detection import label_losses


class Recorded(NamedTuple):
    """Of one annotation, over the epochs of all trainings that had it."""

    mean: float
    """Mean cross entropy of its samples, nats."""
    last: float
    """Of the last epochs alone; NaN where no sample matched it there."""
    isolated: int
    """Samples that stage 2 set aside (PON)."""


def recorded_annotations(folder: Path) -> frozenset[int]:
    """Return the ids of the annotations that the training in a folder had; none where it recorded nothing."""
    found = label_losses.read(folder)
    return frozenset() if found is None else frozenset(found.annotation_ids.tolist())


def of_annotations(folders: Iterable[Path]) -> dict[int, Recorded]:
    """Return what the trainings in some folders recorded, by annotation id; nothing where they recorded nothing."""
    means, lasts, isolated = dict[int, list[float]](), dict[int, list[float]](), dict[int, int]()
    for folder in folders:
        found = label_losses.read(folder)
        if found is None or not len(found.losses):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of an annotation that no sample ever matched
            of_epochs = np.nanmean(found.losses, axis=0)
        rows = zip(
            found.annotation_ids.tolist(),
            of_epochs.tolist(),
            found.losses[-1].tolist(),
            found.isolated.sum(axis=0).tolist(),
            strict=True,
        )
        for annotation, mean, last, count in rows:
            if np.isfinite(mean):
                means.setdefault(annotation, []).append(mean)
                isolated[annotation] = isolated.get(annotation, 0) + count
            if np.isfinite(last):
                lasts.setdefault(annotation, []).append(last)
    return {
        annotation: Recorded(
            mean=float(np.mean(values)),
            last=float(np.mean(lasts[annotation])) if annotation in lasts else np.nan,
            isolated=isolated[annotation],
        )
        for annotation, values in means.items()
    }
