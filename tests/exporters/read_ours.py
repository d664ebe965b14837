"""What a tool finds in a COCO file that lncis wrote, beside what pycocotools, the reference, finds in it.

    lncis data prepare digits --out ours --train-scenes 6 --val-scenes 1 --test-scenes 1
    lncis noise ours/train.json ours/noisy.json --type symmetric --rate 0.4 --seed 0
    python tests/exporters/read_ours.py TOOL ours/noisy.json ours/images   # in the environment of TOOL

It prints one line of README.md's table; exits with 1 where labels differ.
"""

import contextlib
import importlib.metadata
import io
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO

Seen = tuple[str, str, int | None]
"""File name, label, and how many pixels the mask has; None where a tool has no mask."""


def by_pycocotools(file: Path, images: Path) -> Iterator[Seen]:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
    for annotation in coco.anns.values():
        label = coco.cats[annotation["category_id"]]["name"]
        yield coco.imgs[annotation["image_id"]]["file_name"], label, int(coco.annToMask(annotation).sum())


def by_fiftyone(file: Path, images: Path) -> Iterator[Seen]:
    """By the importer that Dataset.from_dir calls: a Dataset itself needs MongoDB."""
    import fiftyone.utils.coco as fouc

    importer = fouc.COCODetectionDatasetImporter(
        data_path=str(images), labels_path=str(file), label_types="segmentations"
    )
    with importer:
        for path, metadata, label in importer:
            size = (metadata.width, metadata.height)
            for detection in getattr(label, "detections", None) or []:
                mask = detection.to_segmentation(frame_size=size, target=1).mask
                yield Path(path).name, detection.label, int((mask > 0).sum())


def by_datumaro(file: Path, images: Path) -> Iterator[Seen]:
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset

    with tempfile.TemporaryDirectory() as folder:  # it wants its own names
        (Path(folder) / "annotations").mkdir()
        (Path(folder) / "annotations" / "instances_default.json").write_bytes(file.read_bytes())
        (Path(folder) / "images").mkdir()
        (Path(folder) / "images" / "default").symlink_to(images.resolve())
        dataset = Dataset.import_from(folder, "coco_instances")
        names = dataset.categories()[AnnotationType.label]
        for item in dataset:
            for annotation in item.annotations:
                if annotation.type == AnnotationType.mask:  # a box of the same group stands beside each
                    yield f"{item.id}.png", names[annotation.label].name, int(annotation.image.sum())


def by_supervision(file: Path, images: Path) -> Iterator[Seen]:
    import supervision as sv

    dataset = sv.DetectionDataset.from_coco(str(images), str(file), force_masks=True)
    for path, _, detections in dataset:
        for number, mask in zip(detections.class_id, detections.mask, strict=True):
            yield Path(path).name, dataset.classes[number], int(mask.sum())


def by_sahi(file: Path, images: Path) -> Iterator[Seen]:
    from sahi.utils.coco import Coco

    for image in Coco.from_coco_dict_or_path(str(file)).images:
        for annotation in image.annotations:
            yield image.file_name, annotation.category_name, int(annotation.area) if annotation.segmentation else None


def by_pylabel(file: Path, images: Path) -> Iterator[Seen]:
    """It keeps the segmentation as it is and draws none; JSON's keys become columns, so an RLE's are lost."""
    from pylabel import importer

    frame = importer.ImportCoco(str(file), path_to_images=str(images)).df
    for _, row in frame.iterrows():
        yield row["img_filename"], row["cat_name"], None


READERS: dict[str, Any] = {
    name.removeprefix("by_"): reader for name, reader in list(globals().items()) if name.startswith("by_")
}


def main() -> None:
    tool, file, images = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    expected = sorted(by_pycocotools(file, images))
    with contextlib.redirect_stdout(sys.stderr):  # progress
        seen = sorted(READERS[tool](file, images), key=lambda one: (one[0], one[1], one[2] or 0))
    labels, wanted = (Counter((name, label) for name, label, _ in some) for some in (seen, expected))
    masks = [pixels for *_, pixels in seen if pixels is not None]
    if not masks:
        about_masks = "no masks"
    elif seen == expected:
        about_masks = "every mask has the same number of pixels"
    else:
        off = np.abs(np.array([p or 0 for *_, p in seen]) - [p for *_, p in expected]) if labels == wanted else []
        about_masks = f"{len(masks)} masks, up to {max(off, default=-1)} pixels more or fewer"
    verdict = (
        "the same labels in each image" if labels == wanted else f"other labels: {labels - wanted} {wanted - labels}"
    )
    print(f"| {tool} {importlib.metadata.version(tool)} | {len(seen)} of {len(expected)} | {verdict} | {about_masks} |")
    sys.exit(labels != wanted)


if __name__ == "__main__":
    main()
