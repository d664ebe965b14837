"""From a request's body to a StudySpec: parsed, completed from a preset, limited, validated."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lncis import documents
from lncis.config import TrainConfig
from lncis.document_text import parse_json
from lncis.errors import ConfigError
from lncis.studies.spec import StudySpec, judge
from lncis.studies.spec import files as spec_files
from lncis.yaml_text import parse_yaml
from service.api.problems import Problem
from service.api.submission import limits
from service.api.submission.named_files import FileRule
from service.api.submission.presets import preset
from service.settings import Settings

JSON, YAML = "application/json", ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")

SOURCE = "study"
_MAX_INTEGER = 2**53  # every JSON reader keeps integers up to here exact
QUICK_CONFIGURATIONS = 64
"""A study with more of them may take longer to judge than the requests of others should wait."""
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # terminals act on some of them
_STUDY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_coding(coding: str) -> None:
    """Raise Problem for a compressed body: what it grows to is not known before it is unpacked."""
    if coding.strip().lower() not in ("", "identity"):
        detail = f"Content-Encoding must be identity but is {coding[:40]!r}; send the body as it is"
        raise Problem(415, detail, headers={"Accept-Encoding": "identity"})


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
            kinds = "NUL, other control characters and lone surrogates"
            yield f"{here}: must be text without {kinds} but got {value!a:.60}"
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int):
        if abs(value) > _MAX_INTEGER:
            yield f"{here}: must be from -2**53 to 2**53 but got {str(value)[:30]}"
    elif isinstance(value, float) and math.isnan(value):
        yield f"{here}: must be a number but got NaN"


def _is_text(value: str) -> bool:
    return _NO_TEXT.search(value) is None


def to_spec(document: dict[str, Any], settings: Settings) -> StudySpec:
    """Return the study of a document; ConfigError names every mistake, limits of the service included."""
    if "preset" in document:
        document = _from_preset(document, settings.presets)
    return _judged(document, settings)


def _judged(document: dict[str, Any], settings: Settings) -> StudySpec:
    if problems := limits.too_large(document, settings):
        raise ConfigError(SOURCE, problems)

    files = FileRule(settings.data_roots)

    def rule(config: TrainConfig) -> list[str]:
        return [*limits.too_large_training(config, settings), *files.problems(config)]

    spec = documents.parse(StudySpec, document, source=SOURCE)
    if problems := [*limits.too_many_trials(spec, settings), *limits.too_many_workers(spec.resources)]:
        raise ConfigError(SOURCE, problems)
    judge(spec, source=SOURCE, rule=rule)
    if problems := _no_such_study(spec, settings.runs):
        raise ConfigError(SOURCE, problems)
    return spec


def takes_long(document: Mapping[str, Any]) -> bool:
    """Return whether a document may take longer to judge than the requests of others should wait."""
    if "preset" in document:
        return isinstance(changes := document.get("set"), dict) and takes_long(changes)
    return max(limits.combinations(document), limits.values(document)) > QUICK_CONFIGURATIONS


def _from_preset(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    problems = [
        f"{key:.80}: no such field beside preset; known are preset, set" for key in document.keys() - {"preset", "set"}
    ]
    changes = document.get("set", {})
    problems += _set_problems(changes)
    try:
        shipped = preset(folder, document["preset"])
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(SOURCE, problems)
    return _changed(shipped, changes)


def _set_problems(changes: Any) -> list[str]:
    if not isinstance(changes, dict):
        return [f"set: must be a mapping of dotted paths to values but got {changes!r:.80}"]
    if len(changes) > limits.MAX_PARAMETERS:
        return [f"set: must have at most {limits.MAX_PARAMETERS} entries here but has {len(changes)}"]
    return []


def _changed(spec: StudySpec, changes: dict[str, Any]) -> dict[str, Any]:
    try:
        return spec_files.changed_spec_document(spec, changes, source=SOURCE)
    except ConfigError as error:
        raise ConfigError(SOURCE, [f"set.{problem}" for problem in error.problems]) from error


def _no_such_study(spec: StudySpec, runs: Path) -> list[str]:
    named = {"sampler.warm_start": getattr(spec.sampler, "warm_start", None)}
    named["extends.study"] = spec.extends.study if spec.extends else None
    return [
        f"{path}: must be the id of an earlier study here but got {earlier!r:.80}"
        for path, earlier in named.items()
        if earlier is not None and not (_STUDY_ID.fullmatch(earlier) and (runs / earlier / "spec.yaml").exists())
    ]


def read_changes(body: bytes, content_type: str) -> dict[str, Any]:
    """Return the changes in the body of a request to extend a study: dotted path -> value."""
    document = read_body(body, content_type)
    problems = [f"{key:.80}: no such field; known is set" for key in document.keys() - {"set"}]
    changes = document.get("set")
    if problems := [*problems, *_set_problems(changes)]:
        raise ConfigError(SOURCE, problems)
    return dict(changes or {})


def judge_extension(before: Mapping[str, Any], changes: dict[str, Any], settings: Settings) -> StudySpec:
    """Return a study with changes, as far as this service takes it; ConfigError names every mistake.

    Whether it extends what was trained, `lncis.studies.extension` says. The points that were tried count for nothing.
    """
    spec = documents.parse(StudySpec, dict(before), source=SOURCE)
    document = _changed(spec, changes)
    sampler = document.get("sampler")
    if isinstance(sampler, dict) and sampler.get("first") == getattr(spec.sampler, "first", None):
        document["sampler"] = {name: value for name, value in sampler.items() if name != "first"}
    return _judged({**document, "extends": None}, settings)
