"""The data a training needs, from its config: noisy train, equally noisy val, clean test."""

from dataclasses import dataclass
from typing import Any

from lncis import files
from lncis.coco import decoding
from lncis.coco.annotations import with_clean_labels
from lncis.coco.images import ImageFiles
from lncis.config import CocoData, DigitsData, NoNoise, TrainConfig
from lncis.datasets import coco_files, digits, shared_images
from lncis.datasets.coco import CocoInstances
from lncis.datasets.coco_files import Sources
from lncis.noise import corrupt


@dataclass(frozen=True, kw_only=True)
class Data:
    """Three splits, and what the noise did to the first two."""

    train: CocoInstances
    val: CocoInstances
    """Held out of training, and as noisy as it: what selection may look at. Clean where the config says `oracle`."""
    test: CocoInstances
    """Clean: reported, never selected on."""
    manifests: dict[str, dict[str, Any]]
    """The noise manifest of each noisy split; for `train` also what was dropped, where its files are not ours."""
    remarks: list[str]
    """What is odd about a user's files, a line for each kind, to be read before training."""

    @property
    def num_foreground_classes(self) -> int:
        """K, background not counted."""
        return len(self.train.category_ids)

    def decode_images(self, on_progress: decoding.OnProgress = lambda done, total: None) -> None:
        """Raise DataError with the first image that cannot be used, or that stands in two splits under two names.

        What was sound before is not decoded again.
        """
        splits = {"train": self.train.images, "val": self.val.images, "test": self.test.images}
        of_files = {split: images for split, images in splits.items() if isinstance(images, ImageFiles)}
        decoding.require([entry for split in reversed(of_files) for entry in of_files[split].entries], on_progress)
        shared_images.refuse_same_content({split: images.paths for split, images in of_files.items()})


def load(config: TrainConfig) -> Data:
    """Return the data of a training, preparing them first if this machine has not yet."""
    sources = _sources(config.dataset)
    splits: dict[str, CocoInstances] = {}
    manifests: dict[str, dict[str, Any]] = {}
    for split, (images, document) in sources.splits.items():
        if split == "test" or (split == "val" and config.val_labels == "oracle"):
            splits[split] = CocoInstances(images, with_clean_labels(document))
            continue
        noisy, manifests[split] = corrupt(document, config.noise, stream=split)
        # without noise of ours, the labels of a user's files are not known to be clean
        theirs = isinstance(config.noise, NoNoise) and isinstance(config.dataset, CocoData)
        splits[split] = CocoInstances(images, document if theirs else noisy)
    if isinstance(config.dataset, CocoData):
        manifests["train"]["dropped"] = sources.dropped
    return Data(**splits, manifests=manifests, remarks=sources.remarks)


def _sources(config: DigitsData | CocoData) -> Sources:
    match config:
        case CocoData():
            return coco_files.load(config)
        case DigitsData():
            folder = digits.prepare(config, files.cache_directory())
            return Sources({split: digits.read(folder, split) for split in digits.SPLITS}, {}, [])
