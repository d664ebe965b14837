"""torchvision's RoI heads with the class loss injected.

torchvision computes `loss_classifier` in a module-level function and offers no seam. So the labels are kept
as they are sampled and the logits as they are predicted, the stock `forward` runs untouched, and only
`loss_classifier` is computed again. With plain cross entropy every loss and gradient equals the stock ones to
the bit. State-dict keys are the stock ones.
"""

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads

from lncis.losses import ClassLoss, cross_entropy


class ClassLossRoIHeads(RoIHeads):  # type: ignore[misc]
    """RoI heads whose class loss is `class_loss(class_logits, labels)`, a plain attribute.

    After a training forward, `labels` `(N,)` and `matched_idxs` (a tensor for each image) tell for each sampled
    RoI its label and the ground-truth instance that it matched, and `class_logits` `(N, K+1)` what was
    predicted, detached.
    """

    class_loss: ClassLoss
    labels: Tensor
    matched_idxs: list[Tensor]
    class_logits: Tensor

    @classmethod
    def from_stock(cls, stock: RoIHeads) -> "ClassLossRoIHeads":
        """Return heads that share the modules and settings of `stock`, with cross entropy."""
        heads = cls.__new__(cls)
        heads.__dict__.update(stock.__dict__)
        heads.class_loss = cross_entropy
        return heads

    def select_training_samples(self, proposals: Any, targets: Any) -> Any:
        """Return what torchvision returns, and keep the labels and matches."""
        proposals, matched_idxs, labels, regression_targets = super().select_training_samples(proposals, targets)
        self.labels, self.matched_idxs = torch.cat(labels), matched_idxs
        return proposals, matched_idxs, labels, regression_targets

    def forward(
        self, features: Any, proposals: Any, image_shapes: Any, targets: Any = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return detections and losses as torchvision does, `loss_classifier` replaced by ours."""
        predicted: list[Tensor] = []
        hook = self.box_predictor.register_forward_hook(lambda module, inputs, output: predicted.append(output[0]))
        try:
            detections, losses = super().forward(features, proposals, image_shapes, targets)
        finally:
            hook.remove()
        if self.training:
            (class_logits,) = predicted
            losses["loss_classifier"] = self.class_loss(class_logits, self.labels)
            self.class_logits = class_logits.detach()
        return detections, losses
