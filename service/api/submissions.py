"""From a request's body to a StudySpec: parsed, completed from a preset, limited, validated."""

import logging
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lncis import documents
from lncis.document_text import parse_json
from lncis.errors import ConfigError
from lncis.studies.spec import StudySpec, judge
from lncis.studies.spec import files as spec_files
from lncis.yaml_text import parse_yaml
from service.api import limits
from service.api.problems import Problem
from service.settings import Settings

log = logging.getLogger("lncis.service")

JSON, YAML = "application/json", ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")

SOURCE = "study"
_MAX_INTEGER = 2**53  # every JSON reader keeps integers up to here exact
RECIPES = "recipes"
"""The folder beside the shipped studies that holds parts of trainings."""
_STUDY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def read_body(body: bytes, content_type: str) -> dict[str, Any]:
    """Return the mapping in a body; Problem if its Content-Type is one that any web page can send, ConfigError."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == JSON:
        document = parse_json(body, source=SOURCE)
    elif kind in YAML:
        document = parse_yaml(body, source=SOURCE, aliases=False)
    else:
        raise Problem(415, f"Content-Type must be {JSON} or {YAML[0]} but is {kind or 'missing'}")
    if not isinstance(document, dict):
        raise ConfigError(SOURCE, [f"must be a mapping of fields but is {document!s:.60}"])
    if problems := list(_unusable(document)):
        raise ConfigError(SOURCE, problems)
    return document


def _unusable(value: Any, path: str = "") -> Iterator[str]:
    """Yield the values that no study may have, as they cannot be stored or sent."""
    here = path or "the document"
    if isinstance(value, dict):
        for key, inner in value.items():
            if not _is_text(key):
                yield f"{here}: keys must be printable text but one is {key!a:.60}"
            else:
                yield from _unusable(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _unusable(inner, f"{path}.{number}")
    elif isinstance(value, str):
        if not _is_text(value):
            yield f"{here}: must be text without NUL and lone surrogates but got {value!a:.60}"
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int):
        if abs(value) > _MAX_INTEGER:
            yield f"{here}: must be from -2**53 to 2**53 but got {str(value)[:30]}"
    elif isinstance(value, float) and math.isnan(value):
        yield f"{here}: must be a number but got NaN"


def _is_text(value: str) -> bool:
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def to_spec(document: dict[str, Any], settings: Settings) -> StudySpec:
    """Return the study of a document; ConfigError names every mistake, limits of the service included."""
    if "preset" in document:
        document = _from_preset(document, settings.presets)
    if problems := limits.too_large(document, settings):
        raise ConfigError(SOURCE, problems)
    spec = judge(documents.parse(StudySpec, document, source=SOURCE), source=SOURCE)
    if problems := [
        *limits.too_many_trials(spec, settings),
        *limits.out_of_bounds(spec, document, settings),
        *_no_such_study(spec, settings.runs),
    ]:
        raise ConfigError(SOURCE, problems)
    return spec


def many_trials(document: Mapping[str, Any], number: int) -> bool:
    """Return whether a document may ask for more trials than a number; a preset always may."""
    return "preset" in document or limits.combinations(document) > number


def _from_preset(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    problems = [
        f"{key}: no such field beside preset; known are preset, set" for key in document.keys() - {"preset", "set"}
    ]
    name, changes = document["preset"], document.get("set", {})
    there = _preset_files(folder)
    if not isinstance(name, str) or name not in there:
        problems.append(
            f"preset: must be one of {', '.join(there) or 'none: there are no presets'} but got {name!r:.80}"
        )
    if not isinstance(changes, dict):
        problems.append(f"set: must be a mapping of dotted paths to values but got {changes!r:.80}")
    if problems:
        raise ConfigError(SOURCE, problems)
    try:
        document = spec_files.read_spec_document(there[name])
        shipped = documents.parse(StudySpec, document, source=name)
    except ConfigError as error:  # of the file, not of the request
        raise ConfigError(SOURCE, [f"preset: {name}: {problem}" for problem in error.problems]) from error
    try:
        return spec_files.changed_spec_document(shipped, changes, source=SOURCE)
    except ConfigError as error:
        raise ConfigError(SOURCE, [f"set.{problem}" for problem in error.problems]) from error


def presets(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the shipped studies by name, as documents; unreadable files are logged and left out."""
    found = {}
    for name, path in _preset_files(folder).items():
        try:
            found[name] = spec_files.read_spec_document(path)
        except ConfigError as error:
            log.warning("preset left out: %s", "; ".join(str(error).splitlines()))
    return found


def _preset_files(folder: Path) -> dict[str, Path]:
    files = (path for path in sorted(folder.rglob("*.yaml")) if path.parent.name != RECIPES)
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def _no_such_study(spec: StudySpec, runs: Path) -> list[str]:
    earlier = getattr(spec.sampler, "warm_start", None)
    if earlier is None or (_STUDY_ID.fullmatch(earlier) and (runs / earlier / "spec.yaml").exists()):
        return []
    return [f"sampler.warm_start: must be the id of an earlier study here but got {earlier!r:.80}"]
