"""Folds: what a training leaves out, and that all of it is left out by one."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lncis import datasets
from lncis.config import CocoData, DigitsData, Fold, SymmetricNoise, TrainConfig
from lncis.datasets import digits, folds
from lncis.errors import DataError

CONFIG = TrainConfig(dataset=DigitsData(train_scenes=60, val_scenes=2, test_scenes=2), noise=SymmetricNoise(rate=0.4))


@pytest.fixture
def document(digits_cache):
    return datasets.load(CONFIG).train.document


def test_each_image_is_in_one_part_and_each_class_evenly(document):
    part_of = folds.parts(document, Fold(of=5))
    assert sorted(part_of) == sorted(image["id"] for image in document["images"])
    assert {10 <= count <= 14 for count in Counter(part_of.values()).values()} == {True}
    for category in document["categories"]:
        per_part = Counter(
            part_of[a["image_id"]] for a in document["annotations"] if a["category_id"] == category["id"]
        )
        counts = [per_part[part] for part in range(5)]
        assert max(counts) - min(counts) <= 4, counts


def test_parts_do_not_depend_on_the_order_of_the_file_and_do_on_the_seed(document):
    turned = {key: list(reversed(value)) if isinstance(value, list) else value for key, value in document.items()}
    fold = Fold(of=4)
    assert folds.parts(document, fold) == folds.parts(turned, fold)
    assert folds.parts(document, fold) != folds.parts(document, replace(fold, seed=1))


def test_images_of_one_file_stay_together(document):
    twice = [{**image, "id": image["id"] + 1000} for image in document["images"]]
    part_of = folds.parts({**document, "images": document["images"] + twice}, Fold(of=3))
    assert all(part_of[image["id"]] == part_of[image["id"] + 1000] for image in document["images"])


def test_trainings_of_all_folds_leave_out_all_images_once_and_labels_stay(digits_cache):
    whole = datasets.load(CONFIG).train
    label = {a["id"]: a["category_id"] for a in whole.document["annotations"]}
    left_out = []
    for number in range(3):
        fold = Fold(number=number, of=3)
        train = datasets.load(replace(CONFIG, fold=fold)).train
        held = folds.within(whole, fold)
        assert datasets.load(replace(CONFIG, fold=fold)).val.document == held.document
        assert {i["id"] for i in train.document["images"]} | {i["id"] for i in held.document["images"]} == {
            i["id"] for i in whole.document["images"]
        }
        left_out += [image["id"] for image in held.document["images"]]
        assert all(label[a["id"]] == a["category_id"] for a in train.document["annotations"])
        first = train.document["images"][0]["id"]
        assert np.array_equal(train.images[0], whole.images[first])
        assert train[0][1]["image_id"] == first
    assert sorted(left_out) == [image["id"] for image in whole.document["images"]]


def test_what_is_left_out_is_val_and_a_users_file_is_dealt_out_whole(digits_cache):
    data = digits.export(CONFIG.dataset, Path("mine"))
    own = replace(
        CONFIG,
        dataset=CocoData(images=data.images, train=data.train, test=data.test, val_fraction=0.3),
        noise=replace(CONFIG.noise, rate=0.5),
    )
    images = {image["id"] for image in json.loads(data.train.read_text())["images"]}
    whole = {i["id"] for i in datasets.load_undivided(replace(own, fold=Fold(of=3))).document["images"]}
    assert whole == images
    assert {i["id"] for i in datasets.load_undivided(own).document["images"]} < images, "0.3 of them are val"
    fold = replace(own, fold=Fold(number=1, of=3))
    data = datasets.load(fold)
    parts = [{i["id"] for i in split.document["images"]} for split in (data.train, data.val)]
    assert parts[0] | parts[1] == images
    assert not parts[0] & parts[1]
    assert any(a["category_id"] != a["clean_category_id"] for a in data.val.document["annotations"])
    clean = datasets.load(replace(fold, val_labels="oracle")).val.document["annotations"]
    assert all(a["category_id"] == a["clean_category_id"] for a in clean)
    assert [a["id"] for a in clean] == [a["id"] for a in data.val.document["annotations"]]


@pytest.mark.parametrize("fold", [None, Fold(number=1, of=3)])
def test_data_are_known_again_by_all_fields_that_loading_them_reads(digits_cache, fold):
    own = digits.export(CONFIG.dataset, Path("mine"))
    of_files = CocoData(images=own.images, train=own.train, test=own.test)

    class Watched:
        """A config that knows which of its fields were asked for."""

        def __init__(self, config):
            self.config, self.read = config, set()

        def __getattr__(self, name):
            self.read.add(name)
            return getattr(self.config, name)

    for dataset in (CONFIG.dataset, of_files):
        loading, knowing = (Watched(replace(CONFIG, dataset=dataset, fold=fold)) for _ in range(2))
        datasets.load(loading)
        datasets.identity(knowing)
        assert loading.read == knowing.read


def test_more_parts_than_images_are_refused(document):
    with pytest.raises(DataError, match=r"fold\.of must be at most the 60 images of train but got 61"):
        folds.parts(document, Fold(of=61))
