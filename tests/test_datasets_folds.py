"""Folds: what a training leaves out, and that all of it is left out by one."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lncis import datasets
from lncis.config import DigitsData, Fold, SymmetricNoise, TrainConfig
from lncis.datasets import folds
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
        assert {i["id"] for i in train.document["images"]} | {i["id"] for i in held.document["images"]} == {
            i["id"] for i in whole.document["images"]
        }
        left_out += [image["id"] for image in held.document["images"]]
        assert all(label[a["id"]] == a["category_id"] for a in train.document["annotations"])
        first = train.document["images"][0]["id"]
        assert np.array_equal(train.images[0], whole.images[first])
        assert train[0][1]["image_id"] == first
    assert sorted(left_out) == [image["id"] for image in whole.document["images"]]


def test_more_parts_than_images_are_refused(document):
    with pytest.raises(DataError, match=r"fold\.of must be at most the 60 images of train but got 61"):
        folds.parts(document, Fold(of=61))
