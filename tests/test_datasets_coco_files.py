"""A user's own COCO files as the three splits of a training."""

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from lncis import data_identity, datasets, documents, files
from lncis.coco import annotations
from lncis.config import CocoData, LncisLoss, NoNoise, Schedule, SymmetricNoise, TrainConfig
from lncis.data_identity import changed, identify
from lncis.datasets import shared_images
from lncis.detection import checkpoint, engine
from lncis.errors import ConfigError, DataError

WIDTH, HEIGHT = 96, 64
CATEGORIES = {90: "cat", 3: "dog", 17: "bus"}


def box_mask(x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    mask[y, x] = 0  # not quite its box
    return mask


def uncompressed(mask: np.ndarray) -> dict:
    flat, counts, value = mask.ravel(order="F"), [0], 0
    for pixel in flat:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def compressed(mask: np.ndarray) -> dict:
    encoded = rle.encode(mask)
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def entry(number: int, image_id: int, category_id: int, segmentation: object, box: list[float], **more: object) -> dict:
    area = box[2] * box[3]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": segmentation,
        "bbox": box,
        "area": area,
        "iscrowd": 0,
        **more,
    }


def coco_document(first_image: int, count: int = 6) -> dict:
    """Images with a polygon in two parts, a compressed RLE, an uncompressed one, a crowd; the last image is empty."""
    images = [
        {"id": 10 * (first_image + i), "file_name": f"{first_image + i}.png", "width": WIDTH, "height": HEIGHT}
        for i in range(count)
    ]
    found: list[dict] = []
    for image in images[:-1]:
        number = 7 * image["id"]
        two_parts = [[4, 4, 24, 4, 14, 26], [30.5, 5, 40, 5, 44.5, 20, 31, 22]]
        small, large = box_mask(50, 8, 20, 18), box_mask(10, 34, 30, 24)
        found += [
            entry(number + 1, image["id"], 17, two_parts, [4, 4, 40.5, 22]),
            entry(number + 2, image["id"], 90, compressed(small), [50, 8, 20, 18]),
            entry(number + 3, image["id"], 3, uncompressed(large), [10, 34, 30, 24]),
            entry(number + 4, image["id"], 3, uncompressed(box_mask(60, 40, 30, 20)), [60, 40, 30, 20], iscrowd=1),
        ]
    categories = [{"id": number, "name": name} for number, name in CATEGORIES.items()]
    return {"images": images, "annotations": found, "categories": categories}


def write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def tree(tmp_path: Path) -> CocoData:
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(1, 11):
        pixels = rng.integers(0, 256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    return CocoData(
        images=tmp_path / "images",
        train=write(tmp_path / "train.json", coco_document(1)),
        test=write(tmp_path / "test.json", coco_document(7, 4)),
        val_fraction=0.2,
    )


def training(data: CocoData, **changes: object) -> TrainConfig:
    return replace(TrainConfig(dataset=data, noise=NoNoise(), schedule=Schedule(epochs=2)), **changes)


def change(path: Path, edit: object) -> None:
    document = json.loads(path.read_text())
    edit(document)
    write(path, document)


def test_masks_are_those_of_pycocotools_in_every_form(tree):
    reference = COCO(str(tree.test))
    seen = 0
    for _, target in datasets.load(training(tree)).test:
        masks = target["masks"].full_size()
        for number, mask, box in zip(target["annotation_ids"], masks, target["boxes"], strict=True):
            annotation = reference.anns[int(number)]
            assert np.array_equal(mask.numpy(), reference.annToMask(annotation))
            x, y, w, h = annotation["bbox"]
            assert box.tolist() == [x, y, x + w, y + h]
            seen += 1
    assert seen == 9


def test_images_are_the_files_pixels(tree):
    test = datasets.load(training(tree)).test
    image, target = test[1]
    stored = np.asarray(Image.open(tree.images / "8.png"))
    assert int(target["image_id"]) == 80
    assert torch.equal((image * 255).round().to(torch.uint8), torch.from_numpy(stored.copy()).permute(2, 0, 1))


def test_holed_category_ids_become_1_to_k_in_their_order(tree):
    data = datasets.load(training(tree))
    assert data.num_foreground_classes == 3
    assert [CATEGORIES[number] for number in data.train.category_ids] == ["dog", "bus", "cat"]
    assert data.test[0][1]["labels"].tolist() == [2, 3, 1]


def test_crowds_are_evaluated_and_not_trained_on(tree):
    data = datasets.load(training(tree))
    assert sum(a["iscrowd"] for a in data.test.document["annotations"]) == 3
    assert all(len(target["labels"]) == 3 for _, target in data.train)


@pytest.mark.parametrize(("kept", "images"), [(False, 4), (True, 5)])
def test_empty_images_are_left_out_of_training_unless_wanted(tree, kept, images):
    config = training(replace(tree, train_on_empty_images=kept, split_seed=empty_stays_in_train(tree)))
    data = datasets.load(config)
    assert len(data.train) == images
    assert sum(len(target["labels"]) == 0 for _, target in data.train) == kept
    assert len(data.test) == 4, "of the test nothing is left out"
    assert data.manifests["train"]["dropped"] == ({} if kept else {"images without instances": 1})


def empty_stays_in_train(tree: CocoData) -> int:
    document = annotations.read(tree.train).document
    return next(s for s in range(99) if 60 in {i["id"] for i in annotations.held_out(document, 0.2, s)[0]["images"]})


def test_what_has_no_mask_is_not_trained_on_and_said(tree):
    held = datasets.load(training(tree)).val.document["images"][0]["id"]
    image = next(number for number in (10, 20) if number != held)
    bad = [
        entry(900, image, 3, [[5, 5, 9, 5, 9, 9]], [5, 5, 0.5, 4]),
        entry(901, image, 3, [[5, 5, 9, 5]], [5, 5, 4, 4]),
        entry(902, image, 3, uncompressed(np.zeros((HEIGHT, WIDTH), dtype=np.uint8)), [5, 5, 4, 4]),
        entry(903, image, 3, [], [5, 5, 4, 4]),
    ]
    change(tree.train, lambda document: document["annotations"].extend(bad))
    data = datasets.load(training(tree))
    assert data.val.document["images"][0]["id"] == held
    ids = {int(number) for _, target in data.train for number in target["annotation_ids"]}
    assert ids & {900, 901, 902, 903} == {900}
    dropped = data.manifests["train"]["dropped"]
    assert dropped["empty masks"] == 1
    (box_only, measured) = (next(r for r in data.remarks if part in r) for part in ("and no mask", "below 1 px"))
    assert "2 annotations have a box and no mask: not trained on" in box_only
    assert "1 annotations have a bbox below 1 px: boxes are measured on their masks (id 900)" in measured


def test_a_mask_that_rounds_to_no_pixel_is_no_instance(tree):
    sliver = entry(900, 10, 3, [[5.1, 5.1, 9.1, 5.1, 9.1, 5.2]], [5.1, 5.1, 4, 1])
    assert not rle.area(rle.merge(rle.frPyObjects(sliver["segmentation"], HEIGHT, WIDTH)))
    change(tree.test, lambda document: document["annotations"].append({**sliver, "image_id": 70}))
    _, target = datasets.load(training(tree)).test[0]
    assert [len(target[key]) for key in ("boxes", "labels", "masks", "annotation_ids")] == [3, 3, 3, 3]


def test_an_image_may_hold_hundreds_of_instances(tree):
    shape = coco_document(7)["annotations"][1]
    change(tree.test, lambda document: document.update(annotations=[{**shape, "id": i} for i in range(1, 301)]))
    _, target = datasets.load(training(tree)).test[0]
    assert len(target["masks"]) == 300


def test_val_is_held_out_by_image_whatever_the_order_of_the_file(tree):
    first = datasets.load(training(tree))
    change(tree.train, lambda document: [document[key].reverse() for key in ("images", "annotations", "categories")])
    again = datasets.load(training(tree))
    ids = [{i["id"] for i in split.document["images"]} for split in (first.train, first.val, again.train, again.val)]
    assert ids[:2] == ids[2:]
    assert not ids[0] & ids[1]
    others = {frozenset(i["id"] for i in held(tree, seed)) for seed in range(20)}
    assert len(others) > 1


def held(tree: CocoData, seed: int) -> list[dict]:
    return annotations.held_out(annotations.read(tree.train).document, tree.val_fraction, seed)[1]["images"]


@pytest.mark.parametrize(("fraction", "count"), [(0.001, 1), (0.2, 1), (0.5, 3), (0.99, 5)])
def test_the_share_held_out_is_at_least_one_image_and_never_all(tree, fraction, count):
    assert len(annotations.held_out(annotations.read(tree.train).document, fraction, 0)[1]["images"]) == count


def test_val_is_noisy_as_train_test_is_clean(tree):
    config = training(replace(tree, val_fraction=0.5), noise=SymmetricNoise(rate=1.0))
    data = datasets.load(config)
    for split in (data.train, data.val):
        assert all((target["labels"] != target["clean_labels"]).all() for _, target in split)
    assert [target["labels"].tolist() for _, target in data.test] == [[2, 3, 1]] * 3 + [[]]
    oracle = datasets.load(replace(config, val_labels="oracle"))
    labels = [target["labels"].tolist() for _, target in oracle.val]
    assert labels == [target["clean_labels"].tolist() for _, target in data.val]
    assert [t["labels"].tolist() for _, t in oracle.train] == [t["labels"].tolist() for _, t in data.train]


def inject(document: dict) -> None:
    for a in document["annotations"]:
        a["clean_category_id"] = a["category_id"]
        if not a["iscrowd"]:
            a["category_id"] = {3: 17, 17: 90, 90: 3}[a["category_id"]]


def test_noise_injected_beforehand_is_trained_on_and_taken_out_of_the_test(tree):
    change(tree.train, inject)
    change(tree.test, inject)
    data = datasets.load(training(tree))
    for _, target in data.train:
        assert (target["labels"].tolist(), target["clean_labels"].tolist()) == ([3, 1, 2], [2, 3, 1])
    assert data.val[0][1]["labels"].tolist() in ([3, 1, 2], [])
    assert data.test[0][1]["labels"].tolist() == [2, 3, 1]


def test_noise_on_top_of_noise_is_refused(tree):
    change(tree.train, inject)
    with pytest.raises(
        DataError, match="it holds label noise already; give the clean document, or take the labels as they are"
    ):
        datasets.load(training(tree, noise=SymmetricNoise()))


def test_clean_labels_are_not_made_up(tree):
    assert all("clean_labels" not in target for _, target in datasets.load(training(tree)).train)


def test_splits_may_have_folders_and_files_of_their_own(tree, tmp_path):
    for name, numbers in (("v", (3,)), ("t", (7, 8, 9, 10))):
        (tmp_path / name).mkdir()
        for number in numbers:
            (tree.images / f"{number}.png").rename(tmp_path / name / f"{number}.png")
    document = coco_document(1)
    val = annotations.with_images(document, {30})
    write(tmp_path / "val.json", val)
    write(tree.train, annotations.with_images(document, {10, 20}))
    config = replace(tree, val=tmp_path / "val.json", val_images=tmp_path / "v", test_images=tmp_path / "t")
    data = datasets.load(training(config))
    assert [len(split) for split in (data.train, data.val, data.test)] == [2, 1, 4]
    assert all(image.shape == (3, HEIGHT, WIDTH) for split in (data.train, data.val, data.test) for image, _ in split)


def test_what_a_file_leaves_out_is_measured(tree):
    def strip(document):
        for a in document["annotations"]:
            del a["bbox"], a["area"]
            if not a["iscrowd"]:
                del a["iscrowd"]

    change(tree.test, strip)
    reference = COCO(str(write(tree.test.with_name("copy.json"), coco_document(7, 4))))
    for a in annotations.read(tree.test).document["annotations"]:
        mask = reference.annToMask(reference.anns[a["id"]])
        ys, xs = mask.nonzero()
        assert a["area"] == mask.sum()
        assert a["bbox"] == [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]


def test_paths_are_kept_absolute_and_survive_yaml(tree, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    plain = {"type": "coco", "images": "images", "train": "train.json", "test": "test.json", "val_fraction": 0.2}
    config = documents.parse(TrainConfig, {"dataset": plain}, source="x")
    assert config.dataset == tree
    Path("config.yaml").write_text(documents.to_yaml(config))
    monkeypatch.chdir("/")
    assert documents.load(TrainConfig, tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("dataset", "complaint"),
    [
        ({"type": "coc"}, "dataset.type: must be one of 'digits', 'coco' but got 'coc'"),
        ({"images": "x"}, "dataset: needs type, one of"),
        ({"type": "coco", "images": "i", "train": "t"}, "dataset.test: is required but missing"),
        ({"type": "coco", "images": "i", "train": "t", "test": "u", "vall": "v"}, "no such field; did you mean val?"),
        (
            {"type": "coco", "images": "i", "train": "t", "test": "u", "val_fraction": 1},
            "must be less than 1 but got 1",
        ),
    ],
)
def test_mistakes_in_the_config_are_one_line(dataset, complaint):
    with pytest.raises(ConfigError) as caught:
        documents.parse(TrainConfig, {"dataset": dataset}, source="x")
    assert complaint in str(caught.value)


def drop(name: str):
    return lambda tree: getattr(tree, name).unlink()


def cut(tree: CocoData) -> None:
    tree.train.write_bytes(tree.train.read_bytes()[:-40])


def edited(edit):
    return lambda tree: change(tree.train, edit)


def on_annotation(**fields):
    return edited(lambda document: document["annotations"][1].update(fields))


def rectangles(document: dict) -> None:
    for a in document["annotations"]:
        x, y, w, h = a["bbox"]
        a["segmentation"] = [[x, y, x, y + h, x + w, y + h, x + w, y]]


def not_a_number(tree: CocoData) -> None:
    tree.train.write_text(tree.train.read_text().replace("30.5", "NaN"))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (drop("train"), r"train.json: no such file; check the path"),
        (cut, r"train.json: is not JSON \(.*\); was it written or copied to its end"),
        (not_a_number, r"train.json: 5 annotations have coordinates that are no finite numbers; correct them"),
        (lambda tree: write(tree.train, [1]), "must be a mapping with images"),
        (edited(lambda d: d.pop("categories")), r"lists are missing.*\(categories\)"),
        (edited(lambda d: d["images"].clear()), r"lists are empty.*\(images\)"),
        (edited(lambda d: d["images"][0].pop("width")), r"1 images lack width \(id 10\)"),
        (
            edited(lambda d: d["images"][0].update(id=[1])),
            r"images have an id that is neither a number nor text.*\(number 1\)",
        ),
        (edited(lambda d: d["images"][0].update(id="a")), r"image_id that is not among the images.*\(id 71, "),
        (edited(lambda d: d["images"][0].update(height=0)), r"height that is not a positive whole number \(id 10\)"),
        (edited(lambda d: d["images"].append(d["images"][0])), r"1 images have the id of another.*\(10\)"),
        (edited(lambda d: d["categories"][0].update(name="dog")), r"categories have the name of another.*\(dog\)"),
        (on_annotation(id=71), r"1 annotations have the id of another; ids must be unique \(71\)"),
        (on_annotation(image_id=11), r"image_id that is not among the images.*\(id 72\)"),
        (on_annotation(category_id=4), r"category_id that is not among the categories.*\(id 72\)"),
        (on_annotation(clean_category_id=4), r"clean_category_id that is not among the categories.*\(id 72\)"),
        (on_annotation(segmentation=5), r"neither polygons nor RLE"),
        (on_annotation(segmentation=[["a", "b"]]), r"not a flat list of numbers x, y"),
        (on_annotation(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), r"an odd count of numbers"),
        (on_annotation(segmentation=[[[1, 2, 3], [3, 4, 5], [5, 6, 7]]]), r"not a flat list of numbers x, y"),
        (
            on_annotation(segmentation={"size": [9, 9], "counts": [81]}),
            r"size is not the \[height, width\] of its image",
        ),
        (on_annotation(segmentation={"size": [64, 96], "counts": [3]}), r"do not add up to the pixels"),
        (on_annotation(segmentation={"size": [64, 96], "counts": [-1]}), r"counts that are not whole numbers"),
        (on_annotation(segmentation={"size": [64, 96], "counts": "1"}), r"do not add up to the pixels"),
        (on_annotation(segmentation={"size": [64, 96], "counts": "o"}), r"have corrupt RLE counts"),
        (on_annotation(bbox=[1, 2, 3]), r"bbox that is not four numbers"),
        (on_annotation(iscrowd="yes"), r"iscrowd that is neither 0 nor 1"),
        (edited(lambda d: d["annotations"].append(3)), r"1 annotations are no mappings \(number 21\)"),
        (edited(rectangles), r"15 of 15 masks are upright rectangles: .*pascal_train2012.json"),
        (edited(lambda d: d.update(images=d["images"][:1], annotations=d["annotations"][:4])), "at least 2 images"),
        (
            lambda tree: change(tree.test, lambda d: d["categories"][0].update(name="cow")),
            r"test.json: its categories are not those of .*train.json: category 90 is cow here and cat there",
        ),
        (
            lambda tree: change(tree.test, lambda d: d["categories"].append({"id": 4, "name": "cow"})),
            r"category 4 is cow here and missing there \(1 differ\)",
        ),
        (
            lambda tree: change(tree.test, lambda d: d.update(annotations=[d["annotations"][3]])),
            r"test.json: 1 annotations, and none is an instance with a mask; crowds are none \(id",
        ),
        (lambda tree: (tree.images / "8.png").unlink(), r"1 of 4 images are missing, such as 8.png"),
    ],
)
def test_what_is_wrong_with_the_files_is_one_line_before_anything_is_trained(tree, damage, complaint):
    damage(tree)
    with pytest.raises(DataError, match=complaint) as caught:
        datasets.load(training(tree))
    assert "\n" not in str(caught.value)


def test_what_is_trained_on_is_known_by_the_content_of_the_files(tree):
    before = identify(tree)
    tree.train.touch()
    (tree.images / "1.png").touch()
    assert identify(tree) == before
    change(tree.train, lambda document: document["annotations"][0].update(category_id=90))
    assert changed(before, identify(tree)) == ["annotations of train"]
    tree.test.unlink()
    with pytest.raises(DataError, match=r"test.json: cannot be read"):
        identify(tree)


def test_an_image_of_the_same_name_size_and_time_is_another_one(tree):
    """Also where digests were kept: the time of a file's entry cannot be set back."""
    image = tree.images / "1.png"
    long_ago = time.time() - 1e6
    for path in tree.images.iterdir():
        os.utime(path, (long_ago, long_ago))
    time.sleep(0.02)  # a tick of the file system's clock
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_identity, "SETTLED_SECONDS", 0.0)
        before = identify(tree)
    assert identify(tree) == before
    content = bytearray(image.read_bytes())
    content[-1] ^= 1
    image.write_bytes(content)
    os.utime(image, (long_ago, long_ago))
    assert changed(before, identify(tree)) == ["images of train"]


def test_images_are_read_once_and_again_only_where_they_changed(tree, monkeypatch):
    monkeypatch.setattr(data_identity, "SETTLED_SECONDS", 0.0)
    monkeypatch.setenv("LNCIS_CACHE", "cache")
    time.sleep(0.02)
    before, read = identify(tree), []
    digest = files.digest
    monkeypatch.setattr(files, "digest", lambda path: read.append(path.name) or digest(path))
    assert identify(tree) == before
    assert read == []
    (tree.images / "2.png").touch()
    assert identify(tree) == before
    assert set(read) == {"2.png"}
    (kept,) = (files.cache_directory() / "digests").glob("*.json")
    kept.write_text("{")  # as damaged
    assert identify(tree) == before


def test_a_training_does_not_go_on_or_fork_on_other_data(tree):
    config = training(tree)
    engine.train(config, datasets.load(config), Path("run"), until=1)
    change(tree.train, lambda document: document["annotations"][0].update(category_id=90))
    for run in ({"directory": Path("run")}, {"directory": Path("fork"), "fork_from": Path("run")}):
        with pytest.raises(DataError, match=r"run: was trained on other data \(annotations of train changed since\)"):
            engine.train(config, datasets.load(config), **run)
    assert checkpoint.load(Path("run") / engine.CHECKPOINT).epoch == 1


@pytest.fixture
def flipping(tree: CocoData) -> TrainConfig:
    return training(
        tree,
        noise=SymmetricNoise(rate=0.5),
        flip=0.5,
        loss=LncisLoss(gamma=2.0),
        schedule=Schedule(epochs=2),
        batch_size=2,
    )


def weights(folder: str) -> dict:
    return checkpoint.load(Path(folder) / engine.CHECKPOINT).model


@pytest.mark.processes
def test_it_trains_and_evaluates_and_a_resumed_training_with_flips_equals_an_undisturbed_one(flipping):
    data = datasets.load(flipping)
    history = engine.train(flipping, data, Path("undisturbed"))
    assert all(np.isfinite(history[-1][key]) for key in ("train/loss", "val/segm_AP", "test/segm_AP", "test/bbox_AP"))
    assert weights("undisturbed")["roi_heads.box_predictor.cls_score.weight"].shape[0] == 4
    engine.train(flipping, data, Path("resumed"), until=1)
    engine.train(flipping, data, Path("resumed"), loading_processes=2)
    one, other = weights("undisturbed"), weights("resumed")
    assert all(torch.equal(one[key], other[key]) for key in one)
    engine.train(replace(flipping, flip=0.0), data, Path("unflipped"), until=1)
    assert not all(torch.equal(value, one[key]) for key, value in weights("unflipped").items())


@pytest.mark.parametrize("processes", [0, 1])
@pytest.mark.processes
def test_an_image_that_cannot_be_read_ends_the_training_with_one_line(flipping, processes):
    data = datasets.load(flipping)
    for image in data.train.document["images"]:
        (flipping.dataset.images / image["file_name"]).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"png: cannot be read as an image .*; replace it") as caught:
        engine.train(flipping, data, Path("run"), loading_processes=processes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("split", "other", "said"),
    [
        ("val", "test", "test shares images with val: 4 of its 4, such as "),
        ("test", "train", "test shares images with train: "),
        ("val", "train", "val shares images with train: "),
    ],
)
def test_a_file_in_two_splits_is_refused(tree, split, other, said):
    """Else the clean test could be selected on as val, or trained on."""
    with pytest.raises(DataError) as error:
        datasets.inspect(
            training(replace(tree, **{split: getattr(tree, other)})).dataset,
            datasets.load(training(replace(tree, **{split: getattr(tree, other)}))),
        )
    assert str(error.value).startswith(said)
    assert str(error.value).endswith(f"so leave them out of {said.split()[4][:-1]} or of {said.split()[0]}")


def test_a_few_copies_among_many_are_said_alone(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for number in range(200):
            Image.fromarray(rng.integers(0, 255, (2, 3, 3), dtype=np.uint8)).save(tmp_path / split / f"{number}.png")
    for number in (3, 4):
        shutil.copy(tmp_path / f"train/{number}.png", tmp_path / f"test/{number}.png")
    images = {split: sorted((tmp_path / split).iterdir()) for split in ("train", "test")}
    (said,) = shared_images.refuse_same_content(images)
    assert said.startswith("test shares images with train: 2 of its 200, such as ")
    shutil.copy(tmp_path / "train/5.png", tmp_path / "test/5.png")
    with pytest.raises(DataError, match="test shares images with train: 3 of its 200"):
        shared_images.refuse_same_content(images)


def test_images_of_one_colour_may_be_alike(tmp_path):
    """Such as the empty tiles of a large image; a single pixel of another colour makes it a picture again."""
    pixels = np.full((4, 6, 3), 7, dtype=np.uint8)
    images = {split: [tmp_path / f"{split}.png"] for split in ("train", "test")}
    for (path,) in images.values():
        Image.fromarray(pixels).save(path)
    assert shared_images.refuse_same_content(images) == []
    pixels[3, 5, 2] = 8
    for (path,) in images.values():
        Image.fromarray(pixels).save(path)
    with pytest.raises(DataError, match="test shares images with train: 1 of its 1"):
        shared_images.refuse_same_content(images)


@pytest.mark.parametrize("link", [shutil.copy, os.link, os.symlink])
def test_a_copy_in_another_split_is_refused_before_the_first_epoch(tree, link):
    (tree.images / "8.png").unlink()
    link(tree.images / "2.png", tree.images / "8.png")
    data = datasets.load(training(replace(tree, split_seed=1)))
    with pytest.raises(DataError) as error:
        datasets.inspect(training(tree).dataset, data)
    assert str(error.value).startswith("test shares images with ")
    assert f"1 of its 4, such as {tree.images / '8.png'}, which is {tree.images / '2.png'};" in str(error.value)


def test_images_of_one_size_and_another_content_are_not_shared(tree):
    for path in tree.images.glob("*.png"):
        path.write_bytes(path.read_bytes().ljust(20_000, path.name[:1].encode()))
    assert len({path.stat().st_size for path in tree.images.glob("*.png")}) == 1
    datasets.inspect(training(tree).dataset, datasets.load(training(tree)))
