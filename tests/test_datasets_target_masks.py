import subprocess
import sys

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from torch.nn.functional import interpolate

from lncis.coco.masks import from_array
from lncis.datasets.target_masks import TargetMasks


def drawn(
    rng: np.random.Generator, n: int, height: int, width: int, density: float
) -> tuple[torch.Tensor, TargetMasks]:
    masks = (rng.random((n, height, width)) < density).astype(np.uint8)
    return torch.from_numpy(masks), TargetMasks.of([from_array(mask) for mask in masks], height, width)


def nearest(masks: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return what torchvision makes of masks (`_resize_image_and_masks`)."""
    return interpolate(masks[:, None].float(), size=(height, width))[:, 0].byte()


@pytest.mark.parametrize("density", [0.0, 0.03, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("seed", range(40))
def test_scaled_masks_are_those_of_nearest_interpolation(seed, density):
    rng = np.random.default_rng(seed)
    n, height, width, to_height, to_width = (int(x) for x in (rng.integers(1, 5), *rng.integers(1, 150, 4)))
    full, masks = drawn(rng, n, height, width, density)
    assert torch.equal(masks.full_size(), full)
    scaled = masks.scaled(to_height, to_width)
    assert torch.equal(scaled, nearest(full, to_height, to_width))
    assert (scaled.dtype, scaled.is_contiguous(), len(masks)) == (torch.uint8, True, n)
    assert torch.equal(masks.flipped().scaled(to_height, to_width), nearest(full.flip(-1), to_height, to_width))
    assert torch.equal(masks.flipped().flipped().full_size(), full)


@pytest.mark.parametrize(
    ("size", "scaled"),
    [
        ((2999, 1777), (1333, 1000)),
        *[
            pytest.param(size, scaled, marks=pytest.mark.slow)
            for size in [(3024, 4032), (4032, 3024)]
            for scaled in [(96, 128), (800, 1066)]
        ],
    ],
)
def test_photos_scale_like_small_images(size, scaled):
    full, masks = drawn(np.random.default_rng(0), 1, *size, 0.5)
    assert torch.equal(masks.scaled(*scaled), nearest(full, *scaled))


def test_runs_that_scale_to_one_place_do_not_overflow():
    stripes = np.zeros((4000, 3), dtype=np.uint8)
    stripes[1::2] = 1
    masks = TargetMasks.of([from_array(stripes)], 4000, 3)
    assert torch.equal(masks.scaled(2, 2), nearest(torch.from_numpy(stripes)[None], 2, 2))


def test_counts_may_hold_empty_runs():
    counts = [0, 0, 5, 3, 0, 4, 8, 0]
    encoded = rle.frPyObjects({"size": [4, 5], "counts": counts}, 4, 5)
    assert torch.equal(TargetMasks.of([encoded], 4, 5).full_size()[0], torch.from_numpy(rle.decode(encoded)))


def test_no_mask_has_the_size_of_its_image():
    assert TargetMasks.of([], 4, 5).scaled(8, 9).shape == (0, 8, 9)


MANY = """
from pathlib import Path
from lncis.coco.masks import to_rle
from lncis.datasets.target_masks import TargetMasks

def most_kilobytes():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

before = most_kilobytes()
squares = [[[x, 20, x + 90, 20, x + 90, 110, x, 110]] for x in range(0, 3600, 8)]
masks = TargetMasks.of([to_rle(square, 3024, 4032) for square in squares], 3024, 4032).scaled(96, 128)
print(len(masks), (most_kilobytes() - before) // 1024)
"""


@pytest.mark.processes
def test_hundreds_of_instances_of_a_photo_take_megabytes():
    done = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, check=True)
    count, megabytes = map(int, done.stdout.split())
    assert count == 450
    assert megabytes < 200, "5200 MB at full size"
