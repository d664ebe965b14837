"""torchvision's scaling of images and targets, with masks drawn at the size of the scaled image."""

from typing import Any

from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from lncis.datasets.target_masks import TargetMasks


class TargetMasksTransform(GeneralizedRCNNTransform):  # type: ignore[misc]
    """A transform that takes TargetMasks, too; images, boxes and masks are to the bit those of torchvision's.

    torchvision scales the masks of an image all at once, in float and from their full size.
    """

    @classmethod
    def from_stock(cls, stock: GeneralizedRCNNTransform) -> "TargetMasksTransform":
        """Return a transform with the settings of `stock`."""
        transform = cls.__new__(cls)
        transform.__dict__.update(stock.__dict__)
        return transform

    def resize(self, image: Tensor, target: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any] | None]:
        """Return an image and its target, scaled; the size is drawn from torch's global state in training."""
        if target is None or not isinstance(target.get("masks"), TargetMasks):
            return super().resize(image, target)  # type: ignore[no-any-return]
        masks: TargetMasks = target["masks"]
        image, scaled = super().resize(image, {key: value for key, value in target.items() if key != "masks"})
        return image, {**scaled, "masks": masks.scaled(*image.shape[-2:])}
