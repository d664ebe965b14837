"""What other tools export is read as what was drawn: exporters/ holds their files and says how they were made."""

import contextlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporters.drawing import CLASSES, FILE_NAMES, HEIGHT, HERE, IMAGES, INSTANCES, WIDTH, Instance, Mask
from pycocotools import mask as rle
from pycocotools.coco import COCO
from scipy import ndimage

from lncis.coco import annotations
from lncis.coco.images import ImageFiles
from lncis.coco.masks import to_rle
from lncis.errors import DataError

FIXTURES = sorted(path.parent.name for path in HERE.glob("*/annotations.json"))

LEAF, TWO_PARTS, BOX, RING, CROWD, BORDER, CONCAVE = INSTANCES
PARTS = [replace(TWO_PARTS, polygons=[polygon]) for polygon in TWO_PARTS.polygons]
NO_CROWD = replace(CROWD, iscrowd=False)
DISC = replace(RING, brush=ndimage.binary_fill_holes(RING.brush))
RECTANGLE = replace(BOX, box=None, polygons=[[8, 30, 28, 30, 28, 42, 8, 42]])
REST = [BORDER, CONCAVE]


def crowds(*instances: Instance) -> list[Instance]:
    return [replace(instance, iscrowd=True) for instance in instances]


def boxes(*instances: Instance) -> list[Instance]:
    return [replace(instance, polygons=[], brush=None, box=instance.bbox, iscrowd=False) for instance in instances]


EXPECTED: dict[str, list[Instance]] = {
    "cvat": [LEAF, *PARTS, BOX, *crowds(RING), CROWD, *REST],
    "datumaro": [LEAF, TWO_PARTS, BOX, *crowds(RING), CROWD, *REST],
    "datumaro_masks": [*crowds(LEAF, TWO_PARTS, RING), BOX, CROWD, *crowds(*REST)],
    "datumaro_polygons": [LEAF, TWO_PARTS, BOX, DISC, NO_CROWD, *REST],
    "fiftyone": [LEAF, TWO_PARTS, BOX, DISC, CROWD, *REST],
    "label_studio": [LEAF, *PARTS, BOX, *REST],
    "label_studio_windows": [LEAF, *PARTS, BOX, *REST],
    "labelme2coco": [LEAF, *PARTS, BOX, *REST],
    "makesense": [LEAF, *PARTS, DISC, NO_CROWD, *REST],
    "pylabel_voc": boxes(*INSTANCES),
    "pylabel_yolo": boxes(*INSTANCES),
    "roboflow": [LEAF, TWO_PARTS, BOX, DISC, NO_CROWD, *REST],
    "sahi": [LEAF, TWO_PARTS, BOX, DISC, NO_CROWD, *REST],
    "supervision": [LEAF, *crowds(TWO_PARTS), BOX, *crowds(RING), NO_CROWD, *REST],
    "via": [LEAF, *PARTS, RECTANGLE, DISC, NO_CROWD, *REST],
    "via_before": [LEAF, *PARTS, RECTANGLE, DISC, NO_CROWD, *REST],
}
"""What each tool makes of the drawing, which is what a reader is to find: exporters/README.md lists why."""

NOTHING_TO_TRAIN_ON = {"pylabel_voc", "pylabel_yolo", "datumaro_masks"}
"""Boxes alone, or crowds alone."""
TRAINED_ON = sorted(set(EXPECTED) - NOTHING_TO_TRAIN_ON)
NO_REFERENCE = {"via_before"}
"""pycocotools stops at them: an image_id that is text is that of no image."""

RIM_PIXELS = {"fiftyone": 2}
"""How far an outline may lie off the drawn one: a tool that simplifies outlines says so itself. Others 1."""


@dataclass(frozen=True)
class Found:
    """An annotation with a mask."""

    file_name: str
    label: str
    iscrowd: bool
    mask: Mask


def name_of(image: dict[str, Any]) -> str:
    return str(image["file_name"]).replace("\\", "/").split("/")[-1]


def document_of(fixture: str) -> dict[str, Any]:
    """Return a fixture as lncis reads it."""
    return annotations.read(path_of(fixture)).document


def found(document: dict[str, Any], fixture: str) -> list[Found]:
    """Return the annotations that have a mask.

    A box without one may have been left out, have an empty mask, or be a crowd that fills it: never an instance.
    """
    filled = [replace(RECTANGLE, iscrowd=True)] if BOX in EXPECTED[fixture] else []
    names = {image["id"]: name_of(image) for image in document["images"]}
    labels = {category["id"]: category["name"] for category in document["categories"]}
    masks = []
    for annotation in document["annotations"]:
        segmentation = annotation.get("segmentation")
        if segmentation is None or len(segmentation) == 0:
            continue
        mask = rle.decode(to_rle(segmentation, HEIGHT, WIDTH)).astype(bool)
        one = Found(names[annotation["image_id"]], labels[annotation["category_id"]], bool(annotation["iscrowd"]), mask)
        if mask.any() and not any(key(one) == key(box) and agree(mask, box.mask, 1) for box in filled):
            masks.append(one)
    return masks


def agree(mask: Mask, drawn: Mask, pixels: int) -> bool:
    """Say whether a mask is the drawn one but for a rim of so many pixels, also where that is the image's border."""
    around = np.ones((3, 3), dtype=bool)
    inner = ndimage.binary_erosion(drawn, around, pixels)
    outer = ndimage.binary_dilation(drawn, around, pixels)
    return bool((inner <= mask).all() and (mask <= outer).all())


def key(instance: Instance | Found) -> tuple[str, str, bool]:
    return instance.file_name, instance.label, instance.iscrowd


def reference(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def path_of(fixture: str) -> Path:
    return HERE / fixture / "annotations.json"


def test_each_fixture_is_expected_to_hold_something() -> None:
    assert sorted(EXPECTED) == FIXTURES


@pytest.mark.parametrize("fixture", TRAINED_ON)
def test_instances_are_those_that_were_drawn(fixture: str) -> None:
    expected = [instance for instance in EXPECTED[fixture] if not instance.box]
    read = found(document_of(fixture), fixture)
    assert sorted(map(key, read)) == sorted(map(key, expected))
    for instance in expected:
        rivals = [one for one in read if key(one) == key(instance)]
        assert any(agree(one.mask, instance.mask, RIM_PIXELS.get(fixture, 1)) for one in rivals), instance


@pytest.mark.parametrize("fixture", TRAINED_ON)
def test_trained_on_are_the_instances_with_a_mask(fixture: str) -> None:
    kept, _ = annotations.without_degenerate(document_of(fixture))
    expected = [instance for instance in EXPECTED[fixture] if not instance.box]
    assert sum(not a["iscrowd"] for a in kept["annotations"]) == sum(not i.iscrowd for i in expected)
    assert annotations.with_instances(kept) == {
        image["id"] for image in kept["images"] for i in expected if not i.iscrowd and i.file_name == name_of(image)
    }


@pytest.mark.parametrize("fixture", sorted(NOTHING_TO_TRAIN_ON))
def test_a_file_without_an_instance_has_none_or_an_error_that_names_masks(fixture: str) -> None:
    try:
        document = document_of(fixture)
    except DataError as error:
        assert "mask" in str(error).removeprefix(str(path_of(fixture)))
    else:
        assert all(one.iscrowd for one in found(document, fixture))


@pytest.mark.parametrize("fixture", sorted(set(TRAINED_ON) - NO_REFERENCE))
def test_masks_are_those_of_pycocotools(fixture: str) -> None:
    coco = reference(path_of(fixture))
    expected = [
        (name_of(image), coco.cats[a["category_id"]]["name"], bool(a["iscrowd"]), coco.annToMask(a).tobytes())
        for image in coco.imgs.values()
        for a in coco.imgToAnns[image["id"]]
        if a.get("segmentation")
    ]
    read = [(*key(one), one.mask.tobytes()) for one in found(document_of(fixture), fixture)]
    assert sorted(read) == sorted(expected)


@pytest.mark.parametrize("fixture", TRAINED_ON)
def test_classes_are_those_that_can_be_labelled(fixture: str) -> None:
    names = [category["name"] for category in document_of(fixture)["categories"]]
    assert sorted(names) == (["leaf", "shell"] if fixture == "labelme2coco" else CLASSES)


@pytest.mark.parametrize("fixture", sorted(set(TRAINED_ON) - {"label_studio", "labelme2coco"}))
def test_images_are_found(fixture: str) -> None:
    """Those of two tools lie elsewhere: in a folder for uploads, under an absolute path."""
    folder = HERE if fixture == "label_studio_windows" else IMAGES
    images = ImageFiles(folder, document_of(fixture)["images"])
    assert [images[i].shape for i in range(len(images))] == [(HEIGHT, WIDTH, 3)] * len(FILE_NAMES)
