"""Which models score which annotations: those that never saw a label, where there are such."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torchvision.models.detection import MaskRCNN

from lncis.config import Fold, TrainConfig
from lncis.datasets import folds
from lncis.datasets.coco import CocoInstances
from lncis.detection.posteriors import Posteriors, by_id, joined, mean_of, posteriors
from lncis.errors import DataError

ELSEWHERE = "another file"
"""How labels are scored that no training of the models names."""
IN_SAMPLE = (
    "labels were judged by models that were trained on them and have learned some of their errors; models of folds "
    "judge them unseen"
)
OF_ANOTHER_FILE = (
    "the training set of these models is another file; labels that stand in both were seen in training, and some of "
    "their errors were learned"
)
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
    trained_on: frozenset[int] = frozenset()
    """Ids of the annotations it was trained on, as far as its training recorded them."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What models say of annotations, and which models said it."""

    found: Posteriors
    by: dict[int, str]
    """Annotation id -> the models that scored it."""
    remark: str = ""
    """What people should know of how unseen the labels were; empty where all were."""


def score(
    scorers: Sequence[Scorer],
    train: CocoInstances,
    others: Sequence[tuple[str, CocoInstances]] = (),
    *,
    device: torch.device,
    on_progress: OnProgress = lambda name, done, total: None,
) -> Scored:
    """Return what models say of the whole training set `train`, and of other data, each with a name.

    Where the models were trained on folds, each annotation of `train` is scored by those alone that never saw it. A
    fold without a model is a DataError, and so is a model that was trained on what it should have left out. The models
    of one annotation are averaged, also those of several splits into folds. Nobody trained on the other data.
    """
    splits: dict[Fold | None, list[Scorer]] = {}
    for scorer in scorers:
        fold = scorer.config.fold
        splits.setdefault(fold and replace(fold, number=0), []).append(scorer)
    if len(splits) > 1 and None in splits:
        raise DataError("only some of the models were trained on folds; name those that were, or those that were not")

    of_models = partial(_of_models, device=device, on_progress=on_progress)
    # what cannot be is said before anything is scored
    parted = [_held_out(train, split, chosen, len(splits) > 1) for split, chosen in splits.items() if split]
    by = dict[int, str]()
    if parted:
        judged, place = Counter[int](), dict[int, str]()
        of_splits = list[Posteriors]()
        for folds_of_split in parted:
            of_folds = list[Posteriors]()
            for number, (held_out, models) in folds_of_split.items():
                of_folds.append(of_models(models, held_out, how := f"out of fold {number}"))
                ids = of_folds[-1].annotation_ids.tolist()
                judged.update(dict.fromkeys(ids, len(models)))
                place.update(dict.fromkeys(ids, how if len(parted) == 1 else "out of fold"))
            of_splits.append(by_id(joined(of_folds)))
        parts = [mean_of(of_splits)]
        by.update((i, f"{how}: {_models(judged[i])}") for i, how in place.items())
    else:
        parts = [of_models(scorers, train, "in sample")]
        by.update(dict.fromkeys(parts[0].annotation_ids.tolist(), f"in sample: {_models(len(scorers))}"))
    for name, dataset in others:
        parts.append(of_models(scorers, dataset, name))
        by.update(dict.fromkeys(parts[-1].annotation_ids.tolist(), f"{name}: {_models(len(scorers))}"))
    found = joined(parts)
    if len(np.unique(found.annotation_ids)) < len(found):
        raise DataError("annotations of several files have the same ids; score one file at a time")
    return Scored(found=found, by=by, remark="" if parted else f"{len(parts[0]):,} {IN_SAMPLE}")


def score_elsewhere(
    scorers: Sequence[Scorer],
    dataset: CocoInstances,
    *,
    device: torch.device,
    on_progress: OnProgress = lambda name, done, total: None,
) -> Scored:
    """Return what all models together say of a data set that their configs do not name."""
    found = _of_models(scorers, dataset, ELSEWHERE, device=device, on_progress=on_progress)
    by = f"{ELSEWHERE}: {_models(len(scorers))}"
    return Scored(found=found, by=dict.fromkeys(found.annotation_ids.tolist(), by), remark=OF_ANOTHER_FILE)


def _of_models(
    chosen: Sequence[Scorer], dataset: CocoInstances, how: str, *, device: torch.device, on_progress: OnProgress
) -> Posteriors:
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


def _held_out(
    train: CocoInstances, split: Fold, scorers: Sequence[Scorer], several: bool
) -> dict[int, tuple[CocoInstances, list[Scorer]]]:
    """Return each fold of a split with the models that never saw it; DataError where there is none."""
    by_fold: dict[int, list[Scorer]] = {}
    for scorer in scorers:
        assert scorer.config.fold
        by_fold.setdefault(scorer.config.fold.number, []).append(scorer)
    if missing := sorted(set(range(split.of)) - set(by_fold)):
        seed = f" (split by seed {split.seed})" if several else ""
        raise DataError(
            f"no model left out fold {missing[0]} of {split.of}{seed} ({len(missing)} of them lack one), so its "
            "labels would be judged by none; train it, too"
        )
    held_out = {number: folds.within(train, replace(split, number=number)) for number in sorted(by_fold)}
    for number, dataset in held_out.items():
        labels = {annotation["id"] for annotation in dataset.document["annotations"]}
        for scorer in by_fold[number]:
            if seen := len(labels & scorer.trained_on):
                raise DataError(
                    f"{scorer.name}: was trained on {seen:,} of the labels of fold {number}, which it should have left "
                    "out: the data set has changed since; train again, or restore what it was trained on"
                )
    return {number: (dataset, by_fold[number]) for number, dataset in held_out.items()}


def _models(count: int) -> str:
    return "1 model" if count == 1 else f"{count} models"
