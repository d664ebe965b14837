"""What each annotation's samples lost, epoch by epoch, in a file beside the checkpoint: a sign of a wrong label.

As the histograms, it is written before the checkpoint of the same epoch, and a training that goes on, or forks, takes
over the epochs that its checkpoint has finished. Draws no random numbers and changes nothing that trains.
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lncis import files
from lncis.config import ClassLossConfig, LncisLoss
from lncis.datasets.coco import CocoInstances
from lncis.detection.batches import Targets
from lncis.detection.losses import BACKGROUND, cross_entropy, sample_roles
from lncis.detection.mask_rcnn.roi_heads import ClassLossRoIHeads
from lncis.errors import CheckpointError

FILE = "label_losses.npz"


@dataclass(frozen=True, kw_only=True)
class LabelLosses:
    """The n annotations of a training set, over E finished epochs."""

    annotation_ids: NDArray[np.int64]
    """`(n,)`, in rising order."""
    losses: NDArray[np.float32]
    """`(E, n)`, nats: mean cross entropy of the foreground samples that matched the annotation; NaN where none did."""
    isolated: NDArray[np.int32]
    """`(E, n)`: how many of them were set aside (PON)."""

    def until(self, epochs: int) -> "LabelLosses":
        """Return the first epochs alone."""
        return LabelLosses(
            annotation_ids=self.annotation_ids, losses=self.losses[:epochs], isolated=self.isolated[:epochs]
        )

    def followed_by(self, sums: Tensor) -> "LabelLosses":
        """Return them with one more epoch, of these sums."""
        losses, samples, isolated = sums.double().cpu().numpy()
        with np.errstate(invalid="ignore"):
            means = (losses / samples).astype(np.float32)
        return LabelLosses(
            annotation_ids=self.annotation_ids,
            losses=np.concatenate([self.losses, means[None]]),
            isolated=np.concatenate([self.isolated, isolated[None].astype(np.int32)]),
        )


def begun_in(directory: Path | None, dataset: CocoInstances) -> LabelLosses:
    """Return what a training in `directory` wrote about a training set; none of it, no epoch yet."""
    ids = np.array(sorted(a["id"] for a in dataset.document["annotations"] if not a.get("iscrowd", 0)), dtype=np.int64)
    found = read(directory) if directory else None
    if found is not None and np.array_equal(found.annotation_ids, ids):
        return found
    return LabelLosses(
        annotation_ids=ids,
        losses=np.zeros((0, len(ids)), dtype=np.float32),
        isolated=np.zeros((0, len(ids)), dtype=np.int32),
    )


def no_sums(ids: Tensor) -> Tensor:
    """Return sums of nothing `(3, n)`: cross entropy in nats, samples, samples set aside."""
    return torch.zeros((3, len(ids)), dtype=torch.float64, device=ids.device)


@torch.no_grad()
def add(sums: Tensor, ids: Tensor, loss: ClassLossConfig, heads: ClassLossRoIHeads, targets: Targets) -> None:
    """Add the samples of a step to the sums of the annotations `ids` `(n,)`, in rising order.

    `heads` have trained on `targets`; `loss` is the one of the stage.
    """
    if len(ids) == 0:
        return
    labels = heads.labels
    matched = torch.cat(
        [
            target["annotation_ids"][of_image] if len(target["annotation_ids"]) else torch.full_like(of_image, -1)
            for of_image, target in zip(heads.matched_idxs, targets, strict=True)
        ]
    )
    ce = cross_entropy(heads.class_logits, labels, reduction="none")
    foreground = labels != BACKGROUND
    aside = torch.zeros_like(foreground)
    if isinstance(loss, LncisLoss) and loss.isolation:
        roles = sample_roles(heads.class_logits, labels, ce, loss.nats, loss.called_background)
        aside = roles.potential_noisy
    # background adds nothing, to whatever place: to leave it out would make the host wait for a GPU
    places = torch.searchsorted(ids, matched).clamp(max=len(ids) - 1)
    values = torch.stack([ce.double().where(foreground, 0), foreground.double(), aside.double()])
    sums.index_add_(1, places, values)


def write(losses: LabelLosses, directory: Path) -> None:
    """Write the file of a training whole or not at all; CheckpointError where it cannot be written."""
    path, content = directory / FILE, io.BytesIO()
    np.savez_compressed(content, **vars(losses))
    try:
        files.replace(path, content.getvalue())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error}; free some room on its disk, and retry") from error


def read(directory: Path) -> LabelLosses | None:
    """Return what a training in `directory` wrote; None where there is no such file, or a damaged one."""
    try:
        with np.load(directory / FILE, allow_pickle=False) as arrays:
            return LabelLosses(**{name: arrays[name] for name in ("annotation_ids", "losses", "isolated")})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
