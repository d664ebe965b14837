"""Mask R-CNN from a config: torchvision's ResNet-50 FPN, or a small one of the same parts for the digits."""

from collections import OrderedDict
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d

from lncis.config import DigitsRCNN, MaskRCNNResNet50FPN, ModelConfig
from lncis.detection.mask_rcnn import weights
from lncis.detection.mask_rcnn.frozen_start import FrozenStartMaskRCNN
from lncis.detection.mask_rcnn.roi_heads import AgnosticBoxPredictor, AgnosticMaskPredictor, ClassLossRoIHeads
from lncis.detection.mask_rcnn.roi_pool import OneSampleRoIAlign
from lncis.detection.mask_rcnn.transform import TargetMasksTransform
from lncis.errors import ConfigError


def build_model(config: ModelConfig, num_foreground_classes: int, *, pretrained: bool = True) -> MaskRCNN:
    """Return a Mask R-CNN for K foreground classes and background, with the weights that `config` starts from.

    `model.roi_heads.class_loss` may be set to any class loss; it starts as cross entropy. Random weights come from
    torch's global state: seed it first. Not `pretrained`, it is the model that a checkpoint is loaded into next, and
    needs no file. The parts in `config.freeze` take no gradient. Raises ConfigError and CheckpointError as
    `lncis.detection.mask_rcnn.weights.load` does.
    """
    num_classes = num_foreground_classes + 1
    model = _digits_rcnn(config, num_classes) if isinstance(config, DigitsRCNN) else _resnet50(config, num_classes)
    if config.class_agnostic_boxes:
        model.roi_heads.box_predictor = AgnosticBoxPredictor.from_stock(model.roi_heads.box_predictor)
    if config.class_agnostic_masks:
        model.roi_heads.mask_predictor = AgnosticMaskPredictor.from_stock(model.roi_heads.mask_predictor)
    for layer, std in (("cls_score", config.class_init_std), ("bbox_pred", config.box_init_std)):
        if std is not None:
            nn.init.normal_(getattr(model.roi_heads.box_predictor, layer).weight, std=std)
            nn.init.zeros_(getattr(model.roi_heads.box_predictor, layer).bias)
    model.roi_heads = ClassLossRoIHeads.from_stock(model.roi_heads, box_beta=config.box_beta)
    model.transform = TargetMasksTransform.from_stock(model.transform)
    # under autocast torchvision would round proposals and ground truth to the type of these: 4 pixels of 1000 in bf16
    model.rpn.head.register_forward_hook(_in_fp32)
    if pretrained and config.weights != "none":
        parts = weights.load(model, config.weights)
        if untrained := set(config.freeze) - parts:
            remedy = "name the weights of a whole model, or leave it out"
            raise ConfigError("model.freeze", [f"{config.weights} hold no {', '.join(sorted(untrained))}; {remedy}"])
    for part in config.freeze:
        getattr(model, part).requires_grad_(False)
    if isinstance(config, DigitsRCNN) and {"backbone", "rpn"} <= set(config.freeze):
        return FrozenStartMaskRCNN.from_stock(model)
    return model


def _sizes(config: ModelConfig) -> dict[str, Any]:
    # torchvision draws one of several sizes in training, and takes the last in evaluation
    others = [size for size in config.other_train_sizes if size != config.min_size]
    return {"min_size": (*others, config.min_size), "max_size": config.max_size}


def _in_fp32(head: nn.Module, inputs: Any, output: tuple[list[Tensor], list[Tensor]]) -> Any:
    objectness, deltas = output
    return [level.float() for level in objectness], [level.float() for level in deltas]


class FrozenStatisticsBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that normalises by its running statistics also in training; scale and shift train."""

    def train(self, mode: bool = True) -> "FrozenStatisticsBatchNorm2d":
        """Stay in evaluation."""
        return super().train(False)


def _resnet50(config: MaskRCNNResNet50FPN, num_classes: int) -> MaskRCNN:
    """Return what torchvision's maskrcnn_resnet50_fpn does, which leaves no choice of the batch norm."""
    from_scratch = config.weights == "none"
    layers = {"trained": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d, "frozen_statistics": FrozenStatisticsBatchNorm2d}
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        norm_layer=layers[config.batch_norm or ("trained" if from_scratch else "frozen")],
        trainable_layers=(5 if from_scratch else 3) if config.trainable_layers is None else config.trainable_layers,
    )
    if config.weights == "coco":
        for module in backbone.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = 0.0  # as these weights were trained; torchvision does the same
    return MaskRCNN(backbone, num_classes=num_classes, **_sizes(config))


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


def _digits_rcnn(config: DigitsRCNN, num_classes: int) -> MaskRCNN:
    backbone = _SmallBackbone()
    channels, levels = backbone.out_channels, ["0", "1", "2"]
    anchors = AnchorGenerator(sizes=((16,), (32,), (48,)), aspect_ratios=((0.5, 1.0, 2.0),) * 3)
    return MaskRCNN(
        backbone,
        **_sizes(config),
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=50,
        rpn_batch_size_per_image=64,
        box_roi_pool=OneSampleRoIAlign(levels, output_size=7),
        box_head=TwoMLPHead(channels * 7 * 7, 256),
        box_predictor=FastRCNNPredictor(256, num_classes),
        box_batch_size_per_image=32,
        box_detections_per_img=100,  # as many as COCO's protocol scores: a lower cap would favour some losses
        mask_roi_pool=OneSampleRoIAlign(levels, output_size=10),
        mask_head=MaskRCNNHeads(channels, (channels, channels), dilation=1),
        mask_predictor=MaskRCNNPredictor(channels, channels, num_classes),
    )
