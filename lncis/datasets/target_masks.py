"""The masks of an image's instances as run lengths, drawn only at the size that a model wants.

At full size the masks of 450 instances in a photo of 12 megapixels take 5 GB, and 22 GB in float, as torchvision scales
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lncis.coco.masks import Rle, run_lengths


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetMasks:
    """The masks of n instances in an image of H x W pixels.

    `runs` `(m, 2)`, int64, are the first pixel of each run and the first one after it. They count the pixels of all
    masks one after the other, each down its columns: pixel (row, column) of mask k is `(k W + column) H + row`. Where
    `mirrored`, the masks are these, left to right.
    """

    runs: Tensor
    count: int
    height: int
    width: int
    mirrored: bool = False

    @classmethod
    def of(cls, encoded: Sequence[Rle], height: int, width: int) -> "TargetMasks":
        """Return the masks that compressed RLEs of this size stand for."""
        runs = [np.zeros((0, 2), dtype=np.int64)]
        for number, mask in enumerate(encoded):
            counts = mask["counts"] if isinstance(mask["counts"], str) else mask["counts"].decode()
            changes = number * height * width + np.cumsum(run_lengths(counts))
            runs.append(changes[: len(changes) // 2 * 2].reshape(-1, 2))  # without the background after the last run
        return cls(runs=torch.from_numpy(np.concatenate(runs)), count=len(encoded), height=height, width=width)

    def __len__(self) -> int:
        return self.count

    def flipped(self) -> "TargetMasks":
        """Return the masks mirrored left to right."""
        return replace(self, mirrored=not self.mirrored)

    def to(self, device: torch.device, non_blocking: bool = False) -> "TargetMasks":
        """Return the masks on a device, as `Tensor.to` does."""
        return replace(self, runs=self.runs.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "TargetMasks":
        """Return the masks in pinned memory; DataLoader calls this."""
        return replace(self, runs=self.runs.pin_memory())

    def full_size(self) -> Tensor:
        """Return the masks `(n, H, W)`, uint8."""
        return self.scaled(self.height, self.width)

    def scaled(self, height: int, width: int) -> Tensor:
        """Return the masks `(n, height, width)`, uint8: to the bit what nearest interpolation makes of the full ones.

        It takes a few times the memory of its result, and none that grows with H x W.
        """
        rows, columns = _nearest(self.height, height), _nearest(self.width, width)
        if self.mirrored:
            columns = self.width - 1 - columns
        # a column is drawn once, however often it is wanted: so pixels are drawn in the order in which runs count them
        columns, wanted = torch.unique(columns, return_inverse=True)
        device = self.runs.device
        rows, columns, wanted = (index.to(device, non_blocking=True) for index in (rows, columns, wanted))
        changes = torch.zeros(self.count * len(columns) * height + 1, dtype=torch.int8, device=device)
        change = torch.ones_like(self.runs, dtype=torch.int8)
        change[:, 1] = -1
        changes.index_add_(0, self._drawn_before(self.runs, rows, columns).flatten(), change.flatten())
        drawn = changes.cumsum_(0)[:-1].view(torch.uint8).view(self.count, len(columns), height)
        return drawn.index_select(1, wanted).transpose(1, 2).contiguous()

    def _drawn_before(self, places: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return how many pixels of these rows and columns, both sorted, of all masks come before each place."""
        mask, place = places // (self.height * self.width), places % (self.height * self.width)
        column, row = place // self.height, place % self.height
        columns_before = torch.searchsorted(columns, column)
        in_a_drawn_one = torch.searchsorted(columns, column, right=True) > columns_before
        rows_before = torch.where(in_a_drawn_one, torch.searchsorted(rows, row), 0)
        return (mask * len(columns) + columns_before) * len(rows) + rows_before


def _nearest(size: int, scaled: int) -> Tensor:
    """Return the row or column, of `size`, that nearest interpolation takes for each of `scaled`."""
    every = torch.arange(size, dtype=torch.float32)
    return interpolate(every[None, None], size=scaled, mode="nearest")[0, 0].long()
