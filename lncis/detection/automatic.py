"""What a training sets itself, with no clean label: gamma (`loss.gamma: auto`), E1 (`schedule.stage1_epochs: auto`).

Gamma. At the noise rate eta of K classes a calibrated model gives a flipped label the loss F = ln((K - 1) / eta), and a
right one -ln(1 - eta) and more. So no label loses more than F unless the model is surer than the data allow. When
stage 2 begins, eta is estimated from what the model says at the annotations' own boxes in `val`, which is as noisy as
`train` and was not trained on (lncis.noise.noise_model; in `train` memorised labels hide half of the noise and more).
Then

    gamma = ln((K - 1) / eta) + 2

so a label is set aside where the model gives it less than e^-2, a seventh, of the probability of a label that is
certainly wrong. At 40 % of VOC's 20 classes that is 5.9; the paper's sweep is best at 6. The fewer wrong labels there
are the higher gamma is: eta counts as at least one wrong label, so without noise next to nothing is set aside.

The estimate is right for models that are less sure than they should be, as after a short training; a calibrated one
hides a tenth to a third of the noise from it, and noise of pairs altogether. Then gamma is too high, and sets too
little aside.

E1. Stage 1 ends after the first epoch in which the loss on `val` (cross entropy at the annotations' own boxes) is not
below that of two epochs before, but by `Schedule.switch_epoch` at the latest.

Both are functions of the model and the data alone: a training that goes on, or forks, sets the same. What was set is in
the record of each epoch of stage 2 (`lncis.metrics.AUTO_METRICS`), from which a resumed training reads it.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from torchvision.models.detection import MaskRCNN

from lncis.config import LncisLoss, TrainConfig, has_stages
from lncis.datasets.coco import CocoInstances
from lncis.detection import posteriors
from lncis.detection.posteriors import Posteriors
from lncis.metrics import AUTO_METRICS, VAL_LOSS, Record
from lncis.noise import flipped_loss, noise_model

GAMMA, NOISE_RATE, STAGE1_EPOCHS = AUTO_METRICS

MARGIN_NATS = 2.0
"""Gamma above the loss of a label that is certainly wrong."""

SETTLED_EPOCHS = 2
"""The loss on `val` has settled where it is not below that of so many epochs before."""

MOST_IMAGES = 2000
"""Of a larger `val` as many are looked at, evenly spread: thousands of labels give the rate to a point."""

log = logging.getLogger("lncis.worker")


def settled_config(config: TrainConfig, history: Sequence[Record]) -> TrainConfig:
    """Return the config with numbers for what is `auto`, as far as finished epochs, from the first on, have set it.

    E1 is the number of epochs at which stage 1 has ended, or the most that it may have; gamma stays as it is.
    """
    if config.schedule.stage1_epochs == "auto":
        ended = stage1_ended([record[VAL_LOSS] for record in history if VAL_LOSS in record])
        latest = config.schedule.switch_epoch
        config = replace(config, schedule=replace(config.schedule, stage1_epochs=min(ended or latest, latest)))
    return config


def gamma_in(history: Sequence[Record]) -> Record:
    """Return gamma and the noise rate that a training set in an earlier epoch; nothing where it has not."""
    last = history[-1] if history else {}
    return {metric: last[metric] for metric in (GAMMA, NOISE_RATE)} if GAMMA in last else {}


def stage1_ended(losses: Sequence[float]) -> int | None:
    """Return the epochs after which stage 1 has ended, from its loss on `val` after each; None where it goes on."""
    for epoch in range(SETTLED_EPOCHS, len(losses)):
        if not losses[epoch] < losses[epoch - SETTLED_EPOCHS]:
            return epoch + 1
    return None


def sets_gamma(config: TrainConfig) -> bool:
    """Say whether a training sets gamma itself, when stage 2 begins."""
    return isinstance(config.loss, LncisLoss) and config.loss.gamma == "auto"


def sets_stage1_epochs(config: TrainConfig) -> bool:
    """Say whether a training ends its stage 1 itself; one whose loss never changes has nothing to end."""
    return config.schedule.stage1_epochs == "auto" and has_stages(config.loss)


def with_gamma(config: TrainConfig, found: Record) -> TrainConfig:
    """Return the config with the gamma of a record, if that has one."""
    if not isinstance(config.loss, LncisLoss) or GAMMA not in found:
        return config
    return replace(config, loss=replace(config.loss, gamma=found[GAMMA]))


def gamma_set_by(said: Posteriors) -> Record:
    """Return gamma and the noise rate, in percent, from what a model says of annotations that it was not trained on."""
    (labels, classes), rate = said.probabilities.shape, 0.0
    if labels and classes > 1:  # a single class cannot be mistaken for another
        noise = noise_model.estimate(said.probabilities, said.given)
        rate = noise_model.noise_rate(noise, said.probabilities, said.given)
    floor = flipped_loss(max(rate, 1 / max(labels, 1)), max(classes, 2))
    return {GAMMA: floor + MARGIN_NATS, NOISE_RATE: 100 * rate}


def set_gamma(model: MaskRCNN, val: CocoInstances, device: torch.device, loading_processes: int = 0) -> Record:
    """Return gamma and the noise rate, in percent, that a model finds on `val`; the same on every rank."""
    found = [gamma_set_by(_said(model, val, device, loading_processes))]
    if dist.is_initialized():
        dist.broadcast_object_list(found)  # processors may round otherwise
    log.info("gamma is %.2f nats, for an estimated noise rate of %.1f %%", found[0][GAMMA], found[0][NOISE_RATE])
    return found[0]


def val_loss(model: MaskRCNN, val: CocoInstances, device: torch.device, loading_processes: int = 0) -> float:
    """Return the mean cross entropy of the annotations of `val`, in nats; the same on every rank, NaN without any."""
    found = [float(np.mean(_said(model, val, device, loading_processes).cross_entropy)) if len(val) else math.nan]
    if dist.is_initialized():
        dist.broadcast_object_list(found)
    return found[0]


def _said(model: MaskRCNN, val: CocoInstances, device: torch.device, loading_processes: int) -> Posteriors:
    """Return what a model says of the annotations of `val`, the same on every rank; each looks at its share."""
    if dist.is_initialized():
        for buffer in model.buffers():  # batch-norm statistics: each rank has its own since the last step
            dist.broadcast(buffer, src=0)
    every = math.ceil(len(val) / MOST_IMAGES)
    ids = [image["id"] for image in val.document["images"]][::every]
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    share = val.of_images(set(ids[rank::world]))
    mine = posteriors.posteriors(model, share, device, loading_processes=loading_processes)
    if world == 1:
        return mine
    shares: list[Posteriors | None] = [None] * world
    dist.all_gather_object(shares, mine)
    return posteriors.joined([one for one in shares if one is not None])
