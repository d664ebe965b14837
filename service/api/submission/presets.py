"""The shipped studies, read again only after one of their files has changed."""

import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from lncis import documents
from lncis.errors import ConfigError
from lncis.studies.spec import StudySpec
from lncis.studies.spec import files as spec_files

log = logging.getLogger("lncis.service")

RECIPES = "recipes"
"""The folder beside the shipped studies that holds parts of trainings."""

Stamps = tuple[tuple[Path, int, int], ...]
"""Each YAML file of a folder, recipes included, with its size and the time of its last change."""


def presets(folder: Path) -> Mapping[str, dict[str, Any]]:
    """Return the shipped studies by name, as documents to read; files that cannot be read are logged and left out."""
    found = _documents(folder, stamps_of(folder))
    return {name: document for name, document in found.items() if not isinstance(document, ConfigError)}


def preset(folder: Path, name: object) -> StudySpec:
    """Return a shipped study, not yet judged; ConfigError if there is none, or its file is wrong."""
    stamps = stamps_of(folder)
    found = _documents(folder, stamps)
    if not isinstance(name, str) or name not in found:
        there = ", ".join(found) or "none: there are no presets"
        raise ConfigError("preset", [f"preset: must be one of {there} but got {name!r:.80}"])
    return _spec(folder, stamps, name)


@lru_cache(maxsize=4)
def _documents(folder: Path, stamps: Stamps) -> dict[str, dict[str, Any] | ConfigError]:
    found: dict[str, dict[str, Any] | ConfigError] = {}
    for path in (path for path, _, _ in stamps if path.parent.name != RECIPES):
        name = path.relative_to(folder).with_suffix("").as_posix()
        try:
            found[name] = spec_files.read_spec_document(path)
        except ConfigError as error:
            log.warning("preset left out: %s", "; ".join(str(error).splitlines()))
            found[name] = error
    return found


@lru_cache(maxsize=256)
def _spec(folder: Path, stamps: Stamps, name: str) -> StudySpec:
    try:
        document = _documents(folder, stamps)[name]
        if isinstance(document, ConfigError):
            raise document
        return documents.parse(StudySpec, document, source=name)
    except ConfigError as error:  # of the file, not of the request
        raise ConfigError("preset", [f"preset: {name}: {problem}" for problem in error.problems]) from error


def stamps_of(folder: Path) -> Stamps:
    """Return what changes when a file of a folder does."""
    found = ((path, path.stat()) for path in sorted(folder.rglob("*.yaml")))
    return tuple((path, status.st_size, status.st_mtime_ns) for path, status in found)
