"""hotcoco against pycocotools, array by array: the contract that lets one stand for the other."""

import contextlib
import importlib.util
import io
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
from coco_documents import DETECTION_LIMIT, one_an_object, random_documents
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lncis.detection.inference import coco_eval
from lncis.detection.inference.coco_eval import Precision, by_hotcoco, by_pycocotools
from lncis.detection.inference.evaluation import average_precision
from lncis.errors import ConfigError


@pytest.fixture(autouse=True)
def no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(coco_eval.SETTING, raising=False)


def reference(document: dict, results: list[dict]) -> Precision:
    """pycocotools on the very document; tests/test_evaluation.py compares AP with all its own areas and limits."""
    arrays = []
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = deepcopy(document)
        truth.createIndex()
        found, distinct = (truth.loadRes(deepcopy(some)) for some in (results, one_an_object(results)))
        for iou_type, use_classes in (("segm", 1), ("bbox", 1), ("segm", 0)):
            evaluation = COCOeval(truth, found if use_classes else distinct, iou_type)
            evaluation.params.useCats = use_classes
            evaluation.params.areaRng, evaluation.params.maxDets = evaluation.params.areaRng[:1], [DETECTION_LIMIT]
            evaluation.evaluate()
            evaluation.accumulate()
            arrays.append(evaluation.eval["precision"][..., 0, 0])
    return Precision(*arrays)


def differing(found: Precision, expected: Precision) -> list[str]:
    pairs = zip(Precision._fields, found, expected, strict=True)
    return [name for name, one, other in pairs if one.dtype != other.dtype or not np.array_equal(one, other)]


def check_contract(evaluator: Callable[[dict, list[dict]], Precision], seeds: range) -> list[np.ndarray]:
    """Return all arrays of the reference, to which those of the evaluator are equal."""
    checked = []
    for seed in seeds:
        document, results = random_documents(seed)
        if results:
            expected = reference(document, results)
            assert not differing(evaluator(document, results), expected), f"seed {seed}"
            checked += expected
    return checked


def test_hotcocos_precision_equals_pycocotools() -> None:
    checked = check_contract(by_hotcoco, range(250))
    assert sum(((array > 0) & (array < 1)).any() for array in checked) > 300, "there is something to compare"
    assert any((array == -1).all(axis=(0, 1)).any() and (array > 0).any() for array in checked), "an absent class"


@pytest.mark.slow
def test_hotcocos_precision_equals_pycocotools_on_many_documents() -> None:
    check_contract(by_hotcoco, range(1000, 13000))


def test_pycocotools_precision_is_the_same_with_entries_numbered_anew() -> None:
    check_contract(by_pycocotools, range(30))


def test_of_detections_of_one_object_the_surest_stays_whatever_their_classes() -> None:
    kept, dropped = 0, 0
    for seed in range(120):
        _, results = random_documents(seed)
        strongest = coco_eval.class_blind_nms(results)
        assert sorted(map(repr, strongest)) == sorted(map(repr, one_an_object(results)))
        kept, dropped = kept + len(strongest), dropped + len(results) - len(strongest)
    assert min(kept, dropped) > 100, "there is something to compare"


def test_the_documents_have_what_an_evaluator_may_stumble_over() -> None:
    documents = [random_documents(seed) for seed in range(60)]
    annotations = [a for document, _ in documents for a in document["annotations"]]
    assert {type(a["segmentation"]).__name__ for a in annotations if a["iscrowd"]} == {"list", "dict"}
    counts = [a["segmentation"]["counts"] for a in annotations if isinstance(a["segmentation"], dict)]
    assert {type(c) for c in counts} == {str, list}
    assert any(a["area"] == 0 for a in annotations)
    per_image = [
        sum(result["image_id"] == image["id"] for result in results)
        for document, results in documents
        for image in document["images"]
    ]
    assert min(per_image) == 0
    assert max(per_image) > DETECTION_LIMIT


@pytest.mark.parametrize("evaluator", [by_hotcoco, by_pycocotools])
@pytest.mark.parametrize("first_id", [0, -(10**6)])
def test_ids_that_an_evaluator_misreads_or_refuses_change_nothing(evaluator, first_id: int) -> None:
    for seed in range(10):
        document, results = random_documents(seed)
        if not results:
            continue
        expected = reference(document, results)
        for number, annotation in enumerate(document["annotations"]):
            annotation["id"] = first_id + number
        for entry in (*document["annotations"], *results):
            entry["image_id"] += first_id
            entry["category_id"] += first_id
        for entry in (*document["images"], *document["categories"]):
            entry["id"] += first_id
        assert not differing(evaluator(document, results), expected)


@pytest.mark.parametrize("name", ["hotcoco", "pycocotools"])
def test_arguments_stay_as_they_are_and_nothing_is_printed(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(coco_eval.SETTING, name)
    document, results = random_documents(2)
    before = repr((document, results))
    average_precision(document, results)
    average_precision({**document, "annotations": []}, results)
    average_precision(document, [])
    assert repr((document, results)) == before
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def without_hotcoco(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "hotcoco" else find_spec(name))
    monkeypatch.setattr(coco_eval, "by_hotcoco", None)


def test_pycocotools_stands_in_where_hotcoco_is_absent(without_hotcoco: None, monkeypatch: pytest.MonkeyPatch) -> None:
    document, results = random_documents(2)
    assert not differing(coco_eval.evaluator()(document, results), reference(document, results))
    monkeypatch.setenv(coco_eval.SETTING, "hotcoco")
    with pytest.raises(ConfigError, match="LNCIS_COCO_EVAL: is hotcoco, which is not installed"):
        coco_eval.evaluator()


def test_the_setting_chooses_the_evaluator(monkeypatch: pytest.MonkeyPatch) -> None:
    document, results = random_documents(2)
    for name in ("hotcoco", "pycocotools"):
        monkeypatch.setattr(coco_eval, f"by_{name}", lambda document, results, name=name: name)
    assert coco_eval.evaluator()(document, results) == "hotcoco"
    monkeypatch.setenv(coco_eval.SETTING, "pycocotools")
    assert coco_eval.evaluator()(document, results) == "pycocotools"
    monkeypatch.setenv(coco_eval.SETTING, "coco")
    with pytest.raises(ConfigError, match="LNCIS_COCO_EVAL: must be hotcoco or pycocotools but got 'coco'"):
        coco_eval.evaluator()
