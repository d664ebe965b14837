"""`lncis data check`: every fault is injected into a sound file, and found alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from pycocotools import mask as rle
from typer.testing import CliRunner

from lncis import datasets
from lncis.coco import checking
from lncis.commands import app as cli
from lncis.config import CocoData, NoNoise, TrainConfig

WIDTH, HEIGHT = 80, 60


def encoded(mask: np.ndarray) -> dict:
    return {"size": [HEIGHT, WIDTH], "counts": rle.encode(np.asfortranarray(mask))["counts"].decode()}


@pytest.fixture
def document() -> dict:
    images = [{"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in (1, 2)]
    Path("images").mkdir()
    for image in images:
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)).save(Path("images") / image["file_name"])
    ell = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    ell[10:30, 40:50] = ell[25:30, 40:70] = 1
    triangle = {"segmentation": [[5, 5, 35, 5, 20, 40]], "bbox": [5, 5, 30, 35], "area": 525, "category_id": 8}
    bent = {"segmentation": encoded(ell), "bbox": [40, 10, 30, 20], "area": int(ell.sum()), "category_id": 3}
    crowd = {"segmentation": encoded(1 - ell), "bbox": [0, 0, WIDTH, HEIGHT], "area": 1, "category_id": 3, "iscrowd": 1}
    kinds = [(shape, image) for image in images for shape in (triangle, bent)] + [(crowd, images[0])]
    return {
        "images": images,
        "annotations": [{"id": i, "image_id": im["id"], "iscrowd": 0, **s} for i, (s, im) in enumerate(kinds, start=1)],
        "categories": [{"id": 3, "name": "ell"}, {"id": 8, "name": "[triangle]"}],
    }


def check(document: object, *options: str) -> Result:
    Path("file.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return CliRunner().invoke(cli.app, ["data", "check", "file.json", *options])


def test_a_sound_file_has_no_findings(document):
    ran = check(document, "--images", "images")
    assert ran.exit_code == 0, ran.output
    lines = ran.stdout.splitlines()
    assert lines[0] == "2 images, 4 instances, 1 crowds"
    assert [line.split() for line in lines[1:3]] == [["2", "ell"], ["2", "[triangle]"]]
    assert lines[3:] == ["no fault found"]


def edit(change):
    def apply(document: dict) -> None:
        change(document)

    return apply


def first(**fields):
    return lambda document: document["annotations"][0].update(fields)


def second_mask(mask: np.ndarray):
    return lambda document: document["annotations"][1].update(segmentation=encoded(mask), bbox=[0, 0, WIDTH, HEIGHT])


def remove(name: str):
    return lambda document: (Path("images") / name).unlink()


def resize(document: dict) -> None:
    Image.new("RGB", (8, 6)).save("images/1.jpg")


def spoil(document: dict) -> None:
    Path("images/1.jpg").write_bytes(b"none")


def stand_up(document: dict) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (WIDTH, HEIGHT)).save("images/1.jpg", exif=exif)


def boxes(document: dict) -> None:
    for a in document["annotations"]:
        x, y, w, h = a["bbox"]
        a["segmentation"] = [[x, y, x, y + h, x + w, y + h, x + w, y, x, y]]


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (lambda d: d["annotations"][0].pop("image_id"), "1 annotations lack image_id (id 1)"),
        (first(id=2), "1 annotations have the id of another; ids must be unique (2)"),
        (lambda d: d["images"][0].update(id=2), "1 images have the id of another; ids must be unique (2)"),
        (first(image_id=9), "1 annotations have an image_id that is not among the images"),
        (first(category_id=9), "1 annotations have a category_id that is not among the categories"),
        (first(segmentation={"size": [WIDTH, HEIGHT], "counts": "0"}), "size is not the [height, width] of its image"),
        (first(segmentation={"size": [HEIGHT, WIDTH], "counts": "1"}), "counts that do not add up to the pixels"),
        (boxes, "4 of 4 masks are upright rectangles: bounding boxes passing as masks"),
        (remove("2.jpg"), "1 image files are missing from images (2.jpg)"),
        (spoil, "1 image files cannot be used: cannot be read as an image (1.jpg)"),
        (resize, "1 image files have another size than their entry says (1.jpg)"),
    ],
)
def test_errors_end_with_1(document, damage, finding):
    damage(document)
    ran = check(document, "--images", "images")
    assert ran.exit_code == 1
    errors = [line for line in ran.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert finding in errors[0]
    assert ran.stderr == "error: file.json: 1 kind of error keeps it from being trained on\n"


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (
            second_mask(np.zeros((HEIGHT, WIDTH), dtype=np.uint8)),
            "1 annotations have an empty mask: training drops them",
        ),
        (first(segmentation=[[1, 1, 5, 5]]), "1 annotations have a box and no mask: not trained on"),
        (first(segmentation=[]), "1 annotations have a box and no mask: not trained on"),
        (first(bbox=[5, 5, 38, 40]), "1 annotations have a bbox more than 2 px off their mask; which is right?"),
        (first(segmentation=[[5, 5, 35, 5, 20, 90]], bbox=[5, 5, 30, 55]), "1 annotations have a mask that runs off"),
        (
            first(segmentation=[[5, 5, 35, 5, 35, 40, 5, 40]]),
            "1 annotations have a polygon that is an upright rectangle",
        ),
        (second_mask(np.ones((HEIGHT, WIDTH), dtype=np.uint8)), "1 annotations have a mask that fills its box"),
        (lambda d: d["categories"].append({"id": 9, "name": "sky"}), "1 categories have no annotation: they"),
        (
            lambda d: d.update(annotations=[a for a in d["annotations"] if a["image_id"] == 1 and not a["iscrowd"]]),
            "1 images have no instance: they are trained on only with train_on_empty_images (2.jpg)",
        ),
        (lambda d: d["images"][1].update(file_name="1.jpg"), "1 files belong to several images"),
        (
            lambda d: d["annotations"].append({**d["annotations"][0], "id": 99}),
            "1 annotations repeat another of the same class and box: one of them will count as missed; drop it (id 99)",
        ),
        (first(clean_category_id=3), "3 annotations lack clean_category_id, which others have"),
        (stand_up, "1 image files are to be turned or mirrored by their EXIF"),
    ],
)
def test_warnings_do_not(document, damage, finding):
    damage(document)
    ran = check(document, "--images", "images")
    assert ran.exit_code == 0, ran.output
    warnings = [line for line in ran.stdout.splitlines() if line.startswith("warning: ")]
    assert any(finding in line for line in warnings), ran.stdout
    assert len(warnings) <= 1 + (finding.startswith("1 annotations have an empty"))
    for folder in ("val", "test"):  # of images that differ from those of train by a byte after their end
        shutil.copytree("images", folder)
        for image in Path(folder).iterdir():
            image.write_bytes(image.read_bytes() + folder.encode())
    file = Path("file.json")
    folders = {"images": Path("images"), "val_images": Path("val"), "test_images": Path("test")}
    config = CocoData(train=file, val=file, test=file, **folders)
    said = datasets.inspect(config, datasets.load(TrainConfig(dataset=config, noise=NoNoise())))
    told = finding.removeprefix("1 ").partition(" (")[0].partition(": training drops")[0]
    assert any(told in line or told.removeprefix("annotations have an ") in line for line in said), (told, said)


@pytest.mark.parametrize(
    ("content", "code", "complaint"),
    [
        ('{"images": [', 2, "file.json: is not JSON"),
        ("[1, 2]", 1, "1 kind of error keeps"),
        ('{"images": [1], "annotations": [2], "categories": [3]}', 1, "2 kinds of errors"),
        ("{}", 1, "1 kind of error keeps"),
    ],
)
def test_what_is_no_coco_file_is_told_in_one_line(content, code, complaint):
    ran = check(content)
    assert ran.exit_code == code
    assert complaint in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_a_missing_file_is_told():
    ran = CliRunner().invoke(cli.app, ["data", "check", "nowhere.json"])
    assert (ran.exit_code, ran.stderr) == (2, "error: nowhere.json: no such file; check the path\n")


def test_the_share_of_flipped_labels_is_told(document):
    for a in document["annotations"]:
        a["clean_category_id"] = a["category_id"]
    document["annotations"][0]["category_id"] = 3
    document["annotations"][4]["category_id"] = 8  # a crowd does not count
    assert "labels flipped: 25.0 % of those whose clean label is there" in check(document).stdout


def test_the_first_of_many_are_shown(document):
    document["annotations"] += [{**document["annotations"][0], "id": i} for i in range(10, 20)]
    for a in document["annotations"][-10:]:
        a["category_id"] = 77
    assert "10 annotations have a category_id" in check(document).stdout
    assert "(id 10, id 11, id 12, ...)" in check(document).stdout


def test_more_masks_than_pycocotools_measures_at_once(document):
    shape = document["annotations"][1]
    document["annotations"] = [{**shape, "id": number} for number in range(1, 301)]
    assert "2 images, 300 instances" in check(document).stdout


def test_progress_tells_masks_and_images(document, tmp_path):
    Path("file.json").write_text(json.dumps(document))
    seen: list[tuple[str, int, int]] = []
    checking.check(Path("file.json"), Path("images"), lambda *progress: seen.append(progress))
    assert seen == [("masks", 0, 4), ("masks", 4, 4), ("images", 1, 2), ("images", 2, 2)]
