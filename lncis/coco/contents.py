"""What is odd about the images, classes and labels of a document that can be trained on."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from lncis import files
from lncis.coco.exporters import where
from lncis.coco.findings import Finding, warning
from lncis.noise import Document

LEAST_SHARE_OF_CROWDS = 0.3
"""Of the annotations; COCO's own files have 0.01."""


def oddities(document: Document) -> Iterator[Finding]:
    """Yield what is odd about images, categories and labels."""
    entries = document["annotations"]
    labelled = [a for a in entries if not a.get("iscrowd", 0)]
    used = {a["category_id"] for a in entries}
    if unused := [c["name"] for c in document["categories"] if c["id"] not in used]:
        yield warning("categories have no annotation: they cannot be learned, and count as classes", unused)
    filled = {a["image_id"] for a in labelled}
    if empty := [i["file_name"] for i in document["images"] if i["id"] not in filled]:
        yield warning("images have no instance: they are trained on only with train_on_empty_images", empty)
    first = {_place(a): a for a in reversed(labelled)}
    if repeated := [where(a) for a in labelled if first[_place(a)] is not a]:
        yield warning(
            "annotations repeat another of the same class and box: one of them will count as missed; drop it", repeated
        )
    times = Counter(files.spelt(image["file_name"]) for image in document["images"])
    if shared := [name for name, count in times.items() if count > 1]:
        yield warning(
            "files belong to several images: what one of them annotates is background in the others; join them", shared
        )
    unlabelled = [where(a) for a in labelled if "clean_category_id" not in a]
    if 0 < len(unlabelled) < len(labelled):
        yield warning("annotations lack clean_category_id, which others have: none will be known", unlabelled)


def crowds(document: Document) -> Iterator[Finding]:
    """Yield what is odd about the crowds of a document."""
    found = [where(a) for a in document["annotations"] if a.get("iscrowd", 0)]
    if len(found) >= LEAST_SHARE_OF_CROWDS * len(document["annotations"]):
        yield warning(
            f"of {len(document['annotations'])} annotations have iscrowd 1: not trained on, they are background "
            "then; CVAT writes it for masks of the brush, set it to 0 where each is one object",
            found,
        )


def _place(annotation: dict[str, Any]) -> tuple[object, ...]:
    return annotation["image_id"], annotation["category_id"], *annotation["bbox"], annotation["area"]
