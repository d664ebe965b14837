import contextlib
import io
import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from coco_documents import one_an_object
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.models.detection.roi_heads import paste_masks_in_image

from lncis.detection.inference.detections import Detections
from lncis.detection.inference.evaluation import average_precision, to_coco
from lncis.metrics import AP_FIGURES

SIDE = 64
CATEGORIES = [2, 5, 9]


def encode(mask) -> dict:
    encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [SIDE, SIDE], "counts": encoded["counts"].decode()}


def ellipse(cx: float, cy: float, rx: float, ry: float):
    y, x = np.mgrid[:SIDE, :SIDE]
    return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1


def box_of(mask) -> list[float]:
    ys, xs = np.nonzero(mask)
    return [float(v) for v in (xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min())]


def scenes(seed: int, *, crowds: bool = True) -> tuple[dict, list[dict]]:
    """Ground truth, and detections that are jittered, sometimes of the wrong class, missing or made up."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], []

    def detect(image_id, category_id, shape):
        jittered = ellipse(
            *(v + rng.normal(0, 1.2) for v in shape[:2]), *(v * rng.uniform(0.8, 1.25) for v in shape[2:])
        )
        if jittered.any():
            detections.append(
                {
                    "image_id": image_id,
                    "category_id": category_id,
                    "score": float(rng.random()),
                    "bbox": box_of(jittered),
                    "segmentation": encode(jittered),
                }
            )

    for image_id in range(8):
        for _ in range(int(rng.integers(0, 6))):
            shape = (*rng.uniform(10, 54, size=2), *rng.uniform(4, 14, size=2))
            mask, category_id = ellipse(*shape), int(rng.choice(CATEGORIES))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "iscrowd": int(crowds and rng.random() < 0.15),
                    "bbox": box_of(mask),
                    "area": int(mask.sum()),
                    "segmentation": encode(mask),
                }
            )
            for _ in range(int(rng.integers(0, 3))):
                guess = category_id if rng.random() < 0.8 else int(rng.choice(CATEGORIES))
                detect(image_id, guess, shape)
        detect(image_id, int(rng.choice(CATEGORIES)), (*rng.uniform(10, 54, size=2), *rng.uniform(4, 14, size=2)))
    document = {
        "images": [{"id": i, "width": SIDE, "height": SIDE} for i in range(8)],
        "categories": [{"id": c, "name": str(c)} for c in CATEGORIES],
        "annotations": annotations,
    }
    return document, detections


def perfect(document: dict) -> list[dict]:
    return [
        {**{k: a[k] for k in ("image_id", "category_id", "bbox", "segmentation")}, "score": 1.0}
        for a in document["annotations"]
    ]


def pycocotools_stats(document: dict, detections: list[dict], iou_type: str, *, use_cats: bool = True):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = deepcopy(document)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(deepcopy(detections)), iou_type)
        evaluation.params.useCats = int(use_cats)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats


@pytest.mark.parametrize("seed", range(6))
def test_figures_are_pycocotools_own(seed):
    document, detections = scenes(seed)
    found = average_precision(document, detections)
    segm = pycocotools_stats(document, detections, "segm")
    assert 5 < segm[0] < 95
    assert [found["segm_AP"], found["segm_AP50"], found["segm_AP75"]] == pytest.approx(list(segm[:3]), abs=1e-9)
    assert found["bbox_AP"] == pytest.approx(pycocotools_stats(document, detections, "bbox")[0], abs=1e-9)
    agnostic = pycocotools_stats(document, one_an_object(detections), "segm", use_cats=False)
    assert found["segm_AP_agnostic"] == pytest.approx(agnostic[0], abs=1e-9)


def test_class_without_instances_does_not_count():
    document, detections = scenes(1)
    gone = {**document, "annotations": [a for a in document["annotations"] if a["category_id"] != 5]}
    found = average_precision(gone, detections)
    assert found["segm_AP"] == pytest.approx(pycocotools_stats(gone, detections, "segm")[0], abs=1e-9)


def test_keys_are_the_metric_names():
    assert tuple(average_precision(*scenes(0))) == AP_FIGURES


def test_perfect_detections_reach_100():
    document, _ = scenes(2, crowds=False)
    assert average_precision(document, perfect(document)) == pytest.approx(dict.fromkeys(AP_FIGURES, 100.0))


def test_no_detections_reach_0():
    document, _ = scenes(2)
    assert average_precision(document, []) == dict.fromkeys(AP_FIGURES, 0.0)


def test_wrong_classes_leave_the_agnostic_figure_alone():
    document, _ = scenes(2, crowds=False)
    rotated = dict(zip(CATEGORIES, CATEGORIES[1:] + CATEGORIES[:1], strict=True))
    wrong = [{**d, "category_id": rotated[d["category_id"]]} for d in perfect(document)]
    found = average_precision(document, wrong)
    assert found["segm_AP_agnostic"] == pytest.approx(100)
    assert found["segm_AP"] < 10


def test_one_object_found_as_several_classes_is_one_object_to_the_agnostic_figure():
    document, _ = scenes(2, crowds=False)
    guesses = [
        {**d, "category_id": c, "score": (1 - 0.05 * n) / (i + 1)}
        for i, d in enumerate(perfect(document))
        for n, c in enumerate(CATEGORIES)
    ]
    assert average_precision(document, guesses)["segm_AP_agnostic"] == pytest.approx(100)
    # by the COCO protocol alone, two of three are false
    assert pycocotools_stats(document, guesses, "segm", use_cats=False)[0] < 95


def test_no_instances_are_nan():
    document, detections = scenes(0)
    found = average_precision({**document, "annotations": []}, detections)
    assert all(math.isnan(value) for value in found.values())


def test_boxes_and_masks_are_judged_apart():
    document, _ = scenes(3, crowds=False)
    boxes_only = [{**d, "segmentation": encode(np.zeros((SIDE, SIDE)))} for d in perfect(document)]
    found = average_precision(document, boxes_only)
    assert found["bbox_AP"] == pytest.approx(100)
    assert found["segm_AP"] == 0


def test_nothing_is_printed(capsys):
    average_precision(*scenes(0))
    assert capsys.readouterr().out == ""


def test_to_coco_gives_results_entries():
    whole, right_half = torch.ones(28, 28), torch.tensor([0.5, 0.51]).repeat_interleave(14).repeat(28, 1)
    found = Detections(
        boxes=torch.tensor([[8.0, 4.0, 20.0, 10.0], [30.0, 29.5, 43.5, 34.0]]),
        labels=torch.tensor([3, 1]),
        scores=torch.tensor([0.75, 0.5]),
        mask_probabilities=torch.stack([whole, right_half])[:, None],
        image_size=(SIDE, SIDE),
    )
    first, second = to_coco(found, 17, CATEGORIES)
    assert (first["image_id"], first["category_id"], first["score"]) == (17, 9, 0.75)
    assert (second["category_id"], second["bbox"]) == (2, [30.0, 29.5, 13.5, 4.5])
    assert first["bbox"] == [8.0, 4.0, 12.0, 6.0]
    masks = paste_masks_in_image(found.mask_probabilities, found.boxes, (SIDE, SIDE))[:, 0] > 0.5
    assert [first["segmentation"], second["segmentation"]] == [encode(mask.numpy()) for mask in masks]
    assert rle.toBbox(second["segmentation"])[0] >= 36, "0.5 is not above a half"


def test_to_coco_of_no_detections_is_empty():
    found = Detections(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.long),
        scores=torch.zeros(0),
        mask_probabilities=torch.zeros(0, 1, 28, 28),
        image_size=(SIDE, SIDE),
    )
    assert to_coco(found, 0, CATEGORIES) == []
