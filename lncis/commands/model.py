"""The commands that use a trained model, `lncis evaluate` and `lncis predict`, and `lncis weights`."""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from lncis.errors import ConfigError
from lncis.terminal import clear_errors, console_of_plain_text

if TYPE_CHECKING:
    import torch

Run = Annotated[Path, typer.Argument(help="Folder of a training, a study or one of its stages, or a checkpoint.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="The training's config, if it is in another folder.")]
Gpu = Annotated[bool, typer.Option("--gpu", help="Compute on the GPU.")]
Threads = Annotated[
    int, typer.Option(min=1, help="CPU threads; with 1 the numbers equal those of a CPU worker to the bit.")
]


def evaluate(
    run: Run,
    split: Annotated[
        Literal["train", "val", "test"], typer.Option(help="train and val have noisy labels, test has clean ones.")
    ] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
    config: ConfigFile = None,
    gpu: Gpu = False,
    threads: Threads = 1,
) -> None:
    """Evaluate a trained model and print its AP, beside the AP that its training recorded."""
    with clear_errors():
        device = torch_device(gpu, threads)
        from lncis import datasets
        from lncis.data_identity import changed, identify
        from lncis.detection import engine
        from lncis.studies import trained

        found = trained.find(run, config)
        model = found.model().to(device)
        data = getattr(datasets.load(found.config), split)
        trained.require_classes(found, data.document["categories"], "the data set of its config")
        files_of = "train" if split == "val" and getattr(found.config.dataset, "val", None) is None else split
        if other := changed(found.state.data, identify(found.config.dataset, [files_of])):
            print(
                f"note: {', '.join(other)} changed since the training: its record is of the earlier files",
                file=sys.stderr,
            )
        metrics = {f"{split}/{key}": value for key, value in engine.evaluate(model, data, device).items()}
        if as_json:
            finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
            print(json.dumps({"epoch": found.state.epoch, **finite}))
            return
        recorded = found.state.history[-1] if found.state.history else {}
        epochs = f"{found.state.epoch} of {found.config.schedule.epochs}"
        table = Table("", f"{split}, {len(data)} images", title=f"{found.path}, epoch {epochs}")
        if metrics.keys() <= recorded.keys():
            table.add_column("recorded in training")
        for key, value in metrics.items():
            table.add_row(key, f"{value:.2f}", f"{recorded[key]:.2f}" if key in recorded else None)
        console_of_plain_text(width=120).print(table)


def predict(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of them.")],
    out: Annotated[Path, typer.Option(help="New folder for the pictures and results.json (COCO results).")],
    score: Annotated[float, typer.Option(min=0, max=1, help="Draw instances with at least this score.")] = 0.5,
    annotations: Annotated[
        Path | None, typer.Option(help="COCO file with the image ids; without it they are 1, 2, ... in order.")
    ] = None,
    config: ConfigFile = None,
    gpu: Gpu = False,
    threads: Threads = 1,
) -> None:
    """Detect instances in images with a trained model; write pictures and COCO results."""
    with clear_errors():
        device = torch_device(gpu, threads)
        from lncis.detection.inference import prediction
        from lncis.studies import trained

        found = trained.find(run, config)
        model, categories = found.model(), found.state.categories
        found_images = prediction.found_in(images)
        listed = prediction.listed_in(annotations, found_images, categories) if annotations else None
        drawn = prediction.predict_files(
            model, categories, found_images, out, listed=listed, least_score=score, device=device
        )
        print(f"{drawn} instances with a score of {score:g} or more in {len(found_images)} images: {out}")


def weights(
    name: Annotated[
        Literal["letters", "imagenet", "coco"],
        typer.Argument(
            help="digits_rcnn of printed letters (comes with lncis), a ResNet-50 of ImageNet, a Mask R-CNN of COCO."
        ),
    ],
    make: Annotated[
        Path | None, typer.Option(help="letters: train them anew, into this file; about ten minutes on one core.")
    ] = None,
) -> None:
    """Print the path of pretrained weights for `model.weights`; torchvision's are downloaded if they are not there."""
    with clear_errors():
        from lncis.detection.mask_rcnn import weights as pretrained

        if make is None:
            print(pretrained.find(name) if name == "letters" else pretrained.download(name))
            return
        if name != "letters":
            raise ConfigError("--make", [f"{name} are torchvision's; leave it out, and they are downloaded"])
        torch_device(gpu=False, threads=1)
        from lncis.detection.mask_rcnn import pretraining

        made = pretraining.make_letters(make, on_epoch=_say_epoch)
        print(
            f"{make}: SHA-256 {made.digest}, {made.minutes:.1f} minutes, mask AP on new letters {made.letters_AP:.1f}"
        )


def _say_epoch(record: dict[str, float]) -> bool:
    print(f"epoch {record['epoch']:.0f}: loss {record['train/loss']:.3f}, {record['seconds']:.0f} s", file=sys.stderr)
    return True


def torch_device(gpu: bool, threads: int) -> "torch.device":
    """Return the device of a command, with so many CPU threads; ConfigError where there is no GPU to compute on."""
    import torch  # slow to load: a mistake in the arguments comes first

    torch.set_num_threads(threads)
    if gpu and not torch.cuda.is_available():
        raise ConfigError("--gpu", ["torch finds no GPU here; leave it out"])
    return torch.device("cuda" if gpu else "cpu")
