"""The batches of an epoch: which images, in which order, and how they get to the device that trains on them."""

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, get_worker_info

from lncis.config import TrainConfig
from lncis.datasets.augmentation import Flipped
from lncis.datasets.coco import Item
from lncis.datasets.target_masks import TargetMasks
from lncis.errors import ConfigError, DataError

Targets = list[dict[str, Any]]
"""What is in each image, as CocoInstances gives it."""

Batch = tuple[list[Tensor], Targets]
"""Images and what is in them."""


def training_loader(
    config: TrainConfig, dataset: Dataset[Item], epoch: int, loading_processes: int = 0, pin_memory: bool = False
) -> DataLoader[Batch]:
    """Return this rank's share of the batches of an epoch, in an order of (seed, epoch) alone.

    Other seeds and epochs have independent orders; torch's sampler by itself would shuffle by seed + epoch. From memory
    that is pinned a GPU copies without making the host wait.
    """
    ranks, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    sampler: DistributedSampler[Any] = DistributedSampler(
        dataset, num_replicas=ranks, rank=rank, seed=_order_seed(config.seed, epoch)
    )
    loader: DataLoader[Any] = DataLoader(
        Flipped(dataset, config.flip, config.seed, epoch) if config.flip else dataset,
        batch_size=config.batch_size // ranks,
        sampler=sampler,
        num_workers=loading_processes,
        collate_fn=_collate,
        pin_memory=pin_memory,
    )
    return loader


def _order_seed(seed: int, epoch: int) -> int:
    """Return what an epoch's order is drawn from; not what `engine.seed_all` seeds, which draws other things."""
    state = np.random.SeedSequence([seed, epoch + 1], spawn_key=(0,)).generate_state(1, dtype=np.uint64)
    return int(state[0])


def item_loader(dataset: Dataset[Item], loading_processes: int = 0) -> DataLoader[Item]:
    """Return a loader of the items of a data set, one by one and in their order; read it with `each`."""
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=None, num_workers=loading_processes, collate_fn=_handed_over
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
    """Yield what a loader loads; a fault in the data is raised in one line, whichever process met it.

    Raises ConfigError where loading processes cannot be started.
    """
    try:
        loading = iter(loader)
    except OSError as error:  # of a fork, or of a semaphore, which needs a page of /dev/shm
        remedy = "make room in /dev/shm (docker run --shm-size 1g), or set it to 0"
        raise ConfigError(
            "loading_processes", [f"{loader.num_workers} cannot be started: {error}; {remedy}"]
        ) from error
    try:
        for loaded in loading:
            yield pickle.loads(loaded) if isinstance(loaded, bytes) else loaded
    except DataError as error:  # torch puts the traceback of its process before the message
        raise DataError(str(error).strip().splitlines()[-1].removeprefix("lncis.errors.DataError: ")) from error


def _collate(batch: list[Item]) -> Any:
    images, targets = zip(*batch, strict=True)
    return _handed_over((list(images), list(targets)))


def _handed_over(loaded: Any) -> Any:
    """Return what a loading process hands over: tensors in shared memory, or, where that is full, bytes for a pipe.

    torch would share them in a thread, whose error it prints: where /dev/shm is full, as Docker's 64 MB soon are, the
    training would wait for ever.
    """
    if get_worker_info() is None:
        return loaded
    try:
        for tensor in _tensors(loaded):
            tensor.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError:
        return pickle.dumps(loaded)
    return loaded


def _tensors(loaded: Any) -> Iterator[Tensor]:
    match loaded:
        case Tensor():
            yield loaded
        case TargetMasks():
            yield loaded.runs
        case dict():
            yield from _tensors(list(loaded.values()))
        case list() | tuple():
            for part in loaded:
                yield from _tensors(part)
