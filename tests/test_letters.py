"""Printed letters and what is learnt from them; above all, that no digit is."""

import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import sklearn.datasets
import torch
from fontTools.ttLib import TTFont
from pycocotools import mask as rle
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from typer.testing import CliRunner

from lncis import files
from lncis.commands import app as cli
from lncis.config import DigitsData, DigitsRCNN, Schedule
from lncis.datasets import digits, letters, printed, scenes
from lncis.datasets.coco import CocoInstances
from lncis.detection.mask_rcnn import pretraining, weights
from lncis.detection.mask_rcnn.models import build_model
from lncis.errors import CheckpointError, ConfigError


def test_composition_is_a_function_of_its_arguments():
    images, document = letters.compose(4, seed=1)
    again, same = letters.compose(4, seed=1)
    assert images.tobytes() == again.tobytes()
    assert json.dumps(document) == json.dumps(same)
    assert images.shape == (4, 128, 128, 3)
    assert not (letters.compose(4, seed=2)[0] == images).all(axis=(1, 2, 3)).any()


def test_each_annotation_is_the_ink_of_its_glyph(monkeypatch):
    # a rigged glyph, one place and one class a turn, as in the digits' test
    drawn = []

    def glyph(rng):
        place = len(drawn) % 8
        drawn.append(place)
        alpha = np.zeros((128, 128))
        alpha[10:30, 16 * place : 16 * place + 10] = 1
        return place, alpha

    monkeypatch.setattr(letters, "_glyph", glyph)
    images, document = letters.compose(5, seed=0)
    assert document["annotations"]
    for annotation in document["annotations"]:
        place = annotation["category_id"] - 1
        assert document["categories"][place] == {"id": place + 1, "name": letters.GLYPHS[place]}
        mask = rle.decode(annotation["segmentation"]).astype(bool)
        assert (mask.nonzero()[1].min(), mask.sum()) == (16 * place, 200)
        assert len(np.unique(images[annotation["image_id"]][mask], axis=0)) == 1


def test_every_font_has_every_glyph():
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for font in printed.FONTS:
        assert {ord(glyph) for glyph in (*letters.GLYPHS, *digits.SIGNS)} <= TTFont(
            folder / f"{font}.ttf"
        ).getBestCmap().keys()


MISTAKEN_FOR_DIGITS = {
    *("0oODQCUaΘΦΩЮ", "1IilLJ|!", "2zZΣ?", "3EЕЗ", "4AYyЧ", "5sS$", "6Gbeб", "7TТ", "8B&%В", "9gqp"),  # noqa: RUF001
}
"""A digit and what is mistaken for it, or written for it."""


def test_no_glyph_is_a_digit_or_is_read_as_one():
    assert len(set(letters.GLYPHS)) == len(letters.GLYPHS) == 32
    assert not any(unicodedata.category(glyph).startswith("N") for glyph in letters.GLYPHS)
    assert not set(letters.GLYPHS) & set("".join(MISTAKEN_FOR_DIGITS))
    assert not set(letters.GLYPHS) & set(digits.SIGNS)


def test_no_digit_sample_and_no_background_of_val_or_test_is_touched(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the digits were read")

    expected, _ = letters.compose(6, seed=3)
    monkeypatch.setattr(sklearn.datasets, "load_digits", refuse)
    monkeypatch.setattr(digits, "_samples", refuse)
    low, high = scenes.BACKGROUND_COLUMNS["train"]
    blackened = [photograph.copy() for photograph in scenes.photographs()]
    for photograph in blackened:
        photograph[:, :low] = photograph[:, high:] = 0
    monkeypatch.setattr(scenes, "photographs", lambda: blackened)
    assert np.array_equal(letters.compose(6, seed=3)[0], expected)


Features = tuple[np.ndarray, np.ndarray]
"""What the box head makes of each clean digit, at its true box, and which digit it is."""


def features(model: nn.Module, split: scenes.Split) -> Features:
    dataset = CocoInstances(*digits.compose(DigitsData(train_scenes=300, test_scenes=100, seed=5), split))
    found, labels = [], []
    with torch.no_grad():
        for image, target in (dataset[i] for i in range(len(dataset))):
            batch, resized = model.transform([image], [target])
            levels = model.backbone(batch.tensors)
            pooled = model.roi_heads.box_roi_pool(levels, [resized[0]["boxes"]], batch.image_sizes)
            found.append(model.roi_heads.box_head(pooled).numpy())
            labels.append(target["labels"].numpy())
    return np.concatenate(found), np.concatenate(labels)


def accuracy(train: Features, test: Features) -> float:
    """Return the share of test digits that a linear classifier names, trained on those of train."""
    scaler = StandardScaler().fit(train[0])
    classifier = LogisticRegression(C=0.01, max_iter=500).fit(scaler.transform(train[0]), train[1])
    return float((classifier.predict(scaler.transform(test[0])) == test[1]).mean())


def test_the_features_tell_shapes_apart_and_hold_no_label_of_a_digit():
    torch.manual_seed(0)
    models = {name: build_model(DigitsRCNN(weights=name), 10).eval() for name in ("letters", "none")}
    train, test = ({name: features(model, split) for name, model in models.items()} for split in ("train", "test"))
    digit_features, labels = train["letters"]
    shuffled = (digit_features, np.random.default_rng(0).permutation(labels))
    of_letters, of_random = (accuracy(train[name], test[name]) for name in models)
    of_shuffled = accuracy(shuffled, test["letters"])
    print(f"letters {of_letters:.3f}, random {of_random:.3f}, letters with shuffled labels {of_shuffled:.3f}")
    assert of_letters > of_random + 0.1
    assert of_shuffled < 0.2, "chance is 0.1: nothing about digits comes but from the labels of train"


def test_the_shipped_file_is_small_whole_and_without_any_layer_of_a_class():
    path = weights.find("letters")
    assert path.stat().st_size <= 2 * 2**20
    assert files.digest(path).startswith(path.stem.rpartition("-")[2])
    state = torch.load(path, weights_only=True)
    specific = {f"{layer}.{kind}" for layer in weights.CLASS_SPECIFIC for kind in ("weight", "bias")}
    assert state.keys() | specific == build_model(DigitsRCNN(), 10).state_dict().keys()
    assert not state.keys() & specific
    assert {value.dtype for value in state.values()} == {torch.float16}


@pytest.mark.parametrize("classes", [10, len(letters.GLYPHS)])
def test_class_heads_begin_untrained_whatever_the_number_of_classes(classes):
    torch.manual_seed(3)
    fresh = build_model(DigitsRCNN(), classes).state_dict()
    torch.manual_seed(3)
    state = build_model(DigitsRCNN(weights="letters"), classes).state_dict()
    shipped = torch.load(weights.find("letters"), weights_only=True)
    assert all(value.dtype == torch.float32 for value in state.values())
    assert all(torch.equal(state[key], shipped[key].float() if key in shipped else fresh[key]) for key in state)


def test_a_damaged_or_missing_file_is_answered_with_what_to_do(monkeypatch, tmp_path):
    damaged = tmp_path / weights.LETTERS.name
    damaged.write_bytes(weights.LETTERS.read_bytes()[:-100])
    monkeypatch.setattr(weights, "LETTERS", damaged)
    with pytest.raises(CheckpointError, match=rf"{damaged.name} is damaged: .*; install lncis anew"):
        build_model(DigitsRCNN(weights="letters"), 10)
    damaged.unlink()
    with pytest.raises(ConfigError, match=r"model\.weights: letters needs .*, which is not there; install lncis anew"):
        build_model(DigitsRCNN(weights="letters"), 10)


def test_the_file_is_made_of_its_arguments_and_loads(tmp_path):
    recipe = replace(pretraining.RECIPE, schedule=Schedule(epochs=1), batch_size=2)
    first, second = (pretraining.make_letters(tmp_path / name, scenes=4, recipe=recipe) for name in ("a.pt", "b.pt"))
    assert first.digest == second.digest == files.digest(tmp_path / "a.pt")
    assert first.letters_AP >= 0
    made = torch.load(tmp_path / "a.pt", weights_only=True)
    shipped = torch.load(weights.find("letters"), weights_only=True)
    assert {key: value.shape for key, value in made.items()} == {key: value.shape for key, value in shipped.items()}


def test_a_place_that_cannot_be_written_is_said_before_the_training(monkeypatch, tmp_path):
    monkeypatch.setattr(pretraining.engine, "train", lambda *arguments, **options: pytest.fail("trained for nothing"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--make: .*letters\.pt cannot be written: "):
        pretraining.make_letters(tmp_path / "file" / "letters.pt", scenes=2)


def test_the_command_names_the_file_and_makes_it_anew(monkeypatch):
    def run(*arguments: str):
        return CliRunner().invoke(cli.app, ["weights", *arguments])

    assert run("letters").stdout.split() == [str(weights.find("letters"))]
    refused = run("imagenet", "--make", "x.pt")
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.startswith("error: --make: imagenet are torchvision's; leave it out")
    make, recipe = pretraining.make_letters, replace(pretraining.RECIPE, schedule=Schedule(epochs=1), batch_size=2)
    monkeypatch.setattr(pretraining, "make_letters", lambda out, on_epoch: make(out, 2, recipe, on_epoch))
    made = run("letters", "--make", "new.pt")
    assert f"new.pt: SHA-256 {files.digest(Path('new.pt'))}, 0." in made.stdout
    assert made.stderr.startswith("epoch 1: loss ")
