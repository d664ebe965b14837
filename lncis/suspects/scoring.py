"""Which models score which annotations: those that never saw a label, where there are such."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torchvision.models.detection import MaskRCNN

from lncis.config import TrainConfig
from lncis.datasets import folds
from lncis.datasets.coco import CocoInstances
from lncis.detection.posteriors import Posteriors, joined, mean_of, posteriors
from lncis.errors import DataError

OnProgress = Callable[[str, int, int], object]
"""Called with the model, how many images it has seen, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A trained model, and what it was trained on."""

    name: str
    """As people call it."""
    config: TrainConfig
    model: Callable[[], MaskRCNN]
    """Loads it: several at once would fill the memory."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What models say of annotations, and which models said it."""

    found: Posteriors
    by: dict[int, str]
    """Annotation id -> the models that scored it."""
    in_sample: int
    """How many annotations were scored by models that were trained on their labels."""


def score(
    scorers: Sequence[Scorer],
    train: CocoInstances,
    others: Sequence[tuple[str, CocoInstances]] = (),
    *,
    device: torch.device,
    on_progress: OnProgress = lambda name, done, total: None,
) -> Scored:
    """Return what models say of the whole training set `train`, and of other data, each with a name.

    Where the models were trained on folds, each annotation of `train` is scored by those alone that never saw it; a
    fold without a model is a DataError. Several models of one part are averaged. Nobody trained on the other data.
    """
    by_fold: dict[int, list[Scorer]] = {}
    of = {scorer.config.fold and replace(scorer.config.fold, number=0) for scorer in scorers}
    if len(of) > 1:
        raise DataError("the models were trained on different splits into folds, or only some on folds; name like ones")
    parts, by, in_sample = list[Posteriors](), dict[int, str](), 0

    def of_models(chosen: Sequence[Scorer], dataset: CocoInstances, how: str) -> None:
        views = [
            posteriors(
                scorer.model(),
                dataset,
                device,
                flipped=scorer.config.flip > 0,
                on_progress=lambda done, total, name=scorer.name: on_progress(f"{name}, {how}", done, total),  # type: ignore[misc]
            )
            for scorer in chosen
        ]
        parts.append(mean_of(views))
        count = "1 model" if len(chosen) == 1 else f"{len(chosen)} models"
        by.update(dict.fromkeys(parts[-1].annotation_ids.tolist(), f"{how}: {count}"))

    fold = scorers[0].config.fold
    if fold is None:
        of_models(scorers, train, "in sample")
        in_sample = len(parts[0])
    else:
        for scorer in scorers:
            assert scorer.config.fold
            by_fold.setdefault(scorer.config.fold.number, []).append(scorer)
        if missing := sorted(set(range(fold.of)) - set(by_fold)):
            raise DataError(
                f"no model left out fold {missing[0]} of {fold.of} ({len(missing)} of them lack one), so its labels "
                "would be judged by none; train it, too"
            )
        for number, chosen in sorted(by_fold.items()):
            of_models(chosen, folds.within(train, replace(fold, number=number)), f"out of fold {number}")
    for name, dataset in others:
        of_models(scorers, dataset, name)
    found = joined(parts)
    if len(np.unique(found.annotation_ids)) < len(found):
        raise DataError("annotations of several files have the same ids; score one file at a time")
    return Scored(found=found, by=by, in_sample=in_sample)
