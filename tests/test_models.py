import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn

from lncis.config import Model
from lncis.losses import cross_entropy
from lncis.models import build_model
from lncis.roi_heads import ClassLossRoIHeads


def resnet50(num_foreground_classes: int):
    return build_model(Model(name="maskrcnn_resnet50_fpn", min_size=64, max_size=96), num_foreground_classes)


def test_digits_rcnn_has_about_0_7_million_parameters():
    assert 0.7e6 < sum(p.numel() for p in build_model(Model(), 10).parameters()) < 0.8e6


@pytest.mark.parametrize("num_foreground_classes", [1, 10])
@pytest.mark.parametrize("name", ["digits_rcnn", "maskrcnn_resnet50_fpn"])
def test_heads_have_one_output_for_each_class_and_background(name, num_foreground_classes):
    outputs = num_foreground_classes + 1
    heads = build_model(Model(name=name), num_foreground_classes).roi_heads
    assert heads.box_predictor.cls_score.out_features == outputs
    assert heads.box_predictor.bbox_pred.out_features == 4 * outputs
    assert heads.mask_predictor.mask_fcn_logits.out_channels == outputs


def test_resnet50_has_the_state_dict_of_torchvisions():
    stock = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=21)
    ours = resnet50(20)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in stock.state_dict().items()}
    ours.load_state_dict(stock.state_dict())


@pytest.mark.parametrize("name", ["digits_rcnn", "maskrcnn_resnet50_fpn"])
def test_model_starts_with_cross_entropy_and_the_asked_size(name):
    model = build_model(Model(name=name, min_size=64, max_size=96), 2)
    assert isinstance(model.roi_heads, ClassLossRoIHeads)
    assert model.roi_heads.class_loss is cross_entropy
    assert (model.transform.min_size, model.transform.max_size) == ((64,), 96)


def test_same_seed_gives_the_same_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in build_model(Model(), 10).parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_digits_rcnn_detects_at_the_scenes_scale():
    torch.manual_seed(0)
    model = build_model(Model(), 10).eval()
    with torch.no_grad():
        (output,) = model([torch.rand(3, 128, 128)])
    n = len(output["boxes"])
    assert 0 < n <= 20
    assert output["masks"].shape == (n, 1, 128, 128)
    assert set(output["labels"].tolist()) <= set(range(1, 11))
