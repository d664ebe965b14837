"""COCO documents as a torch data set: the one place where targets are built."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as rle
from torch import Tensor
from torch.utils.data import Dataset

from lncis.noise import Document


class CocoInstances(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images with the boxes, labels and masks of a COCO document.

    Item `i` is `(image, target)`: image `(3, H, W)` float in [0, 1]; target with `boxes` `(n, 4)` xyxy pixels,
    `labels` `(n,)` in 1..K, `masks` `(n, H, W)` uint8, `image_id` and `annotation_ids` `(n,)`; also `clean_labels`
    `(n,)` where every annotation has a `clean_category_id`. Crowds are left out.
    """

    def __init__(self, images: NDArray[np.uint8], document: Document) -> None:
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

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image = torch.from_numpy(self.images[index]).permute(2, 0, 1).float().div_(255)
        found = self._instances[index]
        xywh = torch.tensor([a["bbox"] for a in found], dtype=torch.float32).reshape(-1, 4)
        encoded = [a["segmentation"] for a in found]
        height, width = image.shape[1:]
        masks = rle.decode(encoded) if encoded else np.zeros((height, width, 0), dtype=np.uint8)
        target = {
            "boxes": torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1),
            "labels": self._labels(found, "category_id"),
            "masks": torch.from_numpy(masks).permute(2, 0, 1).contiguous(),
            "image_id": torch.tensor(self.document["images"][index]["id"]),
            "annotation_ids": torch.tensor([a["id"] for a in found]).long(),
        }
        return image, target | ({"clean_labels": self._labels(found, "clean_category_id")} if self._clean_known else {})

    def _labels(self, found: list[dict[str, Any]], key: str) -> Tensor:
        return torch.tensor([self._label[a[key]] for a in found]).long()
