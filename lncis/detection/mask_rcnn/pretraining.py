"""How the file behind `weights: letters` is made: digits_rcnn, trained on scenes of printed letters and signs.

It is to the digits what ImageNet's weights are to photographs: features that tell shapes apart, and no class of the
task.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lncis import files
from lncis.config import AdamWOptimizer, CrossEntropyLoss, DigitsRCNN, NoNoise, Schedule, TrainConfig
from lncis.datasets import Data, letters
from lncis.datasets.coco import CocoInstances
from lncis.detection import checkpoint, engine
from lncis.detection.mask_rcnn.weights import CLASS_SPECIFIC
from lncis.errors import ConfigError
from lncis.metrics import Record

SCENES, HELD_OUT_SCENES = 2000, 100
SEED, HELD_OUT_SEED = 2020, 2021
"""Seeds of the composition."""
RECIPE = TrainConfig(
    noise=NoNoise(),
    model=DigitsRCNN(),
    loss=CrossEntropyLoss(),
    schedule=Schedule(epochs=10, evaluate_every=10),
    optimizer=AdamWOptimizer(lr=1.4e-3),
    batch_size=8,
    seed=2020,
)
"""The training; its `dataset` is not read."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A file of weights that was made."""

    digest: str
    """SHA-256 of the file."""
    minutes: float
    """How long it took."""
    letters_AP: float
    """Mask AP, percent, on scenes of letters that were not trained on; no digit is in it."""


def make_letters(
    out: Path,
    scenes: int = SCENES,
    recipe: TrainConfig = RECIPE,
    on_epoch: Callable[[Record], bool] = lambda record: True,
) -> Made:
    """Train on scenes of letters, and write the weights to a file: fp16, without the layers of the classes.

    A function of its arguments on one kind of CPU; another kind rounds otherwise. Raises ConfigError where the file
    cannot be written.
    """
    started = time.monotonic()
    composed = (letters.compose(count, seed) for count, seed in ((scenes, SEED), (HELD_OUT_SCENES, HELD_OUT_SEED)))
    train, held_out = (CocoInstances(*images_and_document) for images_and_document in composed)
    data = Data(train=train, val=held_out, test=held_out, manifests={}, remarks=[])
    try:
        with files.replacing(out) as file, tempfile.TemporaryDirectory() as folder:  # begun first: it may be no place
            history = engine.train(recipe, data, Path(folder), on_epoch=on_epoch)
            state = checkpoint.load(Path(folder) / engine.CHECKPOINT).model
            kept = {key: value.half() for key, value in state.items() if key.rpartition(".")[0] not in CLASS_SPECIFIC}
            torch.save(kept, file)  # to a file that is open: the archive does not hold its name
    except OSError as error:
        raise ConfigError("--make", [f"{out} cannot be written: {error.strerror}; name another file"]) from error
    return Made(
        digest=files.digest(out),
        minutes=(time.monotonic() - started) / 60,
        letters_AP=history[-1]["test/segm_AP"],
    )
