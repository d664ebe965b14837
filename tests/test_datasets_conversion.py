"""Releases in their own formats, tiny and true to form, become the COCO files that pycocotools reads."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import Result
from PIL import Image
from pycocotools.coco import COCO
from scipy.io import savemat
from typer.testing import CliRunner

from lncis import datasets, documents
from lncis.commands import app as cli
from lncis.config import SymmetricNoise, TrainConfig
from lncis.datasets import cityscapes, conversion, voc
from lncis.errors import DataError

SIZES = [(40, 56), (48, 32), (36, 64)]
TRAIN, VAL = ["2007_000032", "2008_000008", "2008_000015"], ["2007_000033", "2009_000001"]


def numbered(size: tuple[int, int], number: int) -> np.ndarray:
    """An index image with two overlapping objects, numbered from 1."""
    objects = np.zeros(size, dtype=np.uint8)
    objects[4:20, 3 : 12 + number] = 1
    objects[15:30, 8:24] = 2
    return objects


def save_palette(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8), mode=None).convert("L").convert("P")
    image = Image.frombytes("P", (values.shape[1], values.shape[0]), values.astype(np.uint8).tobytes())
    image.putpalette([(37 * i) % 256 for i in range(768)])
    image.save(path)


@pytest.fixture
def vocdevkit(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit"
    folder = root / "VOC2012"
    for lists in ("Main", "Segmentation"):
        (folder / "ImageSets" / lists).mkdir(parents=True)
        (folder / "ImageSets" / lists / "train.txt").write_text("\n".join(TRAIN) + "\n")
        (folder / "ImageSets" / lists / "val.txt").write_text("\n".join(VAL) + "\n")
    (folder / "JPEGImages").mkdir()
    for number, name in enumerate(TRAIN + VAL):
        objects = numbered(size := SIZES[number % 3], number)
        classes = np.choose(objects, [0, 15, 3]).astype(np.uint8)
        for values in (objects, classes):
            values[14, :30] = 255  # the void rim
        save_palette(folder / "SegmentationObject" / f"{name}.png", objects)
        save_palette(folder / "SegmentationClass" / f"{name}.png", classes)
        Image.fromarray(np.full((*size, 3), number, dtype=np.uint8)).save(folder / "JPEGImages" / f"{name}.jpg")
    return root


@pytest.fixture
def sbd(tmp_path: Path) -> Path:
    folder = tmp_path / "benchmark_RELEASE" / "dataset"
    (folder / "inst").mkdir(parents=True)
    for number, name in enumerate(TRAIN + VAL):
        if name == "2008_000015":
            continue  # SBD has not annotated all of Main
        objects, categories = numbered(SIZES[number % 3], number), np.array([[12], [20]], dtype=np.uint8)
        if name == "2007_000033":
            objects[objects == 2] = 0
            categories = categories[:1]
        truth = {"Segmentation": objects, "Boundaries": np.zeros((2, 1), dtype=object), "Categories": categories}
        savemat(folder / "inst" / f"{name}.mat", {"GTinst": truth}, do_compression=True)
    return folder


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    root = tmp_path / "cityscapes"
    for part, city, number in (("train", "aachen", 0), ("train", "ulm", 1), ("val", "lindau", 2)):
        name = f"{city}_00000{number}_000019"
        values = np.full((32, 64), 7, dtype=np.uint16)  # road
        values[4:12, 5:20] = 26_000
        values[6:14, 22:40] = 26_001
        values[6:20, 44:50] = 24_003
        values[20:26, 2:30] = 24  # persons that were not told apart
        values[20:30, 40:60] = 29_000  # a caravan: no class of ours
        for folder in ("gtFine", "leftImg8bit"):
            (root / folder / part / city).mkdir(parents=True)
        Image.fromarray(values).save(root / "gtFine" / part / city / f"{name}_gtFine_instanceIds.png")
        street = Image.fromarray(np.full((32, 64, 3), 90, dtype=np.uint8))
        street.save(root / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png")
    return root


def lncis(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["data", *map(str, arguments)])


def prepared(*arguments: object) -> Path:
    ran = lncis("prepare", *arguments, "--out", "out", "--accept-subset")
    assert ran.exit_code == 0, ran.output
    return Path("out")


def masks_of(path: Path) -> dict[str, list[tuple[str, np.ndarray, dict]]]:
    """What pycocotools reads: class, mask and annotation of all in each image."""
    coco = COCO(str(path))
    found: dict[str, list] = {image["file_name"]: [] for image in coco.imgs.values()}
    for annotation in coco.anns.values():
        name = coco.cats[annotation["category_id"]]["name"]
        mask = coco.annToMask(annotation).astype(bool)
        ys, xs = mask.nonzero()
        box = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
        assert (annotation["bbox"], annotation["area"]) == (box, mask.sum())
        found[coco.imgs[annotation["image_id"]]["file_name"]].append((name, mask, annotation))
    return found


def trains(out: Path) -> datasets.Data:
    """The snippet that was left is the data of a training."""
    snippet = yaml.safe_load((out / "dataset.yaml").read_text())
    config = documents.parse(TrainConfig, {**snippet, "noise": {"type": "none"}}, source="dataset.yaml")
    return datasets.load(config)


def test_voc_seg(vocdevkit):
    out = prepared("voc", "--source", "voc-seg", "--vocdevkit", vocdevkit)
    for target, names in (("train.json", TRAIN), ("test.json", VAL)):
        found = masks_of(out / target)
        assert list(found) == [f"{name}.jpg" for name in names]
        for name in names:
            objects = np.asarray(Image.open(vocdevkit / "VOC2012" / "SegmentationObject" / f"{name}.png"))
            assert [kind for kind, _, _ in found[f"{name}.jpg"]] == ["person", "bird"]
            for number, (_, mask, _) in enumerate(found[f"{name}.jpg"], start=1):
                assert np.array_equal(mask, objects == number)
    assert trains(out).num_foreground_classes == 20


def test_sbd(vocdevkit, sbd):
    out = prepared("voc", "--source", "sbd", "--vocdevkit", vocdevkit, "--sbd", sbd)
    found = masks_of(out / "train.json")
    assert list(found) == ["2007_000032.jpg", "2008_000008.jpg"], "those of Main that SBD has"
    for number, name in enumerate(found):
        assert [kind for kind, _, _ in found[name]] == ["dog", "tvmonitor"]
        for instance, (_, mask, _) in enumerate(found[name], start=1):
            assert np.array_equal(mask, numbered(SIZES[number], number) == instance)
    single = masks_of(out / "test.json")["2007_000033.jpg"]
    assert [kind for kind, _, _ in single] == ["dog"], "a lone category is no list in MATLAB"
    assert len(trains(out).test) == 2


def test_cityscapes(streets):
    out = prepared("cityscapes", "--source", streets)
    found = masks_of(out / "train.json")
    assert list(found) == [f"train/{c}/{c}_00000{i}_000019_leftImg8bit.png" for i, c in enumerate(("aachen", "ulm"))]
    for name, annotated in found.items():
        truth = streets / "gtFine" / name.replace("leftImg8bit", "gtFine_instanceIds")
        values = np.asarray(Image.open(truth))
        assert [(kind, a["iscrowd"]) for kind, _, a in annotated] == [
            ("person", 1), ("person", 0), ("car", 0), ("car", 0),
        ]  # fmt: skip
        for value, (_, mask, _) in zip((24, 24_003, 26_000, 26_001), annotated, strict=True):
            assert np.array_equal(mask, values == value)
    data = trains(out)
    assert data.train.category_ids == [24, 25, 26, 27, 28, 31, 32, 33]
    assert data.train[0][1]["labels"].tolist() == [1, 3, 3]


def test_digits(tmp_path):
    ran = lncis("prepare", "digits", "--out", "out", "--train-scenes", 3, "--val-scenes", 2, "--test-scenes", 2)
    assert ran.exit_code == 0, ran.output
    data = trains(Path("out"))
    embedded = {"type": "digits", "train_scenes": 3, "val_scenes": 2, "test_scenes": 2}
    direct = datasets.load(documents.parse(TrainConfig, {"dataset": embedded, "noise": {"type": "none"}}, source="x"))
    for split in ("train", "val", "test"):
        for (image, target), (other, same) in zip(getattr(data, split), getattr(direct, split), strict=True):
            assert image.equal(other)
            assert all(target[key].equal(same[key]) for key in target.keys() - {"masks"})
            assert target["masks"].full_size().equal(same["masks"].full_size())


def coco_tree(root: Path) -> Path:
    (root / "annotations").mkdir(parents=True)
    for part, first in (("train2017", 1), ("val2017", 5)):
        (root / part).mkdir()
        images = [{"id": i, "file_name": f"{i:012}.jpg", "width": 64, "height": 48} for i in range(first, first + 4)]
        for image in images:
            Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save(root / part / image["file_name"])
        triangle = {"segmentation": [[1, 1, 30, 1, 9, 30]], "bbox": [1, 1, 29, 29], "area": 420, "iscrowd": 0}
        found = [{"id": i["id"], "image_id": i["id"], "category_id": 90, **triangle} for i in images]
        document = {"images": images, "annotations": found, "categories": [{"id": 90, "name": "toothbrush"}]}
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(document))
    return root


def test_coco_2017_is_used_as_it_is(tmp_path):
    root = coco_tree(tmp_path / "coco")
    out = prepared("coco", "--source", root)
    assert [path.name for path in out.iterdir()] == ["dataset.yaml"]
    data = trains(out)
    assert [len(split) for split in (data.train, data.val, data.test)] == [3, 1, 4]
    assert {i["id"] for i in data.test.document["images"]} == {5, 6, 7, 8}


def test_the_snippet_is_printed(streets):
    printed = lncis("prepare", "cityscapes", "--source", streets, "--out", "out", "--accept-subset").stdout
    head, snippet = printed.split("\n", 1)
    assert head == "the dataset of a training, also in out/dataset.yaml:"
    assert yaml.safe_load(snippet) == yaml.safe_load(Path("out/dataset.yaml").read_text())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["voc", "--source", "voc-seg", "--vocdevkit", "VOCdevkit"], "there are 3 images where the release has 1,464"),
        (["voc", "--source", "sbd", "--vocdevkit", "VOCdevkit", "--sbd", "benchmark_RELEASE/dataset"], "has 5,623"),
        (["cityscapes", "--source", "cityscapes"], "there are 2 images where the release has 2,975"),
        (["coco", "--source", "coco"], "there are 4 images where the release has 118,287"),
    ],
)
def test_an_incomplete_release_is_refused(vocdevkit, sbd, streets, tmp_path, arguments, complaint):
    coco_tree(tmp_path / "coco")
    refused = lncis("prepare", *arguments, "--out", "out")
    assert refused.exit_code == 2
    assert complaint in refused.stderr
    assert "--accept-subset" in refused.stderr
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["voc", "--source", "voc-seg", "--vocdevkit", "x"], ["x/VOC2012/SegmentationObject", "VOCtrainval_11-May"]),
        (["voc", "--source", "sbd", "--vocdevkit", "x", "--sbd", "y"], ["y/inst (from benchmark.tgz of SBD)", "Main"]),
        (["voc", "--source", "sbd", "--vocdevkit", "x"], ["the source sbd needs --sbd"]),
        (["voc", "--source", "vocseg", "--vocdevkit", "x"], ["--source must be sbd or voc-seg but got vocseg"]),
        (
            ["cityscapes", "--source", "x"],
            ["x/gtFine/train (from gtFine_trainvaltest.zip)", "leftImg8bit_trainvaltest"],
        ),
        (["coco", "--source", "x"], ["instances_val2017.json (from annotations_trainval2017.zip)", "train2017.zip"]),
    ],
)
def test_what_is_missing_is_named_with_its_archive(arguments, expected):
    refused = lncis("prepare", *arguments, "--out", "out")
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1
    assert all(part in refused.stderr for part in expected), refused.stderr


VOC2012 = Path("VOCdevkit/VOC2012")
NAME = "2008_000008"


def overwrite(path: Path, values: np.ndarray) -> None:
    save_palette(path, values)


def no_object(folder: Path) -> None:
    (folder / "SegmentationObject" / f"{NAME}.png").unlink()


def no_image(folder: Path) -> None:
    (folder / "JPEGImages" / f"{NAME}.jpg").unlink()


def rgb_object(folder: Path) -> None:
    Image.new("RGB", (32, 48)).save(folder / "SegmentationObject" / f"{NAME}.png")


def cut_object(folder: Path) -> None:
    (folder / "SegmentationObject" / f"{NAME}.png").write_bytes(b"\x89PNG")


def two_classes(folder: Path) -> None:
    classes = np.asarray(Image.open(folder / "SegmentationClass" / f"{NAME}.png")).copy()
    classes[5, 5] = 4
    save_palette(folder / "SegmentationClass" / f"{NAME}.png", classes)


def resized_image(folder: Path) -> None:
    Image.new("RGB", (99, 48)).save(folder / "JPEGImages" / f"{NAME}.jpg")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (no_object, rf"SegmentationObject/{NAME}.png: no such file, though its image is listed"),
        (no_image, rf"{NAME}.jpg: cannot be read as an image"),
        (rgb_object, "has the mode RGB, not one number a pixel"),
        (cut_object, rf"SegmentationObject/{NAME}.png: cannot be read as an image"),
        (two_classes, r"object 1 has the classes \[4, 15\]"),
        (resized_image, "is 99 x 48 pixels, its masks are 32 x 48"),
    ],
)
def test_a_damaged_voc_is_told_and_leaves_nothing_under_its_final_name(vocdevkit, damage, complaint):
    damage(vocdevkit / "VOC2012")
    first, _ = voc.conversions("voc-seg", vocdevkit, None, Path("out"), accept_subset=True)
    with pytest.raises(DataError, match=complaint):
        conversion.run(first)
    assert not first.target.exists()


@pytest.mark.parametrize("damage", ["cut", "no GTinst", "unknown category", "fewer categories"])
def test_a_damaged_sbd_file_is_named(vocdevkit, sbd, damage):
    path = sbd / "inst" / f"{NAME}.mat"
    objects = numbered(SIZES[1], 1)
    truth = {"Segmentation": objects, "Categories": np.array([[12], [77 if "unknown" in damage else 20]])}
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:150])
    elif damage == "no GTinst":
        savemat(path, {"GTcls": truth})
    else:
        savemat(path, {"GTinst": {**truth, **({"Categories": [[12]]} if "fewer" in damage else {})}})
    first, _ = voc.conversions("sbd", vocdevkit, sbd, Path("out"), accept_subset=True)
    with pytest.raises(DataError, match=rf"{NAME}.mat: is no instance file of SBD"):
        conversion.run(first)


def test_label_images_of_cityscapes_are_not_taken_for_instances(streets):
    path = next((streets / "gtFine" / "train").glob("*/*.png"))
    Image.fromarray(np.full((32, 64), 60_000, dtype=np.uint16)).save(path)
    first, _ = cityscapes.conversions(streets, Path("out"), accept_subset=True)
    with pytest.raises(DataError, match=r"holds the value 60000, which no instance has"):
        conversion.run(first)


def interrupted(vocdevkit: Path, out: Path, after: int) -> conversion.Conversion:
    first, _ = voc.conversions("voc-seg", vocdevkit, None, out, accept_subset=True)

    def stop(done: int, total: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversion.run(first, stop)
    assert not first.target.exists()
    return first


def test_an_interrupted_conversion_goes_on_to_the_same_file(vocdevkit, monkeypatch):
    whole, _ = voc.conversions("voc-seg", vocdevkit, None, Path("whole"), accept_subset=True)
    conversion.run(whole)
    part = interrupted(vocdevkit, Path("part"), after=2)
    progress = part.target.with_name(".train.jsonl")
    progress.write_bytes(progress.read_bytes() + b'{"image": {"file_na')  # killed while it wrote
    seen: list[int] = []
    conversion.run(part, lambda done, total: seen.append(done))
    assert seen == [2, 3], "what was done is not done again"
    assert part.target.read_bytes() == whole.target.read_bytes()
    assert os.listdir("part") == ["train.json"]  # noqa: PTH208


@pytest.mark.processes
def test_a_killed_conversion_goes_on(vocdevkit):
    code = (
        "import time; from pathlib import Path; from lncis.datasets import conversion, voc\n"
        f"first, _ = voc.conversions('voc-seg', Path({str(vocdevkit)!r}), None, Path('out'), accept_subset=True)\n"
        "conversion.run(first, lambda done, total: time.sleep(60) if done == 2 else None)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    progress, deadline = Path("out/.train.jsonl"), time.monotonic() + 60
    while not (progress.exists() and progress.read_bytes().count(b"\n") == 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first, _ = voc.conversions("voc-seg", vocdevkit, None, Path("out"), accept_subset=True)
    with pytest.raises(DataError, match="out is being prepared by another process; wait for it"):
        conversion.run(first)
    process.send_signal(signal.SIGKILL)
    process.wait()
    conversion.run(first)
    assert list(masks_of(first.target)) == [f"{name}.jpg" for name in TRAIN]


def test_another_conversion_neither_goes_on_nor_overwrites(vocdevkit):
    part = interrupted(vocdevkit, Path("out"), after=2)
    (vocdevkit / "VOC2012/ImageSets/Segmentation/train.txt").write_text("\n".join(TRAIN[::-1]))
    other, _ = voc.conversions("voc-seg", vocdevkit, None, Path("out"), accept_subset=True)
    seen: list[int] = []
    conversion.run(other, lambda done, total: seen.append(done))
    assert seen == [0, 1, 2, 3], "begun anew"
    before = other.target.read_bytes()
    with pytest.raises(DataError, match=r"train.json: is there already and is not of this conversion"):
        conversion.run(part)
    assert other.target.read_bytes() == before
    conversion.run(other)  # a second time there is nothing to do
    assert other.target.read_bytes() == before


def test_a_full_disk_is_told_and_mended(vocdevkit, small_disk):
    (small_disk / "filler").write_bytes(bytes(96_000))
    first, _ = voc.conversions("voc-seg", vocdevkit, None, small_disk / "out", accept_subset=True)
    with pytest.raises(DataError, match="cannot be written: No space left on device; make room"):
        conversion.run(first)
    assert not first.target.exists()
    (small_disk / "filler").unlink()
    conversion.run(first)
    assert list(masks_of(first.target)) == [f"{name}.jpg" for name in TRAIN]


def test_noise_by_class_name_fits_what_was_converted(streets):
    prepared("cityscapes", "--source", streets)
    snippet = yaml.safe_load(Path("out/dataset.yaml").read_text())
    config = documents.parse(TrainConfig, {**snippet, "noise": documents.dump(SymmetricNoise(rate=1.0))}, source="x")
    assert all((target["labels"] != target["clean_labels"]).all() for _, target in datasets.load(config).train)
