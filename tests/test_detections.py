"""Masks encoded inside their boxes, against torchvision's canvases and pycocotools' encoding of them."""

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from lncis.config import DigitsRCNN
from lncis.detection.inference.detections import Detections, decode_masks, detect, encode_masks
from lncis.detection.mask_rcnn.models import build_model


def of_masks(mask_probabilities: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Detections:
    n = len(boxes)
    return Detections(
        boxes=boxes,
        labels=torch.ones(n, dtype=torch.long),
        scores=torch.linspace(1, 0.5, n),
        mask_probabilities=mask_probabilities,
        image_size=image_size,
    )


def reference(detections: Detections) -> list[dict]:
    canvases = paste_masks_in_image(detections.mask_probabilities, detections.boxes, detections.image_size)
    encoded = rle.encode(np.asfortranarray((canvases[:, 0] > 0.5).numpy().transpose(1, 2, 0), dtype=np.uint8))
    return [{"size": mask["size"], "counts": mask["counts"].decode()} for mask in encoded]


def random_boxes(generator: torch.Generator, n: int, height: int, width: int, beyond: float) -> Tensor:
    """Return boxes in the image and `beyond` pixels around it; some of them are points, some the whole image."""
    extent = torch.tensor([float(width), float(height)]) + 2 * beyond
    corners = torch.rand(n, 2, 2, generator=generator) * extent - beyond
    low, high = corners.amin(1), corners.amax(1)
    boxes = torch.cat([low, torch.where(torch.rand(n, 1, generator=generator) < 0.1, low, high)], dim=1)
    boxes[torch.rand(n, generator=generator) < 0.1] = torch.tensor([-beyond, -beyond, width + beyond, height + beyond])
    meets = (boxes[:, :2] < torch.tensor([width, height])).all(1) & (boxes[:, 2:] > 0).all(1)
    return boxes[meets]  # torchvision fails on the others


@pytest.mark.parametrize("beyond", [0.0, 12.0], ids=["clipped", "beyond the image"])
@pytest.mark.parametrize("cells", [1, 2, 28])
def test_encoded_masks_equal_those_of_torchvisions_canvases(cells: int, beyond: float) -> None:
    generator, empty, checked = torch.Generator().manual_seed(cells), 0, 0
    for number in range(100):
        height, width = torch.randint(1, 70, (2,), generator=generator).tolist()
        boxes = random_boxes(generator, 8, height, width, beyond)
        if len(boxes):
            # of little probability, of much, and torn to pieces
            probabilities = torch.rand(len(boxes), 1, cells, cells, generator=generator) * (0.4, 2, 1)[number % 3]
            detections = of_masks(probabilities.clamp(max=1), boxes, (height, width))
            expected = reference(detections)
            assert encode_masks(detections) == expected
            empty += sum(rle.area(mask) == 0 for mask in expected)
            checked += len(expected)
    assert checked > 200
    assert 20 < empty < checked - 100


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (5, 7)])
def test_an_instance_that_fills_the_image_is_one_run(size: tuple[int, int]) -> None:
    height, width = size
    detections = of_masks(torch.ones(1, 1, 28, 28), torch.tensor([[-9.0, -9.0, width + 9, height + 9]]), size)
    (mask,) = encode_masks(detections)
    assert [mask] == reference(detections)
    assert rle.frPyObjects({"size": [height, width], "counts": [0, height * width]}, height, width)["counts"] == (
        mask["counts"].encode()
    )


@pytest.mark.parametrize(
    "box",
    [[-50.0, 2, -30, 8], [2, -50, 8, -30], [40, 2, 60, 8], [2, 40, 8, 60]],
    ids=["left", "above", "right", "below"],
)
def test_a_box_outside_the_image_has_an_empty_mask(box: list[float]) -> None:
    (mask,) = encode_masks(of_masks(torch.ones(1, 1, 28, 28), torch.tensor([box]), (10, 20)))
    assert mask["size"] == [10, 20]
    assert rle.decode(mask).sum() == 0
    assert mask == {"size": [10, 20], "counts": rle.encode(np.zeros((10, 20), np.uint8, order="F"))["counts"].decode()}


def test_no_detections_have_no_masks() -> None:
    detections = of_masks(torch.zeros(0, 1, 28, 28), torch.zeros(0, 4), (10, 20))
    assert encode_masks(detections) == []
    assert decode_masks(detections).shape == (0, 10, 20)


def test_decoded_masks_are_torchvisions_canvases() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(generator, 8, 40, 50, beyond=0.0)
    detections = of_masks(torch.rand(len(boxes), 1, 28, 28, generator=generator), boxes, (40, 50))
    expected = paste_masks_in_image(detections.mask_probabilities, boxes, (40, 50))[:, 0] > 0.5
    assert torch.equal(decode_masks(detections), expected)


def test_detections_of_a_score_keep_their_order() -> None:
    detections = of_masks(torch.rand(3, 1, 28, 28), torch.rand(3, 4), (40, 50))
    kept = detections.of_score(0.75)
    assert kept.scores.tolist() == [1, 0.75]
    assert torch.equal(kept.boxes, detections.boxes[:2])
    assert torch.equal(kept.mask_probabilities, detections.mask_probabilities[:2])
    assert len(detections.of_score(2)) == 0


@pytest.mark.parametrize(
    "config",
    [
        DigitsRCNN(),
        DigitsRCNN(class_agnostic_boxes=True, class_agnostic_masks=True),
    ],
    ids=["a mask a class", "class-agnostic"],
)
@torch.inference_mode()
def test_what_is_detected_equals_torchvisions_output(config) -> None:
    torch.manual_seed(0)
    model = build_model(config, 3).eval()
    model.roi_heads.box_predictor.cls_score.weight *= 20  # that scores differ
    model.roi_heads.mask_predictor.mask_fcn_logits.weight *= 50  # and masks are ragged
    images = [torch.rand(3, 90, 140), torch.rand(3, 128, 110)]  # resized by factors that are not whole
    for found, output in zip(detect(model, images), model(images), strict=True):
        assert len(found) > 5
        assert torch.equal(found.boxes, output["boxes"])
        assert torch.equal(found.labels, output["labels"])
        assert torch.equal(found.scores, output["scores"])
        masks = output["masks"][:, 0] > 0.5
        assert torch.equal(decode_masks(found), masks)
        assert 0 < masks.float().mean() < 1
    assert {(90, 140), (128, 110)} == {found.image_size for found in detect(model, images)}
