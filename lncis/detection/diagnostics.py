"""The samples of an epoch: counted by role, by what is known of their label, and by loss.

Draws no random numbers and changes nothing that trains.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lncis.config import ClassLossConfig, LncisLoss
from lncis.detection.histograms import BIN_NATS, BINS, LossHistogram
from lncis.detection.losses import BACKGROUND, CalledBackground, SampleRoles, cross_entropy, sample_roles
from lncis.metrics import FLIP_METRICS, ROLE_METRICS, Record

PAPER_GAMMA = 6.0
"""The gamma of the roles, in nats, under a loss that has none: stage 1 must not depend on the gamma of stage 2."""

ROLES = SampleRoles._fields
CLEAN, FLIPPED, UNKNOWN = range(3)


def gamma_of(loss: ClassLossConfig) -> float:
    """Return the gamma, in nats, at which roles are assigned under a loss."""
    return loss.nats if isinstance(loss, LncisLoss) else PAPER_GAMMA


def called_background_of(loss: ClassLossConfig) -> CalledBackground:
    """Return how samples are called background under a loss; as in the paper where it does not say."""
    return loss.called_background if isinstance(loss, LncisLoss) else "argmax"


def no_samples(device: torch.device) -> Tensor:
    """Return counts of nothing: int64 by role, label (clean, flipped, unknown), loss above gamma, bin of the loss."""
    return torch.zeros((len(ROLES), 3, 2, BINS), dtype=torch.int64, device=device)


def clean_labels(matched_idxs: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]) -> Tensor | None:
    """Return the clean label `(N,)` of the instance that each sample matched; None where the targets lack them.

    Background samples matched no instance: their number means nothing.
    """
    if not all("clean_labels" in target for target in targets):
        return None
    return torch.cat(
        [
            target["clean_labels"][matched] if len(target["clean_labels"]) else torch.full_like(matched, BACKGROUND)
            for matched, target in zip(matched_idxs, targets, strict=True)
        ]
    )


@torch.no_grad()
def count_samples(
    counts: Tensor,
    class_logits: Tensor,
    labels: Tensor,
    clean: Tensor | None,
    gamma: float,
    called_background: CalledBackground = "argmax",
) -> None:
    """Add samples to `counts`; `clean` holds their clean labels, if known."""
    ce = cross_entropy(class_logits, labels, reduction="none")
    role = torch.stack(sample_roles(class_logits, labels, ce, gamma, called_background)).byte().argmax(dim=0)
    truth = torch.full_like(labels, UNKNOWN) if clean is None else (clean != labels).long()
    truth = truth.where(labels != BACKGROUND, CLEAN)  # class noise never touches background
    # a loss that is not finite, on which the training ends when it is next read, goes into the last bin
    loss_bin = (ce / BIN_NATS).nan_to_num(nan=BINS).clamp(0, BINS - 1).long()
    place = ((role * 3 + truth) * 2 + (ce > gamma)) * BINS + loss_bin
    counts.view(-1).index_add_(0, place, torch.ones_like(place))


def sample_metrics(counts: Tensor, loss: ClassLossConfig) -> Record:
    """Return `train/isolated`, ROLE_METRICS and FLIP_METRICS (lncis.metrics) of an epoch trained with `loss`."""
    by_role = counts.sum(dim=(1, 2, 3)).tolist()
    role = dict(zip(ROLES, by_role, strict=True))
    samples = sum(by_role)
    foreground = counts[1:].sum(dim=(0, 3))  # truth, above gamma
    isolated = counts[ROLES.index("potential_noisy")].sum(dim=(1, 2)).tolist()  # truth
    isolates = isinstance(loss, LncisLoss) and loss.isolation
    (_, clean_above), (_, flipped_above), _ = foreground.tolist()
    clean, flipped, _ = foreground.sum(dim=1).tolist()
    shares = [
        (clean_above, clean),
        (flipped_above, flipped),
        (isolated[FLIPPED], sum(isolated) if flipped else 0),
        (isolated[FLIPPED], flipped),
    ]
    percentages = [100 * count / max(samples, 1) for count in by_role]
    return {
        "train/isolated": 100 * role["potential_noisy"] / max(samples - role["negative"], 1) if isolates else 0.0,
        **dict(zip(ROLE_METRICS, [float(samples), *percentages], strict=True)),
        **{name: 100 * part / whole for name, (part, whole) in zip(FLIP_METRICS, shares, strict=True) if whole},
    }


def loss_histogram(counts: Tensor, epoch: int) -> LossHistogram | None:
    """Return the losses of foreground samples after `epoch` epochs; None where their clean labels are not known."""
    clean, flipped, unknown = counts[1:].sum(dim=(0, 2)).tolist()
    return None if any(unknown) else LossHistogram(epoch=epoch, clean=clean, flipped=flipped)
