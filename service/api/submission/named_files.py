"""The files that a training names: below which folders they may lie on a shared service, and of which kind they are."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from lncis.config import PUBLISHED_WEIGHTS, TrainConfig

WEIGHTS, WEIGHTS_SUFFIXES = "model.weights", (".pt", ".pth")
"""The field whose file torch loads, with weights_only: it builds tensors, and runs no code.

Not .safetensors: what trains reads files of torch alone, and lncis does not need that library otherwise.
"""
DOCUMENT_SUFFIXES = (".json",)
SAFETENSORS = "; save it as one: torch.save(safetensors.torch.load_file(NAME), OTHER)"
_FOLDERS = ("images", "val_images", "test_images")


class FileRule:
    """What trainings may name with some data roots; each file is looked at once, however many trainings name it."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = [root.resolve() for root in roots]
        self._complaints: dict[tuple[str, Path], str] = {}

    def problems(self, config: TrainConfig) -> list[str]:
        """Return a problem for each file that a training must not name, with the path of its field."""
        found = []
        for path, file in files_of(config):
            if (path, file) not in self._complaints:
                self._complaints[path, file] = _complaint(path, file, self._roots)
            if complaint := self._complaints[path, file]:
                found.append(complaint)
        return found


def files_of(config: TrainConfig) -> Iterator[tuple[str, Path]]:
    """Yield each file or folder that a training names, with the path of its field."""
    yield from _paths(config, "")
    if config.model.weights not in PUBLISHED_WEIGHTS:
        yield WEIGHTS, Path(config.model.weights)


def _paths(value: Any, at: str) -> Iterator[tuple[str, Path]]:
    if isinstance(value, Path):
        yield at, value
    elif is_dataclass(value) and not isinstance(value, type):
        for f in fields(value):
            yield from _paths(getattr(value, f.name), f"{at}.{f.name}" if at else f.name)
    elif isinstance(value, list | tuple | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _paths(inner, at)


def _complaint(path: str, file: Path, roots: Sequence[Path]) -> str:
    """Return what is wrong with a file; a link is judged by what it leads to."""
    try:
        target = file.resolve()
    except (OSError, RuntimeError):  # a link that leads to itself
        target = None
    if target is None or not any(target.is_relative_to(root) for root in roots):
        where = ", ".join(map(str, roots)) or "no folder, as LNCIS_DATA_ROOTS is not set"
        return f"{path}: may name files below {where}, but names {str(file)!r:.300}"
    allowed = WEIGHTS_SUFFIXES if path == WEIGHTS else DOCUMENT_SUFFIXES
    if path.rpartition(".")[2] not in _FOLDERS and {file.suffix.lower(), target.suffix.lower()} - set(allowed):
        remedy = SAFETENSORS if file.suffix.lower() == ".safetensors" else ""
        return f"{path}: must name a file that ends in {' or '.join(allowed)}, but names {str(file)!r:.300}{remedy}"
    return ""
