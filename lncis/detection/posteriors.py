"""What a trained model says of the class of each annotation: its box head, asked at the annotation's own box."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models.detection import MaskRCNN

from lncis.datasets.coco import CocoInstances
from lncis.detection.batches import each, item_loader
from lncis.detection.losses import BACKGROUND

OnProgress = Callable[[int, int], object]
"""Called with the images that are done, and all that there are."""


@dataclass(frozen=True, kw_only=True)
class Posteriors:
    """The n annotations of a data set that a model saw, in the order of its images."""

    annotation_ids: NDArray[np.int64]
    """`(n,)`."""
    given: NDArray[np.int64]
    """`(n,)`, the label of each in 0..K-1: foreground classes alone."""
    probabilities: NDArray[np.float64]
    """`(n, K)`: of each foreground class, given that the box holds one: p_k / (1 - p_0); rows sum to 1."""
    background: NDArray[np.float64]
    """`(n,)`: p_0, that the box holds none."""

    def __len__(self) -> int:
        return len(self.given)

    @property
    def cross_entropy(self) -> NDArray[np.float64]:
        """The cross entropy `(n,)` of the given label in nats, background counted, as in training."""
        of_given = self.probabilities[np.arange(len(self)), self.given] * (1 - self.background)
        return -np.log(np.maximum(of_given, np.finfo(np.float64).tiny))


@torch.inference_mode()
def posteriors(
    model: MaskRCNN,
    dataset: CocoInstances,
    device: torch.device,
    *,
    flipped: bool = False,
    loading_processes: int = 0,
    on_progress: OnProgress = lambda done, total: None,
) -> Posteriors:
    """Return what a model says of every annotation of a data set that has a mask, crowds left out.

    With `flipped` the probabilities are the mean over the image and its mirror image: for data whose classes survive
    it, as trainings with `flip` have.
    """
    model.to(device).eval()
    ids, labels, probabilities = list[Tensor](), list[Tensor](), list[Tensor]()
    for done, (image, target) in enumerate(each(item_loader(dataset, loading_processes)), start=1):
        if len(target["boxes"]):
            views = _views(image.to(device), target["boxes"].to(device), flipped=flipped)
            found = [class_logits(model, *view).softmax(dim=1) for view in views]
            probabilities.append(torch.stack(found).mean(dim=0).double().cpu())
            ids.append(target["annotation_ids"])
            labels.append(target["labels"] - 1)
        on_progress(done, len(dataset))
    classes = len(dataset.category_ids) + 1
    whole = torch.cat([torch.zeros((0, classes), dtype=torch.float64), *probabilities]).numpy()
    foreground = np.maximum(np.delete(whole, BACKGROUND, axis=1), np.finfo(np.float64).tiny)
    return Posteriors(
        annotation_ids=torch.cat([torch.zeros(0, dtype=torch.int64), *ids]).numpy(),
        given=torch.cat([torch.zeros(0, dtype=torch.int64), *labels]).numpy(),
        probabilities=foreground / foreground.sum(axis=1, keepdims=True),
        background=whole[:, BACKGROUND],
    )


def class_logits(model: MaskRCNN, image: Tensor, boxes: Tensor) -> Tensor:
    """Return the class logits `(n, K+1)` of a model, in evaluation, for boxes `(n, 4)` xyxy of an image `(3, H, W)`."""
    batch, scaled = model.transform([image], [{"boxes": boxes}])
    heads = model.roi_heads
    pooled = heads.box_roi_pool(model.backbone(batch.tensors), [scaled[0]["boxes"]], batch.image_sizes)
    logits: Tensor = heads.box_predictor(heads.box_head(pooled))[0]
    return logits.float()


def _views(image: Tensor, boxes: Tensor, *, flipped: bool) -> Iterator[tuple[Tensor, Tensor]]:
    yield image, boxes
    if flipped:
        width = image.shape[-1]
        yield image.flip(-1), torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)


def mean_of(several: Sequence[Posteriors]) -> Posteriors:
    """Return the geometric mean of what several models say of the same annotations."""
    first = several[0]
    logs = np.mean([np.log(one.probabilities) for one in several], axis=0)
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return Posteriors(
        annotation_ids=first.annotation_ids,
        given=first.given,
        probabilities=powers / powers.sum(axis=1, keepdims=True),
        background=np.mean([one.background for one in several], axis=0),
    )


def joined(parts: Sequence[Posteriors]) -> Posteriors:
    """Return the annotations of several parts, such as folds, as one."""
    return Posteriors(
        annotation_ids=np.concatenate([part.annotation_ids for part in parts]),
        given=np.concatenate([part.given for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        background=np.concatenate([part.background for part in parts]),
    )


def by_id(some: Posteriors) -> Posteriors:
    """Return the annotations in the order of their ids."""
    order = np.argsort(some.annotation_ids, kind="stable")
    return Posteriors(
        annotation_ids=some.annotation_ids[order],
        given=some.given[order],
        probabilities=some.probabilities[order],
        background=some.background[order],
    )


def chosen(some: Posteriors, which: NDArray[np.bool_]) -> Posteriors:
    """Return the annotations for which `which` `(n,)` is true."""
    return Posteriors(
        annotation_ids=some.annotation_ids[which],
        given=some.given[which],
        probabilities=some.probabilities[which],
        background=some.background[which],
    )
