"""Studies as documents and YAML files: read with their recipes, changed, and made ready for another machine."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from lncis import documents
from lncis.config import TrainConfig
from lncis.errors import ConfigError
from lncis.studies.spec.judging import judge, judged_before
from lncis.studies.spec.study import StudySpec


def load_spec(path: Path, changes: dict[str, Any] | None = None, over: Sequence[Path] = ()) -> StudySpec:
    """Return the study in a YAML file, judged; ConfigError names the file and every mistake.

    The trainings in the files `over` are laid over its base, then `changes` are made (see `changed_spec_document`).
    """
    return judge(_load_unjudged(path, changes or {}, over), source=str(path))


def load_stored_spec(path: Path) -> StudySpec:
    """Return the study that its own folder holds, where nothing is written that was not judged."""
    return judged_before(documents.load(StudySpec, path))


def parse_spec(document: dict[str, Any], *, source: str) -> StudySpec:
    """Return the study that a document describes, judged; ConfigError names `source` and every mistake."""
    return judge(documents.parse(StudySpec, document, source=source), source=source)


def read_spec_document(path: Path) -> dict[str, Any]:
    """Return the study in a YAML file as a document, unchecked.

    `recipes` names YAML files of trainings, from the study's folder. They lie under its `base`, a later one over an
    earlier one.
    """
    document = documents.read_mapping(path)
    recipes = document.pop("recipes", [])
    if not isinstance(recipes, list) or not all(isinstance(recipe, str) for recipe in recipes):
        raise ConfigError(str(path), [f"recipes: must be a list of YAML files but got {recipes!r}"])
    if not isinstance(base := document.setdefault("base", {}), dict):
        raise ConfigError(str(path), [f"base: must be a mapping of its fields but got {base!r}"])
    layers = [documents.read_mapping(path.parent / recipe) for recipe in recipes]
    for layer in reversed(layers):
        document["base"] = base = documents.overlaid(layer, base, schema=TrainConfig)
    return document


def portable_spec_document(path: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the study in a YAML file as a document for the service: relative paths are relative to its folder.

    ConfigError names the file and every field that is wrong in itself; the service judges the whole.
    """
    spec, document = _load_unjudged(path, changes), read_spec_document(path)
    if not changes:
        return document  # with what it leaves out, as the other machine has defaults of its own
    document = documents.with_overrides(document, _paths(changes, source=str(path)), schema=StudySpec)
    return documents.overlaid(documents.dump(spec), document, schema=StudySpec)


def changed_spec_document(spec: StudySpec, changes: dict[str, Any], *, source: str) -> dict[str, Any]:
    """Return a study as a document, with other values at dotted paths of it (`seeds`) or its base (`noise.rate`).

    Raises ConfigError for a path that is neither; the values are unchecked.
    """
    return documents.with_overrides(documents.dump(spec), _paths(changes, source=source), schema=StudySpec)


def _load_unjudged(path: Path, changes: dict[str, Any], over: Sequence[Path] = ()) -> StudySpec:
    document = read_spec_document(path)
    for layer in map(documents.read_mapping, over):
        document["base"] = documents.overlaid(document["base"], layer, schema=TrainConfig)
    spec = documents.parse(StudySpec, document, source=str(path))
    if not changes:
        return spec
    changed = changed_spec_document(spec, changes, source=str(path))
    return documents.parse(StudySpec, changed, source=str(path))


def _paths(changes: dict[str, Any], *, source: str) -> dict[str, Any]:
    """Return changes by their paths in a study."""
    of_study, of_training = ({f.name for f in fields(schema)} for schema in (StudySpec, TrainConfig))
    problems, paths = list[str](), dict[str, Any]()
    given = dict[str, str]()
    for path, value in changes.items():
        head = path.partition(".")[0]
        if head in ("search", "baselines") and head != path:
            problems.append(f"{path}: the keys of {head} are dotted paths themselves; give {head} whole")
        elif head in of_study | of_training:
            full = path if head in of_study else f"base.{path}"
            if (earlier := given.setdefault(full, path)) != path:
                problems.append(f"{path}: is the same field as {earlier}, which is set too; keep one of the two")
            paths[full] = value
        else:
            problems.append(f"{path}: names no field of a study or of a training")
    if problems:
        raise ConfigError(source, problems)
    return paths
