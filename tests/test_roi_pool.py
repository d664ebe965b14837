"""The backward of our RoIAlign against torchvision's."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from lncis.detection.mask_rcnn.roi_pool import OneSampleRoIAlign

LEVELS, SIZES, CHANNELS = ["0", "1", "2"], ((32, 40), (16, 20), (8, 10)), 5
IMAGES = [(128, 160), (120, 160)]


def levels(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(2, CHANNELS, *size, generator=generator).to(dtype).requires_grad_()
        for name, size in zip(LEVELS, SIZES, strict=True)
    }


def boxes(count: int) -> list[Tensor]:
    """Of all sizes, so that every level has some; some reach out of the image, some are empty, one is far outside."""
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(2, count, 2, generator=generator) * 180 - 20
    sides = torch.rand(2, count, 2, generator=generator) ** 3 * 640
    sides[:, ::7] = 0
    found = torch.cat([corners, corners + sides], dim=-1)
    found[:, 1::9] += 1000
    found[:, 2::9] = found[:, 2::9].round()  # samples that hit a pixel
    return list(found)


def pooled(pool: MultiScaleRoIAlign, features: dict[str, Tensor], given: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    result = pool({**features, "pool": torch.zeros(2, CHANNELS, 4, 5)}, given, IMAGES)
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(2)).to(result.dtype)
    return result, list(torch.autograd.grad(result, list(features.values()), weights))


@pytest.mark.parametrize("size", [7, 10])
@pytest.mark.parametrize("count", [60, 1, 0])
def test_features_and_gradients_are_torchvisions_to_the_bit(size, count):
    given = boxes(count)
    stock = MultiScaleRoIAlign(LEVELS, output_size=size, sampling_ratio=1)
    expected, gradients = pooled(stock, levels(), given)
    found, ours = pooled(OneSampleRoIAlign(LEVELS, size), levels(), given)
    assert count < 60 or set(stock.map_levels(given).tolist()) == {0, 1, 2}
    assert count == 0 or expected.abs().sum() > 0
    assert torch.equal(found, expected)
    assert all(torch.equal(one, other) for one, other in zip(ours, gradients, strict=True))
    assert all(one.is_contiguous() for one in ours)


def test_an_image_without_boxes_has_no_gradient():
    given = [boxes(20)[0], torch.zeros(0, 4)]
    expected, gradients = pooled(MultiScaleRoIAlign(LEVELS, 7, 1), levels(), given)
    found, ours = pooled(OneSampleRoIAlign(LEVELS, 7), levels(), given)
    assert torch.equal(found, expected)
    assert all(torch.equal(one, other) for one, other in zip(ours, gradients, strict=True))
    assert not any(gradient[1].any() for gradient in ours)


def test_it_is_the_derivative_of_the_features():
    """Against differences: pooled features are linear in the levels, so a difference is exact but for rounding."""
    features, given = levels(), boxes(20)
    pool = OneSampleRoIAlign(LEVELS, 7)
    with torch.no_grad():
        base = pool(features, given, IMAGES)
        weights = torch.randn(base.shape, generator=torch.Generator().manual_seed(2))
    _, gradients = pooled(pool, features, given)
    for name, gradient in zip(LEVELS, gradients, strict=True):
        direction = torch.randn(features[name].shape, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            moved = pool({**features, name: features[name] + direction}, given, IMAGES)
        change = ((moved - base).double() * weights).sum()
        assert change.item() == pytest.approx((gradient.double() * direction).sum().item(), rel=1e-4, abs=1e-2)


def test_under_bf16_all_is_torchvisions():
    given = boxes(20)
    with torch.autocast("cpu", torch.bfloat16):
        expected, gradients = pooled(MultiScaleRoIAlign(LEVELS, 7, 1), levels(torch.bfloat16), given)
        found, ours = pooled(OneSampleRoIAlign(LEVELS, 7), levels(torch.bfloat16), given)
    assert expected.dtype == torch.bfloat16
    assert torch.equal(found, expected)
    assert all(torch.equal(one, other) for one, other in zip(ours, gradients, strict=True))
