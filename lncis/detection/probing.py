"""A few steps of each stage of a training: do two configs train alike, and how long does a step take?"""

import math

import torch
from torch.utils.data import Subset
from torchvision.models.detection import MaskRCNN

from lncis.config import TrainConfig
from lncis.datasets import Data
from lncis.datasets.coco import CocoInstances
from lncis.detection import automatic, engine
from lncis.detection.batches import training_loader
from lncis.detection.mask_rcnn.models import build_model
from lncis.errors import DivergedError
from lncis.metrics import Record

PROBE_STEPS = 4
"""Of each stage."""


def probe(config: TrainConfig, data: Data, device: torch.device = engine.CPU) -> Record:
    """Return the results of a few steps a stage: `stage1/loss`, `stage1/weights`, `stage2/loss`, `stage2/weights`.

    Both stages begin from the same initial weights, their class logits spread so that every role has samples. Two
    configs with equal numbers train alike; a stage without epochs has none, one that diverges has NaN.
    """
    few = Subset(data.train, range(min(len(data.train), PROBE_STEPS * config.batch_size)))
    record: Record = {"epoch": 1.0}
    for stage, epoch in ((1, 0), (2, config.schedule.switch_epoch)):
        if stage == 1 and config.schedule.switch_epoch == 0:
            continue
        engine.seed_all(config.seed, epoch=-1, rank=0)
        model = build_model(config.model, data.num_foreground_classes).to(device)
        _spread_class_logits(model, data.train, device)
        settled = automatic.settled_config(config, [])
        if stage == 2 and automatic.sets_gamma(config):
            settled = automatic.with_gamma(settled, automatic.set_gamma(model, data.val, device))
        ddp_model = engine.over_all_ranks(model)
        optimizer = engine.build_optimizer(model, config.optimizer)
        try:
            loader = training_loader(config, few, epoch)
            metrics, _ = engine.train_epoch(ddp_model, optimizer, loader, settled, epoch)
            loss = metrics["train/loss"]
        except DivergedError:
            loss = math.nan
        record[f"stage{stage}/loss"] = loss
        record[f"stage{stage}/weights"] = sum(float(p.detach().double().square().sum()) for p in model.parameters())
    return record


@torch.no_grad()
def _spread_class_logits(model: MaskRCNN, dataset: CocoInstances, device: torch.device) -> None:
    """Scale the classifier so that logits spread by several nats, as after training: fresh ones are all alike."""
    image, target = dataset[0]
    model.train()
    model([image.to(device)], [{key: value.to(device) for key, value in target.items()}])
    model.roi_heads.box_predictor.cls_score.weight *= 5 / model.roi_heads.class_logits.std()
