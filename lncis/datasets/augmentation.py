"""Random changes of training images, each a function of (seed, epoch, sample) alone.

So they are the same whichever process reads an image, and a resumed training sees what an undisturbed one does.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lncis.datasets.coco import Item


class Flipped(Dataset[Item]):
    """A data set some of whose images are mirrored left to right in this epoch."""

    def __init__(self, dataset: Dataset[Item], probability: float, seed: int, epoch: int) -> None:
        self.dataset, self.probability, self.seed, self.epoch = dataset, probability, seed, epoch

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Item:
        image, target = self.dataset[index]
        drawn = np.random.default_rng([self.seed, self.epoch, index]).random()
        return flip(image, target) if drawn < self.probability else (image, target)


def flip(image: Tensor, target: dict[str, Any]) -> Item:
    """Return an image and its target mirrored left to right."""
    left, top, right, bottom = target["boxes"].unbind(dim=1)
    width = image.shape[-1]
    boxes = torch.stack([width - right, top, width - left, bottom], dim=1)
    return image.flip(-1), {**target, "boxes": boxes, "masks": target["masks"].flipped()}
