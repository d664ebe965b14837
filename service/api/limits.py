"""Limits of a shared service on a study: its size, and the files that it names. Its schema has no such limits."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from lncis.config import PUBLISHED_WEIGHTS
from lncis.studies.spec import StudySpec
from service.settings import Settings

UNSAFE_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".npy", ".npz", ".py")
"""Files of these kinds can contain code that runs when they are loaded."""


def too_large(document: Mapping[str, Any], settings: Settings) -> list[str]:
    """Return why a document is too large to be validated, as validation lists every combination of a grid.

    The schema checks values of a wrong type.
    """
    problems = []
    number = combinations(document) * math.prod(
        len(document[name]) for name in ("seeds", "noise_seeds") if isinstance(document.get(name), list | str)
    )
    if number > settings.max_trials:
        problems.append(_too_many(number, settings))
    for path, value in _named(document, "epochs"):
        if isinstance(value, int | float) and value > settings.max_epochs:
            problems.append(f"{path}: must be at most {settings.max_epochs} here but got {value:g}")
    return problems


def combinations(document: Mapping[str, Any]) -> int:
    """Return how many configurations the validation of a document would list."""
    search, sampler, baselines = (_mapping(document.get(name)) for name in ("search", "sampler", "baselines"))
    parameters = [_mapping(parameter) for parameter in search.values()]
    number = 1
    if sampler.get("type", "grid") == "grid" or any("when" in parameter for parameter in parameters):
        number = math.prod(len(c) for p in parameters if isinstance(c := p.get("choices"), list))
    requested = sampler.get("configurations")
    return max(number, requested if isinstance(requested, int) else 1) + len(baselines)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _too_many(number: float, settings: Settings) -> str:
    return (
        f"search: asks for {number:.6g} trials, and this service takes at most {settings.max_trials}; give fewer "
        "choices or seeds, or draw some by sampler tpe"
    )


def too_many_trials(spec: StudySpec, settings: Settings) -> list[str]:
    """Return the problem if a study has too many trials."""
    return [_too_many(spec.total_trials, settings)] if spec.total_trials > settings.max_trials else []


def out_of_bounds(spec: StudySpec, document: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    """Yield a problem for each file that a study must not name."""
    named = {str(path) for path in _paths(spec.base)}
    named |= {v for _, v in _named(document, "weights") if isinstance(v, str) and v not in PUBLISHED_WEIGHTS}
    for place in ("base", "search", "baselines", "sampler"):
        named |= {text for text in _texts(document.get(place)) if "/" in text or "\\" in text or text.startswith("~")}
    roots = [root.resolve() for root in settings.data_roots]
    for name in sorted(named):
        path = Path(name).resolve()
        if name.startswith("~") or not any(path.is_relative_to(root) for root in roots):
            where = ", ".join(map(str, roots)) or "no folder, as LNCIS_DATA_ROOTS is not set"
            yield f"base: may name files below {where}, but the study names {name!r}"
        elif path.suffix.lower() in UNSAFE_SUFFIXES:
            kinds = ", ".join(UNSAFE_SUFFIXES)
            yield f"base: may not name files that can hold code ({kinds}), but the study names {name!r}"


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for f in fields(value):
            yield from _paths(getattr(value, f.name))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _named(value: Any, name: str, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values at or below keys that end in a field's name, each with its path."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            here = f"{path}.{key}" if path else str(key)
            found = str(key).rpartition(".")[2] == name
            yield from _leaves(inner, here) if found else _named(inner, name, here)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, f"{path}.{key}")
    else:
        yield path, value
