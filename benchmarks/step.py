"""A training step: ours beside the loop of torchvision's reference, on the same images, in turns.

The reference side does what references/detection/train.py does: CocoDetection reads the files, masks are drawn from
the annotations, the heads are stock, and every loss is read after every step. Each measurement is a process of its own.
"""

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, Subset
from torchvision.datasets import CocoDetection
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign
from torchvision.transforms.functional import convert_image_dtype, pil_to_tensor

from lncis import datasets
from lncis.config import CocoData, DigitsData, DigitsRCNN, MaskRCNNResNet50FPN, NoNoise, SGDOptimizer, TrainConfig
from lncis.datasets import digits
from lncis.datasets.kept import KeptItems
from lncis.detection import engine
from lncis.detection.batches import training_loader
from lncis.detection.mask_rcnn.models import build_model

WARM_UP_STEPS = 3
CLASSES, INSTANCES, CORNERS = 80, 7, 22
"""Of COCO train2017: its classes, and what an image and a polygon have on average."""

Epoch = Callable[[range], None]
"""Trains on scenes of these numbers, each once."""

Steps = Callable[[int], None]
"""Does so many steps, forward and backward, on one batch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["digits", "frozen_digits", "resnet50"], default="digits")
    parser.add_argument("--steps", type=int, default=100, help="of an epoch")
    parser.add_argument("--epochs", type=int, default=1, help="all on the same images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=800, help="shorter image side of resnet50, pixels")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--loading-processes", type=int, default=0)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        side, folder = arguments.one
        print(json.dumps(measured(SIDES[side], Path(folder), arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), arguments)
        show(compared(Path(folder), arguments), arguments)


def compared(folder: Path, arguments: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Return the measurements of each side, one a round."""
    sides = [name for name in SIDES if "bf16" not in name or arguments.device == "cuda"]
    turns = [name for _ in range(arguments.rounds) for name in sides]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for name in track(turns, "measuring", console=Console(stderr=True)):
        child = [sys.executable, __file__, *sys.argv[1:], "--one", name, str(folder)]
        answer = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True)
        found[name].append(json.loads(answer.stdout.splitlines()[-1]))
    return found


def show(found: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> None:
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "one CPU core"
    table = Table(title=f"{arguments.model}, batch {arguments.batch}, {device}, median of {arguments.rounds}")
    headings = ("images/s", "ratio", "CPU ms an image", "ratio", "peak GiB", "outside the model")
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right")
    medians = {
        name: {key: statistics.median(one[key] for one in ones) for key in ones[0]} for name, ones in found.items()
    }
    reference = medians["reference"]
    for name, middle in medians.items():
        pace, cpu = ([one[key] for one in found[name]] for key in ("images_per_second", "cpu_ms_an_image"))
        table.add_row(
            name,
            f"{middle['images_per_second']:.3g} ({min(pace):.3g} to {max(pace):.3g})",
            f"{middle['images_per_second'] / reference['images_per_second']:.2f}",
            f"{middle['cpu_ms_an_image']:.3g} ({min(cpu):.3g} to {max(cpu):.3g})",
            f"{reference['cpu_ms_an_image'] / middle['cpu_ms_an_image']:.2f}",
            f"{middle['peak_gib']:.2f}",
            f"{middle['outside_the_model']:.0%}",
        )
    Console(width=120).print(table)


def measured(side: Any, folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Return images a second, CPU time an image, peak memory in GiB, and the share of time outside the model.

    Forward and backward are timed a second time, on a batch that stays on the device: what is left of the loop's time
    is outside. On a CPU that is CPU time of this process, which others on the machine do not lengthen much.
    """
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    train, bare = side(folder, arguments, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    images, others = arguments.steps * arguments.batch, WARM_UP_STEPS * arguments.batch
    train(range(images, images + others))
    loop, loop_cpu = seconds(lambda: [train(range(images)) for _ in range(arguments.epochs)], device)
    alone, alone_cpu = seconds(lambda: bare(arguments.steps * arguments.epochs), device)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device)
    outside = 1 - (alone / loop if device.type == "cuda" else alone_cpu / loop_cpu)
    return {
        "images_per_second": images * arguments.epochs / loop,
        "cpu_ms_an_image": 1000 * loop_cpu / (images * arguments.epochs),
        "peak_gib": memory / 2**30,
        "outside_the_model": max(0.0, outside),
    }


def seconds(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Return how long something takes: by the clock, and of CPU time of this process."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started, started_cpu = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, time.process_time() - started_cpu


def ours(
    folder: Path, arguments: argparse.Namespace, device: torch.device, precision: str = "fp32"
) -> tuple[Epoch, Steps]:
    config = configured(folder, arguments, precision)
    data = datasets.load(config)
    engine.seed_all(config.seed, epoch=-1, rank=0)
    model = build_model(config.model, data.num_foreground_classes).to(device)
    optimizer = engine.build_optimizer(model, config.optimizer)

    scenes = data.train if arguments.loading_processes else KeptItems(data.train)

    def train(numbers: range) -> None:
        few = Subset(scenes, numbers)
        loader = training_loader(config, few, 0, arguments.loading_processes, pin_memory=device.type == "cuda")
        engine.train_epoch(model, optimizer, loader, config, 0)

    return train, forward_and_backward(
        model, data.train, arguments, device, torch.bfloat16 if "bf" in precision else None
    )


def ours_in_bf16(folder: Path, arguments: argparse.Namespace, device: torch.device) -> tuple[Epoch, Steps]:
    return ours(folder, arguments, device, "bf16")


def reference(folder: Path, arguments: argparse.Namespace, device: torch.device) -> tuple[Epoch, Steps]:
    config = configured(folder, arguments, "fp32")
    engine.seed_all(config.seed, epoch=-1, rank=0)
    model = stock_model(config).to(device)
    scenes = CocoDetection(str(folder / "images"), str(folder / "train.json"))
    scenes.transforms = lambda image, annotations: as_target(image, annotations, scenes)
    kept = config.optimizer
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=kept.lr, momentum=kept.momentum, weight_decay=kept.weight_decay)

    def train(numbers: range) -> None:
        few = Subset(scenes, numbers)
        loader = DataLoader(
            few,
            arguments.batch,
            sampler=RandomSampler(few),
            num_workers=arguments.loading_processes,
            collate_fn=lambda batch: tuple(zip(*batch, strict=True)),
        )
        means: dict[str, float] = {}
        model.train()
        for images, targets in loader:
            images = [image.to(device) for image in images]
            targets = [{key: value.to(device) for key, value in target.items()} for target in targets]
            losses = model(images, targets)
            total = sum(losses.values())
            if not math.isfinite(total.item()):
                raise SystemExit("the reference diverged")
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            for name, loss in {**losses, "loss": total}.items():
                means[name] = means.get(name, 0.0) + loss.item() / len(loader)

    return train, forward_and_backward(model, scenes, arguments, device, None)


def forward_and_backward(
    model: MaskRCNN, dataset: Any, arguments: argparse.Namespace, device: torch.device, autocast: torch.dtype | None
) -> Steps:
    """Return what a loop cannot do without, on one batch that stays on the device."""
    pairs = [dataset[i] for i in range(arguments.batch)]
    images = [image.to(device) for image, _ in pairs]
    targets = [{key: value.to(device) for key, value in target.items()} for _, target in pairs]

    def train(steps: int) -> None:
        for _ in range(steps):
            model.zero_grad(set_to_none=True)
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                loss = sum(model(images, targets).values())
            loss.backward()

    return train


SIDES = {"reference": reference, "ours": ours, "ours, bf16": ours_in_bf16}


def configured(folder: Path, arguments: argparse.Namespace, precision: str) -> TrainConfig:
    train, test = folder / "train.json", folder / "test.json"
    folders = {f"{split}images": folder / f"{split}images" for split in ("", "val_", "test_")}
    files = CocoData(**folders, train=train, val=test, test=test)
    models = {
        "digits": DigitsRCNN(),
        "frozen_digits": DigitsRCNN(weights="letters", freeze=("backbone", "rpn")),  # as all studies on digits have it
        "resnet50": MaskRCNNResNet50FPN(min_size=arguments.size, max_size=2 * arguments.size),
    }
    return TrainConfig(
        dataset=files if arguments.model == "resnet50" else scenes_of(arguments),
        noise=NoNoise(),
        model=models[arguments.model],
        optimizer=SGDOptimizer(lr=1e-4, momentum=0.9, weight_decay=1e-4),
        batch_size=arguments.batch,
        precision=precision,
    )


def stock_model(config: TrainConfig) -> MaskRCNN:
    if isinstance(config.model, DigitsRCNN):
        model = MaskRCNN.__new__(MaskRCNN)  # the stock model, heads and pools around the same modules
        model.__dict__.update(vars(build_model(config.model, 10)))
        stock = RoIHeads.__new__(RoIHeads)
        stock.__dict__.update(model.roi_heads.__dict__)
        for name in ("box_roi_pool", "mask_roi_pool"):
            pool = getattr(stock, name)
            setattr(stock, name, MultiScaleRoIAlign(pool.featmap_names, pool.output_size, pool.sampling_ratio))
        model.roi_heads = stock
        return model
    sizes = {"min_size": config.model.min_size, "max_size": config.model.max_size}
    return maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES + 1, **sizes)


def as_target(image: Image.Image, annotations: list[dict[str, Any]], scenes: CocoDetection) -> tuple[Tensor, Any]:
    boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = np.stack([scenes.coco.annToMask(annotation) for annotation in annotations])
    labels = torch.tensor([a["category_id"] for a in annotations])
    target = {"boxes": boxes, "labels": labels, "masks": torch.from_numpy(masks)}
    return convert_image_dtype(pil_to_tensor(image.convert("RGB")), torch.float32), target


def scenes_of(arguments: argparse.Namespace) -> DigitsData:
    scenes = (arguments.steps + WARM_UP_STEPS) * arguments.batch
    return DigitsData(train_scenes=scenes, val_scenes=1, test_scenes=1)


def write_data(folder: Path, arguments: argparse.Namespace) -> None:
    """Write the images of both sides: digits, or photographs' sizes with polygons as COCO's."""
    if arguments.model != "resnet50":
        digits.export(scenes_of(arguments), folder)
        return
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    count = scenes_of(arguments).train_scenes
    for number in track(range(count), "drawing images", console=Console(stderr=True)):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize((640, 480)).save(folder / "images" / f"{number}.jpg", quality=90)
    document = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 640, "height": 480} for n in range(count)],
        "annotations": [
            blob(rng, n, image)
            for image in range(count)
            for n in range(image * INSTANCES + 1, (image + 1) * INSTANCES + 1)
        ],
        "categories": [{"id": n, "name": f"class {n}"} for n in range(1, CLASSES + 1)],
    }
    for split in ("train", "test"):
        (folder / f"{split}.json").write_text(json.dumps(document))
    for split in ("val", "test"):  # only their time counts: the same pictures under other names
        (folder / f"{split}_images").symlink_to("images")


def blob(rng: np.random.Generator, number: int, image: int) -> dict[str, Any]:
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    centre, radii = rng.uniform((100, 100), (540, 380)), rng.uniform(12, 95, 2)
    corners = centre + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.8, 1, (CORNERS, 1))
    low, high = corners.min(axis=0), corners.max(axis=0)
    return {
        "id": number,
        "image_id": image,
        "category_id": int(rng.integers(1, CLASSES + 1)),
        "segmentation": [corners.round(2).ravel().tolist()],
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "area": float((high - low).prod()),
        "iscrowd": 0,
    }


if __name__ == "__main__":
    main()
