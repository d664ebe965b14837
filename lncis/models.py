"""Mask R-CNN from a config: torchvision's ResNet-50 FPN, or a small one of the same parts for the digits."""

from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from lncis.config import Model
from lncis.roi_heads import ClassLossRoIHeads


def build_model(config: Model, num_foreground_classes: int) -> MaskRCNN:
    """Return an untrained Mask R-CNN for K foreground classes and background.

    `model.roi_heads.class_loss` may be set to any class loss; it starts as cross entropy. Weights come from torch's
    global random state: seed it first.
    """
    num_classes = num_foreground_classes + 1
    if config.name == "digits_rcnn":
        model = _digits_rcnn(config, num_classes)
    else:
        model = maskrcnn_resnet50_fpn(
            weights=None,
            weights_backbone=None,
            num_classes=num_classes,
            min_size=config.min_size,
            max_size=config.max_size,
        )
    model.roi_heads = ClassLossRoIHeads.from_stock(model.roi_heads)
    return model


class _SmallBackbone(nn.Module):
    """Four stages of convolution and GroupNorm, an FPN of 32 channels on the last three (strides 4 to 16)."""

    out_channels = 32

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 96, 128)
        self.stem = _conv_gn(3, widths[0], stride=2)
        self.stages = nn.ModuleList(_conv_gn(inp, out, stride=2) for inp, out in pairwise(widths))
        self.fpn = FeaturePyramidNetwork(list(widths[1:]), self.out_channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features: OrderedDict[str, Tensor] = OrderedDict()
        x = self.stem(images)
        for level, stage in enumerate(self.stages):
            x = features[str(level)] = stage(x)
        pyramid: dict[str, Tensor] = self.fpn(features)
        return pyramid


def _conv_gn(inp: int, out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inp, out, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(8, out),
        nn.ReLU(inplace=True),
    )


def _digits_rcnn(config: Model, num_classes: int) -> MaskRCNN:
    backbone = _SmallBackbone()
    channels, levels = backbone.out_channels, ["0", "1", "2"]
    anchors = AnchorGenerator(sizes=((16,), (32,), (48,)), aspect_ratios=((0.5, 1.0, 2.0),) * 3)
    return MaskRCNN(
        backbone,
        min_size=config.min_size,
        max_size=config.max_size,
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=50,
        rpn_batch_size_per_image=64,
        box_roi_pool=MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=1),
        box_head=TwoMLPHead(channels * 7 * 7, 256),
        box_predictor=FastRCNNPredictor(256, num_classes),
        box_batch_size_per_image=32,
        box_detections_per_img=20,
        mask_roi_pool=MultiScaleRoIAlign(levels, output_size=10, sampling_ratio=1),
        mask_head=MaskRCNNHeads(channels, (channels, channels), dilation=1),
        mask_predictor=MaskRCNNPredictor(channels, channels, num_classes),
    )
