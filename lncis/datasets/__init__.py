"""The data a training needs, from its config: noisy train, equally noisy val, clean test."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lncis.config import TrainConfig
from lncis.datasets import digits
from lncis.datasets.coco import CocoInstances
from lncis.noise import corrupt


@dataclass(frozen=True, kw_only=True)
class Data:
    """Three splits, and what the noise did to the first two."""

    train: CocoInstances
    val: CocoInstances
    """Held out of training, and as noisy as it: what selection may look at."""
    test: CocoInstances
    """Clean: reported, never selected on."""
    manifests: dict[str, dict[str, Any]]
    """The noise manifest of `train` and of `val`."""

    @property
    def num_foreground_classes(self) -> int:
        """K, background not counted."""
        return len(self.train.category_ids)


def cache_directory() -> Path:
    """Return where prepared data are kept: `$LNCIS_CACHE`, or `~/.cache/lncis`."""
    return Path(os.environ.get("LNCIS_CACHE") or Path.home() / ".cache" / "lncis")


def load(config: TrainConfig) -> Data:
    """Return the data of a training, preparing them first if this machine has not yet."""
    folder = digits.prepare(config.dataset, cache_directory())
    splits: dict[str, CocoInstances] = {}
    manifests: dict[str, dict[str, Any]] = {}
    for split in digits.SPLITS:
        images, document = digits.read(folder, split)
        if split != "test":
            document, manifests[split] = corrupt(document, config.noise, stream=split)
        splits[split] = CocoInstances(images, document)
    return Data(**splits, manifests=manifests)
