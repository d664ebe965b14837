"""The batches of an epoch: which images, in which order, and how they get to the device that trains on them."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lncis.config import TrainConfig
from lncis.datasets.augmentation import Flipped
from lncis.datasets.coco import Item
from lncis.errors import DataError

Batch = tuple[list[Tensor], list[dict[str, Any]]]
"""Images and their targets, as CocoInstances gives them."""


def training_loader(
    config: TrainConfig, dataset: Dataset[Item], epoch: int, loading_processes: int = 0, pin_memory: bool = False
) -> DataLoader[Batch]:
    """Return this rank's share of the batches of an epoch, in an order of (seed, epoch) alone.

    From memory that is pinned a GPU copies without making the host wait.
    """
    ranks, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    sampler: DistributedSampler[Any] = DistributedSampler(dataset, num_replicas=ranks, rank=rank, seed=config.seed)
    sampler.set_epoch(epoch)
    loader: DataLoader[Any] = DataLoader(
        Flipped(dataset, config.flip, config.seed, epoch) if config.flip else dataset,
        batch_size=config.batch_size // ranks,
        sampler=sampler,
        num_workers=loading_processes,
        collate_fn=_collate,
        pin_memory=pin_memory,
    )
    return loader


def on_device(loader: DataLoader[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield the batches of a loader on a device; to a GPU they are copied while the host goes on."""
    for images, targets in each(loader):
        yield (
            [image.to(device, non_blocking=True) for image in images],
            [{key: value.to(device, non_blocking=True) for key, value in target.items()} for target in targets],
        )


def each(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the batches of a loader; a fault in the data is raised in one line, whichever process met it."""
    try:
        yield from loader
    except DataError as error:  # torch puts the traceback of its process before the message
        raise DataError(str(error).strip().splitlines()[-1].removeprefix("lncis.errors.DataError: ")) from error


def _collate(batch: list[Item]) -> Batch:
    images, targets = zip(*batch, strict=True)
    return list(images), list(targets)
