from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign

from lncis.config import DigitsRCNN
from lncis.detection.losses import BACKGROUND, cross_entropy
from lncis.detection.mask_rcnn.models import build_model
from lncis.detection.mask_rcnn.roi_heads import ClassLossRoIHeads, box_loss
from lncis.detection.mask_rcnn.roi_pool import OneSampleRoIAlign

K = 3


def digits_rcnn() -> MaskRCNN:
    model = build_model(DigitsRCNN(min_size=64, max_size=64), K)
    # the stock heads around the same modules, but for the pools, whose backward is ours
    stock = RoIHeads.__new__(RoIHeads)
    stock.__dict__.update({k: v for k, v in model.roi_heads.__dict__.items() if k != "class_loss"})
    for pool, size in (("box_roi_pool", 7), ("mask_roi_pool", 10)):
        setattr(stock, pool, MultiScaleRoIAlign(["0", "1", "2"], size, sampling_ratio=1))
    model.roi_heads = stock
    return model


def resnet18() -> MaskRCNN:
    # stock but for its backbone and fewer proposals and detections, for the sake of time
    return MaskRCNN(
        resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5),
        num_classes=K + 1,
        min_size=64,
        max_size=64,
        rpn_post_nms_top_n_train=50,
        rpn_post_nms_top_n_test=20,
        box_batch_size_per_image=64,
        box_detections_per_img=5,
    )


@pytest.fixture(scope="module", params=[digits_rcnn, resnet18])
def untouched(request) -> MaskRCNN:
    torch.manual_seed(0)
    model = request.param().train()
    assert type(model.roi_heads) is RoIHeads
    return model


@pytest.fixture
def stock(untouched) -> MaskRCNN:
    return deepcopy(untouched)


@pytest.fixture
def ours(stock) -> MaskRCNN:
    return with_class_loss_heads(stock)


@pytest.fixture
def small() -> MaskRCNN:
    torch.manual_seed(0)
    return with_class_loss_heads(digits_rcnn().train())


def with_class_loss_heads(stock: MaskRCNN) -> MaskRCNN:
    """Our heads; where a pool has one sample a bin, as the digits' have, our pools too."""
    model = deepcopy(stock)
    heads = model.roi_heads = ClassLossRoIHeads.from_stock(model.roi_heads)
    for name in ("box_roi_pool", "mask_roi_pool"):
        pool = getattr(heads, name)
        if pool.sampling_ratio == 1:
            setattr(heads, name, OneSampleRoIAlign(pool.featmap_names, pool.output_size[0]))
    return model


def square(x: int, y: int, side: int) -> tuple[list[float], Tensor]:
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    mask[y : y + side, x : x + side] = 1
    return [float(x), float(y), float(x + side), float(y + side)], mask


def target(squares: list[tuple[int, int, int]], labels: list[int]) -> dict[str, Tensor]:
    found = [square(*s) for s in squares]
    return {
        "boxes": torch.tensor([box for box, _ in found]).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": torch.stack([mask for _, mask in found]) if found else torch.zeros(0, 64, 64, dtype=torch.uint8),
    }


def scenes() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 64, 64, generator=generator) for _ in range(2)]
    return images, [target([(4, 6, 20), (30, 30, 24)], [2, 3]), target([(10, 20, 30)], [1])]


def losses_of(model: MaskRCNN, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    torch.manual_seed(7)  # the RPN and the RoI heads draw their samples
    losses = model(images, deepcopy(targets))
    sum(losses.values()).backward()
    return losses


def assert_same_gradients(found: MaskRCNN, expected: MaskRCNN) -> None:
    gradients = {name: p.grad for name, p in expected.named_parameters()}
    assert sum(gradient is not None for gradient in gradients.values()) > 20
    for name, p in found.named_parameters():
        assert (p.grad is None) == (gradients[name] is None), name
        assert p.grad is None or torch.equal(p.grad, gradients[name]), name


def test_with_torchs_cross_entropy_all_equals_stock_to_the_bit(stock, ours):
    ours.roi_heads.class_loss = F.cross_entropy
    expected, found = losses_of(stock, *scenes()), losses_of(ours, *scenes())
    assert list(found) == list(expected)
    for name in expected:
        assert torch.equal(found[name], expected[name]), name
    assert_same_gradients(ours, stock)


def test_with_our_cross_entropy_all_equals_stock_to_the_bit(stock, ours):
    expected, found = losses_of(stock, *scenes()), losses_of(ours, *scenes())
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name
    assert_same_gradients(ours, stock)


def test_state_dict_has_the_stock_keys_and_shapes(stock, ours):
    losses_of(ours, *scenes())  # what a forward leaves behind is no state
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in stock.state_dict().items()}
    ours.load_state_dict(stock.state_dict())


def test_detections_in_eval_equal_stock(stock, ours):
    images, _ = scenes()
    with torch.no_grad():
        expected, found = stock.eval()(images), ours.eval()(images)
    assert sum(len(output["boxes"]) for output in expected) > 0
    for e, f in zip(expected, found, strict=True):
        assert e.keys() == f.keys()
        assert all(torch.equal(e[key], f[key]) for key in e)


@pytest.mark.parametrize("empty", [[0], [0, 1]], ids=["one image of two", "both images"])
def test_images_without_instances(stock, ours, empty):
    images, targets = scenes()
    for i in empty:
        targets[i] = target([], [])
    ours.roi_heads.class_loss = F.cross_entropy
    expected, found = losses_of(stock, images, targets), losses_of(ours, images, targets)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(loss.isfinite() for loss in found.values())
    by_image = ours.roi_heads.labels.split([len(m) for m in ours.roi_heads.matched_idxs])
    assert all((by_image[i] == BACKGROUND).all() for i in empty)


def test_labels_matches_and_logits_agree(small):
    images, targets = scenes()
    losses = losses_of(small, images, targets)
    heads = small.roi_heads
    sampled = [len(matched) for matched in heads.matched_idxs]
    assert len(sampled) == len(images)
    assert heads.labels.shape == (sum(sampled),)
    assert heads.class_logits.shape == (sum(sampled), K + 1)
    assert not heads.class_logits.requires_grad
    assert cross_entropy(heads.class_logits, heads.labels) == losses["loss_classifier"]
    for t, matched, labels in zip(targets, heads.matched_idxs, heads.labels.split(sampled), strict=True):
        foreground = labels != BACKGROUND
        assert foreground.any()
        assert torch.equal(labels[foreground], t["labels"][matched[foreground]])


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_box_loss_turns_from_square_to_linear_at_beta(small, monkeypatch, beta):
    """Against torchvision's own loss function, with another beta where it has 1/9."""
    small.roi_heads.box_beta = beta
    found = losses_of(small, *scenes())
    gradient = small.roi_heads.box_predictor.bbox_pred.weight.grad.clone()
    torchs = F.smooth_l1_loss
    monkeypatch.setattr(
        F, "smooth_l1_loss", lambda *args, **options: torchs(*args, **{**options, "beta": beta, "reduction": "sum"})
    )
    stock = RoIHeads.__new__(RoIHeads)
    stock.__dict__.update(small.roi_heads.__dict__)
    small.roi_heads = stock
    expected = losses_of(small, *scenes())
    assert torch.equal(found["loss_box_reg"], expected["loss_box_reg"])
    assert torch.equal(gradient, small.roi_heads.box_predictor.bbox_pred.weight.grad)


def test_box_loss_by_hand():
    box_regression = torch.zeros(3, 4 * (K + 1))
    box_regression[1, 8:12] = torch.tensor([0.5, 2.0, -3.0, 0.0])  # label 2
    targets = torch.zeros(3, 4)
    # beta 1: 0.5 * 0.25 + (2 - 0.5) + (3 - 0.5) + 0; the negative samples count in the mean
    assert box_loss(box_regression, torch.tensor([0, 2, 0]), targets, 1.0).item() == pytest.approx(4.125 / 3)


def test_class_loss_set_by_the_user_is_the_one_used(small):
    expected = losses_of(small, *scenes())
    seen = []

    def seven(class_logits, labels):
        seen.append((class_logits, labels))
        return class_logits.sum() * 0 + 7

    heads = small.roi_heads
    heads.class_loss = seven
    found = losses_of(small, *scenes())
    assert found["loss_classifier"].item() == 7
    assert all(torch.equal(found[name], expected[name]) for name in expected if name != "loss_classifier")
    ((class_logits, labels),) = seen
    assert class_logits.requires_grad
    assert torch.equal(class_logits, heads.class_logits)
    assert torch.equal(labels, heads.labels)
    weight = heads.box_predictor.cls_score.weight
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_gradient_of_the_class_loss_reaches_the_backbone(small):
    small(*scenes())["loss_classifier"].backward()
    assert small.roi_heads.box_predictor.cls_score.weight.grad.abs().sum() > 0
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in small.backbone.parameters())


def test_from_stock_shares_the_modules_and_settings():
    stock = digits_rcnn().roi_heads
    ours = ClassLossRoIHeads.from_stock(stock)
    assert ours.class_loss is cross_entropy
    assert ours.box_predictor is stock.box_predictor
    assert ours.fg_bg_sampler is stock.fg_bg_sampler
    assert ours.detections_per_img == stock.detections_per_img
