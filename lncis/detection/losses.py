"""The classification losses of the box head: functions of `(class_logits, labels)`.

`class_logits` is `(N, K+1)` of any float type, `labels` is `(N,)` int64, class 0 is background.
Everything is computed in fp32, also under autocast. With reduction "mean" all N samples count, the
isolated ones too, and an empty batch gives 0 with a zero gradient; with "none" the result is `(N,)`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lncis.config import (
    ActivePassiveLoss,
    ClassLossConfig,
    CrossEntropyLoss,
    GeneralizedCrossEntropyLoss,
    JointOptimizationLoss,
    LabelSmoothingLoss,
    LncisLoss,
    ReverseCrossEntropyLoss,
    SymmetricCrossEntropyLoss,
    loss_in_stage,
)

BACKGROUND = 0

SMALLEST_LABEL, SMALLEST_PROBABILITY = 1e-4, 1e-7
"""What the published code clamps labels and probabilities to before it takes logarithms."""

ClassLoss = Callable[[Tensor, Tensor], Tensor]
Reduction = Literal["mean", "none"]
CalledBackground = Literal["argmax", "majority"]
"""When a sample counts as called background: as the likeliest class, or by p_0 > 1/2."""


def cross_entropy(class_logits: Tensor, labels: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Return -log p_y, exact and unclamped (Eq. 1); torch's own, but for the empty batch, where torch's mean is NaN."""
    empty = len(labels) == 0
    return functional.cross_entropy(
        class_logits.float(), labels, reduction="sum" if empty and reduction == "mean" else reduction
    )


def label_smoothing(
    class_logits: Tensor, labels: Tensor, *, epsilon: float = 0.1, reduction: Reduction = "mean"
) -> Tensor:
    """Return cross entropy against (1 - epsilon) q + epsilon / (K+1) (Szegedy et al., CVPR 2016)."""
    loss = functional.cross_entropy(class_logits.float(), labels, label_smoothing=epsilon, reduction="none")
    return _reduce(loss, reduction)


def generalized_cross_entropy(
    class_logits: Tensor, labels: Tensor, *, q: float = 0.3, reduction: Reduction = "mean"
) -> Tensor:
    """Return (1 - p_y^q) / q (Zhang and Sabuncu, NeurIPS 2018).

    p_y^q is taken as exp(-q ce), whose gradient goes to 0 with p_y where that of a power of p_y is infinite times 0.
    """
    ce = cross_entropy(class_logits, labels, reduction="none")
    return _reduce(-torch.expm1(-q * ce) / q, reduction)


def reverse_cross_entropy(
    class_logits: Tensor, labels: Tensor, *, A: float = -4.0, reduction: Reduction = "mean"
) -> Tensor:
    """Return -A (1 - p_y): Eq. 5 with `A` < 0 in the place of log 0.

    Summed over all labels it is the constant -K A (Eq. 6), which makes it robust to symmetric noise.
    """
    ce = cross_entropy(class_logits, labels, reduction="none")
    return _reduce(A * torch.expm1(-ce), reduction)


def symmetric_cross_entropy(
    class_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 0.1,
    A: float = math.log(1e-4),
    reduction: Reduction = "mean",
) -> Tensor:
    """Return alpha ce + beta rce (Wang et al., ICCV 2019), by default with the A of their code."""
    ce = cross_entropy(class_logits, labels, reduction="none")
    return _reduce(alpha * ce + beta * A * torch.expm1(-ce), reduction)


def joint_optimization(
    class_logits: Tensor, labels: Tensor, *, alpha: float = 0.8, beta: float = 1.2, reduction: Reduction = "mean"
) -> Tensor:
    """Return ce + alpha H(p) + beta KL(uniform || mean p): Tanaka et al. (CVPR 2018) without their relabelling.

    Their alpha and beta are the other way round, as `lncis.config.JointOptimizationLoss` says.

    The mean is over the samples at hand (of one worker) and the prior uniform over all K+1 classes; with reduction
    "none" each sample has the whole divergence.
    """
    log_p = functional.log_softmax(class_logits.float(), dim=1)
    ce = cross_entropy(class_logits, labels, reduction="none")
    entropy = -(log_p.exp() * log_p).sum(dim=1)
    samples, classes = log_p.shape
    log_mean_p = log_p.logsumexp(dim=0) - math.log(max(samples, 1))
    divergence = -math.log(classes) - log_mean_p.mean()
    return _reduce(ce + alpha * entropy + beta * divergence, reduction)


def active_passive(
    class_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    A: float = math.log(1e-4),
    reduction: Reduction = "mean",
) -> Tensor:
    """Return alpha nce + beta rce, where nce is ce over its sum over all labels (Ma et al., ICML 2020)."""
    ce = cross_entropy(class_logits, labels, reduction="none")
    over_all_labels = -functional.log_softmax(class_logits.float(), dim=1).sum(dim=1)
    return _reduce(alpha * ce / over_all_labels + beta * A * torch.expm1(-ce), reduction)


class SampleRoles(NamedTuple):
    """Four boolean masks `(N,)` of which exactly one is true for each sample (section 3.1)."""

    negative: Tensor
    """NEG: labelled background, which class noise never touches."""
    pseudo_negative: Tensor
    """PSN: labelled foreground, called background."""
    potential_noisy: Tensor
    """PON: called foreground, but with a cross entropy above gamma; isolated."""
    other: Tensor
    """OS: the rest of the foreground."""


def sample_roles(
    class_logits: Tensor, labels: Tensor, ce: Tensor, gamma: float, called_background: CalledBackground = "argmax"
) -> SampleRoles:
    """Return the role of each sample, from its cross entropy `ce` `(N,)`; carries no gradient."""
    foreground, high_loss = labels != BACKGROUND, ce > gamma
    if called_background == "argmax":
        called = class_logits.argmax(dim=1) == BACKGROUND
    else:
        called = functional.softmax(class_logits.detach().float(), dim=1)[:, BACKGROUND] > 0.5
    return SampleRoles(
        negative=~foreground,
        pseudo_negative=foreground & called,
        potential_noisy=foreground & ~called & high_loss,
        other=foreground & ~called & ~high_loss,
    )


def lncis_stage2(
    class_logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 6.0,
    A: float = -4.0,
    negatives: bool = True,
    pseudo_negatives: bool = True,
    isolation: bool = True,
    called_background: CalledBackground = "argmax",
    clamped: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the loss of stage 2 (Eq. 4): 0 for isolated samples, else cross entropy or reverse cross entropy.

    Cross entropy is for background samples, which class noise never touches, and for pseudo-negative ones. Without
    `negatives`, `pseudo_negatives` or `isolation` samples of that role get reverse cross entropy (Table 4). With
    `called_background` "majority" a sample is pseudo-negative only where p_0 > 1/2. `clamped` takes the logarithms as
    the published code does.
    """
    ce = cross_entropy(class_logits, labels, reduction="none")
    roles = sample_roles(class_logits, labels, ce, gamma, called_background)
    ce, rce = _clamped_cross_entropies(class_logits, labels, A) if clamped else (ce, A * torch.expm1(-ce))
    by_cross_entropy = torch.zeros_like(roles.negative)
    if negatives:
        by_cross_entropy = by_cross_entropy | roles.negative
    if pseudo_negatives:
        by_cross_entropy = by_cross_entropy | roles.pseudo_negative
    loss = torch.where(by_cross_entropy, ce, rce)
    return _reduce(loss.masked_fill(roles.potential_noisy, 0.0) if isolation else loss, reduction)


def _clamped_cross_entropies(class_logits: Tensor, labels: Tensor, A: float) -> tuple[Tensor, Tensor]:
    """Return cross entropy and reverse cross entropy `(N,)` with probabilities and labels kept off 0."""
    p = class_logits.float().softmax(dim=1).clamp(min=SMALLEST_PROBABILITY)
    labelled = functional.one_hot(labels, class_logits.shape[1]).bool()
    ce = -torch.where(labelled, p.log(), SMALLEST_LABEL * p.log()).sum(dim=1)
    return ce, -A * p.masked_fill(labelled, 0.0).sum(dim=1)


def class_loss(config: ClassLossConfig, *, stage: Literal[1, 2]) -> ClassLoss:
    """Return the loss that a training uses in a stage, with the constants of its config."""
    match loss_in_stage(config, stage):
        case CrossEntropyLoss():
            return cross_entropy
        case LabelSmoothingLoss() as loss:
            return partial(label_smoothing, epsilon=loss.epsilon)
        case GeneralizedCrossEntropyLoss() as loss:
            return partial(generalized_cross_entropy, q=loss.q)
        case ReverseCrossEntropyLoss() as loss:
            return partial(reverse_cross_entropy, A=loss.A)
        case SymmetricCrossEntropyLoss() as loss:
            return partial(symmetric_cross_entropy, alpha=loss.alpha, beta=loss.beta, A=loss.A)
        case JointOptimizationLoss() as loss:
            return partial(joint_optimization, alpha=loss.alpha, beta=loss.beta)
        case ActivePassiveLoss() as loss:
            return partial(active_passive, alpha=loss.alpha, beta=loss.beta, A=loss.A)
        case LncisLoss() as loss:
            return partial(
                lncis_stage2,
                gamma=loss.nats,
                A=loss.A,
                negatives=loss.negatives,
                pseudo_negatives=loss.pseudo_negatives,
                isolation=loss.isolation,
                called_background=loss.called_background,
                clamped=loss.clamped,
            )


def _reduce(loss: Tensor, reduction: Reduction) -> Tensor:
    return loss.sum() / max(len(loss), 1) if reduction == "mean" else loss
