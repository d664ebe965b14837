"""COCO documents as a torch data set: the one place where targets are built."""

from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle
from torch import Tensor
from torch.utils.data import Dataset

from lncis.coco.annotations import with_images
from lncis.coco.images import ImageFiles, Images
from lncis.coco.masks import to_rle
from lncis.datasets.target_masks import TargetMasks
from lncis.noise import Document

Item = tuple[Tensor, dict[str, Any]]
"""An image and its target, as CocoInstances gives them."""


class CocoInstances(Dataset[Item]):
    """Images with the boxes, labels and masks of a COCO document.

    Item `i` is `(image, target)`: image `(3, H, W)` float in [0, 1]; target with `boxes` `(n, 4)` xyxy pixels,
    `labels` `(n,)` in 1..K, `masks` (n TargetMasks), `image_id` and `annotation_ids` `(n,)`; also `clean_labels`
    `(n,)` where every annotation has a `clean_category_id`. Crowds are left out, and so is what comes to no pixel.
    """

    def __init__(self, images: Images, document: Document) -> None:
        self.images = images
        self.document = document
        self.category_ids = sorted(category["id"] for category in document["categories"])
        self._label = {cid: i + 1 for i, cid in enumerate(self.category_ids)}
        self._instances: list[list[dict[str, Any]]] = [[] for _ in document["images"]]
        position = {image["id"]: i for i, image in enumerate(document["images"])}
        for annotation in document["annotations"]:
            if not annotation.get("iscrowd", 0):
                self._instances[position[annotation["image_id"]]].append(annotation)
        self._clean_known = all("clean_category_id" in a for found in self._instances for a in found)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        image = torch.from_numpy(self.images[index]).permute(2, 0, 1).float().div_(255)
        height, width = image.shape[1:]
        encoded = [to_rle(a["segmentation"], height, width) for a in self._instances[index]]
        # one by one: rle.area overflows at 256 masks (pycocotools 2.0.11)
        drawn = [(a, mask) for a, mask in zip(self._instances[index], encoded, strict=True) if rle.area(mask)]
        found = [a for a, _ in drawn]
        target = {
            "boxes": _corners(found),
            "labels": self._labels(found, "category_id"),
            "masks": TargetMasks.of([mask for _, mask in drawn], height, width),
            "image_id": torch.tensor(self.document["images"][index]["id"]),
            "annotation_ids": torch.tensor([a["id"] for a in found]).long(),
        }
        return image, target | ({"clean_labels": self._labels(found, "clean_category_id")} if self._clean_known else {})

    def of_images(self, chosen: set[int]) -> "CocoInstances":
        """Return the images of the given ids alone, in their order, with what is in them."""
        kept = [i for i, image in enumerate(self.document["images"]) if image["id"] in chosen]
        images = self.images.chosen(kept) if isinstance(self.images, ImageFiles) else np.asarray(self.images)[kept]
        return CocoInstances(images, with_images(self.document, chosen))

    def _labels(self, found: list[dict[str, Any]], key: str) -> Tensor:
        return torch.tensor([self._label[a[key]] for a in found]).long()


def _corners(found: list[dict[str, Any]]) -> Tensor:
    xywh = torch.tensor([a["bbox"] for a in found], dtype=torch.float32).reshape(-1, 4)
    return torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1)
