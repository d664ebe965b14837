"""Checkpoints: one file, replaced atomically, that holds the state of a training and its history together.

Because weights, optimizer and history are one file, they can never disagree: a training killed at any moment resumes
from the last finished epoch, or from none.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lncis import files
from lncis.errors import CheckpointError
from lncis.metrics import Record


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A training after some finished epochs."""

    model: dict[str, Any]
    optimizer: dict[str, Any]
    history: list[Record]
    categories: list[dict[str, Any]] = field(default_factory=list)
    """COCO categories in the order of the labels 1..K, so that a prediction needs no data set."""
    data: dict[str, str] = field(default_factory=dict)
    """Digests of what it was trained on (lncis.data_identity)."""

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.history)


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write `path` whole or not at all; an earlier checkpoint there stays until the new one is complete.

    Raises CheckpointError where it cannot be written, as on a full disk.
    """
    try:
        with files.replacing(path) as file:
            torch.save(vars(checkpoint), file)
    except (OSError, RuntimeError) as error:  # torch hides the first in the second
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise CheckpointError(f"{path} cannot be written: {cause}; free some room on its disk, and retry") from error


def load(path: Path) -> Checkpoint:
    """Return the checkpoint at `path`, its tensors on the CPU; no code is unpickled.

    Raises CheckpointError where the file is missing, truncated or something else.
    """
    try:
        return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path}; train first, or correct the path") from error
    except Exception as error:  # torch raises a different type for each way a file can be damaged
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); delete it to train again"
        ) from error
