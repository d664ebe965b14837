"""Batches that processes load, where shared memory has room and where it has not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from lncis.coco.masks import from_array
from lncis.config import TrainConfig
from lncis.datasets.target_masks import TargetMasks
from lncis.detection.batches import each, item_loader, training_loader

SHARED_MEMORY_KILOBYTES = 384
SIDE = 96
"""The images of a batch of training, 4 x 108 kB, have no room in it; those of evaluation have, one by one."""


class Scenes(Dataset):
    """Images and targets, each with what only its index says."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        drawn = torch.Generator().manual_seed(index)
        masks = (torch.rand(index % 3, SIDE, SIDE, generator=drawn) < 0.5).numpy()
        target = {
            "boxes": torch.rand(index % 3, 4, generator=drawn),
            "image_id": torch.tensor(index),
            "masks": TargetMasks.of([from_array(mask) for mask in masks], SIDE, SIDE),
        }
        return torch.rand(3, SIDE, SIDE, generator=drawn), target


def loaded(loading_processes: int) -> list[object]:
    """Return all that the loaders of training and evaluation give, masks drawn."""
    found: list[object] = []
    batches = each(training_loader(TrainConfig(batch_size=4, flip=0.5), Scenes(), 3, loading_processes))
    items = each(item_loader(Scenes(), loading_processes))
    for images, targets in [*batches, *(([image], [target]) for image, target in items)]:
        for image, target in zip(images, targets, strict=True):
            found.append((image, target["image_id"], target["boxes"], target["masks"].full_size()))
    return found


def same(found: list[object], expected: list[object]) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(torch.equal(a, b) for its, wanted in pairs for a, b in zip(its, wanted, strict=True))


class Numbers(Dataset):
    """Items that are their index."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return index, {}


def order(seed: int, epoch: int) -> list[int]:
    return [
        index
        for images, _ in training_loader(TrainConfig(batch_size=4, seed=seed), Numbers(), epoch)
        for index in images
    ]


def test_each_seed_and_epoch_has_an_order_of_its_own():
    orders = {(seed, epoch): order(seed, epoch) for seed in range(5) for epoch in range(6)}
    assert all(sorted(found) == list(range(24)) for found in orders.values())
    assert len({tuple(found) for found in orders.values()}) == 30, "by seed + epoch there would be 10"
    assert order(2, 3) == orders[2, 3]


@pytest.mark.processes
def test_loading_processes_change_nothing():
    assert len(loaded(0)) == 48
    assert same(loaded(2), loaded(0))


def with_shared_memory(kilobytes: int, file: Path) -> subprocess.CompletedProcess[str]:
    """Run this file as a program, with a /dev/shm of this size; skip the test where that is not permitted."""
    inside = f"mount -t tmpfs -o size={kilobytes}k tmpfs /dev/shm && exec"
    unshare = shutil.which("unshare") or "unshare"
    try:
        subprocess.run([unshare, "-m", "sh", "-c", f"{inside} true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs a /dev/shm of its own: {error}")
    command = [unshare, "-m", "sh", "-c", f'{inside} "$@"', "sh", sys.executable, __file__, str(file)]
    return subprocess.run(command, timeout=120, capture_output=True, text=True, check=False)


@pytest.mark.processes
def test_full_shared_memory_changes_nothing_and_hangs_nothing(tmp_path):
    done = with_shared_memory(SHARED_MEMORY_KILOBYTES, tmp_path / "loaded.pt")
    assert done.returncode == 0, done.stderr
    assert same(torch.load(tmp_path / "loaded.pt"), loaded(0))


@pytest.mark.processes
def test_processes_that_cannot_start_are_said_with_the_remedy(tmp_path):
    done = with_shared_memory(4, tmp_path / "loaded.pt")
    assert done.returncode != 0
    assert "loading_processes: 2 cannot be started" in done.stderr
    assert "--shm-size" in done.stderr


if __name__ == "__main__":
    torch.save(loaded(2), Path(sys.argv[1]))
