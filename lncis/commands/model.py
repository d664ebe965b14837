"""The commands that use what was trained: `lncis evaluate`, `lncis predict`, and `lncis weights` before it."""

import json
import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from lncis.errors import CheckpointError, ConfigError
from lncis.terminal import clear_errors

if TYPE_CHECKING:
    import torch

    from lncis.studies.trained import Trained

Run = Annotated[Path, typer.Argument(help="Folder of a training, a study or one of its stages, or a checkpoint.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="The training's config, where it lies elsewhere.")]
Gpu = Annotated[bool, typer.Option("--gpu", help="Compute on the GPU.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads; with 1, a CPU worker's numbers to the bit.")]


class Split(StrEnum):
    """The splits of a data set, as the command line spells them."""

    train = "train"
    val = "val"
    test = "test"


class Published(StrEnum):
    """The weights that torchvision publishes, as the command line spells them."""

    imagenet = "imagenet"
    coco = "coco"


def evaluate(
    run: Run,
    split: Annotated[
        Split, typer.Option(help="train and val with the noisy labels, test with clean ones.")
    ] = Split.test,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON, by metric key.")] = False,
    config: ConfigFile = None,
    gpu: Gpu = False,
    threads: Threads = 1,
) -> None:
    """Print the AP figures of a trained model, beside those that its training recorded."""
    with clear_errors():
        device = _device(gpu, threads)
        from lncis import datasets
        from lncis.detection import engine
        from lncis.studies import trained

        found = trained.find(run, config)
        model = found.model().to(device)
        data = getattr(datasets.load(found.config), split.value)
        _same_classes(found, data.document["categories"])
        figures = {f"{split.value}/{key}": value for key, value in engine.evaluate(model, data, device).items()}
        if as_json:
            finite = {key: value if math.isfinite(value) else None for key, value in figures.items()}
            print(json.dumps({"epoch": found.state.epoch, **finite}))
            return
        recorded = found.state.history[-1] if found.state.history else {}
        epochs = f"{found.state.epoch} of {found.config.schedule.epochs}"
        table = Table("", f"{split.value}, {len(data)} images", title=f"{found.path}, epoch {epochs}")
        if figures.keys() <= recorded.keys():
            table.add_column("recorded in training")
        for key, value in figures.items():
            table.add_row(key, f"{value:.2f}", f"{recorded[key]:.2f}" if key in recorded else None)
        Console(width=None if Console().is_terminal else 120).print(table)


def predict(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    out: Annotated[Path, typer.Option(help="New folder for the pictures and results.json (COCO results).")],
    score: Annotated[float, typer.Option(min=0, max=1, help="Least score of what is drawn.")] = 0.5,
    annotations: Annotated[
        Path | None, typer.Option(help="COCO file that says the image ids; without it they are 1, 2, ... in order.")
    ] = None,
    config: ConfigFile = None,
    gpu: Gpu = False,
    threads: Threads = 1,
) -> None:
    """Draw what a trained model finds in images, and write it as COCO results."""
    with clear_errors():
        device = _device(gpu, threads)
        from lncis.detection import prediction
        from lncis.studies import trained

        found = trained.find(run, config)
        model, categories = found.model(), found.state.categories
        ids = prediction.image_ids(images, annotations, categories) if annotations else None
        drawn = prediction.predict_files(model, categories, images, out, ids=ids, least_score=score, device=device)
        print(f"{drawn} instances with a score of {score:g} or more in {len(images)} images: {out}")


def weights(name: Annotated[Published, typer.Argument(help="Which of torchvision's weights.")]) -> None:
    """Fetch pretrained weights for `model.weights`, unless they are there, and print where they lie."""
    with clear_errors():
        from lncis.detection import weights as pretrained

        print(pretrained.download(name.value))


def _device(gpu: bool, threads: int) -> "torch.device":
    import torch  # slow to load: a mistake in the arguments comes first

    torch.set_num_threads(threads)
    if gpu and not torch.cuda.is_available():
        raise ConfigError("--gpu", ["torch finds no GPU here; leave it out"])
    return torch.device("cuda" if gpu else "cpu")


def _same_classes(found: "Trained", categories: list[dict[str, object]]) -> None:
    theirs, ours = ({c["id"]: c["name"] for c in some} for some in (categories, found.state.categories))
    if theirs != ours:
        raise CheckpointError(
            f"{found.path} tells other classes apart ({', '.join(map(str, ours.values()))}) than the data set of its "
            f"config ({', '.join(map(str, theirs.values()))}); name the right one with --config"
        )
