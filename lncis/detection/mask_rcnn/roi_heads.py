"""torchvision's RoI heads with the class loss injected, and predictors that do not tell the classes apart.

torchvision computes the losses of the box head in a module-level function and offers no seam, so `forward` is ours in
training: the same modules in the same order, with our two losses of the box head. With plain cross entropy every loss
and gradient equals the stock ones to the bit. State-dict keys are the stock ones.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_loss

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
    matched_idxs: list[Tensor]
    class_logits: Tensor

    @classmethod
    def from_stock(cls, stock: RoIHeads, box_beta: float = TORCHVISION_BETA) -> "ClassLossRoIHeads":
        """Return heads that share the modules and settings of `stock`, with cross entropy."""
        heads = cls.__new__(cls)
        heads.__dict__.update(stock.__dict__)
        heads.class_loss, heads.box_beta = cross_entropy, box_beta
        return heads

    def forward(
        self, features: Any, proposals: Any, image_shapes: Any, targets: Any = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return detections and losses as torchvision does, `loss_classifier` and `loss_box_reg` being ours."""
        if not self.training:
            return super().forward(features, proposals, image_shapes)  # type: ignore[no-any-return]
        proposals, self.matched_idxs, labels, regression_targets = self.select_training_samples(proposals, targets)
        self.labels = torch.cat(labels)
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        class_logits, box_regression = self.box_predictor(self.box_head(pooled))
        self.class_logits = class_logits.detach()

        foreground = [torch.where(of_image != BACKGROUND)[0] for of_image in labels]
        boxes, matches = ([x[i] for x, i in zip(y, foreground, strict=True)] for y in (proposals, self.matched_idxs))
        mask_logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, image_shapes)))
        masks, classes = ([target[key] for target in targets] for key in ("masks", "labels"))
        return [], {
            "loss_classifier": self.class_loss(class_logits, self.labels),
            "loss_box_reg": box_loss(box_regression, self.labels, torch.cat(regression_targets), self.box_beta),
            "loss_mask": maskrcnn_loss(mask_logits, boxes, masks, classes, matches),
        }


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
