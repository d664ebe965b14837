"""The class losses, by name (lncis.detection.losses computes them)."""

import math
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lncis.config.strict import STRICT_KEYS


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class CrossEntropyLoss:
    """Plain cross entropy in both stages: the baseline."""

    name: Literal["cross_entropy"] = "cross_entropy"


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class LabelSmoothingLoss:
    """Cross entropy with labels that are a little unsure (LSR), in both stages."""

    name: Literal["label_smoothing"] = "label_smoothing"
    epsilon: float = Field(default=0.1, ge=0, lt=1)
    """Share of each label that is spread evenly over all classes, background too."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class GeneralizedCrossEntropyLoss:
    """Between cross entropy (q -> 0) and mean absolute error (q = 1) (GCE), in both stages."""

    name: Literal["generalized_cross_entropy"] = "generalized_cross_entropy"
    q: float = Field(default=0.3, gt=0, le=1)
    """How little samples of small probability count."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class ReverseCrossEntropyLoss:
    """Reverse cross entropy (RCE, Eq. 5) for all samples, in both stages."""

    name: Literal["reverse_cross_entropy"] = "reverse_cross_entropy"
    A: float = Field(default=-4.0, lt=0, allow_inf_nan=False)
    """What stands for log 0; negative."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class SymmetricCrossEntropyLoss:
    """Cross entropy and reverse cross entropy together (SCE), in both stages."""

    name: Literal["symmetric_cross_entropy"] = "symmetric_cross_entropy"
    alpha: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of cross entropy."""
    beta: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    """Weight of reverse cross entropy."""
    A: float = Field(default=-4.0, lt=0, allow_inf_nan=False)
    """What stands for log 0 in reverse cross entropy; negative."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class JointOptimizationLoss:
    """The loss of joint optimization (JOL) on labels that stay as they are, in both stages."""

    name: Literal["joint_optimization"] = "joint_optimization"
    alpha: float = Field(default=0.8, ge=0, allow_inf_nan=False)
    """Weight of the entropy of each prediction, which makes them sure."""
    beta: float = Field(default=1.2, ge=0, allow_inf_nan=False)
    """Weight of the divergence of the mean prediction from a uniform one, which keeps classes from dying out."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class ActivePassiveLoss:
    """Normalized and reverse cross entropy together (NCE+RCE), in both stages.

    The weights are those of its authors for ten classes (Ma et al., ICML 2020, CIFAR-10), as is ln 1e-4 for log 0.
    """

    name: Literal["active_passive"] = "active_passive"
    alpha: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of normalized cross entropy."""
    beta: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of reverse cross entropy."""
    A: float = Field(default=math.log(1e-4), lt=0, allow_inf_nan=False)
    """What stands for log 0 in reverse cross entropy; negative."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class LncisLoss:
    """Cross entropy in stage 1, then a loss chosen by the role of each sample (Eq. 4).

    The four switches are the rows of Table 4; what one of them takes from its role gets reverse cross entropy.
    """

    name: Literal["lncis"] = "lncis"
    preset: Literal["paper", "release"] = "paper"
    """paper: the published equations; release: the published code, with clamps, another A and no isolation."""
    gamma: float = Field(default=6.0, gt=0)
    """Cross entropy, in nats, above which a foreground sample is isolated; .inf isolates none."""
    A: float | None = Field(default=None, lt=0, allow_inf_nan=False)
    """What stands for log 0 in the reverse cross entropy (Eq. 5); negative; null: -4 (paper) or ln 1e-4 (release)."""
    stagewise: bool = True
    """ST: cross entropy in stage 1; false: stage 2 from the first epoch."""
    negatives: bool = True
    """N: cross entropy for background samples."""
    pseudo_negatives: bool = True
    """PSN: cross entropy for foreground samples called background."""
    isolation: bool | None = None
    """PON: no loss for foreground samples called foreground above gamma; null: true (paper) or false (release)."""

    @property
    def log_0(self) -> float:
        """A as a number."""
        return self.A if self.A is not None else -4.0 if self.preset == "paper" else math.log(1e-4)

    @property
    def isolates(self) -> bool:
        """Whether samples above gamma are isolated."""
        return self.preset == "paper" if self.isolation is None else self.isolation


ClassLossConfig = Annotated[
    CrossEntropyLoss
    | LabelSmoothingLoss
    | GeneralizedCrossEntropyLoss
    | ReverseCrossEntropyLoss
    | SymmetricCrossEntropyLoss
    | JointOptimizationLoss
    | ActivePassiveLoss
    | LncisLoss,
    Field(discriminator="name"),
]


def loss_in_stage(loss: ClassLossConfig, stage: Literal[1, 2]) -> ClassLossConfig:
    """Return the loss that a training uses in a stage: all keep theirs but LNCIS, whose stage 1 is cross entropy."""
    return CrossEntropyLoss() if stage == 1 and isinstance(loss, LncisLoss) and loss.stagewise else loss
