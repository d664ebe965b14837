"""The true labels of annotations that were scored, from a second file of the same annotations."""

from pathlib import Path

from lncis.coco import annotations, exporters
from lncis.errors import DataError
from lncis.noise import Document
from lncis.noise import join as joining


def with_truth(document: Document, of: str, clean: Path) -> tuple[Document, int]:
    """Return a document with the labels of the file `clean` as `clean_category_id`, and how many have none there.

    Annotations are known by their ids and those of their images, classes by name. Raises DataError, with `of` for the
    document, where its truth is known already, where no annotation is in `clean`, where the ids mean other annotations
    there, or where a clean class is none of the document.
    """
    if any(joining.CLEAN_LABEL in annotation for annotation in document["annotations"]):
        raise DataError(f"{of}: has clean_category_id already: its truth is known; leave out --truth")
    theirs = labels_of_file(clean)
    keys = (exporters.original_keys(some) for some in (document, theirs))
    partners = joining.partners_by_key(*keys)
    joining.require_same_annotations(document, theirs, partners, of, str(clean), "`lncis noise join --by-mask`")
    try:
        labels = joining.clean_labels(document, theirs, partners)
    except DataError as error:
        raise DataError(f"{of}, {clean}: {error}") from error
    known = [
        annotation if label is None else {**annotation, joining.CLEAN_LABEL: label}
        for annotation, label in zip(document["annotations"], labels, strict=True)
    ]
    return {**document, "annotations": known}, labels.count(None)


def labels_of_file(path: Path) -> Document:
    """Return the labels of a COCO file, headings among its categories; DataError where it cannot be understood."""
    reading = annotations.read_labels(path)
    if reading.errors:
        raise DataError(f"{path}: {reading.errors[0]}; `lncis data check {path}` lists all that is wrong")
    if not (isinstance(reading.document, dict) and reading.document.get("images")):
        raise DataError(f"{path}: has no images; is this a COCO instances file?")
    names = {category["name"] for category in reading.document["categories"]}
    headings = [heading for heading in reading.headings if heading["name"] not in names]
    return {**reading.document, "categories": [*reading.document["categories"], *headings]}
