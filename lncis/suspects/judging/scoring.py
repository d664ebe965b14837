"""Which models score which annotations: those that never saw a label, where there are such."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torchvision.models.detection import MaskRCNN

from lncis.config import Fold, TrainConfig
from lncis.datasets import folds
from lncis.datasets.coco import CocoInstances
from lncis.detection.posteriors import Posteriors, by_id, joined, mean_of, posteriors
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
    fold without a model is a DataError. The models of one annotation are averaged, also those of several splits into
    folds. Nobody trained on the other data.
    """
    splits: dict[Fold | None, list[Scorer]] = {}
    for scorer in scorers:
        fold = scorer.config.fold
        splits.setdefault(fold and replace(fold, number=0), []).append(scorer)
    if len(splits) > 1 and None in splits:
        raise DataError("only some of the models were trained on folds; name those that were, or those that were not")

    def of_models(chosen: Sequence[Scorer], dataset: CocoInstances, how: str) -> Posteriors:
        return mean_of(
            [
                posteriors(
                    scorer.model(),
                    dataset,
                    device,
                    flipped=scorer.config.flip > 0,
                    on_progress=lambda done, total, name=scorer.name: on_progress(f"{name}, {how}", done, total),  # type: ignore[misc]
                )
                for scorer in chosen
            ]
        )

    def unseen(split: Fold, chosen: Sequence[Scorer]) -> Posteriors:
        by_fold: dict[int, list[Scorer]] = {}
        for scorer in chosen:
            assert scorer.config.fold
            by_fold.setdefault(scorer.config.fold.number, []).append(scorer)
        if missing := sorted(set(range(split.of)) - set(by_fold)):
            seed = f" (split by seed {split.seed})" if len(splits) > 1 else ""
            raise DataError(
                f"no model left out fold {missing[0]} of {split.of}{seed} ({len(missing)} of them lack one), so its "
                "labels would be judged by none; train it, too"
            )
        parts = []
        for number, models in sorted(by_fold.items()):
            held_out = folds.within(train, replace(split, number=number))
            parts.append(of_models(models, held_out, f"out of fold {number}"))
            judged.update((i, judged.get(i, 0) + len(models)) for i in parts[-1].annotation_ids.tolist())
            place.update((i, f"out of fold {number}") for i in parts[-1].annotation_ids.tolist())
        return by_id(joined(parts))

    judged, place = dict[int, int](), dict[int, str]()
    if None in splits:
        parts = [of_models(scorers, train, "in sample")]
        in_sample = len(parts[0])
    else:
        parts = [mean_of([unseen(split, chosen) for split, chosen in splits.items() if split])]
        in_sample = 0
    by = {
        i: f"{'in sample' if in_sample else 'out of fold' if len(splits) > 1 else place[i]}: "
        f"{_models(judged.get(i, len(scorers)))}"
        for i in parts[0].annotation_ids.tolist()
    }
    for name, dataset in others:
        parts.append(of_models(scorers, dataset, name))
        by.update(dict.fromkeys(parts[-1].annotation_ids.tolist(), f"{name}: {_models(len(scorers))}"))
    found = joined(parts)
    if len(np.unique(found.annotation_ids)) < len(found):
        raise DataError("annotations of several files have the same ids; score one file at a time")
    return Scored(found=found, by=by, in_sample=in_sample)


def _models(count: int) -> str:
    return "1 model" if count == 1 else f"{count} models"
