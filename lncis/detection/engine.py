"""Training and evaluation in plain PyTorch; under DDP where torch.distributed is initialised, and no Ray.

Every epoch reseeds from (seed, epoch, rank), so what an epoch computes depends on the checkpoint it starts from
and on nothing else: a resumed or forked training equals an undisturbed one, to the bit on the CPU.
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset
from torchvision.models.detection import MaskRCNN

from lncis.config import AdamWOptimizer, OptimizerConfig, TrainConfig, loss_in_stage
from lncis.data_identity import changed, identify
from lncis.datasets import Data
from lncis.datasets.coco import CocoInstances
from lncis.datasets.kept import KeptItems
from lncis.detection import automatic, checkpoint, diagnostics, histograms, label_losses
from lncis.detection.batches import Batch, Targets, each, item_loader, on_device, training_loader
from lncis.detection.checkpoint import Checkpoint
from lncis.detection.inference.coco_eval import Detection, evaluator
from lncis.detection.inference.detections import detect
from lncis.detection.inference.evaluation import average_precision, to_coco
from lncis.detection.losses import class_loss
from lncis.detection.mask_rcnn.models import build_model
from lncis.detection.mask_rcnn.roi_heads import ClassLossRoIHeads
from lncis.errors import CheckpointError, ConfigError, DataError, DivergedError
from lncis.metrics import VAL_LOSS, Record

CHECKPOINT = "checkpoint.pt"
CPU = torch.device("cpu")

CPU_STEPS_A_READING, GPU_STEPS_A_READING = 1, 16
"""How many steps go by until their losses are read and judged: the host waits for a GPU each time."""


def train(
    config: TrainConfig,
    data: Data,
    directory: Path,
    *,
    until: int | None = None,
    fork_from: Path | None = None,
    device: torch.device = CPU,
    loading_processes: int = 0,
    on_epoch: Callable[[Record], bool] = lambda record: True,
) -> list[Record]:
    """Train until `until` epochs are finished (default: all) and return the record of each epoch.

    Goes on from the checkpoint in `directory`; failing that, from the one in `fork_from`; failing that, from scratch.
    After each epoch rank 0 writes `directory/checkpoint.pt`, the losses of lncis.detection.label_losses and, where the
    clean labels are known, those of lncis.detection.histograms. Then every rank calls `on_epoch`, as it does at the
    start for the epochs found in the checkpoint; a false answer ends the training. `loading_processes` beside each rank
    read its images ahead and change no result.
    Raises DivergedError when a loss is not finite, leaving the last good checkpoint.
    """
    if config.batch_size % _world():
        raise ConfigError("batch_size", [f"must be a multiple of the {_world()} workers but got {config.batch_size}"])
    evaluator()  # which raises what is wrong with its setting now, and not after the last epoch
    path = directory / CHECKPOINT
    begun = directory if path.exists() else fork_from
    resumed = _load_on_every_rank(begun / CHECKPOINT if begun else None)
    trained_on = identify(config.dataset)
    if resumed and (other := changed(resumed.data, trained_on)):
        raise DataError(
            f"{begun}: was trained on other data ({', '.join(other)} changed since); "
            "bring the earlier files back, or train anew in another folder"
        )
    seed_all(config.seed, epoch=-1, rank=0)  # every rank draws the same initial weights
    model = build_model(config.model, data.num_foreground_classes, pretrained=resumed is None).to(device)
    optimizer = build_optimizer(model, config.optimizer)
    history: list[Record] = []
    if resumed:
        model.load_state_dict(resumed.model)
        optimizer.load_state_dict(resumed.optimizer)
        history = list(resumed.history)
        for restored in history:
            on_epoch(restored)
    earlier = histograms.read(begun) if begun else []
    loss_histograms = [histogram for histogram in earlier if histogram.epoch <= len(history)]
    losses_of_labels = label_losses.begun_in(begun, data.train).until(len(history))
    label_ids = torch.from_numpy(losses_of_labels.annotation_ids).to(device)

    ddp_model = over_all_ranks(model)
    training_images = data.train if loading_processes else KeptItems(data.train)  # those are new ones each epoch
    for epoch in range(len(history), config.schedule.epochs if until is None else until):
        started = time.monotonic()
        record: Record = {"epoch": float(epoch + 1), "lr": config.optimizer.lr * config.schedule.lr_factor(epoch)}
        settled = automatic.settled_config(config, history)
        stage = _stage(settled, epoch)
        if stage == 2:
            settled, found = _set_by_itself(config, settled, history, model, data, device, loading_processes)
            record |= found
        loader = training_loader(config, training_images, epoch, loading_processes, pin_memory=device.type == "cuda")
        label_sums = label_losses.no_sums(label_ids)
        on_step = partial(label_losses.add, label_sums, label_ids, loss_in_stage(settled.loss, stage))
        metrics, counts = train_epoch(ddp_model, optimizer, loader, settled, epoch, on_step)
        record |= metrics
        if stage == 1 and automatic.sets_stage1_epochs(config):
            record[VAL_LOSS] = automatic.val_loss(model, data.val, device, loading_processes)
        last = epoch + 1 == config.schedule.epochs
        if last or (epoch + 1) % config.schedule.evaluate_every == 0:
            average_precisions = evaluate(model, data.val, device, loading_processes)
            record |= {f"val/{key}": value for key, value in average_precisions.items()}
        if last:
            average_precisions = evaluate(model, data.test, device, loading_processes)
            record |= {f"test/{key}": value for key, value in average_precisions.items()}
        record["seconds"] = time.monotonic() - started
        history.append(record)
        if _world() > 1:
            dist.all_reduce(label_sums)
        losses_of_labels = losses_of_labels.followed_by(label_sums)
        if _rank() == 0:
            label_losses.write(losses_of_labels, directory)
            if histogram := diagnostics.loss_histogram(counts, epoch + 1):
                loss_histograms.append(histogram)
                histograms.write(loss_histograms, directory)
            state = Checkpoint(
                model=model.state_dict(),
                optimizer=optimizer.state_dict(),
                history=history,
                categories=sorted(data.train.document["categories"], key=lambda category: int(category["id"])),
                data=dict(trained_on),
            )
            checkpoint.save(state, path)
        if not on_epoch(record):
            break
    return history


def _set_by_itself(
    config: TrainConfig,
    settled: TrainConfig,
    history: list[Record],
    model: MaskRCNN,
    data: Data,
    device: torch.device,
    loading_processes: int,
) -> tuple[TrainConfig, Record]:
    """Return the config of an epoch of stage 2 without `auto`, and what of it this training has set, as metrics."""
    found: Record = {}
    if automatic.sets_stage1_epochs(config):
        found[automatic.STAGE1_EPOCHS] = float(settled.schedule.switch_epoch)
    if automatic.sets_gamma(config):
        known = automatic.gamma_in(history)
        found |= known or automatic.set_gamma(model, data.val, device, loading_processes)
    return automatic.with_gamma(settled, found), found


def train_epoch(
    ddp_model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader[Batch],
    config: TrainConfig,
    epoch: int,
    on_step: Callable[[ClassLossRoIHeads, Targets], object] = lambda heads, targets: None,
) -> tuple[Record, Tensor]:
    """Train a Mask R-CNN, which may be wrapped by DDP, for one epoch; return its metrics and counts over all ranks.

    `on_step` is called after each step with the RoI heads, which hold its samples, and the targets.

    The metrics are torchvision's losses (`train/loss_classifier`, ...), their sum `train/loss`, and those of
    `lncis.detection.diagnostics`, whose counts of samples come with them.
    """
    model: MaskRCNN = ddp_model.module if isinstance(ddp_model, DistributedDataParallel) else ddp_model
    heads = model.roi_heads
    device = next(model.parameters()).device
    stage = _stage(config, epoch)
    stage_loss = loss_in_stage(config.loss, stage)
    heads.class_loss = class_loss(config.loss, stage=stage)
    sums: dict[str, float] = {}
    unread: list[Tensor] = []  # the losses of the latest steps
    steps_a_reading = CPU_STEPS_A_READING if device.type == "cpu" else GPU_STEPS_A_READING
    counts, gamma = diagnostics.no_samples(device), diagnostics.gamma_of(stage_loss)
    called_background = diagnostics.called_background_of(stage_loss)

    seed_all(config.seed, epoch, _rank())
    model.train()
    for iteration, (images, targets) in enumerate(on_device(loader, device)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch, iteration, len(loader))
        with _autocast(config, device):
            loss_dict: dict[str, Tensor] = ddp_model(images, targets)
            loss = torch.stack(list(loss_dict.values())).sum()

        unread.append(torch.stack([loss.detach(), *(value.detach() for value in loss_dict.values())]).float())
        if len(unread) == steps_a_reading or iteration + 1 == len(loader):
            for values in _read(unread, config, epoch, iteration):
                for key, value in zip(["loss", *loss_dict], values, strict=True):
                    sums[key] = sums.get(key, 0.0) + value
            unread.clear()

        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if config.optimizer.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.max_grad_norm)
        optimizer.step()

        clean = diagnostics.clean_labels(heads.matched_idxs, targets)
        diagnostics.count_samples(counts, heads.class_logits, heads.labels, clean, gamma, called_background)
        on_step(heads, targets)

    if _world() > 1:
        dist.all_reduce(counts)
    means = {f"train/{key}": value / len(loader) for key, value in sums.items()}
    return means | diagnostics.sample_metrics(counts, stage_loss), counts


@torch.inference_mode()
def predict(
    model: MaskRCNN, dataset: CocoInstances, device: torch.device, loading_processes: int = 0
) -> list[Detection]:
    """Return the detections on a whole data set as COCO results, the same on every rank; each does its share."""
    model.eval()
    detections: list[Detection] = []
    share = Subset(dataset, range(_rank(), len(dataset), _world()))
    for image, target in each(item_loader(share, loading_processes)):
        (found,) = detect(model, [image.to(device)])
        detections += to_coco(found, int(target["image_id"]), dataset.category_ids)
    if _world() == 1:
        return detections
    shares: list[list[Detection]] = [[] for _ in range(_world())]
    dist.all_gather_object(shares, detections)
    return sorted((d for share in shares for d in share), key=lambda d: int(d["image_id"]))


def evaluate(
    model: MaskRCNN, dataset: CocoInstances, device: torch.device, loading_processes: int = 0
) -> dict[str, float]:
    """Return the average precisions (`lncis.detection.inference.evaluation`) of a model on a whole data set."""
    if _world() > 1:
        for buffer in model.buffers():  # batch-norm statistics: each rank has its own since the last step
            dist.broadcast(buffer, src=0)
    return average_precision(dataset.document, predict(model, dataset, device, loading_processes))


def _load_on_every_rank(origin: Path | None) -> Checkpoint | None:
    """Return the checkpoint to go on from; if one rank sees another checkpoint or none, all raise RuntimeError.

    A retry may succeed: a shared folder shows new files to some nodes later than to others.
    """
    found: Checkpoint | CheckpointError | None
    try:
        found = checkpoint.load(origin) if origin else None
    except CheckpointError as error:
        found = error
    seen = f"{found.epoch} epochs" if isinstance(found, Checkpoint) else str(found)
    views = [seen]
    if _world() > 1:
        views = [""] * _world()
        dist.all_gather_object(views, seen)
    if isinstance(found, CheckpointError) and len(set(views)) == 1:
        raise found
    if len(set(views)) > 1:
        raise RuntimeError(f"the workers see different checkpoints; share the folder between nodes: {views}")
    return found if isinstance(found, Checkpoint) else None


def over_all_ranks(model: MaskRCNN) -> nn.Module:
    """Return the model under DDP where there are several ranks."""
    return DistributedDataParallel(model) if _world() > 1 else model


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return AdamW or SGD over the parameters that train."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if isinstance(config, AdamWOptimizer):
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    return torch.optim.SGD(
        parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
    )


def learning_rate(config: TrainConfig, epoch: int, iteration: int, iterations_per_epoch: int) -> float:
    """Return the learning rate of an iteration, both counted from 0: drops by epoch, and a linear warm-up."""
    rate = config.optimizer.lr * config.schedule.lr_factor(epoch)
    warmup = config.schedule.warmup_iterations
    done = epoch * iterations_per_epoch + iteration
    return rate * (1 / 3 + 2 / 3 * done / warmup) if done < warmup else rate


def seed_all(seed: int, epoch: int, rank: int) -> None:
    """Seed torch's and numpy's global generators for an epoch of a rank."""
    state = np.random.SeedSequence([seed, epoch + 1, rank]).generate_state(1, dtype=np.uint64)
    torch.manual_seed(int(state[0]))
    np.random.seed(int(state[0]) % 2**32)


def _read(unread: list[Tensor], config: TrainConfig, epoch: int, iteration: int) -> list[list[float]]:
    """Return the losses of steps, the last of which is `iteration`, averaged over ranks.

    Raises DivergedError where the first one of a step, their sum, is not finite.
    """
    losses = torch.stack(unread)
    if _world() > 1:  # agreed before they are judged, so that all ranks stop together
        dist.all_reduce(losses)
        losses /= _world()
    read: list[list[float]] = losses.tolist()
    for step, (loss, *_) in enumerate(read, start=iteration + 2 - len(read)):
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} in epoch {epoch + 1}, iteration {step}; lower optimizer.lr ({config.optimizer.lr})"
            )
    return read


def _stage(config: TrainConfig, epoch: int) -> Literal[1, 2]:
    return 2 if epoch >= config.schedule.switch_epoch else 1


def _autocast(config: TrainConfig, device: torch.device) -> torch.autocast | nullcontext[None]:
    return torch.autocast(device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext()


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
