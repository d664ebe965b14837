"""What a frozen backbone and a frozen RPN make of an image, computed once and not in every epoch.

Images are known by their pixels, not by their number: mirrored or resized, an image is another one. What is kept is a
function of the image alone, in whichever epoch or process it comes first: a resumed or forked training still equals an
undisturbed one.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

MEMORY_BYTES = 256 * 2**20
"""Of a process at most; an image of the digits takes 0.33 MB. Once it is full, other images are computed each time."""

SMALLEST_BATCH, LARGEST_BATCH = 2, 15
"""Between them torch's convolutions give an image the same bits in every batch: seen with AVX-512, on 1 and 2 threads.

For other batches oneDNN takes other algorithms, and so nothing is kept.
"""

Key = tuple[bytes, tuple[int, int], bytes, bool]


@dataclass(frozen=True, kw_only=True)
class _Start:
    """What comes before the heads, for one image: A anchors, P proposals."""

    features: dict[str, Tensor]
    """A level each, `(1, C, H, W)`."""
    objectness: Tensor
    """`(A, 1)`"""
    deltas: Tensor
    """`(A, 4)`"""
    proposals: Tensor
    """`(P, 4)`"""
    labels: Tensor
    """`(A,)`: whether an anchor should be called an object."""
    regression_targets: Tensor
    """`(A, 4)`"""

    @property
    def bytes(self) -> int:
        rest = (self.objectness, self.deltas, self.proposals, self.labels, self.regression_targets)
        return sum(tensor.nbytes for tensor in (*self.features.values(), *rest))


class FrozenStartMaskRCNN(MaskRCNN):  # type: ignore[misc]
    """A Mask R-CNN that keeps, in training on a CPU, what its frozen backbone and RPN have computed.

    Losses, gradients and random draws equal those of MaskRCNN to the bit.
    """

    kept: dict[Key, _Start]
    kept_bytes: int
    weights_version: tuple[int, ...]

    @classmethod
    def from_stock(cls, stock: MaskRCNN) -> "FrozenStartMaskRCNN":
        """Return a model that shares the modules of `stock`, whose backbone and RPN must be frozen."""
        model = cls.__new__(cls)
        model.__dict__.update(stock.__dict__)
        model.kept, model.kept_bytes, model.weights_version = {}, 0, ()
        return model

    def forward(self, images: list[Tensor], targets: list[dict[str, Any]] | None = None) -> Any:
        """Return losses in training and detections in evaluation, as MaskRCNN does."""
        on_cpu = all(image.device.type == "cpu" for image in images)
        if not (self.training and targets and on_cpu and SMALLEST_BATCH <= len(images) <= LARGEST_BATCH):
            return super().forward(images, targets)
        batch, scaled = self.transform(images, targets)
        starts = self._starts(batch, scaled)
        features = {name: torch.cat([start.features[name] for start in starts]) for name in starts[0].features}
        objectness_loss, box_loss = self.rpn.compute_loss(
            torch.cat([start.objectness for start in starts]),
            torch.cat([start.deltas for start in starts]),
            [start.labels for start in starts],
            [start.regression_targets for start in starts],
        )
        _, losses = self.roi_heads(features, [start.proposals for start in starts], batch.image_sizes, scaled)
        return losses | {"loss_objectness": objectness_loss, "loss_rpn_box_reg": box_loss}

    @torch.no_grad()
    def _starts(self, batch: ImageList, targets: list[dict[str, Any]]) -> list[_Start]:
        version = tuple(w._version for part in (self.backbone, self.rpn) for w in part.parameters())
        if version != self.weights_version:  # a checkpoint was loaded
            self.kept, self.kept_bytes, self.weights_version = {}, 0, version
        sizes = batch.image_sizes
        keys = [_key(*each) for each in zip(batch.tensors, sizes, targets, strict=True)]
        new = [number for number, key in enumerate(keys) if key not in self.kept]
        found: dict[int, _Start] = {}
        for first in range(0, len(new), SMALLEST_BATCH):
            pair = [*new[first : first + SMALLEST_BATCH], new[-1]][:SMALLEST_BATCH]
            images = ImageList(batch.tensors[pair], [sizes[number] for number in pair])
            found |= dict(zip(pair, self._computed(images, [targets[number] for number in pair]), strict=True))
        for number, start in found.items():
            if self.kept_bytes + start.bytes <= MEMORY_BYTES and keys[number] not in self.kept:
                self.kept[keys[number]] = start
                self.kept_bytes += start.bytes
        return [found.get(number) or self.kept[key] for number, key in enumerate(keys)]

    def _computed(self, images: ImageList, targets: list[dict[str, Any]]) -> list[_Start]:
        """Return what torchvision's MaskRCNN and RegionProposalNetwork compute of each image."""
        rpn, count = self.rpn, len(targets)
        features = self.backbone(images.tensors)
        outputs = rpn.head(list(features.values()))
        anchors = rpn.anchor_generator(images, list(features.values()))
        anchors_of_level = [level[0].numel() for level in outputs[0]]
        objectness, deltas = concat_box_prediction_layers(*outputs)
        boxes = rpn.box_coder.decode(deltas, anchors).view(count, -1, 4)
        proposals, _ = rpn.filter_proposals(boxes, objectness, images.image_sizes, anchors_of_level)
        labels, matched = rpn.assign_targets_to_anchors(anchors, targets)
        regression_targets = rpn.box_coder.encode(matched, anchors)
        return [
            _Start(
                features={name: level[i : i + 1].clone() for name, level in features.items()},
                objectness=objectness.view(count, -1, 1)[i].clone(),
                deltas=deltas.view(count, -1, 4)[i].clone(),
                proposals=proposals[i],
                labels=labels[i],
                regression_targets=regression_targets[i],
            )
            for i in range(count)
        ]


def _key(image: Tensor, size: tuple[int, int], target: dict[str, Any]) -> Key:
    """Return what the start of an image depends on, beside the weights."""
    pixels = sha256(image.contiguous().numpy().data).digest()
    return pixels, size, target["boxes"].numpy().tobytes(), torch.is_autocast_enabled("cpu")
