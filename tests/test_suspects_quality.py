"""Figures of a ranking, counted by hand; the plan of a review, against simulated reviews."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lncis.commands.suspects.files import print_found
from lncis.detection.posteriors import Posteriors
from lncis.errors import DataError
from lncis.noise import noise_model
from lncis.suspects.report import quality
from lncis.suspects.report.assessment import assess
from lncis.suspects.report.html import noise_rows, report_html
from lncis.suspects.report.plan_page import plan_html
from lncis.suspects.report.progress import progress_of
from lncis.suspects.report.review_plan import review_plan, updated
from lncis.suspects.review.repair import Decision, Decisions
from lncis.suspects.suspect import Suspect
from lncis.suspects.tables import SuspectList


def test_ranking_counts_pairs_and_first_places():
    rng = np.random.default_rng(0)
    wrong = rng.random(300) < 0.3
    scores = rng.random(300).round(2) + 0.4 * wrong
    found = quality.ranking(scores, wrong)
    pairs = [(s > t) + 0.5 * (s == t) for s in scores[wrong] for t in scores[~wrong]]
    assert found.auroc == pytest.approx(np.mean(pairs))
    first = sorted(range(300), key=lambda i: -scores[i])[: wrong.sum()]
    assert found.precision_at_errors == pytest.approx(np.mean([wrong[i] for i in first]))
    assert set(found.precision_at) == {50, 100}


def test_a_ranking_without_errors_has_no_auroc():
    found = quality.ranking(np.array([0.1, 0.2]), np.array([False, False]))
    assert np.isnan(found.auroc)
    assert np.isnan(found.precision_at_errors)


def test_reliability_is_a_tenth_a_bin():
    probabilities = np.array([0.05, 0.05, 0.95, 1.0])
    bins = quality.reliability(probabilities, np.array([False, True, True, True]))
    assert [(b.labels, b.said, b.is_so) for b in bins] == [(2, 0.05, 0.5), (2, 0.975, 1.0)]
    assert quality.expected_calibration_error(bins) == pytest.approx((2 * 0.45 + 2 * 0.025) / 4)


def test_baselines_are_their_formulas():
    q = np.array([[0.7, 0.2, 0.1], [0.02, 0.97, 0.01]])
    found = Posteriors(
        annotation_ids=np.array([1, 2]), given=np.array([0, 0]), probabilities=q, background=np.array([0.5, 0.01])
    )
    scores = quality.baselines(found, np.random.default_rng(0))
    certainty = [np.exp(sum(p * np.log(p) for p in row)) for row in q]
    assert scores["mistakenness"] == pytest.approx([(1 - certainty[0]) / 2, (1 + certainty[1]) / 2])
    assert scores["loss"] == pytest.approx([-np.log(0.7 * 0.5), -np.log(0.02 * 0.99)])
    assert scores["normalised margin"] == pytest.approx([0.2 - 0.7, 0.97 - 0.02])
    assert scores["self-confidence"] == pytest.approx([0.3, 0.98])
    assert scores["swap"] == pytest.approx([0.0, 0.97 * 0.99])


def test_simpler_scores_are_those_of_cleanlab():
    """Its scores are small where ours are great; exporters/by_cleanlab.py wrote them."""
    told = json.loads((Path(__file__).parent / "exporters" / "suspects" / "cleanlab.json").read_text())
    given, q = np.array(told["given"]), np.array(told["probabilities"])
    theirs = {name: np.array(values) for name, values in told["scores"].items()}
    found = Posteriors(
        annotation_ids=np.arange(len(given)), given=given, probabilities=q, background=np.zeros(len(given))
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # of a probability of 0, which posteriors do not have
        ours = quality.baselines(found, np.random.default_rng(0))
    assert ours["self-confidence"] == pytest.approx(1 - theirs["self_confidence"])
    assert ours["normalised margin"] == pytest.approx(1 - 2 * theirs["normalized_margin"])
    assert ((ours["swap"] > 0) == (theirs["swap"] < 1)).all()
    assert 5 < (theirs["swap"] < 1).sum() < 30


def test_swap_is_what_hotcoco_calls_a_wrong_label():
    hotcoco = pytest.importorskip("hotcoco")
    rng, count, classes = np.random.default_rng(0), 60, 5
    q, given = rng.dirichlet([0.1] * classes, count), rng.integers(0, classes, count)
    box = {"bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0}
    rows = [{"id": i + 1, "image_id": i + 1, **box} for i in range(count)]
    truth = hotcoco.COCO(
        {
            "images": [{"id": row["id"], "width": 100, "height": 100, "file_name": f"{row['id']}"} for row in rows],
            "annotations": [{**row, "category_id": int(k) + 1} for row, k in zip(rows, given, strict=True)],
            "categories": [{"id": k + 1, "name": f"{k}"} for k in range(classes)],
        }
    )
    said = truth.load_res(
        [{**row, "category_id": int(p.argmax()) + 1, "score": float(p.max())} for row, p in zip(rows, q, strict=True)]
    )
    evaluation = hotcoco.COCOeval(truth, said, "bbox")
    evaluation.evaluate()
    errors = evaluation.image_diagnostics(iou_thr=0.5, score_thr=quality.SWAP_CONFIDENCE)["label_errors"]
    theirs = {error["gt_id"]: error["dt_score"] for error in errors if error["type"] == "wrong_label"}
    found = Posteriors(annotation_ids=np.arange(count), given=given, probabilities=q, background=np.zeros(count))
    swap = quality.baselines(found, rng)["swap"]
    assert theirs == pytest.approx({int(i) + 1: swap[i] for i in swap.nonzero()[0]})
    assert len(theirs) > 5


def test_the_plan_expects_what_reviews_of_calibrated_labels_find():
    rng = np.random.default_rng(1)
    wrong = rng.beta(0.5, 1.2, 1000)
    plan = review_plan(wrong)
    order = np.argsort(-wrong)
    counts = np.array([(rng.random(1000) < wrong)[order] for _ in range(2000)])
    for step in plan.steps:
        found = counts[:, : step.reviews].sum(axis=1)
        assert step.errors == pytest.approx(found.mean(), abs=0.7)
        inside = np.abs(found - step.errors) <= step.half_width
        assert 0.92 < inside.mean() < 0.98
    for share, reviews in plan.needed.items():
        assert wrong[order][:reviews].sum() >= share * wrong.sum() > wrong[order][: reviews - 1].sum()
    assert "errors expected in 1,000 labels" in str(plan)


def test_a_review_that_finds_more_than_expected_raises_the_rest():
    wrong = np.linspace(0.9, 0.1, 100)
    more = updated(wrong, dict.fromkeys(range(20), True))
    fewer = updated(wrong, dict.fromkeys(range(20), False))
    assert (more[:20] == 1).all()
    assert (fewer[:20] == 0).all()
    assert (more[20:] > wrong[20:]).all()
    assert (fewer[20:] < wrong[20:]).all()
    assert (np.diff(more[20:]) < 0).all(), "the order stays"
    assert (updated(wrong, {}) == wrong).all()


def test_a_review_that_finds_as_many_as_expected_changes_the_rest_little():
    rng = np.random.default_rng(2)
    wrong = rng.beta(1, 1, 2000)
    truth = rng.random(2000) < wrong
    after = updated(wrong, {int(k): bool(truth[k]) for k in range(500)})
    assert np.abs(after[500:] - wrong[500:]).max() < 0.08


@pytest.mark.parametrize("reviews", [1, 5, 50])
def test_a_review_that_confirms_what_a_sure_list_says_leaves_the_rest_as_it_was(reviews):
    wrong = np.concatenate([np.full(50, 0.99999), np.linspace(0.9, 0.01, 150)])
    after = updated(wrong, dict.fromkeys(range(reviews), True))
    assert after[50:].sum() == pytest.approx(wrong[50:].sum(), rel=0.01)


def test_the_shift_of_the_rest_is_the_most_probable_one():
    wrong = np.array([0.95, 0.9, 0.7, 0.6, 0.4, 0.3])
    found = {0: True, 1: False, 2: False, 3: False}
    odds = np.log(wrong / (1 - wrong))

    def log_posterior(shift: float) -> float:
        likelihood = sum(-np.log1p(np.exp((-1 if found[k] else 1) * (odds[k] + shift))) for k in found)
        return likelihood - shift**2 / 2

    shifts = np.linspace(-5, 5, 100_001)
    best = shifts[np.argmax([log_posterior(shift) for shift in shifts])]
    assert updated(wrong, found)[4:] == pytest.approx(1 / (1 + np.exp(-(odds[4:] + best))), abs=1e-4)


def test_the_report_says_what_becomes_of_each_class_as_estimated_and_as_known(capsys):
    rng = np.random.default_rng(4)
    true = rng.integers(0, 3, 400)
    given = np.where(rng.random(400) < 0.3, (true + 1) % 3, true)
    probabilities = np.full((400, 3), 0.02)
    probabilities[np.arange(400), true] = 0.96
    found = Posteriors(
        annotation_ids=np.arange(400), given=given, probabilities=probabilities, background=np.zeros(400)
    )
    noise = noise_model.estimate(probabilities, given)
    assessed = assess(found, noise, ["a", "b", "c"], true, np.ones(400))
    for k, (right, wrong) in enumerate(noise_rows(assessed)):
        assert (right.true, right.label, wrong.label) == ("abc"[k], "abc"[k], "bca"[k])
        assert right.known == pytest.approx((given == true)[true == k].mean())
        assert wrong.known == pytest.approx((given != true)[true == k].mean())
        assert right.interval[0] < right.share < right.interval[1]
        assert right.share == pytest.approx(right.known, abs=0.06)
    listed = the_list(["a", "b", "c"], [0.9, 0.1]).suspects
    page = report_html("<i>", listed, assessed, "seen in training")
    assert "<b>Note:</b> seen in training." in page
    assert page.count("data:image/png") == 4
    unknown = assess(found, noise, ["a", "b", "c"], np.full(400, -1), np.ones(400))
    assert {row.known for pair in noise_rows(unknown) for row in pair} == {None}
    assert "known" not in report_html("<i>", listed, unknown)
    hostile = replace(listed[0], given="red\x1b[31m")
    print_found(SuspectList(annotations="x", classes=["b"], suspects=[hostile]), unknown, "")
    assert "\x1b" not in (printed := capsys.readouterr().out), "no name commands the terminal"
    assert "red\\x1b[31m" in printed


def test_an_empty_list_has_a_plan():
    assert review_plan(np.zeros(0)).steps == []


def test_what_a_review_found_moves_what_is_left():
    listed = the_list(["cat", "dog"], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    review = reviewed(listed, {1: "dog", 2: "dog", 4: "cat"})
    found = progress_of(listed, review, "decisions.json", "suspects.json")
    assert (found.reviewed, found.found) == (3, 2)
    assert found.expected == pytest.approx(0.9 + 0.8 + 0.6)
    assert found.half_width == pytest.approx(1.96 * np.sqrt(0.09 + 0.16 + 0.24))
    assert found.open.tolist() == [False, False, True, False, True, True]
    assert found.after == pytest.approx(updated(found.before, {0: True, 1: True, 3: False}))
    assert found.plan.errors == pytest.approx(found.after[found.open].sum())
    assert "reviewed 3 of 6 labels: 2 wrong, 2 ± 1 expected\nof the rest: " in str(found)
    page = plan_html("<b>", found)
    assert "Review: &lt;b&gt;" in page
    assert f"{found.plan.errors:.0f} errors are expected in the 3 labels that are left" in page
    over = progress_of(listed, reviewed(listed, dict.fromkeys(range(1, 7), "cat")), "d", "s")
    assert str(over).endswith("nothing is left to review")
    assert "Nothing is left" in plan_html("all", over)


def test_decisions_of_another_list_are_refused():
    listed = the_list(["cat", "dog"], [0.9, 0.1])
    other = the_list(["cat", "dog"], [0.9, 0.1, 0.1])
    with pytest.raises(DataError, match=r"d.json: annotation 3 of image 3 is not in s.json; give the list"):
        progress_of(listed, reviewed(other, {3: "dog"}), "d.json", "s.json")
    renamed = replace(listed, suspects=[replace(row, given="dog") for row in listed.suspects])
    with pytest.raises(DataError, match=r"annotation 1 of image 1 is 'cat', and not 'dog', in s.json"):
        progress_of(listed, reviewed(renamed, {1: "cat"}), "d.json", "s.json")


def the_list(classes: list[str], probabilities: list[float]) -> SuspectList:
    return SuspectList(
        annotations="train.json",
        classes=classes,
        suspects=[
            Suspect(
                rank=rank,
                annotation_id=rank,
                image_id=rank,
                file_name=f"{rank}.png",
                given="cat",
                suggested="dog",
                wrong_probability=probability,
                given_probability=1 - probability,
                margin=0.0,
                scored_by="in sample: 1 model",
            )
            for rank, probability in enumerate(probabilities, start=1)
        ],
    )


def reviewed(listed: SuspectList, labels: dict[int, str]) -> Decisions:
    rows = [listed.suspects[rank - 1] for rank in labels]
    return Decisions(
        list=listed.digest,
        annotations=listed.annotations,
        decisions=[
            Decision(image_id=row.image_id, annotation_id=row.annotation_id, given=row.given, label=labels[row.rank])
            for row in rows
        ],
    )
