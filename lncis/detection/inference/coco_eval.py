"""Precision by the COCO protocol: by hotcoco, or by pycocotools, whose numbers hotcoco has to the bit.

pycocotools is the reference; hotcoco gives the same arrays in a quarter of the time (tests/test_coco_eval.py compares
them whole, benchmarks/evaluation.py measures). Only AP over all areas with 100 detections an image is computed.
"""

import contextlib
import importlib.util
import io
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_convert, nms

from lncis.errors import ConfigError
from lncis.noise import Document

SETTING = "LNCIS_COCO_EVAL"
"""Environment variable: `pycocotools` or `hotcoco`; without it hotcoco, where it is installed."""

SAME_OBJECT_IOU = 0.5
"""Of two boxes: above it they are of one object where classes are ignored; torchvision's threshold within a class."""

READ_KEYS = ("iscrowd", "area", "bbox", "segmentation")
"""Of an annotation, by the protocol, beside its ids; documents may hold more, of any type."""

Detection = dict[str, Any]
"""One entry of a COCO results file."""


class Precision(NamedTuple):
    """Precision `(10, 101, K)` by IoU threshold, recall and class; -1 for a class without an instance."""

    segm: NDArray[np.float64]
    bbox: NDArray[np.float64]
    segm_agnostic: NDArray[np.float64]
    """`(10, 101, 1)`: the classes are ignored, after `class_blind_nms`."""


Evaluator = Callable[[Document, list[Detection]], Precision]
"""Returns the precision of detections, at least one; leaves both as they are, and prints nothing."""


def evaluator() -> Evaluator:
    """Return the evaluator that is set; ConfigError where the setting names none, or one that is not installed."""
    evaluators = {"hotcoco": by_hotcoco, "pycocotools": by_pycocotools}
    installed = "hotcoco" if importlib.util.find_spec("hotcoco") else "pycocotools"
    name = os.environ.get(SETTING) or installed
    if name not in evaluators:
        raise ConfigError(SETTING, [f"must be {' or '.join(evaluators)} but got {name!r}"])
    if name == "hotcoco" and installed != "hotcoco":
        raise ConfigError(SETTING, ["is hotcoco, which is not installed; install it, or set it to pycocotools"])
    return evaluators[name]


def by_hotcoco(document: Document, detections: list[Detection]) -> Precision:
    """Return the precision as hotcoco computes it."""
    import hotcoco

    document, detections = _numbered(document, detections)
    truth = hotcoco.COCO(document)
    return _evaluate(hotcoco.COCOeval, truth, truth.load_res(detections), truth.load_res(class_blind_nms(detections)))


def by_pycocotools(document: Document, detections: list[Detection]) -> Precision:
    """Return the precision as pycocotools computes it."""
    document, detections = _numbered(document, detections)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        truth = COCO()
        truth.dataset = document
        truth.createIndex()
        return _evaluate(COCOeval, truth, truth.loadRes(detections), truth.loadRes(class_blind_nms(detections)))


def class_blind_nms(detections: list[Detection]) -> list[Detection]:
    """Return copies of the detections that no other of a higher score, of any class, covers at an IoU above 0.5.

    A model suppresses detections within a class alone, so one object is several times among its detections, once a
    class that it may be. Where classes are ignored, all but one of those would be false.
    """
    by_image: dict[Any, list[Detection]] = {}
    for detection in detections:
        by_image.setdefault(detection["image_id"], []).append(detection)
    kept = []
    for found in by_image.values():
        boxes = torch.tensor([detection["bbox"] for detection in found], dtype=torch.float64)
        scores = torch.tensor([detection["score"] for detection in found], dtype=torch.float64)
        strongest = nms(box_convert(boxes, "xywh", "xyxy"), scores, SAME_OBJECT_IOU)
        kept += [dict(found[k]) for k in strongest.tolist()]
    return kept


def _numbered(document: Document, detections: list[Detection]) -> tuple[Document, list[Detection]]:
    """Return copies, because pycocotools writes into what it is given, of what the protocol reads.

    Everything is numbered from 1: hotcoco refuses negative ids, and pycocotools counts what matches annotation 0 as
    unmatched. Images and categories keep the order of their ids, which decides between equal scores.
    """
    images, categories = (
        {number: n for n, number in enumerate(sorted(entry["id"] for entry in document[part]), start=1)}
        for part in ("images", "categories")
    )

    def renamed(entry: dict[str, Any]) -> dict[str, Any]:
        return {"image_id": images[entry["image_id"]], "category_id": categories[entry["category_id"]]}

    numbered = {
        "images": [
            {**{side: i[side] for side in ("height", "width")}, "id": images[i["id"]]} for i in document["images"]
        ],
        "annotations": [
            {**{key: annotation[key] for key in READ_KEYS}, **renamed(annotation), "id": n}
            for n, annotation in enumerate(document["annotations"], start=1)
        ],
        "categories": [{"id": n, "name": str(n)} for n in categories.values()],
    }
    return numbered, [{**detection, **renamed(detection)} for detection in detections]


def _evaluate(coco_eval: Any, truth: Any, found: Any, distinct: Any) -> Precision:
    """Return what either library's COCOeval finds: their interfaces are the same."""
    arrays = []
    for iou_type, use_classes in (("segm", True), ("bbox", True), ("segm", False)):
        evaluation = coco_eval(truth, found if use_classes else distinct, iou_type)
        evaluation.params.useCats = use_classes
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
        arrays.append(evaluation.eval["precision"][..., 0, 0])
    return Precision(*arrays)
