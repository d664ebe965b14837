from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn

from lncis.config import AdamWOptimizer, DigitsRCNN, MaskRCNNResNet50FPN
from lncis.detection.checkpoint import Checkpoint, save
from lncis.detection.engine import build_optimizer
from lncis.detection.losses import cross_entropy
from lncis.detection.mask_rcnn.models import FrozenStatisticsBatchNorm2d, build_model
from lncis.detection.mask_rcnn.roi_heads import ClassLossRoIHeads
from lncis.errors import ConfigError


@pytest.fixture(scope="module")
def plain() -> MaskRCNN:
    """torchvision's, for three classes; its weights are to be overwritten."""
    return with_few_samples(
        maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4, min_size=64, max_size=64)
    )


def with_few_samples(model: MaskRCNN) -> MaskRCNN:
    """Fewer proposals and detections, for the sake of time."""
    model.rpn._post_nms_top_n = {"training": 50, "testing": 50}
    model.roi_heads.fg_bg_sampler.batch_size_per_image = 64
    model.roi_heads.detections_per_img = 10
    return model


def resnet50(num_foreground_classes: int):
    return build_model(MaskRCNNResNet50FPN(min_size=64, max_size=96), num_foreground_classes)


def test_digits_rcnn_has_about_0_7_million_parameters():
    assert 0.7e6 < sum(p.numel() for p in build_model(DigitsRCNN(), 10).parameters()) < 0.8e6


@pytest.mark.parametrize("num_foreground_classes", [1, 10])
@pytest.mark.parametrize("kind", [DigitsRCNN, MaskRCNNResNet50FPN])
def test_heads_have_one_output_for_each_class_and_background(kind, num_foreground_classes):
    outputs = num_foreground_classes + 1
    with torch.device("meta"):  # without values
        heads = build_model(kind(), num_foreground_classes).roi_heads
    assert heads.box_predictor.cls_score.out_features == outputs
    assert heads.box_predictor.bbox_pred.out_features == 4 * outputs
    assert heads.mask_predictor.mask_fcn_logits.out_channels == outputs


def test_resnet50_has_the_state_dict_of_torchvisions(plain):
    ours = resnet50(3)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    ours.load_state_dict(plain.state_dict())


@pytest.mark.parametrize("kind", [DigitsRCNN, MaskRCNNResNet50FPN])
def test_model_starts_with_cross_entropy_and_the_requested_size(kind):
    model = build_model(kind(min_size=64, max_size=96), 2)
    assert isinstance(model.roi_heads, ClassLossRoIHeads)
    assert model.roi_heads.class_loss is cross_entropy
    assert (model.transform.min_size, model.transform.max_size) == ((64,), 96)


def test_same_seed_gives_the_same_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in build_model(DigitsRCNN(), 10).parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_digits_rcnn_detects_at_the_scenes_scale():
    torch.manual_seed(0)
    model = build_model(DigitsRCNN(), 10).eval()
    with torch.no_grad():
        (output,) = model([torch.rand(3, 128, 128)])
    n = len(output["boxes"])
    assert 0 < n <= 100
    assert output["masks"].shape == (n, 1, 128, 128)
    assert set(output["labels"].tolist()) <= set(range(1, 11))


def test_an_image_may_have_as_many_detections_as_coco_scores():
    torch.manual_seed(0)
    # all classes alike, 1/11 each, which is above torchvision's least score of 0.05: only NMS and the cap take any away
    model = build_model(DigitsRCNN(class_init_std=1e-6), 10).eval()
    (found,) = model([torch.rand(3, 128, 128)])
    assert 20 < len(found["labels"]) <= 100
    model.roi_heads.detections_per_img = 20
    assert len(model([torch.rand(3, 128, 128)])[0]["labels"]) == 20


def test_resnet50_starts_as_torchvisions_from_the_same_seed():
    torch.manual_seed(5)
    stock = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4).state_dict()
    torch.manual_seed(5)
    ours = resnet50(3).state_dict()
    assert all(torch.equal(ours[key], stock[key]) for key in stock)


def scene(side: int = 64) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    mask = torch.zeros(1, side, side, dtype=torch.uint8)
    mask[0, 8:40, 12:44] = 1
    box = torch.tensor([[12.0, 8.0, 44.0, 40.0]])
    image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(3))
    return [image], [{"boxes": box, "labels": torch.tensor([2]), "masks": mask}]


def trained_a_step(model: MaskRCNN, rate: float = 0.01) -> dict[str, Tensor]:
    torch.manual_seed(7)
    losses = model.train()(*scene())
    sum(losses.values()).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
    return losses


def kinds(changed: set[str]) -> set[str]:
    """Which stages of the ResNet changed, and what of their batch norm."""
    body = [key.removeprefix("backbone.body.") for key in changed if key.startswith("backbone.body.")]
    norm = [key for key in body if "bn" in key or "downsample.1" in key]
    return {key.split(".")[0] for key in body} | {"BN " + key.rpartition(".")[2] for key in norm}


R50 = MaskRCNNResNet50FPN(min_size=64, max_size=64)
AFFINE, STATISTICS = {"BN weight", "BN bias"}, {"BN running_mean", "BN running_var", "BN num_batches_tracked"}


CHANGED = {
    "trained": {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"} | AFFINE | STATISTICS,
    "frozen_statistics": {"layer2", "layer3", "layer4"} | AFFINE,
    "frozen": {"layer2", "layer3", "layer4"},
}
"""By batch norm, as torchvision has it without weights, mmdetection 1, and torchvision with weights."""


@pytest.fixture(scope="module", params=CHANGED)
def batch_norm(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def stepped(batch_norm) -> tuple[MaskRCNN, set[str]]:
    """A ResNet-50 model after a step, and the keys of what the step changed: to be read."""
    torch.manual_seed(0)
    config = R50 if batch_norm == "trained" else replace(R50, batch_norm=batch_norm, trainable_layers=3)
    model = with_few_samples(build_model(config, 3))
    before = deepcopy(model.state_dict())
    trained_a_step(model, rate=1e-4)
    return model, {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}


def test_what_of_the_backbone_a_step_changes(batch_norm, stepped):
    _, changed = stepped
    assert kinds(changed) == CHANGED[batch_norm]


def test_frozen_statistics_compute_what_batch_norm_does_in_evaluation():
    ours, torchs = FrozenStatisticsBatchNorm2d(4), nn.BatchNorm2d(4)
    for layer in (ours, torchs):
        with torch.no_grad():
            layer.running_mean.copy_(torch.arange(4.0))
            layer.running_var.copy_(torch.arange(1.0, 5.0))
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    gradients = []
    for layer in (ours.train(), torchs.eval()):
        y = layer(x)
        y.square().sum().backward()
        gradients.append((y, layer.weight.grad, layer.bias.grad))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert ours.num_batches_tracked == 0
    assert ours.state_dict().keys() == torchs.state_dict().keys()


def test_heads_begin_with_the_asked_spread_and_without_bias():
    predictor = build_model(replace(DigitsRCNN(), class_init_std=0.01, box_init_std=0.001), 10).roi_heads.box_predictor
    for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        assert layer.weight.std().item() == pytest.approx(std, rel=0.1)
        assert layer.weight.mean().abs() < std / 10
        assert not layer.bias.any()


def test_each_training_image_is_resized_to_one_of_the_sizes_and_tests_to_the_last():
    model = build_model(replace(DigitsRCNN(), min_size=96, other_train_sizes=(64, 96, 80), max_size=128), 3)
    image = [torch.rand(3, 60, 60)]
    torch.manual_seed(0)
    drawn = {model.transform.train()(image)[0].image_sizes[0] for _ in range(40)}
    assert drawn == {(64, 64), (80, 80), (96, 96)}
    assert {model.transform.eval()(image)[0].image_sizes[0] for _ in range(10)} == {(96, 96)}


def tied(agnostic: MaskRCNN) -> MaskRCNN:
    """A stock model whose classes all have the agnostic model's box regression and mask."""
    stock = build_model(DigitsRCNN(min_size=64, max_size=64), 3)
    state = agnostic.state_dict()
    for layer, times in (("box_predictor.bbox_pred", 4), ("mask_predictor.mask_fcn_logits", 4)):
        for part in ("weight", "bias"):
            value = state[f"roi_heads.{layer}.{part}"]
            state[f"roi_heads.{layer}.{part}"] = value.repeat(times, *[1] * (value.ndim - 1))
    stock.load_state_dict(state)
    return stock


def test_class_agnostic_heads_are_stock_ones_whose_classes_are_all_alike():
    torch.manual_seed(0)
    config = DigitsRCNN(min_size=64, max_size=64, class_agnostic_boxes=True, class_agnostic_masks=True)
    ours = build_model(config, 3)
    predictor = ours.roi_heads.box_predictor
    assert predictor.bbox_pred.out_features == 4
    assert ours.roi_heads.mask_predictor.mask_fcn_logits.out_channels == 1
    stock = tied(ours)

    with torch.no_grad():
        (found,), (expected,) = ours.eval()(scene()[0]), stock.eval()(scene()[0])
    assert len(found["boxes"]) > 0
    assert all(torch.allclose(found[key], expected[key], atol=1e-5) for key in expected)

    ours.zero_grad(), stock.zero_grad()
    losses = []
    for model in (ours, stock):
        torch.manual_seed(7)
        losses.append(model.train()(*scene()))
        sum(losses[-1].values()).backward()
    assert all(losses[0][key].item() == pytest.approx(losses[1][key].item(), abs=1e-6) for key in losses[1])
    for layer in ("box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits"):
        one, each = (model.roi_heads.get_submodule(layer).weight.grad for model in (ours, stock))
        assert one.abs().sum() > 0
        assert torch.allclose(one, each.reshape(4, *one.shape).sum(dim=0), atol=1e-6)


def test_one_agnostic_head_leaves_the_other_alone():
    heads = build_model(DigitsRCNN(class_agnostic_masks=True), 3).roi_heads
    assert (heads.box_predictor.bbox_pred.out_features, heads.mask_predictor.mask_fcn_logits.out_channels) == (16, 1)


def test_under_bf16_proposals_and_targets_keep_their_pixels():
    """A box at 1000.5 pixels is 1000 in bf16, and 1003 is 1004."""
    torch.manual_seed(0)
    model = build_model(DigitsRCNN(min_size=64, max_size=64), 3).train()
    seen, sampled = [], []
    sample = model.roi_heads.select_training_samples
    model.roi_heads.select_training_samples = lambda *given: sampled.append(sample(*given)) or sampled[-1]
    model.roi_heads.box_roi_pool.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(*scene())
    assert all(loss.isfinite() for loss in losses.values())
    ((proposals,),) = seen
    assert proposals.dtype == torch.float32
    assert not torch.equal(proposals, proposals.bfloat16().float())
    ((*_, (regression_targets,)),) = sampled
    assert regression_targets.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bf16_trains_on_a_gpu():
    model = build_model(replace(R50, batch_norm="frozen_statistics"), 3).cuda().train()
    images, targets = scene()
    with torch.autocast("cuda", torch.bfloat16):
        losses = model([image.cuda() for image in images], [{k: v.cuda() for k, v in t.items()} for t in targets])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


def test_a_checkpoint_loads_into_plain_torchvision(plain, batch_norm, stepped):
    """Its `model` into stock maskrcnn_resnet50_fpn, strictly, with the same detections."""
    ours, _ = stepped
    save(Checkpoint(model=ours.state_dict(), optimizer={}, history=[]), Path("checkpoint.pt"))

    plain.load_state_dict(torch.load("checkpoint.pt", weights_only=True)["model"])

    with torch.no_grad():
        (found,), (expected,) = plain.eval()(scene()[0]), ours.eval()(scene()[0])
    assert len(expected["boxes"]) > 0
    for key, value in expected.items():
        if batch_norm == "frozen":  # the same figures in another order of operations
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-3)
        else:
            assert torch.equal(found[key], value), key


def one_step(model: MaskRCNN) -> set[str]:
    """Train for one step on a made-up instance; return the names of the parts of which something changed."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mask = torch.zeros(1, 128, 128, dtype=torch.uint8)
    mask[0, 40:80, 40:80] = 1
    target = {"boxes": torch.tensor([[40.0, 40, 80, 80]]), "labels": torch.tensor([1]), "masks": mask}
    optimizer = build_optimizer(model, AdamWOptimizer())
    sum(model.train()([torch.rand(3, 128, 128)], [target]).values()).backward()
    optimizer.step()
    after = model.state_dict()
    return {name.partition(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize(
    ("freeze", "changing"),
    [
        ((), {"backbone", "rpn", "roi_heads"}),
        (("rpn",), {"backbone", "roi_heads"}),
        (("backbone",), {"rpn", "roi_heads"}),
        (("backbone", "rpn"), {"roi_heads"}),
    ],
)
def test_frozen_parts_keep_their_weights(freeze, changing):
    torch.manual_seed(0)
    assert one_step(build_model(DigitsRCNN(weights="letters", freeze=freeze), 3)) == changing


def test_a_resnets_backbone_keeps_its_weights_and_its_statistics_where_it_is_frozen():
    torch.save(build_model(MaskRCNNResNet50FPN(min_size=128), 3).state_dict(), "whole.pth")
    frozen = MaskRCNNResNet50FPN(min_size=128, weights="whole.pth", freeze=("backbone", "rpn"))
    assert one_step(with_few_samples(build_model(frozen, 3))) == {"roi_heads"}


def test_what_the_weights_do_not_hold_cannot_be_frozen():
    torch.save(torchvision_models.resnet50(weights=None).state_dict(), "resnet.pth")
    with pytest.raises(
        ConfigError, match=r"model\.freeze: .*resnet\.pth hold no rpn; name the weights of a whole model"
    ):
        build_model(MaskRCNNResNet50FPN(weights="resnet.pth", freeze=("rpn",)), 3)
