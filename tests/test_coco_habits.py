"""What exporters write otherwise than COCO is read as it is meant: a file bent so gives the data of the sound one."""

import gzip
import json
import unicodedata
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lncis import data_identity, datasets
from lncis.coco import annotations, masks
from lncis.commands import app as cli
from lncis.config import CocoData, NoNoise, TrainConfig
from lncis.detection.inference import coco_eval, prediction
from lncis.errors import DataError

WIDTH, HEIGHT = 40, 30
Document = dict[str, Any]


def sound() -> Document:
    images = [{"id": i, "file_name": f"ä{i}.png", "width": WIDTH, "height": HEIGHT} for i in (1, 2, 3)]
    shapes = [
        ([[2.0, 2, 20, 2, 11, 20]], [2, 2, 18, 18]),
        ([[22.0, 5, 36, 6, 30, 25], [5, 22, 15, 22, 10, 28]], [5, 5, 31, 23]),
    ]
    entries = [
        {
            "id": 10 * image["id"] + k,
            "image_id": image["id"],
            "category_id": 1 + k,
            "segmentation": shape,
            "bbox": box,
            "area": 100 + k,
            "iscrowd": 0,
        }
        for image in images
        for k, (shape, box) in enumerate(shapes)
    ]
    return {"images": images, "annotations": entries, "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "7"}]}


def loaded(document: Document | str) -> datasets.Data:
    """Return the splits that a file gives as train and as test."""
    text = document if isinstance(document, str) else json.dumps(document)
    Path("file.json").write_bytes(text.encode())
    config = CocoData(**splits_of(Path.cwd(), Path("file.json")))
    return datasets.load(TrainConfig(dataset=config, noise=NoNoise()))


FOLDERS = {"images": 0, "val_images": 50, "test_images": 100}
"""Where the three splits have their images, and by how much those are brighter: no two splits share one."""


def splits_of(root: Path, file: Path) -> dict[str, Path]:
    """Return the fields of a data set with one annotation file for all splits, each with images of its own."""
    return {"train": file, "val": file, "test": file, **{folder: root / folder for folder in FOLDERS}}


def write_images(root: Path) -> None:
    for folder, brighter in FOLDERS.items():
        (root / folder).mkdir()
        for i in (1, 2, 3):
            Image.new("RGB", (WIDTH, HEIGHT), (i + brighter,) * 3).save(root / folder / f"ä{i}.png")


@pytest.fixture(autouse=True)
def images() -> None:
    write_images(Path.cwd())


def every(key: str, change: Callable[[Any], Any], part: str = "annotations") -> Callable[[Document], None]:
    def bend(document: Document) -> None:
        for entry in document[part]:
            entry[key] = change(entry[key])

    return bend


def text_ids(document: Document) -> None:
    for part, keys in (("images", ["id"]), ("categories", ["id"]), ("annotations", ["id", "image_id", "category_id"])):
        for key in keys:
            every(key, str, part)(document)


def float_ids(document: Document) -> None:
    for part, keys in (("images", ["id", "width", "height"]), ("annotations", ["id", "image_id", "iscrowd"])):
        for key in keys:
            every(key, float, part)(document)


def uuids(document: Document) -> None:
    def named(number: int) -> str:
        return f"{number:02}-{uuid.uuid5(uuid.NAMESPACE_OID, str(number))}"  # in the order of the numbers

    every("id", named, "images")(document)
    every("image_id", named)(document)
    every("id", lambda number: uuid.uuid5(uuid.NAMESPACE_OID, str(number)).int)(document)


def heading(document: Document) -> None:
    for category in document["categories"]:
        category["supercategory"] = "a"
    document["categories"].insert(0, {"id": 0, "name": "a", "supercategory": "none"})


def their_own_keys(document: Document) -> None:
    for entry in [*document["images"], *document["annotations"]]:
        entry["original_id"] = f"scan {entry['id']}"


def nan_area(document: Document) -> None:
    every("area", lambda _: float("nan"))(document)


def x1_y1_x2_y2(document: Document) -> None:
    every("bbox", lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]])(document)


def strays(document: Document) -> None:
    for entry in document["annotations"]:
        entry["segmentation"] += [[3, 3], [4, 4, 9, 9], []]


def flat(document: Document) -> None:
    for entry in document["annotations"][::2]:
        (entry["segmentation"],) = entry["segmentation"]


HABITS: list[tuple[Callable[[Document], None], str]] = [
    (text_ids, "6 annotations have numbers as text: read as whole numbers (id 10, id 11, id 20, ...)"),
    (float_ids, "6 annotations have numbers as 1.0: read as whole numbers (id 10.0, "),
    (uuids, "3 images have an id that is no whole number of 64 bits: they are numbered from 1"),
    (every("id", lambda number: number % 10), "6 annotations have ids that begin anew in each image: all are numbered"),
    (every("id", lambda _: None), "6 annotations lack an id: all are numbered from 1 (number 1, number 2"),
    (every("iscrowd", lambda _: None), "6 annotations have no value as iscrowd: read as 0"),
    (every("iscrowd", lambda _: False), "6 annotations have numbers as true or false: read as whole numbers"),
    (every("iscrowd", str), "6 annotations have numbers as text"),
    (every("segmentation", lambda parts: [np.reshape(p, (-1, 2)).tolist() for p in parts]), "a list of points"),
    (flat, "3 annotations have a segmentation of one flat list: read as one polygon"),
    (strays, "6 annotations have a polygon of fewer than three corners: that part is left out"),
    (every("area", lambda _: None), "6 annotations have an area that is no number of pixels: it is measured on"),
    (every("area", lambda _: -1), "6 annotations have an area that is no number of pixels: it is measured on their"),
    (nan_area, "6 numbers are NaN or Infinity, which JSON has not: read as missing"),
    (every("area", str), ""),
    (
        every("name", lambda name: 7 if name == "7" else name, "categories"),
        "1 categories have a number as name: read as",
    ),
    (heading, "1 categories are only the heading of the others, as Roboflow writes: no class of the model (a, id 0)"),
    (their_own_keys, ""),
    (every("file_name", lambda name: f".\\{name}", "images"), "3 image names are written otherwise than their files"),
    (every("file_name", lambda name: unicodedata.normalize("NFD", name), "images"), "3 image names are written other"),
]


def test_absolute_names_of_images_are_read_as_they_are():
    plain = loaded(sound())
    paths = splits_of(Path("nowhere"), Path("file.json"))
    for split, folder in zip(("train", "val", "test"), FOLDERS, strict=True):
        document, home = sound(), Path(folder).absolute()
        for image in document["images"]:
            image["file_name"] = str(home / image["file_name"])
        paths[split] = Path(f"{split}.json")
        paths[split].write_text(json.dumps(document))
    bent = datasets.load(TrainConfig(dataset=CocoData(**paths), noise=NoNoise()))
    assert bent.remarks == []
    for (one, target), (other, expected) in zip(bent.test, plain.test, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(target["boxes"], expected["boxes"])


@pytest.mark.parametrize(("bend", "said"), HABITS)
def test_a_habit_is_read_as_it_is_meant_and_told(bend, said):
    plain = loaded(sound())
    assert plain.remarks == []
    document = sound()
    bend(document)
    bent = loaded(document)
    for split in ("train", "test"):
        for (_, one), (_, other) in zip(getattr(plain, split), getattr(bent, split), strict=True):
            for key in ("boxes", "labels"):
                assert torch.equal(one[key], other[key]), key
            assert torch.equal(one["masks"].full_size(), other["masks"].full_size())
    assert bool(bent.remarks) == bool(said)
    assert any(said in remark for remark in bent.remarks) or not said, bent.remarks
    assert bent.train.category_ids == plain.train.category_ids


@pytest.mark.parametrize(
    ("bend", "said"),
    [
        (every("bbox", lambda _: None), "6 annotations have an empty bbox: it is measured on their masks"),
        (every("bbox", lambda _: []), "6 annotations have an empty bbox"),
        (every("bbox", lambda _: [0, 0, 0, 0]), "6 annotations have a bbox without extent: it is measured"),
        (every("bbox", lambda box: [box[0] + box[2], box[1] + box[3], -box[2], -box[3]]), "a bbox without extent"),
        (
            every("bbox", lambda box: [*box[:3], 0.5]),
            "6 annotations have a bbox below 1 px: boxes are measured on their",
        ),
        (
            every("bbox", lambda box: [38, 28, 2, 2]),
            "6 annotations have a bbox apart from their mask: boxes are measured",
        ),
        (
            every("bbox", lambda box: [1e308, 2, 1e308, 5]),
            "6 annotations have a bbox over 10 images away from their image",
        ),
        (x1_y1_x2_y2, "6 annotations have a bbox of x1, y1, x2, y2: boxes are measured on their masks"),
    ],
)
def test_a_box_that_says_nothing_is_measured_on_its_mask(bend, said):
    document = sound()
    bend(document)
    bent = loaded(document)
    assert any(said in remark for remark in bent.remarks), bent.remarks
    for _, target in bent.train:
        for box, mask in zip(target["boxes"], target["masks"].full_size(), strict=True):
            ys, xs = mask.numpy().nonzero()
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize("shape", [None, [], {}, "", "missing"])
def test_a_box_without_a_mask_is_not_trained_on_and_detections_there_count_neither_way(shape):
    document = sound()
    first = document["annotations"][0]
    first["segmentation"] = shape
    if shape == "missing":
        del first["segmentation"]
    data = loaded(document)
    assert [len(target["labels"]) for _, target in data.train] == [1, 2, 2]
    assert any("1 annotations have a box and no mask: not trained on, and detections there" in r for r in data.remarks)

    def detection(entry: Document, score: float) -> Document:
        return {key: entry[key] for key in ("image_id", "category_id", "segmentation", "bbox")} | {"score": score}

    whole = annotations.read(Path("file.json")).document["annotations"]
    precise = [detection(entry, 0.9) for entry in whole]
    for evaluate in (coco_eval.by_hotcoco, coco_eval.by_pycocotools):
        for array in evaluate(data.test.document, precise):
            assert array.min() == 1.0, "the box without a mask is neither a miss nor, detected, a mistake"


def test_boxes_are_masks_where_asked():
    document = sound()
    for entry in document["annotations"]:
        entry["segmentation"] = []
    Path("file.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"6 annotations, and none is an instance with a mask.*box_masks: rectangles"):
        annotations.read(Path("file.json"))
    for entry in annotations.read(Path("file.json"), "rectangles").document["annotations"]:
        assert not entry["iscrowd"]
        x, y, w, h = entry["bbox"]
        assert entry["segmentation"][0].tolist() == [x, y, x + w, y, x + w, y + h, x, y + h]


def row_by_row(document: Document) -> None:
    for entry in document["annotations"]:
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        x, y, w, h = entry["bbox"]
        mask[y : y + h, x : x + w - 1] = 1
        mask[y, x : x + w] = 1
        edges = np.flatnonzero(np.diff(mask.ravel(), prepend=0, append=mask.ravel()[-1]))
        counts = np.diff([0, *edges[: len(edges) // 2 * 2], mask.size]).tolist()
        entry["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}


def shares(document: Document) -> None:
    for entry in document["annotations"]:
        entry["segmentation"] = [[value / 40 for value in part] for part in entry["segmentation"]]
        entry["bbox"] = [value / 40 for value in entry["bbox"]]


@pytest.mark.parametrize(
    ("bend", "said"),
    [
        (row_by_row, "6 annotations have RLE counts row by row, while COCO's go down the columns; encode them so"),
        (shares, "6 annotations have coordinates from 0 to 1: normalised ones; multiply them by width and height"),
        (
            every("segmentation", lambda p: [*p, [1, 1, 2e8, 1, 2, 2]]),
            "6 annotations have coordinates over 10 images away",
        ),
        (
            every("segmentation", lambda p: [*p, [1, 1, 1e30, 1, 2, 2]]),
            "coordinates over 10 images away from their image",
        ),
        (
            every("segmentation", lambda p: [*p, [1, 1, 1e999, 1, 2, 2]]),
            "6 annotations have coordinates that are no finite",
        ),
    ],
)
def test_what_cannot_be_meant_so_is_named_by_the_check_and_refused_by_training(bend, said):
    document = sound()
    bend(document)
    with pytest.raises(DataError) as refused:
        loaded(document)
    assert said in str(refused.value)
    ran = CliRunner().invoke(cli.app, ["data", "check", "file.json"])
    assert ran.exit_code == 1
    (found,) = [line for line in ran.stdout.splitlines() if line.startswith("error: ")]
    assert said in found


def test_a_byte_order_mark_is_no_content():
    assert len(loaded("\ufeff" + json.dumps(sound())).train) == 3


def test_a_key_that_stands_twice_is_named():
    text = json.dumps(sound()).replace('"categories":', '"annotations": [], "categories":')
    with pytest.raises(DataError, match="an entry holds 'annotations' twice; keep one of the two"):
        loaded(text)


def test_noise_and_predictions_read_what_training_reads():
    """A heading is no target of noise; ids as text are the file's own again in results."""
    document = sound()
    text_ids(document)
    heading(document)
    nan_area(document)
    Path("file.json").write_text(json.dumps(document))
    options = ["--type", "symmetric", "--rate", "1", "--seed", "0"]
    ran = CliRunner().invoke(cli.app, ["noise", "file.json", "noisy.json", *options])
    assert ran.exit_code == 0, ran.output
    noisy = json.loads(Path("noisy.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert [(e["clean_category_id"], e["category_id"]) for e in noisy["annotations"]] == [(1, 2), (2, 1)] * 3
    assert annotations.read(Path("noisy.json")).errors == []


def test_results_have_the_ids_of_their_file():
    document = sound()
    every("id", lambda number: f"photo-{number}", "images")(document)
    every("id", lambda number: f"class-{number}", "categories")(document)
    their_own_keys(document)
    Path("file.json").write_text(json.dumps(document))
    listing = prediction.listed_in(Path("file.json"), [Path("images/ä2.png")], sound()["categories"])
    assert [listed.id for listed in listing.images] == ["photo-2"]
    assert listing.category_ids == ["class-1", "class-2"]


def test_a_class_of_one_file_is_no_heading_in_the_others():
    """A parent category that is annotated in train alone is a class in test, in val and for `lncis predict` too."""
    document = sound()
    for category in document["categories"]:
        category["supercategory"] = "vehicle"
    document["categories"].append({"id": 3, "name": "vehicle", "supercategory": ""})
    Path("test.json").write_text(json.dumps(document))
    Path("listed.json").write_text(json.dumps({**document, "annotations": []}))
    document["annotations"][0]["category_id"] = 3
    Path("train.json").write_text(json.dumps(document))
    for train, test in (("train", "test"), ("test", "train")):
        paths = splits_of(Path.cwd(), Path("test.json"))
        config = CocoData(**(paths | {"train": Path(f"{train}.json"), "test": Path(f"{test}.json")}))
        data = datasets.load(TrainConfig(dataset=config, noise=NoNoise()))
        assert data.train.category_ids == data.val.category_ids == data.test.category_ids == [1, 2, 3]
        assert data.remarks == []
    listing = prediction.listed_in(Path("listed.json"), [Path("images/ä1.png")], document["categories"])
    assert listing.category_ids == [1, 2, 3]
    options = ["--type", "symmetric", "--rate", "1", "--seed", "0"]
    ran = CliRunner().invoke(cli.app, ["noise", "test.json", "noisy.json", *options])
    assert ran.exit_code == 0, ran.output
    noisy = json.loads(Path("noisy.json").read_text())
    assert {entry["category_id"] for entry in noisy["annotations"]} == {1, 2}
    assert [category["name"] for category in noisy["categories"]] == ["a", "7", "vehicle"]


def test_a_rectangle_among_masks_in_rle_is_a_mask():
    document = sound()
    for entry in document["annotations"]:
        entry["segmentation"] = masks.to_rle([np.array(p) for p in entry["segmentation"]], HEIGHT, WIDTH)
        entry["segmentation"]["counts"] = entry["segmentation"]["counts"].decode()
    x, y, w, h = document["annotations"][0]["bbox"]
    document["annotations"][0]["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    assert loaded(document).remarks == []


@pytest.mark.parametrize(
    ("content", "byte"), [(gzip.compress(b"{}", mtime=0), "0x8b"), ('{"ä": 1}'.encode("latin1"), "0xe4")]
)
def test_a_file_that_is_not_utf_8_is_told_how_to_become_it(content, byte):
    Path("file.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"file.json: byte {byte} at .* is not UTF-8; unpack it if .*iconv -f ISO-885"):
        annotations.read(Path("file.json"))


def test_a_name_in_other_capitals_is_told():
    document = sound()
    document["images"][0]["file_name"] = "Ä1.PNG"
    with pytest.raises(DataError, match=r"1 of 3 images are missing, such as Ä1.PNG; .*and ä1.png is there, in other"):
        loaded(document)


def test_images_of_one_file_are_held_out_together():
    document = sound()
    document["images"] = [{**i, "id": 10 * i["id"] + k} for i in document["images"] for k in range(4)]
    for seed in range(9):
        train, val = (
            {image["file_name"] for image in part["images"]} for part in annotations.held_out(document, 0.1, seed)
        )
        assert train
        assert val
        assert not train & val


def test_two_files_are_never_taken_for_one_image():
    Path("file.json").write_text(json.dumps(sound()))
    Path("images/old").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save("images/old/ä1.png")
    found = prediction.found_in([Path("images"), Path("images/ä1.png")])
    assert len(found) == 4, "a file that is named twice is one"
    with pytest.raises(DataError, match=r"old/ä1.png and images/ä1.png may both be the image 1 of file.json; leave"):
        prediction.listed_in(Path("file.json"), found, sound()["categories"])


def test_a_reference_to_no_text_id_meets_no_new_number():
    """Categories 00, 01 and 02 are numbered 1, 2 and 3; a label 1 is none of them."""
    document = sound()
    document["categories"] = [{"id": f"0{k}", "name": name} for k, name in enumerate(("x", "a", "7"))]
    with pytest.raises(DataError, match="6 annotations have a category_id that is not among the categories"):
        loaded(document)
    document = sound()
    for image in document["images"]:
        image["id"] = f"00{image['id'] - 1}"
    with pytest.raises(DataError, match="6 annotations have an image_id that is not among the images"):
        loaded(document)


def without_mask(document: Document) -> list[dict]:
    alone = [a for a in document["annotations"] if a["image_id"] == 2]
    for entry in alone:
        entry["segmentation"] = []
    return alone


def test_boxes_without_masks_are_read_as_the_others_of_the_file():
    plain = sound()
    without_mask(plain)
    wanted = {a["id"]: a["bbox"] for a in loaded(plain).test.document["annotations"]}
    corners = sound()
    for entry in corners["annotations"]:
        x, y, w, h = entry["bbox"]
        entry["bbox"] = [x, y, x + w, y + h]
    without_mask(corners)
    data = loaded(corners)
    for entry in data.test.document["annotations"]:
        assert entry["bbox"] == pytest.approx(wanted[entry["id"]], abs=2)
    assert any("2 annotations have no mask, and a bbox of x1, y1, x2, y2" in remark for remark in data.remarks)
    for bent in (sound(), sound()):
        for entry in bent["annotations"]:
            x, y, w, h = entry["bbox"]
            entry["bbox"] = [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]
        without_mask(bent)
        with pytest.raises(DataError, match="2 annotations have no mask, and a bbox from 0 to 1: normalised ones"):
            loaded(bent)


def test_a_file_under_two_spellings_is_one():
    document = sound()
    document["images"] += [{**i, "id": i["id"] + 10, "file_name": f"./{i['file_name']}"} for i in document["images"]]
    document["annotations"] += [
        {**a, "id": a["id"] + 100, "image_id": a["image_id"] + 10} for a in document["annotations"]
    ]
    kept, held = annotations.held_out(document, 0.4, 0)
    names = [
        {unicodedata.normalize("NFC", i["file_name"].removeprefix("./")) for i in d["images"]} for d in (kept, held)
    ]
    assert not names[0] & names[1]
    assert any("3 files belong to several images" in remark for remark in loaded(document).remarks)


def test_an_instance_off_its_image_leaves_its_image_out():
    document = sound()
    for entry in document["annotations"][:2]:
        entry["segmentation"] = [[100.0, 100, 120, 100, 110, 120]]
        entry["bbox"] = [100, 100, 20, 20]
    data = loaded(document)
    assert len(data.train) == 2
    assert len(data.test) == 3


def test_a_box_far_off_its_mask_is_measured():
    document = sound()
    document["annotations"][0]["bbox"] = [0, 0, 1e308, 1e308]
    data = loaded(document)
    assert data.train[0][1]["boxes"].max() <= WIDTH
    assert any("1 annotations have a bbox over 10 images away" in remark for remark in data.remarks)


def test_names_of_any_bytes_are_known_again():
    document = sound()
    for image in document["images"]:
        old, image["file_name"] = image["file_name"], f"caf\udce9{image['id']}.png"
        for folder in FOLDERS:
            (Path(folder) / old).rename(Path(folder) / image["file_name"])
    data = loaded(document)
    file = Path("file.json")
    identity = data_identity.identify(CocoData(**splits_of(Path.cwd(), file)))
    assert len(identity["images of train"]) == 64
    assert len(data.train) == 3


@pytest.mark.parametrize("shape", [{"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, [[60.0, 60, 70, 60, 65, 70]]])
def test_what_leaves_nothing_to_train_on_is_an_error_of_the_check_too(shape):
    document = sound()
    for entry in document["annotations"]:
        entry["segmentation"] = shape
        del entry["bbox"]
    with pytest.raises(DataError, match="holds no instance that can be used"):
        loaded(document)
    ran = CliRunner().invoke(cli.app, ["data", "check", "file.json"])
    assert ran.exit_code == 1
    assert "error: 6 instances, and none has a mask and box that can be trained on" in ran.stdout


def test_runs_and_sides_in_other_forms_are_read_or_named():
    document = sound()
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[5:20, 5:20] = 1
    encoded = masks.from_array(mask)
    runs = masks.run_lengths(encoded["counts"]).tolist()
    document["annotations"][0] |= {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [float(run) for run in runs]}}
    document["annotations"][0]["bbox"] = [5, 5, 15, 15]
    document["images"][0]["width"] = "40.0"
    data = loaded(document)
    assert data.train[0][1]["masks"].full_size()[0].numpy().tolist() == mask.astype(bool).tolist()
    document["annotations"][0]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": str(encoded["counts"].encode())}
    with pytest.raises(DataError, match=r"counts that are Python bytes written as text; decode them"):
        loaded(document)


def test_line_ends_in_names_do_not_break_a_line():
    document = sound()
    document["images"][0]["file_name"] = "a\nb\x1b[31m.png"
    with pytest.raises(DataError) as refused:
        loaded(document)
    assert "\n" not in str(refused.value)
    assert "\x1b" not in str(refused.value)
