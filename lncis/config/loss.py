"""The class losses, by type (lncis.detection.losses computes them)."""

import math
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lncis.config.strict import STRICT_KEYS, or_auto


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class CrossEntropyLoss:
    """Plain cross entropy in both stages: the baseline."""

    type: Literal["cross_entropy"] = "cross_entropy"


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class LabelSmoothingLoss:
    """Cross entropy with labels that are a little unsure (LSR), in both stages."""

    type: Literal["label_smoothing"] = "label_smoothing"
    epsilon: float = Field(default=0.1, ge=0, lt=1)
    """Share of each label that is spread evenly over all classes, background too."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class GeneralizedCrossEntropyLoss:
    """Between cross entropy (q -> 0) and mean absolute error (q = 1) (GCE), in both stages."""

    type: Literal["generalized_cross_entropy"] = "generalized_cross_entropy"
    q: float = Field(default=0.3, gt=0, le=1)
    """How little samples of small probability count."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class ReverseCrossEntropyLoss:
    """Reverse cross entropy (RCE, Eq. 5) for all samples, in both stages."""

    type: Literal["reverse_cross_entropy"] = "reverse_cross_entropy"
    A: float = Field(default=-4.0, lt=0, allow_inf_nan=False)
    """What stands for log 0; negative."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class SymmetricCrossEntropyLoss:
    """Cross entropy and reverse cross entropy together (SCE), in both stages."""

    type: Literal["symmetric_cross_entropy"] = "symmetric_cross_entropy"
    alpha: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of cross entropy."""
    beta: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    """Weight of reverse cross entropy."""
    A: float = Field(default=math.log(1e-4), lt=0, allow_inf_nan=False)
    """What stands for log 0 in reverse cross entropy; negative. ln 1e-4, as in its authors' code and in that of LNCIS;
    the paper names -4 for its own loss alone."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class JointOptimizationLoss:
    """The loss of joint optimization (JOL) on labels that stay as they are, in both stages.

    Its authors (Tanaka et al., CVPR 2018) name the weights the other way round: their alpha is the divergence's, their
    beta the entropy's. The numbers here are theirs: 0.8 for the entropy, 1.2 for the divergence. The paper says
    "alpha = 0.8, beta = 1.2"; read in their names, that is the opposite: `alpha: 1.2, beta: 0.8`.
    """

    type: Literal["joint_optimization"] = "joint_optimization"
    alpha: float = Field(default=0.8, ge=0, allow_inf_nan=False)
    """Weight of the entropy of each prediction, which makes them sure."""
    beta: float = Field(default=1.2, ge=0, allow_inf_nan=False)
    """Weight of the divergence of the mean prediction from a uniform one, which keeps classes from dying out."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class ActivePassiveLoss:
    """Normalized and reverse cross entropy together (NCE+RCE), in both stages.

    The weights are those of its authors for ten classes (Ma et al., ICML 2020, CIFAR-10), as is ln 1e-4 for log 0.
    """

    type: Literal["active_passive"] = "active_passive"
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

    type: Literal["lncis"] = "lncis"
    gamma: Annotated[Annotated[float, Field(gt=0)] | Literal["auto"], or_auto("a number greater than 0")] = 6.0
    """Cross entropy, in nats, above which a foreground sample is isolated; .inf isolates none; auto: set when stage 2
    begins, from the noise rate that the predictions on `val` speak for (lncis.detection.automatic)."""
    A: float = Field(default=-4.0, lt=0, allow_inf_nan=False)
    """What stands for log 0 in the reverse cross entropy (Eq. 5); negative."""
    stagewise: bool = True
    """ST: cross entropy in stage 1; false: stage 2 from the first epoch."""
    negatives: bool = True
    """N: cross entropy for background samples."""
    pseudo_negatives: bool = True
    """PSN: cross entropy for foreground samples called background."""
    isolation: bool = True
    """PON: no loss for foreground samples called foreground above gamma."""
    called_background: Literal["argmax", "majority"] = "argmax"
    """When a foreground sample counts as called background. argmax: no class is likelier than background (the paper);
    majority: background is likelier than all classes together, p_0 > 1/2."""
    clamped: bool = False
    """Labels of at least 1e-4 and probabilities of at least 1e-7 under the logarithms, as in the authors' code; gamma
    is compared with the exact cross entropy all the same."""

    @property
    def nats(self) -> float:
        """Gamma as a number; ValueError where it is `auto` and the training has not set it yet."""
        if self.gamma == "auto":
            raise ValueError("gamma is auto: a number is known when stage 2 has begun")
        return self.gamma


ClassLossConfig = Annotated[
    CrossEntropyLoss
    | LabelSmoothingLoss
    | GeneralizedCrossEntropyLoss
    | ReverseCrossEntropyLoss
    | SymmetricCrossEntropyLoss
    | JointOptimizationLoss
    | ActivePassiveLoss
    | LncisLoss,
    Field(discriminator="type"),
]


def loss_in_stage(loss: ClassLossConfig, stage: Literal[1, 2]) -> ClassLossConfig:
    """Return the loss that a training uses in a stage: all keep theirs but LNCIS, whose stage 1 is cross entropy."""
    return CrossEntropyLoss() if stage == 1 and isinstance(loss, LncisLoss) and loss.stagewise else loss


def has_stages(loss: ClassLossConfig) -> bool:
    """Say whether a training changes its loss after E1 epochs."""
    return loss_in_stage(loss, 1) != loss
