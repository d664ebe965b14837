"""Transition matrices, each against the paper's words, the published scripts, or torchvision's own class lists."""

import itertools

import numpy as np
import pytest
from torchvision.datasets import Cityscapes
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights
from torchvision.models.segmentation import FCN_ResNet50_Weights

from lncis import documents
from lncis.config import AsymmetricNoise, MatrixNoise, NoiseConfig, ReleaseCompatNoise, SymmetricNoise
from lncis.errors import ConfigError, DataError
from lncis.noise import corrupt, transition_matrix
from lncis.noise.names import CITYSCAPES, CLASSES, SUPER_CLASS_OF, SUPER_CLASSES, VOC

COCO_BY_ID = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
"""Position is the category id; ids that COCO left out are N/A."""

COCO = [name for name in COCO_BY_ID if name not in ("N/A", "__background__")]


def categories(names, supercategory=None) -> list[dict]:
    return [
        {"id": k + 1, "name": name} | ({"supercategory": supercategory[name]} if supercategory else {})
        for k, name in enumerate(names)
    ]


def flips(names, noise: NoiseConfig, supercategory=None) -> dict[str, dict[str, float]]:
    """Return the probability of each flip that can happen, by names."""
    matrix = transition_matrix(categories(names, supercategory), noise)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    assert (matrix >= 0).all()
    found = {c: {n: matrix[i, j] for j, n in enumerate(names) if i != j and matrix[i, j]} for i, c in enumerate(names)}
    return {clean: row for clean, row in found.items() if row}


def asymmetric(**settings) -> AsymmetricNoise:
    return AsymmetricNoise(**({"rate": 0.4} | settings))


def test_classes_are_those_of_the_data_sets():
    assert tuple(FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"][1:]) == VOC
    evaluated = [c for c in Cityscapes.classes if c.has_instances and not c.ignore_in_eval]
    assert tuple(c.name for c in evaluated) == CITYSCAPES
    assert list(CLASSES["coco"]) == COCO
    assert len(COCO) == 80


def test_super_classes_are_runs_of_coco_ids():
    runs = {
        "person": (1, 1), "vehicle": (2, 9), "outdoor": (10, 15), "animal": (16, 25), "accessory": (27, 33),
        "sports": (34, 43), "kitchen": (44, 51), "food": (52, 61), "furniture": (62, 70), "electronic": (72, 77),
        "appliance": (78, 82), "indoor": (84, 90),
    }  # fmt: skip
    found = {group: tuple(n for n in COCO_BY_ID[low : high + 1] if n != "N/A") for group, (low, high) in runs.items()}
    assert found == SUPER_CLASSES


def arrows(text: str) -> dict[str, dict[str, float]]:
    found = {}
    for arrow in text.split(", "):
        both = "<->" in arrow
        clean, noisy = arrow.split("<->" if both else "->")
        found[clean] = {noisy: 0.4}
        if both:
            found[noisy] = {clean: 0.4}
    return found


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (VOC, "bird->aeroplane, diningtable->chair, bus->car, sheep->horse, bicycle<->motorbike, cat<->dog"),
        (CITYSCAPES, "person<->rider, bus<->truck, motorcycle<->bicycle"),
        (CLASSES["digits"], "1<->7, 3<->8, 4<->9, 5<->6"),
    ],
)
def test_built_in_maps_are_the_papers(names, text):
    assert flips(names, asymmetric()) == arrows(text)


def test_coco_flips_to_any_other_class_of_the_super_class():
    found = flips(COCO, asymmetric())
    assert "person" not in found
    assert len(found) == 79
    for clean, row in found.items():
        others = set(SUPER_CLASSES[SUPER_CLASS_OF[clean]]) - {clean}
        assert row == pytest.approx({name: 0.4 / len(others) for name in others})


def test_super_classes_of_the_document_come_before_the_table():
    own = {name: SUPER_CLASS_OF[name] for name in COCO} | {"bench": "furniture", "kite": "animal"}
    found = flips(COCO, asymmetric(), own)
    assert set(found["bench"]) == {*SUPER_CLASSES["furniture"]}
    assert "kite" in found["cat"]
    assert all(own[noisy] == own[clean] for clean, row in found.items() for noisy in row)


@pytest.mark.parametrize("gap", [None, "", "none"])
def test_super_classes_that_a_document_does_not_have_are_those_of_the_table(gap):
    own = {name: SUPER_CLASS_OF[name] for name in COCO} | {"bench": gap}
    assert flips(COCO, asymmetric(), own) == flips(COCO, asymmetric())


@pytest.mark.parametrize("pair", [False, True])
def test_person_is_never_flipped_nor_drawn_whatever_it_is_grouped_with(pair):
    living = dict.fromkeys(["person", "cat", "dog"], "living")
    for seed in range(20):
        found = flips(list(living), asymmetric(pair=pair, seed=seed), living)
        assert found == {"cat": {"dog": 0.4}, "dog": {"cat": 0.4}}


@pytest.mark.parametrize("seed", range(5))
def test_pair_swaps_two_members_of_each_super_class(seed):
    found = flips(COCO, asymmetric(pair=True, seed=seed))
    assert len(found) == 2 * 11  # all super-classes but person
    for clean, row in found.items():
        ((noisy, p),) = row.items()
        assert p == pytest.approx(0.4)
        assert found[noisy] == {clean: p}
        assert SUPER_CLASS_OF[clean] == SUPER_CLASS_OF[noisy]
    assert {SUPER_CLASS_OF[clean] for clean in found} == set(SUPER_CLASSES) - {"person"}


def test_pairs_are_drawn_uniformly_from_the_seed_alone():
    animals = list(SUPER_CLASSES["animal"])
    drawn = [frozenset(flips(animals, asymmetric(pair=True, seed=seed))) for seed in range(900)]
    assert drawn[:20] == [frozenset(flips(animals[::-1], asymmetric(pair=True, seed=s, rate=0.2))) for s in range(20)]
    counts = [drawn.count(frozenset(pair)) for pair in itertools.combinations(animals, 2)]
    assert sum(counts) == 900
    assert sum((n - 20) ** 2 / 20 for n in counts) < 95  # 44 degrees of freedom: p < 1e-5


def test_train_and_val_swap_the_same_pairs():
    document = {
        "categories": categories(COCO),
        "annotations": [{"id": n, "category_id": n % 80 + 1} for n in range(8000)],
    }
    train, val = (corrupt(document, asymmetric(pair=True), stream=stream)[1] for stream in ("train", "val"))
    assert train["transition_matrix"] == val["transition_matrix"]
    assert train["labels_sha256"] != val["labels_sha256"]


@pytest.mark.parametrize(
    ("names", "noise"),
    [
        (CITYSCAPES, SymmetricNoise(rate=0.3)),
        (VOC, asymmetric()),
        (COCO, asymmetric()),
        (COCO, asymmetric(pair=True, seed=4)),
        (["a", "b", "c"], asymmetric(map={"a": "b", "c": "a"})),
        (
            ["a", "b"],
            MatrixNoise(classes=("b", "a"), rows=((0.9, 0.1), (0.4, 0.6))),
        ),
    ],
    ids=["symmetric", "voc", "coco", "pair", "map", "matrix"],
)
def test_permuted_categories_permute_the_matrix(names, noise):
    order = np.random.default_rng(0).permutation(len(names))
    matrix = transition_matrix(categories(names), noise)
    permuted = transition_matrix(categories([names[k] for k in order]), noise)
    np.testing.assert_array_equal(permuted, matrix[np.ix_(order, order)])


def test_some_classes_of_a_data_set_are_enough():
    assert flips(["bird", "cat", "dog", "sofa"], asymmetric()) == arrows("cat<->dog")
    assert set(flips(["mouse", "tv", "zebra"], asymmetric())) == {"mouse", "tv"}


def test_classes_that_could_be_of_two_data_sets_with_one_map_are_not_ambiguous():
    assert flips(["cat", "dog"], asymmetric()) == arrows("cat<->dog")  # VOC and COCO


def test_ambiguous_classes_are_refused_and_listed():
    with pytest.raises(DataError, match=r"classes bus, car, person could be of voc or cityscapes or coco, .*map_of"):
        flips(["bus", "car", "person"], asymmetric())


@pytest.mark.parametrize(
    ("map_of", "text"), [("voc", "bus->car"), ("coco", "bus<->car"), ("cityscapes", "bus<->truck")]
)
def test_map_of_says_whose_map(map_of, text):
    names = ["bus", "car", "person"] + ["truck"] * (map_of == "cityscapes")
    assert flips(names, asymmetric(map_of=map_of)) == arrows(text)


def test_unknown_classes_are_refused_listed_and_hinted_at():
    with pytest.raises(DataError) as raised:
        flips([*VOC[:17], "sofaa", "tv monitor", "zzz"], asymmetric())
    assert str(raised.value) == (
        "asymmetric noise goes by class names, and voc, the nearest of voc, cityscapes, coco, digits, lacks "
        "sofaa (did you mean sofa?), tv monitor (did you mean tvmonitor?), zzz; "
        "correct them, give noise.map, or use type: symmetric"
    )


def test_unknown_classes_of_a_named_map_are_hinted_at_from_that_map():
    with pytest.raises(DataError, match=r"and coco lacks aeroplane \(did you mean airplane\?\);"):
        flips(["aeroplane", "bus"], asymmetric(map_of="coco"))


def test_pairs_need_classes_of_coco():
    with pytest.raises(DataError, match=r"and coco lacks aeroplane .* and 1 more"):
        flips([*VOC, *(f"x{n}" for n in range(5))], asymmetric(pair=True))


def test_many_unknown_classes_are_not_all_listed():
    with pytest.raises(DataError, match="and 290 more"):
        flips([f"x{n}" for n in range(300)], asymmetric())


def test_a_map_of_ones_own():
    names = ["person", "helmet", "hat", "cap"]
    found = flips(names, asymmetric(map={"hat": "cap", "helmet": "cap", "person": "hat"}, rate=0.25))
    assert found == {"hat": {"cap": 0.25}, "helmet": {"cap": 0.25}, "person": {"hat": 0.25}}


def test_wrong_names_in_a_map_of_ones_own_are_listed_with_the_nearest():
    with pytest.raises(DataError) as raised:
        flips(["cat", "dog"], asymmetric(map={"Cat": "dog", "dog": "kat", "cat": "xylophone"}))
    assert str(raised.value) == (
        "noise.map has classes that the data lack: Cat (did you mean cat?), kat (did you mean cat?), xylophone; "
        "correct their names"
    )


def test_a_matrix_of_ones_own_goes_by_name():
    noise = MatrixNoise(classes=("b", "a"), rows=((0.9, 0.1), (0.3, 0.7)))
    matrix = transition_matrix(categories(["a", "b"]), noise)
    np.testing.assert_allclose(matrix, [[0.7, 0.3], [0.1, 0.9]])


def test_a_matrix_asks_for_the_rates_that_it_holds():
    noise = MatrixNoise(classes=("a", "b"), rows=((0.75, 0.25), (0.5, 0.5)))
    document = {
        "categories": categories(["a", "b"]),
        "annotations": [{"id": n, "category_id": 1 + (n % 4 == 0)} for n in range(4000)],
    }
    _, manifest = corrupt(document, noise, stream="train")
    assert manifest["requested_rate_by_class"] == {"a": 0.25, "b": 0.5}
    assert manifest["requested_rate"] == manifest["expected_rate"] == pytest.approx(0.75 * 0.25 + 0.25 * 0.5)
    assert manifest["realised_rate"] == pytest.approx(manifest["expected_rate"], abs=4 * (0.25 / 4000) ** 0.5)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["a", "c"], r"has classes that the data lack: b; correct"),
        (["a", "b", "c"], r"lacks classes of the data: c; add them, and a row for each"),
    ],
)
def test_a_matrix_of_other_classes_is_refused(names, complaint):
    noise = MatrixNoise(classes=("a", "b"), rows=((0.9, 0.1), (0.3, 0.7)))
    with pytest.raises(DataError, match=complaint):
        flips(names, noise)


@pytest.mark.parametrize(
    ("names", "pool"),
    [
        (VOC, range(1, 20)),  # randint(1, 20) of 1..20
        (CITYSCAPES, [1 + [24, 25, 26, 27, 28, 31, 32, 33].index(i) for i in (24, 25, 26, 27, 28, 31, 32)]),
        (COCO, [1 + COCO.index(COCO_BY_ID[i]) for i in range(1, 90) if COCO_BY_ID[i] != "N/A"]),
    ],
    ids=["voc", "cityscapes", "coco"],
)
def test_release_compat_draws_from_the_pools_of_the_scripts(names, pool):
    # numpy's randint leaves the upper end out, so the last class never comes; the clean class may come
    size = len(names)
    expected = np.array([[0.2 * (c == n) + 0.8 * list(pool).count(n) / len(pool) for n in range(1, size + 1)]
                         for c in range(1, size + 1)])  # fmt: skip
    matrix = transition_matrix(categories(names), ReleaseCompatNoise(rate=0.8))
    np.testing.assert_allclose(matrix, expected, atol=1e-12)
    assert not matrix[:-1, -1].any()


def test_release_compat_realises_686_of_a_requested_800_on_cityscapes():
    """0.8 * 6/7 for the seven classes that are targets; the last one, bicycle, always leaves: 0.8."""
    matrix = transition_matrix(categories(CITYSCAPES), ReleaseCompatNoise(rate=0.8))
    np.testing.assert_allclose(1 - matrix.diagonal(), [0.8 * 6 / 7] * 7 + [0.8])
    assert round(0.8 * 6 / 7, 3) == 0.686
    ids = [24, 25, 26, 27, 28, 31, 32, 33]
    document = {
        "categories": [{"id": i, "name": name} for i, name in zip(ids, CITYSCAPES, strict=True)],
        "annotations": [{"id": n, "category_id": ids[n % 8]} for n in range(40_000)],
    }
    noisy, manifest = corrupt(document, ReleaseCompatNoise(rate=0.8, seed=2), stream="train")
    assert manifest["requested_rate"] == 0.8
    rates = list(manifest["realised_rate_by_class"].values())
    assert rates == pytest.approx([0.686] * 7 + [0.8], abs=4 * (0.686 * 0.314 / 5000) ** 0.5)
    assert not any(a["category_id"] == 33 != a["clean_category_id"] for a in noisy["annotations"])


@pytest.mark.parametrize("kind", [SymmetricNoise, AsymmetricNoise, ReleaseCompatNoise])
@pytest.mark.parametrize("background", ["background", "__background__", "_background_", "Background"])
def test_background_is_neither_flipped_nor_drawn(kind, background):
    with_it = transition_matrix(categories([background, *VOC]), kind(rate=0.5))
    np.testing.assert_array_equal(with_it[1:, 1:], transition_matrix(categories(VOC), kind(rate=0.5)))
    assert with_it[0, 0] == 1
    assert not with_it[1:, 0].any()


@pytest.mark.parametrize(
    ("text", "noise"),
    [
        ("{type: asymmetric, rate: 0.4, seed: 0}", AsymmetricNoise()),
        ("{type: asymmetric, map: {1: 7, 3: 8}}", AsymmetricNoise(map={"1": "7", "3": "8"})),
        ("{type: asymmetric, pair: true, map_of: coco}", AsymmetricNoise(pair=True, map_of="coco")),
        ("{type: release-compat, rate: 0.8}", ReleaseCompatNoise(rate=0.8)),
        (
            "{type: matrix, classes: [0, 1], rows: [[1, 0], [1e-1, 0.9]]}",
            MatrixNoise(classes=("0", "1"), rows=((1, 0), (0.1, 0.9))),
        ),
    ],
)
def test_noise_in_yaml(tmp_path, text, noise):
    (tmp_path / "noise.yaml").write_text(text)
    assert documents.load(NoiseConfig, tmp_path / "noise.yaml") == noise
    assert documents.parse(NoiseConfig, documents.dump(noise), source="again") == noise
    assert isinstance(hash(noise), int)


ROWS = {"classes": ["a", "b"], "rows": [[0.9, 0.1], [0.3, 0.7]]}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"type": "symmetric", "map": {"a": "b"}}, "map: no such field with type symmetric, only with asymmetric"),
        (
            {"type": "release-compat", "pair": True},
            "pair: no such field with type release-compat, only with asymmetric",
        ),
        ({"type": "asymmetric", "map": {"a": "b"}, "pair": True}, "map and pair exclude each other"),
        ({"type": "asymmetric", "map": {"a": "b"}, "map_of": "coco"}, "map and map_of exclude each other"),
        ({"type": "asymmetric", "map_of": "voc", "pair": True}, "map_of and pair exclude each other"),
        ({"type": "asymmetric", "map": {}}, "map must name at least one class"),
        ({"type": "asymmetric", "map": {"a": "a"}}, "map must name another class for a than itself"),
        ({"type": "asymmetric", "map_of": "lvis"}, "map_of: must be 'voc', 'cityscapes', 'coco' or 'digits' but got"),
        ({"type": "asymmetric"} | ROWS, "classes: no such field with type asymmetric, only with matrix"),
        ({"type": "matrix"}, "classes: is required but missing"),
        ({"type": "matrix"} | ROWS | {"rows": [[0.9, 0.2], [0, 1]]}, "the row of a must sum to 1 but"),
        ({"type": "matrix"} | ROWS | {"rows": [[1.5, -0.5], [0, 1]]}, "rows.*must be less than or"),
        ({"type": "matrix"} | ROWS | {"rows": [[1, 0]]}, "rows must be 2 of 2 probabilities"),
        ({"type": "matrix"} | ROWS | {"classes": ["a", "a"]}, "classes must differ"),
        ({"type": "matrix"} | ROWS | {"row": 1}, "row: no such field; did you mean rows"),
        ({"type": "uniform"}, "type: must be one of 'none', 'symmetric'"),
    ],
)
def test_settings_that_do_not_belong_together_are_refused(settings, complaint):
    with pytest.raises(ConfigError, match=complaint):
        documents.parse(NoiseConfig, settings, source="noise")


@pytest.mark.parametrize("field", [{"rate": 0.4}, {"seed": 1}, {"map": {"a": "b"}}, ROWS])
def test_without_noise_there_is_nothing_to_set(field):
    with pytest.raises(ConfigError, match="no such field with type none, only with "):
        documents.parse(NoiseConfig, {"type": "none"} | field, source="noise")
