import hashlib
import json
import math
from copy import deepcopy

import numpy as np
import pytest

from lncis.config import AsymmetricNoise, NoiseConfig, NoNoise, ReleaseCompatNoise, SymmetricNoise
from lncis.errors import DataError
from lncis.noise import corrupt, flipped_loss, matched_rate, odds, transition_matrix
from lncis.noise.draw import _draw
from lncis.noise.names import MAPS

MISTAKEN_FOR = MAPS["digits"]
DIGITS = [str(digit) for digit in range(10)]
KINDS = [SymmetricNoise, AsymmetricNoise, ReleaseCompatNoise]


def document(n: int = 20_000, names: list[str] = DIGITS, ids: list[int] | None = None, seed: int = 5) -> dict:
    ids = ids or [i + 1 for i in range(len(names))]
    rng = np.random.default_rng(seed)
    return {
        "info": {"description": "synthetic"},
        "images": [{"id": 0, "width": 8, "height": 8}],
        "categories": [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)],
        "annotations": [
            {
                "id": 3 * i + 7,
                "image_id": 0,
                "category_id": ids[int(rng.integers(len(ids)))],
                "iscrowd": 0,
                "bbox": [0, 0, 1, 1],
                "note": {"by": i},
            }
            for i in range(n)
        ],
    }


def matrix_of(names: list[str], noise: NoiseConfig) -> np.ndarray:
    return transition_matrix(document(0, names)["categories"], noise)


def labels(annotated: dict) -> dict[int, int]:
    return {a["id"]: a["category_id"] for a in annotated["annotations"]}


def flips(noisy: dict) -> list[tuple[int, int]]:
    pairs = [(a["clean_category_id"], a["category_id"]) for a in noisy["annotations"]]
    return [(clean, now) for clean, now in pairs if clean != now]


def within_4_sigma(found: int, n: int, p: float) -> bool:
    return abs(found - n * p) <= 4 * math.sqrt(n * p * (1 - p))


def within_5_sigma(found: int, n: int, p: float) -> bool:
    return abs(found - n * p) <= 5 * math.sqrt(n * p * (1 - p)) + 1e-6


@pytest.mark.parametrize("kind", [None, *KINDS])
@pytest.mark.parametrize("rate", [0, 0.2, 0.8, 1])
def test_transition_matrix_is_stochastic(kind, rate):
    matrix = matrix_of(DIGITS, kind(rate=rate) if kind else NoNoise())
    assert matrix.shape == (10, 10)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)


def test_transition_matrix_symmetric_by_hand():
    np.testing.assert_allclose(
        matrix_of(["a", "b", "c"], SymmetricNoise(rate=0.4)), [[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]]
    )
    np.testing.assert_allclose(matrix_of(["a", "b"], SymmetricNoise(rate=1.0)), [[0, 1], [1, 0]])


def test_transition_matrix_asymmetric_by_hand():
    np.testing.assert_allclose(
        matrix_of(["0", "1", "7"], AsymmetricNoise(rate=0.3)), [[1, 0, 0], [0, 0.7, 0.3], [0, 0.3, 0.7]]
    )


@pytest.mark.parametrize("noise", [NoNoise(), *(kind(rate=0) for kind in KINDS)])
def test_transition_matrix_without_noise_is_the_identity(noise):
    np.testing.assert_array_equal(matrix_of(["a", "b"], noise), np.eye(2))


def test_confusable_digits_are_the_four_pairs():
    pairs = ("17", "38", "49", "56")
    assert {a: b for pair in pairs for a, b in (pair, pair[::-1])} == MISTAKEN_FOR


@pytest.mark.parametrize("rate", [0.2, 0.4, 0.8])
def test_symmetric_flips_the_asked_share_uniformly(rate):
    clean = document()
    noisy, _ = corrupt(clean, SymmetricNoise(rate=rate), stream="train")
    found = flips(noisy)
    assert within_4_sigma(len(found), 20_000, rate)
    # over the 90 ordered pairs of different classes; 89 degrees of freedom, 150 has p < 1e-4
    of_class = np.bincount([a["category_id"] for a in clean["annotations"]], minlength=11)
    chi_square = sum(
        (found.count((c, n)) - of_class[c] * rate / 9) ** 2 / (of_class[c] * rate / 9)
        for c in range(1, 11)
        for n in range(1, 11)
        if n != c
    )
    assert chi_square < 150


@pytest.mark.parametrize("rate", [0.2, 0.4])
def test_asymmetric_flips_along_the_map_alone(rate):
    clean = document()
    noisy, _ = corrupt(clean, AsymmetricNoise(rate=rate), stream="train")
    found = flips(noisy)
    name = {category["id"]: category["name"] for category in clean["categories"]}
    assert {(name[c], name[n]) for c, n in found} == set(MISTAKEN_FOR.items())
    mapped = sum(name[a["category_id"]] in MISTAKEN_FOR for a in clean["annotations"])
    assert within_4_sigma(len(found), mapped, rate)


@pytest.mark.parametrize("noise", [NoNoise(), SymmetricNoise(rate=0), AsymmetricNoise(rate=0)])
def test_no_noise_flips_nothing(noise):
    clean = document(500)
    noisy, manifest = corrupt(clean, noise, stream="train")
    assert labels(noisy) == labels(clean)
    assert manifest["requested_rate"] == manifest["realised_rate"] == 0


@pytest.mark.parametrize("names", [["a", "b"], DIGITS])
def test_rate_1_flips_all(names):
    noisy, manifest = corrupt(document(5000, names), SymmetricNoise(rate=1), stream="train")
    assert len(flips(noisy)) == 5000
    assert manifest["realised_rate"] == 1


def test_rate_1_asymmetric_flips_all_that_have_a_pair():
    noisy, _ = corrupt(document(2000), AsymmetricNoise(rate=1), stream="train")
    swapped = {int(a) + 1: int(b) + 1 for a, b in MISTAKEN_FOR.items()}  # ids are one more than the digits
    assert all(a["category_id"] == swapped.get(c := a["clean_category_id"], c) for a in noisy["annotations"])


def test_clean_labels_and_unknown_fields_are_kept():
    clean = document(300)
    noisy, _ = corrupt(clean, SymmetricNoise(rate=0.5), stream="train")
    assert flips(noisy)
    for before, after in zip(clean["annotations"], noisy["annotations"], strict=True):
        assert after == {**before, "category_id": after["category_id"], "clean_category_id": before["category_id"]}
    assert {k: v for k, v in noisy.items() if k != "annotations"} == {
        k: v for k, v in clean.items() if k != "annotations"
    }


def test_crowds_are_untouched_and_draw_nothing():
    clean = document(400)
    plain, _ = corrupt(clean, SymmetricNoise(rate=1), stream="train")
    crowd = {"id": 8, "image_id": 0, "category_id": 4, "iscrowd": 1, "segmentation": {"counts": [], "size": [8, 8]}}
    with_crowd = {**clean, "annotations": [*clean["annotations"][:1], crowd, *clean["annotations"][1:]]}
    noisy, manifest = corrupt(with_crowd, SymmetricNoise(rate=1), stream="train")
    assert noisy["annotations"][1] == {**crowd, "clean_category_id": 4}
    assert {**labels(plain), 8: 4} == labels(noisy)
    assert manifest["annotations"] == 400


def test_input_is_not_modified():
    clean = document(300)
    before = deepcopy(clean)
    corrupt(clean, SymmetricNoise(rate=0.5), stream="train")
    assert clean == before


def test_order_of_the_file_does_not_matter():
    clean = document(1000)
    order = np.random.default_rng(0).permutation(1000)
    shuffled = {
        **clean,
        "annotations": [clean["annotations"][i] for i in order],
        "categories": clean["categories"][::-1],
    }
    (straight, manifest), (mixed, mixed_manifest) = (
        corrupt(d, SymmetricNoise(rate=0.5), stream="train") for d in (clean, shuffled)
    )
    assert labels(straight) == labels(mixed)
    assert manifest == mixed_manifest
    assert [a["id"] for a in mixed["annotations"]] == [a["id"] for a in shuffled["annotations"]]


def test_same_arguments_give_the_same_labels():
    assert corrupt(document(), SymmetricNoise(), stream="val") == corrupt(document(), SymmetricNoise(), stream="val")


@pytest.mark.parametrize(
    ("noise", "stream"),
    [(SymmetricNoise(seed=1), "train"), (SymmetricNoise(seed=0), "val")],
    ids=["other seed", "other stream"],
)
def test_other_draw_gives_other_labels(noise, stream):
    clean = document()
    a, b = (labels(corrupt(clean, n, stream=s)[0]) for n, s in ((SymmetricNoise(seed=0), "train"), (noise, stream)))
    truth = labels(clean)
    both = sum(a[i] != truth[i] and b[i] != truth[i] for i in truth)
    assert within_4_sigma(both, 20_000, 0.4 * 0.4)  # independent draws


@pytest.mark.parametrize("kind", [SymmetricNoise, AsymmetricNoise])
def test_manifest_is_what_was_done(kind):
    clean = document(3000)
    noisy, manifest = corrupt(clean, kind(rate=0.3, seed=9), stream="val")
    counts = [[0] * 10 for _ in range(10)]
    for a in noisy["annotations"]:
        counts[a["clean_category_id"] - 1][a["category_id"] - 1] += 1
    assert manifest["counts_given_clean_given_noisy"] == counts
    assert manifest["annotations"] == 3000
    assert manifest["realised_rate"] == pytest.approx(len(flips(noisy)) / 3000, abs=1e-12)
    assert manifest["realised_rate_by_class"] == pytest.approx(
        {str(k): 1 - counts[k][k] / sum(counts[k]) for k in range(10)}, abs=1e-12
    )
    assert (manifest["type"], manifest["requested_rate"]) == (kind().type, 0.3)
    assert (manifest["seed"], manifest["stream"]) == (9, "val")
    by_id = sorted(noisy["annotations"], key=lambda a: a["id"])
    words = [a["clean_category_id"] - 1 for a in by_id] + [a["category_id"] - 1 for a in by_id]
    content = b"".join(word.to_bytes(8, "little") for word in words)
    assert manifest["labels_sha256"] == hashlib.sha256(content).hexdigest()
    assert json.loads(json.dumps(manifest)) == manifest


@pytest.mark.parametrize("kind", KINDS)
def test_manifest_holds_the_transition_matrix_and_what_it_leads_to_expect(kind):
    clean = document(3000)
    noise = kind(rate=0.3)
    _, manifest = corrupt(clean, noise, stream="train")
    matrix = transition_matrix(clean["categories"], noise)
    assert manifest["classes"] == DIGITS
    assert manifest["transition_matrix"] == matrix.tolist()
    truth = [a["category_id"] - 1 for a in clean["annotations"]]
    assert manifest["expected_rate"] == pytest.approx(1 - np.mean([matrix[c, c] for c in truth]))
    reached = set(MISTAKEN_FOR) if kind is AsymmetricNoise else set(DIGITS)
    assert manifest["requested_rate_by_class"] == {name: 0.3 if name in reached else 0 for name in DIGITS}


@pytest.mark.parametrize("kind", KINDS)
def test_counts_follow_the_transition_matrix(kind):
    clean = document(50_000)
    _, manifest = corrupt(clean, kind(rate=0.35, seed=11), stream="train")
    for row, counts in zip(manifest["transition_matrix"], manifest["counts_given_clean_given_noisy"], strict=True):
        for p, found in zip(row, counts, strict=True):
            assert within_5_sigma(found, sum(counts), p)  # 100 cells: 4 sigma would fail one seed in 160


@pytest.mark.parametrize("rate", [0.2, 0.37, 0.8, 1.0])
@pytest.mark.parametrize("number", [0, 1, 7, 250, 3001])
def test_exact_noise_flips_the_share_itself(number, rate):
    clean = document(number)
    noisy, manifest = corrupt(clean, SymmetricNoise(rate=rate, exact=True, seed=4), stream="train")
    assert len(flips(noisy)) == round(rate * number)
    assert manifest["exact"] and manifest["realised_rate"] == pytest.approx(round(rate * number) / max(number, 1))
    mapped = sum(DIGITS[a["category_id"] - 1] in MISTAKEN_FOR for a in clean["annotations"])
    noisy, _ = corrupt(clean, AsymmetricNoise(rate=rate, exact=True, seed=4), stream="train")
    assert len(flips(noisy)) == round(rate * mapped)
    assert {(DIGITS[c - 1], DIGITS[n - 1]) for c, n in flips(noisy)} <= set(MISTAKEN_FOR.items())


def test_exact_noise_draws_which_and_to_what_alike():
    """Given that a label flips, which one and to which class are as without `exact`: uniform."""
    clean = document(30_000)
    noisy, _ = corrupt(clean, SymmetricNoise(rate=0.4, exact=True), stream="train")
    found = flips(noisy)
    of_class = np.bincount([a["category_id"] for a in clean["annotations"]], minlength=11)
    flipped = np.bincount([c for c, _ in found], minlength=11)
    assert all(within_5_sigma(flipped[c], of_class[c], 0.4) for c in range(1, 11))
    assert all(
        within_5_sigma(found.count((c, n)), flipped[c], 1 / 9) for c in range(1, 11) for n in range(1, 11) if n != c
    )
    first, second = ({a["id"] for a in part if a["category_id"] != a["clean_category_id"]}
                     for part in (noisy["annotations"][:15_000], noisy["annotations"][15_000:]))  # fmt: skip
    assert within_5_sigma(len(first), len(first) + len(second), 0.5)


def test_exact_noise_is_a_function_of_annotations_and_seed_whatever_their_order():
    clean, noise = document(900), SymmetricNoise(rate=0.3, exact=True, seed=2)
    shuffled = {**clean, "annotations": clean["annotations"][::-1]}
    once, again = corrupt(clean, noise, stream="train")[0], corrupt(shuffled, noise, stream="train")[0]
    assert labels(once) == labels(again)
    assert labels(once) != labels(corrupt(clean, noise, stream="val")[0])


def test_without_exact_the_realised_rate_is_off_by_chance():
    rates = [corrupt(document(250), SymmetricNoise(seed=s), stream="train")[1]["realised_rate"] for s in range(200)]
    assert np.std(rates) == pytest.approx(math.sqrt(0.4 * 0.6 / 250), rel=0.2)  # 3.1 points


@pytest.mark.parametrize(("rate", "matched"), [(0.2, 0.106), (0.4, 0.24), (0.6, 0.415), (0.8, 0.655)])
def test_matched_rates_have_the_odds_of_voc(rate, matched):
    found = matched_rate(rate, classes=20, to=10)
    assert found == pytest.approx(matched, abs=5e-4)
    assert odds(found, 10) == pytest.approx(odds(rate, 20))
    assert matched_rate(found, classes=10, to=20) == pytest.approx(rate)
    assert matched_rate(rate, classes=20, to=20) == pytest.approx(rate)
    # a second way: the ratio of right to each wrong in the transition matrices themselves
    voc, ten = (matrix_of([f"c{k}" for k in range(n)], SymmetricNoise(rate=r)) for n, r in ((20, rate), (10, found)))
    assert voc[0, 0] / voc[0, 1] == pytest.approx(ten[0, 0] / ten[0, 1])


def test_rates_without_noise_and_with_nothing_but_noise():
    assert (matched_rate(0.0, classes=20, to=10), odds(0.0, 10), flipped_loss(0.0, 10)) == (0.0, math.inf, math.inf)
    assert (matched_rate(1.0, classes=20, to=10), odds(1.0, 10)) == (1.0, 0.0)


@pytest.mark.parametrize(("classes", "nats"), [(10, 3.1), (20, 3.9), (80, 5.3), (8, 2.9)])
def test_the_loss_of_a_flipped_label_under_a_calibrated_model_lies_below_gamma(classes, nats):
    """Such a model predicts the row of the transition matrix that the clean class has."""
    matrix = matrix_of([f"c{k}" for k in range(classes)], SymmetricNoise(rate=0.4))
    assert flipped_loss(0.4, classes) == pytest.approx(-math.log(matrix[0, 1]))
    assert flipped_loss(0.4, classes) == pytest.approx(nats, abs=0.05)
    assert flipped_loss(0.4, classes) < 6


def test_manifest_of_a_class_without_annotations():
    clean = document(50, ["a", "b"])
    clean["categories"].append({"id": 3, "name": "unseen"})
    _, manifest = corrupt(clean, SymmetricNoise(rate=0.5), stream="train")
    assert manifest["realised_rate_by_class"]["unseen"] == 0
    assert sum(manifest["counts_given_clean_given_noisy"][2]) == 0


def test_no_annotations():
    clean = document(0)
    noisy, manifest = corrupt(clean, SymmetricNoise(), stream="train")
    assert noisy["annotations"] == []
    assert manifest["annotations"] == manifest["realised_rate"] == 0


def test_category_ids_with_holes():
    ids = [3, 4, 17, 90]
    clean = document(4000, ["a", "b", "c", "d"], ids)
    noisy, _ = corrupt(clean, SymmetricNoise(rate=0.6), stream="train")
    assert {a["category_id"] for a in noisy["annotations"]} == set(ids)
    assert within_4_sigma(len(flips(noisy)), 4000, 0.6)
    assert len(set(flips(noisy))) == 12


def test_symmetric_noise_on_one_class_is_refused():
    with pytest.raises(DataError, match="needs at least 2 classes but got 1; use type: none"):
        corrupt(document(5, ["a"]), SymmetricNoise(), stream="train")


def test_asymmetric_noise_without_a_known_pair_is_refused():
    with pytest.raises(DataError, match="no confusable pair among the classes kite, bench; use type: symmetric"):
        corrupt(document(5, ["kite", "bench"]), AsymmetricNoise(), stream="train")


@pytest.mark.parametrize(
    ("kind", "stream", "sha256"),
    [
        (SymmetricNoise, "train", "199c18a58e2a965e"),
        (SymmetricNoise, "val", "85e84e8be650bcc5"),
        (AsymmetricNoise, "train", "e9f48f0416143748"),
        (AsymmetricNoise, "val", "70fd9d2584f9c790"),
    ],
)
def test_a_seed_gives_the_labels_that_it_always_gave(kind, stream, sha256):
    _, manifest = corrupt(document(1000), kind(rate=0.3, seed=3), stream=stream)
    assert manifest["labels_sha256"].startswith(sha256)


def test_a_draw_never_takes_what_the_matrix_excludes():
    """The largest uniform number there is, against sums that rounding left below 1."""

    class Largest:
        def random(self, n: int) -> np.ndarray:
            return np.full(n, np.nextafter(1, 0))

    row = np.array([0.1] * 10 + [0.0])  # adds up to less than 1 in floating point
    assert np.cumsum(row)[-1] < 1
    assert _draw(np.array([0]), np.array([row]), Largest()).tolist() == [9]


def test_the_draw_is_the_inverse_of_the_distribution_function():
    rng = np.random.default_rng(1)
    matrix = rng.dirichlet(np.full(7, 0.5), size=7)
    clean = rng.integers(0, 7, 5000)
    uniform = np.random.default_rng(2).random(5000)
    expected = [next(k for k in range(7) if u < sum(matrix[c, : k + 1])) for c, u in zip(clean, uniform, strict=True)]
    assert _draw(clean, matrix, np.random.default_rng(2)).tolist() == expected


def test_labels_of_a_noisy_document_are_not_flipped_again():
    noisy, _ = corrupt(document(300), SymmetricNoise(rate=0.5), stream="train")
    with pytest.raises(
        DataError,
        match=r"annotation \d+ has .*: it holds label noise already; give the clean document, or .* type: none",
    ):
        corrupt(noisy, SymmetricNoise(rate=0.1), stream="train")


def test_labels_of_a_noisy_document_stay_without_noise():
    noisy, _ = corrupt(document(300), SymmetricNoise(rate=0.5), stream="train")
    again, _ = corrupt(noisy, NoNoise(), stream="train")
    assert again == noisy


def test_a_document_whose_labels_are_all_clean_is_not_noisy():
    marked, _ = corrupt(document(300), NoNoise(), stream="train")
    assert all("clean_category_id" in a for a in marked["annotations"])
    assert corrupt(marked, SymmetricNoise(), stream="train") == corrupt(document(300), SymmetricNoise(), stream="train")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"annotations": None}, "annotations must be a list but are None"),
        ({"categories": {"1": "a"}}, "categories must be a list but are {'1': 'a'}"),
        ({"categories": []}, "categories must name at least one class but are empty"),
        ({"categories": [{"id": 1}]}, r"categories\[0\]: name must be a name but got none"),
        ({"categories": [{"id": "1", "name": "a"}]}, r"categories\[0\]: id must be a whole number but got '1'"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "categories: id 1 stands there more than"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "categories: two are named a"),
        ({"annotations": ["a"]}, r"annotations\[0\]: id must be a whole number but got none"),
        ({"annotations": [{"id": 1}]}, r"annotations\[0\]: category_id must be a whole number but got none"),
        ({"annotations": [{"id": 1, "category_id": True}]}, "category_id must be a whole number but got True"),
        ({"annotations": [{"id": 1, "category_id": 99}]}, "category_id 99, which is not among the categories"),
        ({"annotations": [{"id": 4, "category_id": 1}] * 2}, "annotations: id 4 stands there more than once"),
    ],
)
def test_what_is_no_coco_document_is_refused(change, complaint):
    with pytest.raises(DataError, match=complaint):
        corrupt(document(5) | change, SymmetricNoise(), stream="train")


@pytest.mark.parametrize("key", ["annotations", "categories"])
def test_a_missing_part_is_named(key):
    incomplete = document(5)
    del incomplete[key]
    with pytest.raises(DataError, match=f"{key} must be a list but are missing; is this a COCO instances document"):
        corrupt(incomplete, SymmetricNoise(), stream="train")
