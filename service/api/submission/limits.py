"""Limits of a shared service on a study: how much it counts before it is validated, and how large it is.

Its schema has no such limits. service.api.submission.named_files has those on the files that it names.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from lncis.config import DigitsData, TrainConfig
from lncis.studies.spec import MAX_FOLDS, Resources, StudySpec
from service.settings import Settings

MAX_PARAMETERS = 100
"""Searched by one study."""
MAX_CHOICES = 1000
"""Of one parameter."""
MAX_BASELINES = 200
MAX_FIRST_POINTS = 1000
MAX_ENTRIES = 2000
"""Of any other list or mapping; the longest that a study needs has a row for each of LVIS's 1203 classes."""
MAX_WORKERS = 1024
"""Workers, CPUs, GPUs and loading processes of one trial, each."""

_COUNTS = {"search": MAX_PARAMETERS, "baselines": MAX_BASELINES}
_SEEDS = ("seeds", "noise_seeds")
_COUNTLESS = 1e300  # what a float can still hold


def too_large(document: Mapping[str, Any], settings: Settings) -> list[str]:
    """Return why a document is too large to be validated: it would keep a thread busy for seconds.

    Validation lists every combination of a grid. The schema checks values of a wrong type.
    """
    problems = list(_too_long(document))
    for name in _SEEDS:
        if isinstance(given := document.get(name), list) and len(given) > settings.max_trials:
            problems.append(_too_many_entries(name, settings.max_trials, len(given)))
    if problems:
        return problems
    seeds = (len(given) for name in _SEEDS if isinstance(given := document.get(name), list) and given)
    folds = min(given, MAX_FOLDS) if isinstance(given := document.get("folds"), int) else 1
    number = combinations(document) * math.prod(seeds) * max(folds, 1)
    return [_too_many(number, settings)] if number > settings.max_trials else []


def _too_long(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lists and mappings with too many entries; what is in them is not looked at."""
    waiting: list[tuple[str, Any]] = [("", document)]
    while waiting:
        path, value = waiting.pop()
        if not isinstance(value, dict | list) or path in _SEEDS:
            continue
        most = _most(path)
        if len(value) > most:
            yield _too_many_entries(path or "the study", most, len(value))
            continue
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        waiting += ((f"{path}.{key}" if path else str(key), below) for key, below in inner)


def _most(path: str) -> int:
    if path.startswith("search.") and path.endswith(".choices"):
        return MAX_CHOICES
    return MAX_FIRST_POINTS if path == "sampler.first" else _COUNTS.get(path, MAX_ENTRIES)


def _too_many_entries(path: str, most: int, got: int) -> str:
    return f"{path}: must have at most {most} entries here but has {got}"


def combinations(document: Mapping[str, Any]) -> float:
    """Return how many configurations a document asks for, before it is known whether it is a study."""
    search, sampler, baselines = (_mapping(document.get(name)) for name in ("search", "sampler", "baselines"))
    parameters = [_mapping(parameter) for parameter in search.values()]
    number = 1.0
    if sampler.get("type", "grid") == "grid" or any("when" in parameter for parameter in parameters):
        for choices in (p.get("choices") for p in parameters):
            number = min(number * len(choices), _COUNTLESS) if isinstance(choices, list) else number
    requested = sampler.get("configurations")
    return max(number, min(requested, _COUNTLESS) if isinstance(requested, int) else 1) + len(baselines)


def values(document: Mapping[str, Any]) -> int:
    """Return how many values the parameters of a document have: of a space that is no grid each is tried alone."""
    parameters = map(_mapping, _mapping(document.get("search")).values())
    return sum(len(choices) for p in parameters if isinstance(choices := p.get("choices"), list))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _too_many(number: float, settings: Settings) -> str:
    return (
        f"search: asks for {number:.6g} trials, and this service takes at most {settings.max_trials}; give fewer "
        "choices, seeds or folds, or draw some by sampler tpe"
    )


def too_many_trials(spec: StudySpec, settings: Settings) -> list[str]:
    """Return the problem if a study has too many trials."""
    return [_too_many(spec.total_trials, settings)] if spec.total_trials > settings.max_trials else []


def too_many_workers(resources: Resources) -> list[str]:
    """Return a problem for each figure of a trial's resources that no cluster has."""
    names = ("num_workers", "cpus_per_worker", "gpus_per_worker", "loading_processes")
    return [
        _at_most(f"resources.{name}", MAX_WORKERS, number)
        for name in names
        if (number := getattr(resources, name)) > MAX_WORKERS
    ]


def too_large_training(config: TrainConfig, settings: Settings) -> list[str]:
    """Return a problem for each field that makes one training too large for a shared service."""
    figures = [
        ("schedule.epochs", settings.max_epochs, config.schedule.epochs),
        ("batch_size", settings.max_batch_size, config.batch_size),
        ("model.max_size", settings.max_image_size, config.model.max_size),
    ]
    if isinstance(config.dataset, DigitsData):
        splits = ("train_scenes", "val_scenes", "test_scenes")
        figures += [(f"dataset.{name}", settings.max_scenes, getattr(config.dataset, name)) for name in splits]
    return [_at_most(path, most, got) for path, most, got in figures if got > most]


def _at_most(path: str, most: int, got: float) -> str:
    return f"{path}: must be at most {most} here but got {got:g}"
