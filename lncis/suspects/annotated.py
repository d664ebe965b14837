"""The COCO file that a list of suspects is about: which of its annotations a row means.

An annotation is named by the id of its image and its own, both as the file has them: ids that begin anew in each image
name no annotation alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lncis.coco import annotations
from lncis.coco.exporters import ORIGINAL_ID, original_keys
from lncis.errors import DataError
from lncis.noise import Document

Key = tuple[int | str, int | str]
"""Ids of an image and of an annotation in it."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of a file."""

    source: Path
    positions: dict[Key, int]
    """Where each annotation stands in the document."""
    given: list[str]
    """The class of each annotation, by position."""
    category_ids: dict[str, Any]
    """The id of each class, as the file has it."""

    def position(self, key: Key, given: str, of: str) -> int:
        """Return where an annotation stands; DataError where there is none, or one of another class than `given`.

        `of` is what the key and the class were read from.
        """
        image, annotation = (f"{part!s:.40}" for part in key)
        at = self.positions.get(key)
        remedy = f"give the file that was scored, as it was then, for {of}"
        if at is None:
            raise DataError(f"{self.source}: has no annotation {annotation} in an image {image}; {remedy}")
        if self.given[at] != given:
            is_now, was = f"{self.given[at]!r:.60}", f"{given!r:.60}"
            raise DataError(f"{self.source}: annotation {annotation} of image {image} is {is_now}, was {was}; {remedy}")
        return at

    def category_id(self, name: str, wanted_by: str) -> Any:
        """Return the id of a class as the file has it; DataError where no category has this name."""
        if name not in self.category_ids:
            known = ", ".join(self.category_ids)
            raise DataError(
                f"{self.source}: has no category {name!r:.60}, which {wanted_by} asks for; add it, or take one of "
                f"{known:.200}"
            )
        return self.category_ids[name]


def read_labels(path: Path) -> Labels:
    """Return the labels of a COCO file, whose masks are not looked at; DataError where it cannot be understood."""
    reading = annotations.read_labels(path)
    if reading.errors:
        raise DataError(f"{path}: {reading.errors[0]}; `lncis data check {path}` lists all that is wrong")
    if not (isinstance(reading.document, dict) and reading.document.get("images")):
        raise DataError(f"{path}: has no images; is this the COCO file that was scored?")
    return labels_of(reading.document, path, reading.headings)


def labels_of(document: Document, source: Path, headings: Iterable[dict[str, Any]] = ()) -> Labels:
    """Return the labels of a document that was read and checked; `headings` are categories too."""
    categories = [*document["categories"], *headings]
    names = {category["id"]: category["name"] for category in categories}
    positions = dict[Key, int]()
    for at, key in enumerate(original_keys(document)):
        if positions.setdefault(key, at) != at:
            raise DataError(
                f"{source}: two annotations of image {key[0]!s:.40} are called {key[1]!s:.40}; give each its own id"
            )
    return Labels(
        source=source,
        positions=positions,
        given=[names[annotation["category_id"]] for annotation in document["annotations"]],
        category_ids={category["name"]: category.get(ORIGINAL_ID, category["id"]) for category in categories},
    )
