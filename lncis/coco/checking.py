"""All faults of a COCO file, found before anyone trains on it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lncis.coco import annotations, decoding, inspection
from lncis.coco.exporters import where
from lncis.coco.findings import Finding, Tally, error
from lncis.coco.images import UnusableImage
from lncis.coco.inspection import OnProgress
from lncis.noise import Document


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a COCO file holds."""

    images: int
    instances: int
    """What can be trained on: crowds and boxes without masks not counted."""
    crowds: int
    box_only: int
    """Annotations with a box and no mask."""
    instances_by_class: dict[str, int]
    flipped: float | None
    """Percentage of instances whose label is not the clean one; None where no clean labels are there."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a check of a COCO file found."""

    findings: list[Finding]
    """Errors first, then warnings, then notes."""
    counts: Counts | None
    """None where errors in its structure keep the file from being counted."""

    @property
    def errors(self) -> list[Finding]:
        """The findings that keep the file from being trained on."""
        return [finding for finding in self.findings if finding.severity == "error"]


def check(path: Path, images: Path | None = None, on_progress: OnProgress = lambda what, done, total: None) -> Checked:
    """Return the faults of a COCO file, and what it holds; images are decoded where their folder is given.

    Raises DataError where the file is missing or no JSON. Masks and images are judged only in a file whose structure
    holds.
    """
    reading = annotations.look(path)
    document = reading.document
    if reading.errors:
        return Checked(findings=_sorted(reading.findings), counts=None)
    tally = Tally()
    fit = inspection.look_at_masks(document, tally, on_progress)
    findings = [*reading.findings, *tally.findings()]
    if images is not None:
        findings += _image_files(document, images, on_progress)
    instances = [a for a in document["annotations"] if not a["iscrowd"]]
    if not fit:
        findings.append(
            error("instances, and none has a mask and box that can be trained on", list(map(where, instances)))
        )
    names = {category["id"]: category["name"] for category in document["categories"]}
    counted = Counter(a["category_id"] for a in instances)
    clean = [a for a in instances if "clean_category_id" in a]
    counts = Counts(
        images=len(document["images"]),
        instances=len(instances),
        crowds=len(document["annotations"]) - len(instances) - reading.box_only,
        box_only=reading.box_only,
        instances_by_class={names[number]: counted[number] for number in sorted(names)},
        flipped=100 * float(np.mean([a["category_id"] != a["clean_category_id"] for a in clean])) if clean else None,
    )
    return Checked(findings=_sorted(findings), counts=counts)


def _sorted(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def _image_files(document: Document, folder: Path, on_progress: OnProgress) -> list[Finding]:
    tally = Tally()
    entries = inspection.look_at_image_files(document, folder, tally)
    readable = [(path, entry["width"], entry["height"]) for path, entry in entries.items()]
    looked = decoding.look(readable, lambda done, total: on_progress("images", done, total))
    for fault in (found for found in looked if isinstance(found, UnusableImage)):
        tally.add("error", inspection.image_fault(fault), entries[fault.path], entries[fault.path]["file_name"])
    return tally.findings()
