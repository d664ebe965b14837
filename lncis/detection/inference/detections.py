"""What Mask R-CNN detects, its masks pasted and encoded inside their boxes alone.

torchvision pastes each mask on a canvas of the image's size: 340 MB for a hundred of them at 800 x 1066. Here a mask is
interpolated to its box, and the run lengths of that crop are moved to where they are in the image. The result equals,
byte for byte, what pycocotools makes of torchvision's canvas.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as rle
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks
from torchvision.models.detection.transform import resize_boxes

from lncis.coco.masks import Rle

MASK_THRESHOLD = 0.5
"""A pixel of greater probability is the instance's."""

PADDING_CELLS = 1
"""Of probability 0, which torchvision puts around each predicted mask before it enlarges it."""


@dataclass(frozen=True, kw_only=True)
class Detections:
    """The n instances that were detected in one image; tensors in host memory."""

    boxes: Tensor
    """`(n, 4)`, xyxy in pixels of the image."""
    labels: Tensor
    """`(n,)` in 1..K."""
    scores: Tensor
    """`(n,)` in [0, 1]."""
    mask_probabilities: Tensor
    """`(n, 1, M, M)` in [0, 1], over each box."""
    image_size: tuple[int, int]
    """Height and width of the image in pixels."""

    def __len__(self) -> int:
        return len(self.boxes)

    def of_score(self, least: float) -> "Detections":
        """Return those with a score of at least `least`."""
        kept = self.scores >= least
        return Detections(
            boxes=self.boxes[kept],
            labels=self.labels[kept],
            scores=self.scores[kept],
            mask_probabilities=self.mask_probabilities[kept],
            image_size=self.image_size,
        )


@torch.no_grad()
def detect(model: MaskRCNN, images: list[Tensor]) -> list[Detections]:
    """Return what `model`, in evaluation, detects in each image `(3, H, W)`: what `model(images)` does, not pasted."""
    batch, _ = model.transform(images)
    features = model.backbone(batch.tensors)
    proposals, _ = model.rpn(batch, features)
    outputs, _ = model.roi_heads(features, proposals, batch.image_sizes)
    return [
        Detections(
            boxes=resize_boxes(output["boxes"], size, image.shape[-2:]).cpu(),
            labels=output["labels"].cpu(),
            scores=output["scores"].cpu(),
            mask_probabilities=output["masks"].cpu(),  # small; so masks are pasted alike, whatever the model runs on
            image_size=(image.shape[-2], image.shape[-1]),
        )
        for image, size, output in zip(images, batch.image_sizes, outputs, strict=True)
    ]


def encode_masks(detections: Detections) -> list[Rle]:
    """Return the mask of each detection as RLE that JSON can hold.

    Equal to pycocotools' `encode` of torchvision's `paste_masks_in_image`, cut at 0.5. A box outside the image, which
    torchvision cannot paste, has an empty mask.
    """
    if len(detections) == 0:
        return []
    grids, scale = expand_masks(detections.mask_probabilities, PADDING_CELLS)
    corners = expand_boxes(detections.boxes, scale).to(torch.int64).tolist()
    height, width = detections.image_size
    uncompressed = [
        {"size": [height, width], "counts": _run_lengths(*_paste(grid, box, height, width), height, width)}
        for grid, box in zip(grids, corners, strict=True)
    ]
    encoded = rle.frPyObjects(uncompressed, height, width)
    return [{"size": mask["size"], "counts": mask["counts"].decode()} for mask in encoded]


def decode_masks(detections: Detections) -> Tensor:
    """Return the masks `(n, H, W)`, bool."""
    encoded = encode_masks(detections)
    masks = rle.decode(encoded) if encoded else np.zeros((*detections.image_size, 0), dtype=np.uint8)
    return torch.from_numpy(masks).permute(2, 0, 1).bool()


def _paste(grid: Tensor, box: list[int], height: int, width: int) -> tuple[NDArray[np.bool_], int, int]:
    """Return the part of a mask inside the image, and the row and column there where it begins.

    `grid` is `(1, M, M)`; `box` has the first and last column and row of the whole mask, xyxy.
    """
    first_x, first_y, last_x, last_y = box
    left, top = max(first_x, 0), max(first_y, 0)
    right, bottom = min(last_x + 1, width), min(last_y + 1, height)
    if right <= left or bottom <= top:
        return np.zeros((0, 0), dtype=np.bool_), 0, 0
    size = (last_y + 1 - first_y, last_x + 1 - first_x)
    pasted = interpolate(grid[None], size=size, mode="bilinear", align_corners=False)[0, 0]
    inside = pasted.numpy()[top - first_y : bottom - first_y, left - first_x : right - first_x]
    return inside > MASK_THRESHOLD, top, left  # numpy compares in half the time


def _run_lengths(mask: NDArray[np.bool_], top: int, left: int, height: int, width: int) -> NDArray[np.int64]:
    """Return the run lengths, down the columns of an image, of a mask that begins at row `top` and column `left`."""
    rows, columns = mask.shape
    # a column ends with a pixel of background, unless it goes on in the next one, at the top of the image
    stride = rows + (rows < height)
    pixels = np.zeros(1 + columns * stride + 1, dtype=np.bool_)
    pixels[1:-1].reshape(columns, stride)[:, :rows] = mask.T
    column, row = np.divmod(np.flatnonzero(pixels[1:] != pixels[:-1]), stride)
    changes = (left + column) * height + top + row
    runs = np.diff(np.concatenate([[0], changes, [height * width]]))
    return runs if runs[-1] else runs[:-1]
