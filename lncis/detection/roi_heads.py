"""torchvision's RoI heads with the class loss injected, and predictors that do not tell the classes apart.

torchvision computes the losses of the box head in a module-level function and offers no seam. So the labels are kept
as they are sampled and the logits as they are predicted, the stock `forward` runs untouched, and only
the two losses of the box head are computed again. With plain cross entropy every loss and gradient equals the stock
ones to the bit. State-dict keys are the stock ones.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads

from lncis.detection.losses import BACKGROUND, ClassLoss, cross_entropy

TORCHVISION_BETA = 1 / 9


class ClassLossRoIHeads(RoIHeads):  # type: ignore[misc]
    """RoI heads whose class loss is `class_loss(class_logits, labels)`, a plain attribute.

    `box_beta` is where the smooth L1 loss of the boxes turns from square to linear, in encoded units.
    After a training forward, `labels` `(N,)` and `matched_idxs` (a tensor for each image) tell for each sampled
    RoI its label and the ground-truth instance that it matched, and `class_logits` `(N, K+1)` what was
    predicted, detached.
    """

    class_loss: ClassLoss
    box_beta: float
    labels: Tensor
    regression_targets: Tensor
    matched_idxs: list[Tensor]
    class_logits: Tensor

    @classmethod
    def from_stock(cls, stock: RoIHeads, box_beta: float = TORCHVISION_BETA) -> "ClassLossRoIHeads":
        """Return heads that share the modules and settings of `stock`, with cross entropy."""
        heads = cls.__new__(cls)
        heads.__dict__.update(stock.__dict__)
        heads.class_loss, heads.box_beta = cross_entropy, box_beta
        return heads

    def select_training_samples(self, proposals: Any, targets: Any) -> Any:
        """Return what torchvision returns, and keep the labels and matches."""
        proposals, matched_idxs, labels, regression_targets = super().select_training_samples(proposals, targets)
        self.labels, self.matched_idxs = torch.cat(labels), matched_idxs
        self.regression_targets = torch.cat(regression_targets)
        return proposals, matched_idxs, labels, regression_targets

    def forward(
        self, features: Any, proposals: Any, image_shapes: Any, targets: Any = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return detections and losses as torchvision does, `loss_classifier` and `loss_box_reg` replaced by ours."""
        predicted: list[tuple[Tensor, Tensor]] = []
        hook = self.box_predictor.register_forward_hook(lambda module, inputs, output: predicted.append(output))
        try:
            detections, losses = super().forward(features, proposals, image_shapes, targets)
        finally:
            hook.remove()
        if self.training:
            ((class_logits, box_regression),) = predicted
            losses["loss_classifier"] = self.class_loss(class_logits, self.labels)
            losses["loss_box_reg"] = box_loss(box_regression, self.labels, self.regression_targets, self.box_beta)
            self.class_logits = class_logits.detach()
        return detections, losses


def box_loss(box_regression: Tensor, labels: Tensor, regression_targets: Tensor, beta: float) -> Tensor:
    """Return the smooth L1 loss of the foreground samples at their label, summed and divided by all N samples.

    `box_regression` is `(N, 4 (K+1))`, `labels` `(N,)`, `regression_targets` `(N, 4)`. torchvision's has beta 1/9.
    """
    foreground = torch.where(labels != BACKGROUND)[0]
    by_class = box_regression.reshape(len(labels), -1, 4)
    found, wanted = by_class[foreground, labels[foreground]], regression_targets[foreground]
    return functional.smooth_l1_loss(found, wanted, beta=beta, reduction="sum") / labels.numel()


class AgnosticBoxPredictor(FastRCNNPredictor):  # type: ignore[misc]
    """A box predictor with one regression, `bbox_pred` of 4 outputs, that it gives for every class."""

    @classmethod
    def from_stock(cls, stock: FastRCNNPredictor) -> "AgnosticBoxPredictor":
        """Return a predictor that shares the classifier of `stock` and regresses anew."""
        predictor = cls.__new__(cls)
        nn.Module.__init__(predictor)
        predictor.cls_score, predictor.bbox_pred = stock.cls_score, nn.Linear(stock.bbox_pred.in_features, 4)
        return predictor

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits `(N, K+1)` and box regression `(N, 4 (K+1))`, as the stock one does."""
        class_logits, deltas = super().forward(features)
        return class_logits, deltas.repeat(1, class_logits.shape[1])


class AgnosticMaskPredictor(MaskRCNNPredictor):  # type: ignore[misc]
    """A mask predictor with one mask, `mask_fcn_logits` of one channel, that it gives for every class."""

    num_classes: int

    @classmethod
    def from_stock(cls, stock: MaskRCNNPredictor) -> "AgnosticMaskPredictor":
        """Return a predictor that shares all of `stock` but its last layer."""
        last = stock.mask_fcn_logits
        predictor = cls(last.in_channels, last.in_channels, 1)
        predictor.conv5_mask, predictor.num_classes = stock.conv5_mask, last.out_channels
        return predictor

    def forward(self, features: Tensor) -> Tensor:
        """Return mask logits `(N, K+1, H, W)`, as the stock one does; the classes share their memory."""
        logits: Tensor = super().forward(features)
        return logits.expand(-1, self.num_classes, -1, -1)
