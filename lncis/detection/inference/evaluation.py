"""Average precision by the COCO protocol, of detections as COCO results."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lncis.detection.inference import coco_eval
from lncis.detection.inference.coco_eval import Detection
from lncis.detection.inference.detections import Detections, encode_masks
from lncis.metrics import AP_FIGURES
from lncis.noise import Document


def to_coco(detections: Detections, image_id: Any, category_ids: list[int]) -> list[Detection]:
    """Return the detections of one image as COCO results; masks are cut at 0.5."""
    corners = detections.boxes
    xywh = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label - 1],
            "score": score,
            "bbox": box,
            "segmentation": mask,
        }
        for label, score, box, mask in zip(
            detections.labels.tolist(), detections.scores.tolist(), xywh, encode_masks(detections), strict=True
        )
    ]


def average_precision(document: Document, detections: list[Detection]) -> dict[str, float]:
    """Return AP figures in percent of `detections` against the labels of a COCO document.

    Keys: `segm_AP`, `segm_AP50`, `segm_AP75`, `bbox_AP`, and `segm_AP_agnostic`, which ignores the classes and so says
    how well foreground is told from background: of detections of one object, whatever their classes, only the one with
    the highest score counts (`coco_eval.class_blind_nms`). All 0 without a detection; NaN where no instance could be
    found.
    """
    if not detections:
        return dict.fromkeys(AP_FIGURES, 0.0)
    segm, bbox, agnostic = map(_by_threshold, coco_eval.evaluator()(document, detections))
    return {
        "segm_AP": float(segm.mean()),
        "segm_AP50": float(segm[0]),
        "segm_AP75": float(segm[5]),
        "bbox_AP": float(bbox.mean()),
        "segm_AP_agnostic": float(agnostic.mean()),
    }


def _by_threshold(precision: NDArray[np.float64]) -> NDArray[Any]:
    """Return AP in percent at each of the ten IoU thresholds 0.50:0.05:0.95."""
    present = np.where(precision > -1, precision, np.nan)
    return 100 * np.array([np.nan if np.isnan(at).all() else np.nanmean(at) for at in present])
