import hashlib
import json

import numpy as np
import pytest
import scipy.stats
from pycocotools import mask as rle
from pycocotools.coco import COCO

from lncis.config import DigitsData
from lncis.datasets import digits, scenes
from lncis.errors import DataError

TINY = DigitsData(train_scenes=6, val_scenes=3, test_scenes=3)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return digits.prepare(TINY, tmp_path_factory.mktemp("digits"))


@pytest.fixture
def train(prepared):
    return digits.read(prepared, "train")


def masks_by_image(document):
    decoded = {image["id"]: [] for image in document["images"]}
    for annotation in document["annotations"]:
        decoded[annotation["image_id"]].append(rle.decode(annotation["segmentation"]).astype(bool))
    return decoded


def test_composition_is_a_function_of_its_arguments(train):
    images, document = digits.compose(TINY, "train")
    assert images.tobytes() == train[0].tobytes()
    assert json.dumps(document) == json.dumps(train[1])


def test_other_seed_or_split_composes_other_scenes(train):
    other_seed, _ = digits.compose(DigitsData(train_scenes=6, seed=1), "train")
    assert not (other_seed == train[0]).all(axis=(1, 2, 3)).any()
    val, _ = digits.compose(DigitsData(val_scenes=6), "val")
    assert not (val == train[0]).all(axis=(1, 2, 3)).any()


def test_more_scenes_begin_with_the_same(train):
    images, _ = digits.compose(DigitsData(train_scenes=8), "train")
    assert np.array_equal(images[:6], train[0])


@pytest.mark.parametrize("ranges", [digits._DIGIT_RANGE, scenes.BACKGROUND_COLUMNS])
def test_ranges_of_the_splits_are_disjoint(ranges):
    taken = [position for low, high in ranges.values() for position in range(low, high)]
    assert len(set(taken)) == len(taken)


def test_each_split_draws_digits_of_its_own_range(monkeypatch):
    # each sample's label is made its position, which _glyph hands back
    samples, _ = digits._samples()
    assert len(samples) == 1797
    monkeypatch.setattr(digits, "_samples", lambda: (samples, np.arange(1797)))
    rng = np.random.default_rng(0)
    drawn = {split: {digits._glyph(rng, split)[0] for _ in range(1000)} for split in digits.SPLITS}
    for split, (low, high) in digits._DIGIT_RANGE.items():
        assert drawn[split] <= set(range(low, high))
        assert len(drawn[split]) > 0.5 * (high - low)
    assert not (drawn["train"] & drawn["val"] | drawn["train"] & drawn["test"] | drawn["val"] & drawn["test"])


def test_each_split_draws_backgrounds_of_its_own_columns(monkeypatch):
    # a photograph with a flat grey for each split: a crop over a border would not be flat
    greys = {"train": 40, "val": 120, "test": 200}
    photograph = np.zeros((427, 640, 3), dtype=np.uint8)
    for split, (low, high) in scenes.BACKGROUND_COLUMNS.items():
        photograph[:, low:high] = greys[split]
    assert all(photograph.shape == p.shape for p in scenes.photographs())
    monkeypatch.setattr(scenes, "photographs", lambda: [photograph])
    rng = np.random.default_rng(0)
    for split, grey in greys.items():
        for _ in range(200):
            assert (scenes.background(rng, split) == grey / 2).all()


def test_every_digit_occurs_in_every_split():
    _, labels = digits._samples()
    for low, high in digits._DIGIT_RANGE.values():
        assert set(labels[low:high].tolist()) == set(range(10))


def test_files_hold_what_the_config_asks(prepared):
    for split, count in (("train", 6), ("val", 3), ("test", 3)):
        images, document = digits.read(prepared, split)
        assert images.shape == (count, 128, 128, 3)
        assert images.dtype == np.uint8
        assert [image["id"] for image in document["images"]] == list(range(count))
        assert [category["name"] for category in document["categories"]] == [str(d) for d in range(10)]


def test_pycocotools_loads_the_documents(prepared):
    for split in digits.SPLITS:
        coco = COCO(str(prepared / f"{split}.json"))
        assert len(coco.getAnnIds()) == len(set(coco.getAnnIds())) > 0
        for annotation in coco.loadAnns(coco.getAnnIds()):
            assert coco.annToMask(annotation).shape == (128, 128)
            assert annotation["category_id"] in coco.getCatIds()


def test_area_and_box_are_those_of_the_mask(train):
    _, document = train
    for annotation in document["annotations"]:
        ys, xs = np.nonzero(rle.decode(annotation["segmentation"]))
        assert annotation["area"] == len(ys)
        left, top = xs.min(), ys.min()
        assert annotation["bbox"] == [left, top, xs.max() + 1 - left, ys.max() + 1 - top]


def test_scenes_hold_two_to_five_disjoint_digits():
    _, document = digits.compose(DigitsData(train_scenes=40), "train")
    for masks in masks_by_image(document).values():
        assert 2 <= len(masks) <= 5
        assert np.sum(masks, axis=0).max() == 1


def test_labels_are_the_digits_drawn(monkeypatch):
    # a rigged glyph, one place and one digit a turn: what is drawn is what the document says
    drawn = []

    def glyph(rng, split, signs):
        place = len(drawn) % 8
        drawn.append(place)
        alpha = np.zeros((128, 128))
        alpha[10:30, 16 * place : 16 * place + 10] = 1
        return place, alpha

    monkeypatch.setattr(digits, "_glyph", glyph)
    images, document = digits.compose(DigitsData(train_scenes=5), "train")
    assert document["annotations"]
    for annotation in document["annotations"]:
        place = annotation["category_id"] - 1
        assert annotation["bbox"] == [16 * place, 10, 10, 20]
        ink = images[annotation["image_id"], 10:30, 16 * place : 16 * place + 10]
        assert (ink == ink[0, 0]).all()


def test_nine_tenths_of_each_digit_stay_visible():
    glyph, drawn = digits._glyph, []

    def remember(rng):
        drawn.append(glyph(rng, "train"))
        return drawn[-1]

    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(60):
        drawn.clear()
        _, placed = scenes.scene(rng, remember, "train")
        for digit, visible in placed:
            full = [alpha > 0.5 for d, alpha in drawn if d == digit and (visible <= (alpha > 0.5)).all()]
            assert any(visible.sum() >= 0.9 * mask.sum() for mask in full)
            covered += not any((visible == mask).all() for mask in full)
    assert covered  # some are occluded a little


def test_second_prepare_reads_the_cache(prepared, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("composed again")

    monkeypatch.setattr(digits, "compose", refuse)
    before = {path: path.stat().st_mtime_ns for path in prepared.iterdir()}
    assert digits.prepare(TINY, prepared.parent) == prepared
    assert {path: path.stat().st_mtime_ns for path in prepared.iterdir()} == before


def test_folder_is_named_by_all_that_decides_its_content(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "compose", lambda config, split: (np.zeros(1), {}))
    configs = [
        TINY,
        DigitsData(train_scenes=7, val_scenes=3, test_scenes=3),
        DigitsData(train_scenes=6, val_scenes=4, test_scenes=3),
        DigitsData(train_scenes=6, val_scenes=3, test_scenes=4),
        DigitsData(train_scenes=6, val_scenes=3, test_scenes=3, seed=1),
        DigitsData(train_scenes=6, val_scenes=3, test_scenes=3, signs=1),
    ]
    assert len({digits.prepare(config, tmp_path) for config in configs}) == 6
    monkeypatch.setattr(digits, "FORMAT", digits.FORMAT + 1)
    assert not digits.prepare(TINY, tmp_path / "other").name.startswith("digits-v1-")


@pytest.mark.parametrize(
    ("fault", "raised"),
    [(RuntimeError, RuntimeError), (KeyboardInterrupt, KeyboardInterrupt), (OSError, DataError)],
)
def test_nothing_is_left_where_composing_fails(tmp_path, monkeypatch, fault, raised):
    compose = digits.compose

    def fail_at_val(config, split):
        if split == "val":
            raise fault(28, "midway")
        return compose(config, split)

    monkeypatch.setattr(digits, "compose", fail_at_val)
    with pytest.raises(raised, match="midway"):
        digits.prepare(TINY, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_process_may_finish_first(tmp_path, monkeypatch):
    compose = digits.compose

    def be_overtaken(config, split):
        if split == "test":
            with monkeypatch.context() as patch:
                patch.setattr(digits, "compose", compose)
                digits.prepare(config, tmp_path)
        return compose(config, split)

    monkeypatch.setattr(digits, "compose", be_overtaken)
    folder = digits.prepare(TINY, tmp_path)
    assert list(tmp_path.iterdir()) == [folder]
    assert digits.read(folder, "test")[0].shape == (3, 128, 128, 3)


def test_unwritable_cache_names_the_folder_and_the_remedy(tmp_path):
    occupied = tmp_path / "file"
    occupied.touch()
    with pytest.raises(DataError, match=f"{occupied}.*set LNCIS_CACHE"):
        digits.prepare(TINY, occupied / "cache")


def damage_nothing_there(folder):
    (folder / "train.npy").unlink()


def damage_cut_array(folder):
    content = (folder / "train.npy").read_bytes()
    (folder / "train.npy").write_bytes(content[: len(content) // 2])


def damage_pickled_array(folder):
    np.save(folder / "train.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def damage_cut_json(folder):
    content = (folder / "train.json").read_text()
    (folder / "train.json").write_text(content[: len(content) // 2])


@pytest.mark.parametrize("damage", [damage_nothing_there, damage_cut_array, damage_pickled_array, damage_cut_json])
def test_damaged_cache_says_what_to_delete(tmp_path, damage):
    folder = digits.prepare(DigitsData(train_scenes=1, val_scenes=1, test_scenes=1), tmp_path)
    damage(folder)
    with pytest.raises(DataError, match=f"{folder} does not hold a complete .* delete it"):
        digits.read(folder, "train")


def test_arrays_hold_no_pickle(prepared):
    for split in digits.SPLITS:
        assert np.load(prepared / f"{split}.npy", allow_pickle=False).dtype == np.uint8


def test_signs_are_classes_as_frequent_as_digits_in_fonts_of_their_split():
    config = DigitsData(train_scenes=400, val_scenes=1, test_scenes=1, signs=10)
    images, document = digits.compose(config, "train")
    assert [category["name"] for category in document["categories"]] == [*map(str, range(10)), *digits.SIGNS]
    counts = np.bincount([annotation["category_id"] for annotation in document["annotations"]], minlength=21)[1:]
    assert counts.sum() > 1000
    expected = counts.sum() / 20
    assert ((counts - expected) ** 2 / expected).sum() < scipy.stats.chi2.ppf(0.999, df=19)
    used = [set(fonts) for fonts in digits._SIGN_FONTS.values()]
    assert set.union(*used) == set(range(16))
    assert sum(map(len, used)) == 16
    assert images.shape == (400, 128, 128, 3)


def test_without_signs_scenes_are_what_they_were():
    """Digest of the pixels from before there were signs: published figures rest on these scenes."""
    images, _ = digits.compose(DigitsData(train_scenes=20), "train")
    assert (
        hashlib.sha256(images.tobytes()).hexdigest()
        == "4f8f4ed6e19d037b0af6229ea4a9dd72e9239e97acefe2c56d114b7239d1ee9a"
    )
