"""The data a training needs, from its config: noisy train, equally noisy val, clean test."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lncis import files
from lncis.coco import decoding, inspection
from lncis.coco.annotations import with_clean_labels
from lncis.coco.findings import Tally, warning
from lncis.coco.images import USED_AS_STORED, ImageFiles, Images
from lncis.coco.inspection import OnProgress
from lncis.config import CocoData, DatasetConfig, DigitsData, NoNoise, TrainConfig
from lncis.datasets import coco_files, digits, folds, scenes, shared_images
from lncis.datasets.coco import CocoInstances
from lncis.datasets.coco_files import Sources
from lncis.noise import Document, corrupt


@dataclass(frozen=True, kw_only=True)
class Data:
    """Three splits, and what the noise did to the first two."""

    train: CocoInstances
    val: CocoInstances
    """Held out of training, and as noisy as it: what selection may look at. Clean where the config says `oracle`.
    With `fold` it is the part of the training set that is left out."""
    test: CocoInstances
    """Clean: reported, never selected on."""
    manifests: dict[str, dict[str, Any]]
    """The noise manifest of each noisy split; for `train` also what was dropped, where its files are not ours."""
    remarks: list[str]
    """What is odd about a user's files, a line for each kind, as far as it shows without a look at each mask."""

    @property
    def num_foreground_classes(self) -> int:
        """K, background not counted."""
        return len(self.train.category_ids)


def load(config: TrainConfig) -> Data:
    """Return the data of a training, preparing them first if this machine has not yet."""
    sources = _sources(config)
    splits: dict[str, CocoInstances] = {}
    manifests: dict[str, dict[str, Any]] = {}
    for split, (images, document) in sources.splits.items():
        if split == "test" or (split == "val" and config.val_labels == "oracle"):
            splits[split] = CocoInstances(images, with_clean_labels(document))
        else:
            splits[split], manifests[split] = _with_noise(config, split, images, document)
    if isinstance(config.dataset, CocoData):
        manifests["train"]["dropped"] = sources.dropped
    if config.fold is not None:  # after the noise: labels are the same whatever is left out
        whole = splits["train"]
        splits["train"], left_out = folds.without(whole, config.fold), folds.within(whole, config.fold)
        oracle = config.val_labels == "oracle"
        splits["val"] = CocoInstances(left_out.images, with_clean_labels(left_out.document)) if oracle else left_out
    return Data(**splits, manifests=manifests, remarks=sources.remarks)


def identity(config: TrainConfig) -> tuple[object, ...]:
    """Return all that `load` reads of a config: trainings that are equal in it have the same data."""
    return config.dataset, config.noise, config.val_labels, config.fold


def load_undivided(config: TrainConfig) -> CocoInstances:
    """Return the training set whole of which a config may leave out a fold, labelled as in the training."""
    return _with_noise(config, "train", *_sources(config).splits["train"])[0]


def _with_noise(
    config: TrainConfig, split: str, images: Images, document: Document
) -> tuple[CocoInstances, dict[str, Any]]:
    """Return a split with noisy labels, and the manifest of its noise."""
    noisy, manifest = corrupt(document, config.noise, stream=split)
    # without noise of ours, the labels of a user's files are not known to be clean
    theirs = isinstance(config.noise, NoNoise) and isinstance(config.dataset, CocoData)
    return CocoInstances(images, document if theirs else noisy), manifest


def inspect(config: DatasetConfig, data: Data, on_progress: OnProgress = lambda what, done, total: None) -> list[str]:
    """Look at all that a training will read, and return the remarks on it, a line for each kind and file.

    Raises DataError with the first image that cannot be used, or that stands in two splits under two names. Images that
    were sound before are not decoded again.
    """
    if not isinstance(config, CocoData):
        return data.remarks
    annotated = ((config.train, data.train), (config.val or config.train, data.val), (config.test, data.test))
    tallies: dict[Path, Tally] = {path: Tally() for path, _ in annotated}
    for path, split in annotated:
        of_boxes = config.box_masks == "rectangles"
        inspection.look_at_masks(split.document, tallies[path], on_progress, of_boxes=of_boxes)
    splits = {"test": data.test.images, "val": data.val.images, "train": data.train.images}
    of_files = {split: images for split, images in splits.items() if isinstance(images, ImageFiles)}
    paths = {split: images.paths for split, images in reversed(of_files.items())}
    shared_images.refuse_same_files(paths)
    entries = [entry for images in of_files.values() for entry in images.entries]
    as_stored = decoding.require(entries, lambda done, total: on_progress("decoding images", done, total))
    shared = shared_images.refuse_same_content(paths)
    remarks = [f"{path}: {finding}" for path, tally in tallies.items() for finding in tally.findings()]
    if as_stored:
        remarks.append(str(warning(USED_AS_STORED, [str(path) for path, _, _ in as_stored])))
    return [*data.remarks, *shared, *remarks]


def _sources(config: TrainConfig) -> Sources:
    match config.dataset:
        case CocoData() as dataset:
            return coco_files.load(dataset, with_val=config.fold is None)
        case DigitsData() as dataset:
            folder = digits.prepare(dataset, files.cache_directory())
            splits = [split for split in scenes.SPLITS if split != "val" or config.fold is None]
            return Sources({split: digits.read(folder, split) for split in splits}, {}, [])
