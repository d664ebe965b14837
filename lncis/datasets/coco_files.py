"""The three splits of a user's own COCO files."""

from pathlib import Path

from lncis.config import CocoData
from lncis.datasets import annotations
from lncis.datasets.images import ImageFiles, Images
from lncis.errors import DataError
from lncis.noise import Document


def load(config: CocoData) -> tuple[dict[str, tuple[Images, Document]], dict[str, int]]:
    """Return images and document of train, val and test, and how much was dropped from train, by reason.

    Nothing is decoded. Without a file for val, it is a share of train's images, drawn before any noise. Only train
    loses degenerate instances and images without any: val and test stay as their files are. Raises DataError where
    files are missing, corrupt or do not belong together.
    """
    train, test = annotations.read(config.train), annotations.read(config.test)
    if config.val is None:
        train, val = annotations.held_out(train, config.val_fraction, config.split_seed)
        val_images = config.images
    else:
        val = annotations.read(config.val)
        val_images = config.val_images or config.images
        _same_categories(config.train, train, config.val, val)
    _same_categories(config.train, train, config.test, test)
    train, dropped = annotations.without_degenerate(train)
    filled = annotations.with_instances(train)
    dropped["images without instances"] = len(train["images"]) - len(filled)
    if config.train_on_empty_images:
        del dropped["images without instances"]
    else:
        train = annotations.with_images(train, filled)
    held = f"{config.val or config.train} (val)"
    for place, document in ((f"{config.train} (train)", train), (held, val), (f"{config.test} (test)", test)):
        if not annotations.with_instances(document):
            raise DataError(f"{place}: holds no instance that can be used; crowds are none")
    folders = {"train": config.images, "val": val_images, "test": config.test_images or config.images}
    documents = {"train": train, "val": val, "test": test}
    return {s: (ImageFiles(folders[s], d["images"]), d) for s, d in documents.items()}, dropped


def _same_categories(train_path: Path, train: Document, path: Path, other: Document) -> None:
    named, others = ({c["id"]: c["name"] for c in document["categories"]} for document in (train, other))
    if named != others:
        differing = sorted(key for key in named.keys() | others.keys() if named.get(key) != others.get(key))
        example = differing[0]
        raise DataError(
            f"{path}: its categories are not those of {train_path}: category {example} is "
            f"{others.get(example, 'missing')} here and {named.get(example, 'missing')} there "
            f"({len(differing)} differ); give both the same ids and names"
        )
