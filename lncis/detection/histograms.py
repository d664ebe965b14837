"""The losses of clean and of flipped foreground samples, epoch by epoch, in a file beside the checkpoint (Figure 5).

It is written before the checkpoint of the same epoch; a training that goes on, or forks, takes over the epochs that its
checkpoint has finished.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from lncis import files
from lncis.errors import CheckpointError

FILE = "loss_histograms.json"

BIN_NATS = 0.25
"""Width of a bin; the first one begins at 0."""

BINS = 65
"""The last one is open: all from 16 nats on."""


@dataclass(frozen=True, kw_only=True)
class LossHistogram:
    """Foreground samples of an epoch in bins of cross entropy, counted over all workers."""

    epoch: int
    """Finished epochs, from 1."""
    clean: list[int]
    """Samples whose label is the clean one."""
    flipped: list[int]


def write(histograms: list[LossHistogram], directory: Path) -> None:
    """Write the file of a training whole or not at all; CheckpointError where it cannot be written."""
    path = directory / FILE
    document = {"bin_nats": BIN_NATS, "epochs": [asdict(histogram) for histogram in histograms]}
    try:
        files.replace(path, json.dumps(document, separators=(",", ":")))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error}; free some room on its disk, and retry") from error


def read(directory: Path) -> list[LossHistogram]:
    """Return what a training in `directory` wrote, in the order of epochs.

    Nothing where there is no such file, or a damaged one: no training depends on it.
    """
    try:
        document = json.loads((directory / FILE).read_text())
        return [LossHistogram(**epoch) for epoch in document["epochs"]]
    except (OSError, ValueError, TypeError, KeyError):
        return []
