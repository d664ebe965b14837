"""The classification losses of the box head: functions of `(class_logits, labels)`.

`class_logits` is `(N, K+1)` of any float type, `labels` is `(N,)` int64, class 0 is background.
Everything is computed in fp32, also under autocast. With reduction "mean" all N samples count, the
isolated ones too, and an empty batch gives 0 with a zero gradient; with "none" the result is `(N,)`.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lncis.config import CrossEntropyLoss, LncisLoss

BACKGROUND = 0

ClassLoss = Callable[[Tensor, Tensor], Tensor]
Reduction = Literal["mean", "none"]


def cross_entropy(class_logits: Tensor, labels: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Return -log p_y, exact and unclamped (Eq. 1); torch's own, but for the empty batch, where torch's mean is NaN."""
    empty = len(labels) == 0
    return functional.cross_entropy(
        class_logits.float(), labels, reduction="sum" if empty and reduction == "mean" else reduction
    )


def reverse_cross_entropy(
    class_logits: Tensor, labels: Tensor, *, A: float = -4.0, reduction: Reduction = "mean"
) -> Tensor:
    """Return -A (1 - p_y): Eq. 5 with `A` < 0 in the place of log 0.

    Summed over all labels it is the constant -K A (Eq. 6), which makes it robust to symmetric noise.
    """
    ce = cross_entropy(class_logits, labels, reduction="none")
    return _reduce(A * torch.expm1(-ce), reduction)


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


def sample_roles(class_logits: Tensor, labels: Tensor, gamma: float) -> SampleRoles:
    """Return the role of each sample; carries no gradient."""
    with torch.no_grad():
        foreground = labels != BACKGROUND
        called_background = class_logits.argmax(dim=1) == BACKGROUND
        high_loss = cross_entropy(class_logits, labels, reduction="none") > gamma
        return SampleRoles(
            negative=~foreground,
            pseudo_negative=foreground & called_background,
            potential_noisy=foreground & ~called_background & high_loss,
            other=foreground & ~called_background & ~high_loss,
        )


def lncis_stage2(
    class_logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 6.0,
    A: float = -4.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return cross entropy where labels cannot lie, 0 where they probably do, else reverse (Eq. 4)."""
    roles = sample_roles(class_logits, labels, gamma)
    ce = cross_entropy(class_logits, labels, reduction="none")
    loss = torch.where(roles.negative | roles.pseudo_negative, ce, A * torch.expm1(-ce))
    return _reduce(loss.masked_fill(roles.potential_noisy, 0.0), reduction)


def class_loss(config: CrossEntropyLoss | LncisLoss, *, stage: Literal[1, 2]) -> ClassLoss:
    """Return the loss that a training uses in a stage; stage 1 is cross entropy for all (Eq. 2)."""
    if stage == 1 or isinstance(config, CrossEntropyLoss):
        return cross_entropy
    return partial(lncis_stage2, gamma=config.gamma, A=config.A)


def _reduce(loss: Tensor, reduction: Reduction) -> Tensor:
    return loss.sum() / max(len(loss), 1) if reduction == "mean" else loss
