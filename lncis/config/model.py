"""Which model is trained, and what it starts from."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from lncis.config.data import local_path
from lncis.config.strict import STRICT_KEYS

PUBLISHED_WEIGHTS = ("none", "letters", "imagenet", "coco")
"""Names of weights, whose content never changes; anything else is a file."""

Frozen = Literal["backbone", "rpn"]


def _absolute_file(weights: str) -> str:
    return weights if weights in PUBLISHED_WEIGHTS else str(local_path(Path(weights)))


def _of_digits_rcnn(weights: str) -> str:
    if weights in ("imagenet", "coco"):
        raise ValueError(f"must be none, letters or a file, as others are of another model, but got {weights!r}")
    return weights


def _of_resnet50(weights: str) -> str:
    if weights == "letters":
        raise ValueError(f"must be none, imagenet, coco or a file, as others are of another model, but got {weights!r}")
    return weights


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class _MaskRCNN:
    """What every Mask R-CNN has: image sizes and heads; the defaults of the heads are torchvision's."""

    type: str
    weights: str = "none"
    """What training starts from."""
    min_size: int = Field(default=128, ge=32)
    """Shorter image side after resizing, pixels."""
    other_train_sizes: tuple[Annotated[int, Field(ge=32)], ...] = ()
    """Further shorter sides, pixels: in training, one of these or `min_size` is drawn for each image."""
    max_size: int = Field(default=128, ge=32)
    """Upper bound on the longer image side after resizing, pixels."""
    class_agnostic_boxes: bool = False
    """One box regression for all foreground classes in the place of one for each."""
    class_agnostic_masks: bool = False
    """One mask for all foreground classes in the place of one for each."""
    box_beta: float = Field(default=1 / 9, gt=0, allow_inf_nan=False)
    """Where the box head's smooth L1 loss turns from square to linear, in encoded box units."""
    class_init_std: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Standard deviation of the box head's first class weights, biases 0; null: torch's uniform weights and biases."""
    box_init_std: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Standard deviation of the box head's first box weights, biases 0; null: torch's uniform weights and biases."""

    freeze: tuple[Frozen, ...] = ()
    """Parts that keep the weights they start from: backbone (FPN included), rpn. Class noise reaches neither then."""

    @model_validator(mode="after")
    def _sizes_in_order(self) -> Self:
        for name, sizes in (("min_size", (self.min_size,)), ("other_train_sizes", self.other_train_sizes)):
            if max(sizes, default=0) > self.max_size:
                raise ValueError(f"{name} must be at most max_size ({self.max_size}) but got {max(sizes)}")
        return self

    @model_validator(mode="after")
    def _frozen_parts_have_weights(self) -> Self:
        if self.freeze and self.weights in ("none", "imagenet"):
            raise ValueError(
                f"freeze must be empty with the weights {self.weights}, which hold no FPN and no RPN, but got "
                f"{', '.join(self.freeze)}"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class DigitsRCNN(_MaskRCNN):
    """A Mask R-CNN of 0.7 M parameters, for scenes of 128 pixels."""

    type: Literal["digits_rcnn"] = "digits_rcnn"
    weights: Annotated[str, AfterValidator(_of_digits_rcnn), AfterValidator(_absolute_file)] = "none"
    """What training starts from. none: random; letters: trained on printed letters and signs, without the layers of the
    classes (comes with lncis); else a file with a state dict of this model, or an lncis checkpoint."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class MaskRCNNResNet50FPN(_MaskRCNN):
    """torchvision's maskrcnn_resnet50_fpn."""

    type: Literal["maskrcnn_resnet50_fpn"] = "maskrcnn_resnet50_fpn"
    weights: Annotated[str, AfterValidator(_of_resnet50), AfterValidator(_absolute_file)] = "none"
    """What training starts from. none: random; imagenet, coco: torchvision's, which must be on this machine already
    (`lncis weights`); else a file with a state dict of this model or of its backbone, or an lncis checkpoint."""
    trainable_layers: int | None = Field(default=None, ge=0, le=5)
    """Stages of the ResNet that train, from the last: 3 freezes stem and layer1; null: 3 with weights, 5 without."""
    batch_norm: Literal["trained", "frozen", "frozen_statistics"] | None = None
    """trained: statistics of the batch; frozen: constants; frozen_statistics: running statistics are constants, scale
    and shift train; null: frozen with weights, trained without."""

    @model_validator(mode="after")
    def _frozen_statistics(self) -> Self:
        if "backbone" in self.freeze and self.batch_norm == "trained":
            raise ValueError("batch_norm must be frozen or frozen_statistics where freeze has backbone but got trained")
        return self


ModelConfig = Annotated[DigitsRCNN | MaskRCNNResNet50FPN, Field(discriminator="type")]
"""Which Mask R-CNN is trained, what it starts from, and the size that its images are resized to."""
