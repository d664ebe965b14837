"""Average precision by the COCO protocol, with pycocotools as the reference."""

import contextlib
import io
from typing import Any, Literal

import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from lncis.noise import Document

Detection = dict[str, Any]
"""One entry of a COCO results file."""


def to_coco(output: dict[str, Tensor], image_id: int, category_ids: list[int]) -> list[Detection]:
    """Return torchvision's detections of one image as COCO results; masks are cut at 0.5."""
    masks = (output["masks"][:, 0] > 0.5).to(torch.uint8).cpu().numpy()
    encoded = rle.encode(np.asfortranarray(masks.transpose(1, 2, 0))) if len(masks) else []
    corners = output["boxes"].cpu()
    xywh = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label - 1],
            "score": score,
            "bbox": box,
            "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()},
        }
        for label, score, box, mask in zip(
            output["labels"].tolist(), output["scores"].tolist(), xywh, encoded, strict=True
        )
    ]


def average_precision(document: Document, detections: list[Detection]) -> dict[str, float]:
    """Return AP figures in percent of `detections` against the labels of a COCO document.

    Keys: `segm_AP`, `segm_AP50`, `segm_AP75`, `bbox_AP`, and `segm_AP_agnostic`, which ignores the classes and so says
    how well foreground is told from background. All 0 without a detection; NaN where no instance could be found.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it goes
        truth = COCO()
        # copies, because pycocotools writes into what it is given
        truth.dataset = {**document, "annotations": [dict(a) for a in document["annotations"]]}
        truth.createIndex()
        found = truth.loadRes([dict(d) for d in detections]) if detections else None
        segm = _ap_by_threshold(truth, found, "segm", by_class=True)
        bbox = _ap_by_threshold(truth, found, "bbox", by_class=True)
        agnostic = _ap_by_threshold(truth, found, "segm", by_class=False)
    return {
        "segm_AP": float(segm.mean()),
        "segm_AP50": float(segm[0]),
        "segm_AP75": float(segm[5]),
        "bbox_AP": float(bbox.mean()),
        "segm_AP_agnostic": float(agnostic.mean()),
    }


def _ap_by_threshold(
    truth: COCO, found: COCO | None, iou_type: Literal["segm", "bbox"], *, by_class: bool
) -> np.ndarray[Any, Any]:
    """Return AP in percent at each of the ten IoU thresholds 0.50:0.05:0.95."""
    if found is None:
        return np.zeros(10)
    evaluation = COCOeval(truth, found, iou_type)
    evaluation.params.useCats = int(by_class)
    # AP over all areas with 100 detections is all that is reported: the other slices are not computed
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.params.maxDets = [100]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, 0]  # (IoU, recall, class); -1: class absent
    present = np.where(precision > -1, precision, np.nan)
    return 100 * np.array([np.nan if np.isnan(at).all() else np.nanmean(at) for at in present])
