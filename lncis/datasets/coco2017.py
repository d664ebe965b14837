"""COCO 2017, which needs no conversion, only a check. val2017 stands in for test-dev."""

from pathlib import Path

from lncis.coco import annotations
from lncis.coco.images import ImageFiles
from lncis.config import CocoData
from lncis.datasets import conversion
from lncis.errors import DataError

COUNTS = {"train2017": (118_287, 860_001), "val2017": (5_000, 36_781)}
"""Images and annotations of each release."""


def check_release(source: Path, *, accept_subset: bool = False) -> CocoData:
    """Return the data of a training; `source` holds `annotations`, `train2017` and `val2017`.

    Raises DataError where files are missing, corrupt or not the release.
    """
    files = {part: source / "annotations" / f"instances_{part}.json" for part in COUNTS}
    conversion.require_paths(
        dict.fromkeys(files.values(), "annotations_trainval2017.zip")
        | {source / part: f"{part}.zip" for part in COUNTS}
    )
    for part, (images, instances) in COUNTS.items():
        document = annotations.read(files[part]).document
        conversion.require_all(str(files[part]), len(document["images"]), images, accept_subset=accept_subset)
        if len(document["annotations"]) != instances and not accept_subset:
            raise DataError(
                f"{files[part]}: has {len(document['annotations']):,} annotations where the release has "
                f"{instances:,}; unpack annotations_trainval2017.zip again"
            )
        ImageFiles(source / part, document["images"])
    return CocoData(
        images=source / "train2017",
        train=files["train2017"],
        test=files["val2017"],
        test_images=source / "val2017",
    )
