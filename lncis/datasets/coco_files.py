"""The three splits of a user's own COCO files."""

from pathlib import Path
from typing import NamedTuple

from lncis.coco import annotations
from lncis.coco.exporters import ORIGINAL_ID
from lncis.coco.findings import note
from lncis.coco.images import RESPELLED, ImageFiles, Images
from lncis.config import CocoData
from lncis.errors import DataError
from lncis.noise import Document


class Sources(NamedTuple):
    """What a training on a user's files reads."""

    splits: dict[str, tuple[Images, Document]]
    """Images and document of train, val and test."""
    dropped: dict[str, int]
    """How much was dropped from train, by reason."""
    remarks: list[str]
    """What is odd about the files, and how it was read: a line for each kind."""


def load(config: CocoData, *, with_val: bool = True) -> Sources:
    """Return the three splits of a user's files, or train and test alone. Nothing is decoded.

    Without a file for val, it is a share of train's images, drawn before any noise; not `with_val` they stay there.
    Only train loses degenerate instances and images without any. Raises DataError where files are missing, corrupt or
    do not belong together.
    """
    paths = dict.fromkeys(path for path in (config.train, config.test, config.val) if path is not None)
    readings = annotations.with_classes_of_each_other(annotations.read(path, config.box_masks) for path in paths)
    remarks = dict.fromkeys(
        f"{path}: {finding}" for path, reading in zip(paths, readings, strict=True) for finding in reading.findings
    )
    documents_read = dict(zip(paths, (reading.document for reading in readings), strict=True))
    train, test = documents_read[config.train], documents_read[config.test]
    train, val = _train_and_val(config, documents_read) if with_val else (train, None)
    _same_categories(config.train, train, config.test, test)
    train, dropped = annotations.without_degenerate(train)
    remarks.update(
        dict.fromkeys(f"{config.train}: {count} {what} dropped from train" for what, count in dropped.items())
    )
    filled = annotations.with_instances(train)
    dropped["images without instances"] = len(train["images"]) - len(filled)
    if config.train_on_empty_images:
        del dropped["images without instances"]
    else:
        train = annotations.with_images(train, filled)
    held = f"{config.val} (val)" if config.val else f"{config.train} (val, held out by val_fraction and split_seed)"
    for place, document in ((f"{config.train} (train)", train), (held, val), (f"{config.test} (test)", test)):
        if document and not annotations.with_instances(document):
            remedy = (
                ""
                if config.val or document is not val
                else "; take another split_seed or val_fraction, or give val a file"
            )
            raise DataError(f"{place}: holds no instance that can be used; crowds are none{remedy}")
    folders = {
        "train": config.images,
        "val": (config.val and config.val_images) or config.images,
        "test": config.test_images or config.images,
    }
    documents = {"train": train, **({"val": val} if val else {}), "test": test}
    images_of = {split: ImageFiles(folders[split], d["images"]) for split, d in documents.items()}
    for split, images in images_of.items():
        if images.respelled:
            remarks[f"{images.folder} ({split}): {note(RESPELLED, images.respelled)}"] = None
    return Sources({s: (images_of[s], documents[s]) for s in documents}, dropped, [*remarks])


def _train_and_val(config: CocoData, of_paths: dict[Path, Document]) -> tuple[Document, Document]:
    train = of_paths[config.train]
    if config.val is not None:
        _same_categories(config.train, train, config.val, of_paths[config.val])
        return train, of_paths[config.val]
    try:
        return annotations.held_out(train, config.val_fraction, config.split_seed)
    except DataError as error:
        raise DataError(f"{config.train}: {error}") from error


def _same_categories(train_path: Path, train: Document, path: Path, other: Document) -> None:
    named, others = ({c["id"]: c["name"] for c in document["categories"]} for document in (train, other))
    in_file = {c["id"]: c.get(ORIGINAL_ID, c["id"]) for document in (train, other) for c in document["categories"]}
    if named != others:
        differing = sorted(key for key in named.keys() | others.keys() if named.get(key) != others.get(key))
        example = differing[0]
        raise DataError(
            f"{path}: its categories are not those of {train_path}: category {in_file[example]} is "
            f"{others.get(example, 'missing')} here and {named.get(example, 'missing')} there "
            f"({len(differing)} differ); give both the same ids and names"
        )
