"""torchvision's RoIAlign over a feature pyramid with a backward of ours on the CPU: the same gradients, sooner.

torchvision's walks each channel of each RoI alone, with the channels far apart in memory. Here the samples of all
levels and RoIs are added at once, all channels of a place together, in torchvision's order: on x86-64 gradients are
equal to the bit. This is for one sample a bin; with more of them it would be no faster.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torchvision.ops import MultiScaleRoIAlign

Features = dict[str, Tensor]


class OneSampleRoIAlign(MultiScaleRoIAlign):  # type: ignore[misc]
    """MultiScaleRoIAlign with one sample a bin; off the CPU, and but for fp32, all of it is torchvision's."""

    def __init__(self, levels: list[str], output_size: int) -> None:
        super().__init__(levels, output_size=output_size, sampling_ratio=1)

    def forward(self, x: Features, boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Return the pooled features `(R, C, size, size)` of the boxes of all images, as torchvision does."""
        levels = {name: feature for name, feature in x.items() if name in self.featmap_names}
        if not all(level.device.type == "cpu" and level.dtype == torch.float32 for level in levels.values()):
            return super().forward(x, boxes, image_shapes)  # type: ignore[no-any-return]
        return _Pooled.apply(self, boxes, image_shapes, list(levels), *levels.values())  # type: ignore[no-any-return]


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pool: OneSampleRoIAlign, boxes: list[Tensor], image_shapes: Any, names: list[str], *levels: Tensor
    ) -> Tensor:
        pooled: Tensor = MultiScaleRoIAlign.forward(pool, dict(zip(names, levels, strict=True)), boxes, image_shapes)
        image_of = torch.arange(len(boxes)).repeat_interleave(torch.tensor([len(b) for b in boxes]))
        ctx.save_for_backward(torch.cat(boxes), image_of, pool.map_levels(boxes))
        ctx.scales, ctx.shapes = pool.scales, [level.shape for level in levels]
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        boxes, image_of, level_of = ctx.saved_tensors
        of_levels = gradients_of_levels(gradient, boxes, image_of, level_of, ctx.scales, ctx.shapes)
        return None, None, None, None, *of_levels


def gradients_of_levels(
    gradient: Tensor,
    boxes: Tensor,
    image_of: Tensor,
    level_of: Tensor,
    scales: list[float],
    shapes: list[tuple[int, ...]],
) -> list[Tensor]:
    """Return the gradient of each level `(N, C, H, W)` from that of R pooled boxes `(R, C, bins, bins)`.

    `boxes` `(R, 4)` are xyxy in pixels of the image, `image_of` and `level_of` `(R,)` where each was pooled; a level
    has one of `scales` and of `shapes`. As in torchvision's kernel, a sample is bilinear between four places, and one
    outside of the level counts for nothing.
    """
    count, channels, bins, _ = gradient.shape
    places_of_level = [images * height * width for images, _, height, width in shapes]
    height, width = torch.tensor([shape[2:] for shape in shapes])[level_of].T
    before = torch.tensor([0, *places_of_level[:-1]]).cumsum(0)[level_of] + image_of * height * width
    x1, y1, x2, y2 = (boxes * torch.tensor(scales)[level_of, None]).T
    rows, of_rows = _corners(y1, y2, height, bins)
    columns, of_columns = _corners(x1, x2, width, bins)
    # of a RoI, the places are (bin row, bin column, upper or lower, left or right), the order in which they are added
    places = (before[:, None, None] + rows * width[:, None, None])[:, :, None, :, None] + columns[:, None, :, None]
    weights = of_rows[:, :, None, :, None] * of_columns[:, None, :, None]
    of_bins = gradient.permute(0, 2, 3, 1).reshape(count * bins * bins, 1, channels)
    shares = of_bins * weights.reshape(-1, 4, 1)
    total = gradient.new_zeros(sum(places_of_level), channels)
    total.index_add_(0, places.flatten(), shares.view(-1, channels))
    totals = total.split(places_of_level)  # type: ignore[no-untyped-call]
    return [
        of_level.view(images, high, wide, channels).permute(0, 3, 1, 2).contiguous()
        for of_level, (images, _, high, wide) in zip(totals, shapes, strict=True)
    ]


def _corners(begin: Tensor, end: Tensor, size: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Return the two rows (or columns) beside the sample of each bin, and their weights; both `(R, bins, 2)`."""
    step = ((end - begin).clamp(min=1) / bins)[:, None]
    sample = begin[:, None] + torch.arange(bins) * step + 0.5 * step
    last = size[:, None] - 1
    inside = (sample >= -1) & (sample <= last + 1)
    sample = sample.clamp(min=0)
    lower = torch.minimum(sample.long(), last)
    upper = torch.minimum(lower + 1, last)
    to_upper = torch.where(lower < last, sample - lower, 0)
    weights = torch.stack([1 - to_upper, to_upper], dim=-1) * inside[..., None]
    return torch.stack([lower, upper], dim=-1), weights
