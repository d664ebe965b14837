from copy import deepcopy

import numpy as np
import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from lncis.coco.masks import from_array
from lncis.config import DigitsRCNN
from lncis.datasets.target_masks import TargetMasks
from lncis.detection.mask_rcnn.models import build_model
from lncis.detection.mask_rcnn.transform import TargetMasksTransform

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SIZES = [(37, 53), (53, 37), (64, 64), (128, 90), (300, 7), (200, 333)]


@pytest.mark.parametrize("sizes", [(64,), (48, 64, 127, 200)])
@pytest.mark.parametrize("training", [True, False])
def test_images_and_targets_are_torchvisions_to_the_bit(sizes, training):
    stock = GeneralizedRCNNTransform(sizes, 256, MEAN, STD).train(training)
    ours = TargetMasksTransform.from_stock(stock)
    rng = np.random.default_rng(0)
    images, theirs, targets = [], [], []
    for index, (height, width) in enumerate(SIZES):
        masks = (rng.random((index, height, width)) < 0.5).astype(np.uint8)
        rest = {"boxes": torch.rand(index, 4) * width, "labels": torch.arange(index), "image_id": torch.tensor(index)}
        images.append(torch.rand(3, height, width))
        theirs.append({**rest, "masks": torch.from_numpy(masks)})
        encoded = TargetMasks.of([from_array(mask) for mask in masks], height, width)
        targets.append({**rest, "masks": encoded})

    found, states = [], []
    for transform, given in ((stock, theirs), (ours, targets), (ours, theirs)):
        torch.manual_seed(3)
        found.append(transform(images, given))
        states.append(torch.get_rng_state())
    assert all(torch.equal(state, states[0]) for state in states), "it draws what torchvision draws"
    expected_images, expected = found[0]
    for its_images, its_targets in found[1:]:
        assert torch.equal(its_images.tensors, expected_images.tensors)
        assert its_images.image_sizes == expected_images.image_sizes
        for target, wanted in zip(its_targets, expected, strict=True):
            assert list(target) == list(wanted)
            assert all(torch.equal(target[key], wanted[key]) for key in wanted)
    assert isinstance(targets[0]["masks"], TargetMasks), "the caller's target stays"


def test_a_model_trains_alike_on_run_lengths_and_on_masks():
    torch.manual_seed(0)
    model = build_model(DigitsRCNN(min_size=96, max_size=160), 3)
    mask = np.zeros((70, 110), dtype=np.uint8)
    mask[10:40, 20:60] = np.random.default_rng(0).random((30, 40)) < 0.7
    rest = {"boxes": torch.tensor([[20.0, 10, 60, 40]]), "labels": torch.tensor([2])}
    losses = []
    for masks in (torch.from_numpy(mask)[None], TargetMasks.of([from_array(mask)], 70, 110)):
        torch.manual_seed(1)
        losses.append(deepcopy(model)([torch.full((3, 70, 110), 0.5)], [{**rest, "masks": masks}]))
    assert losses[0].keys() == losses[1].keys()
    assert all(torch.equal(losses[0][key], losses[1][key]) for key in losses[0])
