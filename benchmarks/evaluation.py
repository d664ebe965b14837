"""Seconds from the outputs of Mask R-CNN's heads to AP, beside torchvision's reference path.

That path is the one of torchvision's references/detection/coco_eval.py: masks pasted on canvases of the image's size,
each encoded by pycocotools; image by image COCOeval for masks and boxes, all accumulated at the end. Ours also has AP
with the classes ignored. Both run in one thread, as in a worker. Outputs are made up: blobs of 28 x 28 probabilities in
boxes around instances and elsewhere, a hundred an image.
"""

import argparse
import contextlib
import copy
import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"  # hotcoco's threads; read when it is imported

import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.progress import track
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from lncis.detection.inference import coco_eval
from lncis.detection.inference.detections import Detections
from lncis.detection.inference.evaluation import to_coco

IMAGES = 500
PASTED_BY_TORCHVISION = 25
COCO_SIZES = ((480, 640), (640, 480), (427, 640), (640, 427))
LARGE_SIZE, LARGE_IMAGES = (800, 1066), 15
DETECTIONS, INSTANCES, CELLS = 100, 7, 28
CATEGORY_IDS = [number for number in range(1, 91) if number % 9]  # 80, with holes, as COCO's

Output = dict[str, Tensor]
"""Of the heads, for one image: boxes in the resized image, labels, scores, masks `(n, 1, 28, 28)`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES, help="of COCO's sizes; fewer for a quick look")
    images = parser.parse_args().images
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    sizes = [COCO_SIZES[number % len(COCO_SIZES)] for number in range(images)]
    made = [synthetic(rng, number, size) for number, size in enumerate(track(sizes, "making outputs"), start=1)]
    pasted = min(PASTED_BY_TORCHVISION, images)

    encoding, results = timed(ours_encoded, made, "ours: paste and encode")
    torchvision_encoding, expected = timed(torchvision_encoded, made[:pasted], "torchvision: paste and encode")
    assert results[:pasted] == expected, "the results differ"
    large = [synthetic(rng, number, LARGE_SIZE) for number in range(LARGE_IMAGES)]
    large_encoding, large_results = timed(ours_encoded, large, "ours: large images")
    large_torchvision_encoding, expected = timed(torchvision_encoded, large, "torchvision: large images")
    assert large_results == expected, "the results differ"

    document = {
        "images": [{"id": n, "height": height, "width": width} for n, (height, width) in enumerate(sizes, start=1)],
        "annotations": [{**a, "id": n} for n, a in enumerate((a for _, _, found in made for a in found), start=1)],
        "categories": [{"id": number, "name": str(number)} for number in CATEGORY_IDS],
    }
    flat = [result for found in results for result in found]
    started = time.perf_counter()
    precision = coco_eval.by_hotcoco(document, flat)
    ap = time.perf_counter() - started
    started = time.perf_counter()
    torchvision_segm, torchvision_bbox = torchvision_precision(document, results)
    torchvision_ap = time.perf_counter() - started
    assert np.array_equal(precision.segm, torchvision_segm), "the precision of masks differs"
    assert np.array_equal(precision.bbox, torchvision_bbox), "the precision of boxes differs"
    print(f"pycocotools: the same three arrays, about {0.5 * torchvision_ap:.0f} s")
    started = time.perf_counter()
    reference = coco_eval.by_pycocotools(document, flat)
    pycocotools_ap = time.perf_counter() - started
    assert all(map(np.array_equal, precision, reference)), "the precision differs"

    print(f"{images} images of COCO's sizes, {DETECTIONS} detections each, in seconds, one thread")
    print(f"{'':44}{'torchvision':>12}{'ours':>8}{'ratio':>7}")
    row(f"paste and encode (torchvision: {pasted} images)", images * torchvision_encoding, images * encoding)
    row("AP", torchvision_ap, ap)
    row("total", images * torchvision_encoding + torchvision_ap, images * encoding + ap)
    row("AP, the same three arrays by pycocotools", pycocotools_ap, ap)
    row("paste and encode, one image of 800 x 1066", large_torchvision_encoding, large_encoding)
    compared = DETECTIONS * (pasted + LARGE_IMAGES)
    print(f"{compared} RLEs and all whole precision arrays are equal; AP of masks {precision.segm.clip(0).mean():.3f}")


def row(name: str, theirs: float, ours: float) -> None:
    print(f"{name:44}{theirs:12.3f}{ours:8.3f}{theirs / ours:7.1f}")


def timed(
    encoded: Callable[..., list[dict[str, Any]]], made: Sequence[Any], description: str
) -> tuple[float, list[list[dict[str, Any]]]]:
    """Return the median of the seconds that an image takes, and the results of each."""
    seconds, results = [], []
    for number, (output, size, _) in enumerate(track(made, description), start=1):
        started = time.perf_counter()
        results.append(encoded(copy.copy(output), number, size))
        seconds.append(time.perf_counter() - started)
    return median(seconds), results


def ours_encoded(output: Output, image_id: int, size: tuple[int, int]) -> list[dict[str, Any]]:
    detections = Detections(
        boxes=resize_boxes(output["boxes"], resized(size), size),
        labels=output["labels"],
        scores=output["scores"],
        mask_probabilities=output["masks"],
        image_size=size,
    )
    return to_coco(detections, image_id, CATEGORY_IDS)


def torchvision_encoded(output: Output, image_id: int, size: tuple[int, int]) -> list[dict[str, Any]]:
    transform = GeneralizedRCNNTransform(800, 1333, [0.0] * 3, [1.0] * 3).eval()
    (pasted,) = transform.postprocess([output], [resized(size)], [size])
    masks = pasted["masks"] > 0.5
    encoded = [rle.encode(np.array(mask[0].numpy()[:, :, None], dtype=np.uint8, order="F"))[0] for mask in masks]
    left, top, right, bottom = pasted["boxes"].unbind(1)
    boxes = torch.stack([left, top, right - left, bottom - top], dim=1).tolist()
    return [
        {
            "image_id": image_id,
            "category_id": CATEGORY_IDS[label - 1],
            "score": score,
            "bbox": box,
            "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()},
        }
        for label, score, box, mask in zip(
            pasted["labels"].tolist(), pasted["scores"].tolist(), boxes, encoded, strict=True
        )
    ]


def torchvision_precision(document: dict[str, Any], results: list[list[dict[str, Any]]]) -> Iterator[np.ndarray]:
    """Yield the precision of masks and of boxes `(10, 101, 80)` over all areas with 100 detections an image."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = document
        truth.createIndex()
    for iou_type in ("segm", "bbox"):
        evaluation, of_images = COCOeval(truth, iouType=iou_type), []
        for image, found in zip(document["images"], track(results, f"torchvision: COCOeval, {iou_type}"), strict=True):
            with contextlib.redirect_stdout(io.StringIO()):
                evaluation.cocoDt = truth.loadRes(copy.deepcopy(found))
                evaluation.params.imgIds = [image["id"]]
                evaluation.evaluate()
            of_images.append(np.array(evaluation.evalImgs).reshape(len(CATEGORY_IDS), -1, 1))
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evalImgs = np.concatenate(of_images, axis=2).ravel().tolist()
            evaluation.params.imgIds = [image["id"] for image in document["images"]]
            evaluation._paramsEval = copy.deepcopy(evaluation.params)
            evaluation.accumulate()
        yield evaluation.eval["precision"][..., 0, -1]


def resized(size: tuple[int, int]) -> tuple[int, int]:
    """Return what torchvision resizes an image to: a shorter side of 800 pixels, a longer one of 1333 at most."""
    scale = min(800 / min(size), 1333 / max(size))
    return int(size[0] * scale), int(size[1] * scale)


def synthetic(
    rng: np.random.Generator, image_id: int, size: tuple[int, int]
) -> tuple[Output, tuple[int, int], list[dict[str, Any]]]:
    """Return an image's output, size and labels: ellipses, found well, badly and not at all."""
    height, width = size
    instances = int(rng.integers(1, 2 * INSTANCES))
    extent = np.exp(rng.uniform(np.log(0.04), np.log(0.8), (instances, 2))) * (width, height)
    corner = rng.uniform(0, 1, (instances, 2)) * ((width, height) - extent)
    labels = rng.integers(1, len(CATEGORY_IDS) + 1, instances)
    angles = np.linspace(0, 2 * np.pi, 22, endpoint=False)
    outline = 0.5 + 0.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    annotations = [
        {
            "image_id": image_id,
            "category_id": CATEGORY_IDS[label - 1],
            "iscrowd": 0,
            "bbox": [*map(float, (*low, *side))],
            "area": float(np.pi / 4 * side.prod()),
            "segmentation": [(low + outline * side).ravel().tolist()],
        }
        for low, side, label in zip(corner, extent, labels, strict=True)
    ]
    of = rng.integers(instances, size=DETECTIONS)
    near = rng.random(DETECTIONS) < 0.6
    off = np.where(near, 0.05, 0.6)[:, None] * rng.normal(size=(DETECTIONS, 4))
    low, high = corner[of] + off[:, :2] * extent[of], corner[of] + extent[of] * (1 + off[:, 2:])
    low, high = np.minimum(low, high).clip(0, (width - 2, height - 2)), np.maximum(low, high)
    high = np.minimum(np.maximum(high, low + 1), (width, height))
    boxes = torch.tensor(np.concatenate([low, high], axis=1), dtype=torch.float32)
    right = near & (rng.random(DETECTIONS) < 0.8)
    scores = np.sort(rng.beta(1, 4, DETECTIONS))[::-1].copy()
    return (
        {
            "boxes": resize_boxes(boxes, size, resized(size)),
            "labels": torch.from_numpy(np.where(right, labels[of], rng.integers(1, len(CATEGORY_IDS) + 1, DETECTIONS))),
            "scores": torch.tensor(scores, dtype=torch.float32),
            "masks": blobs(rng),
        },
        size,
        annotations,
    )


def blobs(rng: np.random.Generator) -> Tensor:
    """Return probabilities `(n, 1, 28, 28)`: discs that fill their boxes, with ragged borders."""
    y, x = np.mgrid[-1 : 1 : CELLS * 1j, -1 : 1 : CELLS * 1j]
    radius = rng.normal(0.95, 0.1, (DETECTIONS, 1, 1, 1))
    ragged = rng.normal(0, 0.1, (DETECTIONS, 1, CELLS, CELLS))
    return torch.sigmoid(torch.tensor(10 * (radius - np.hypot(x, y) + ragged), dtype=torch.float32))


if __name__ == "__main__":
    main()
