"""Labels put right: what a review decided, or a list above a threshold, into a copy of a COCO file.

The file of decisions, which the gallery saves::

    {"lncis_decisions": 1,
     "list": "9f2c...",                   digest of the list that was reviewed
     "annotations": "train.json",         name of the file that was scored
     "decisions": [{"rank": 1, "image_id": 3, "annotation_id": 17, "given": "cat", "label": "dog"}]}

`label` is the class after the review; where it is the `given` one, the label was looked at and is right. What is not
listed was skipped. `rank` is for people, and optional.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lncis import documents
from lncis.coco import annotations
from lncis.errors import ConfigError, DataError
from lncis.noise import Document
from lncis.suspects.annotated import read_labels
from lncis.suspects.tables import SuspectList, require_format

FORMAT = "lncis_decisions"
OLD_LABEL = "noisy_category_id"
"""Key of an annotation for the label that it had; one that is there already stays, as the older one."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a review says of one label."""

    image_id: int | str
    annotation_id: int | str
    given: str
    """The class that the reviewer saw."""
    label: str
    """The right one, which may be the given one."""
    rank: int | None = None


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """A review, finished or not."""

    list: str
    """Digest of the list that was reviewed."""
    annotations: str
    decisions: Sequence[Decision]


def read_decisions(path: Path) -> Decisions:
    """Return the decisions in a file; DataError where it holds none, or two about one annotation."""
    document = documents.read_json(path)
    if isinstance(document, dict) and "lncis_suspects" in document:
        raise DataError(f"{path}: is a list of suspects; give the decisions of its review, or --accept-above")
    document = require_format(document, path, FORMAT, "file of decisions; the gallery saves one")
    content = {key: value for key, value in document.items() if key in ("list", "annotations", "decisions")}
    try:
        found = documents.parse(Decisions, content, source=str(path))
    except ConfigError as error:
        raise DataError(f"{path}: {error.problems[0]}; have the gallery save it again") from error
    times = Counter((one.image_id, one.annotation_id) for one in found.decisions)
    if twice := next((key for key, number in times.items() if number > 1), None):
        raise DataError(
            f"{path}: decides twice about annotation {twice[1]!s:.40} of image {twice[0]!s:.40}; keep one of the two"
        )
    return found


def accepted_above(listed: SuspectList, probability: float) -> Decisions:
    """Return the suggestions for all labels that are wrong with more than this probability, as decisions.

    The probability is that the given class is wrong; that the suggested one is right is less probable.
    """
    return Decisions(
        list=listed.digest,
        annotations=listed.annotations,
        decisions=[
            Decision(
                image_id=row.image_id,
                annotation_id=row.annotation_id,
                given=row.given,
                label=row.suggested,
                rank=row.rank,
            )
            for row in listed.suspects
            if row.wrong_probability > probability
        ],
    )


def repaired(path: Path, review: Decisions) -> tuple[Document, dict[str, Any]]:
    """Return the document of a COCO file with the labels of a review, and the manifest of what changed.

    All else stays as the file has it: ids, order, unknown keys, masks. A changed annotation keeps the label that it had
    as `noisy_category_id`. The manifest holds how many labels were reviewed, changed and kept, and each change. Raises
    DataError where a decision is about no annotation of the file, about one of another class, or for no class of it.
    """
    labels = read_labels(path)
    changes = dict[int, Any]()
    lines = list[dict[str, Any]]()
    for one in review.decisions:
        at = labels.position((one.image_id, one.annotation_id), one.given, "these decisions")
        new = labels.category_id(one.label, f"the decision on annotation {one.annotation_id!s:.40}")
        if one.label != one.given:
            changes[at] = new
            lines.append({key: value for key, value in asdict(one).items() if key != "rank"})
    document = annotations.read_as_written(path)
    entries = document["annotations"]
    document["annotations"] = [
        {OLD_LABEL: entry["category_id"], **entry, "category_id": changes[at]} if at in changes else entry
        for at, entry in enumerate(entries)
    ]
    pairs = Counter(f"{line['given']} -> {line['label']}" for line in lines)
    manifest = {
        "list": review.list,
        "annotations": len(entries),
        "reviewed": len(review.decisions),
        "changed": len(changes),
        "kept": len(review.decisions) - len(changes),
        "changed_by_class": dict(pairs.most_common()),
        "changes": lines,
    }
    return document, manifest
