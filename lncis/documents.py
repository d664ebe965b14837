"""YAML and JSON documents to configs and back, with every mistake reported at once.

The schemas are the dataclasses themselves (lncis.config, lncis.studies.spec).
"""

from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import TypeAdapter, ValidationError

from lncis.errors import ConfigError

Config = TypeVar("Config")


def load(schema: type[Config], path: Path) -> Config:
    """Return the config in a YAML file; ConfigError names the file, each field, value and remedy."""
    return parse(schema, read_mapping(path), source=str(path))


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, unchecked."""
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(str(path), ["no such file; check the path"]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"cannot be read: {error}"]) from error
    except yaml.YAMLError as error:
        raise ConfigError(str(path), [f"is not YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(document, dict):
        raise ConfigError(str(path), [f"must hold a mapping of fields but holds {document!r:.60}"])
    return document


def parse(schema: type[Config], document: dict[str, Any], *, source: str) -> Config:
    """Return the config that a mapping describes; `source` is named in a ConfigError."""
    try:
        return TypeAdapter(schema).validate_python(document)
    except ValidationError as error:
        problems = [line for e in error.errors() for line in _problem(schema, e).splitlines()]
        raise ConfigError(source, problems) from error


def dump(config: Any) -> dict[str, Any]:
    """Return a config as plain lists, dicts and scalars; `parse` gives the config again."""
    plain: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json")
    return plain


def to_yaml(config: Any, *, comment: str = "") -> str:
    """Return a config as YAML text, after comment lines if any."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + yaml.safe_dump(dump(config), sort_keys=False)


def with_overrides(document: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a nested mapping with dotted paths replaced: `{"loss.gamma": 5}`."""
    result = dict(document)
    for path, value in overrides.items():
        head, _, rest = path.partition(".")
        result[head] = with_overrides(dict(result.get(head) or {}), {rest: value}) if rest else value
    return result


def field_paths(config: Any, prefix: str = "") -> list[str]:
    """Return the dotted path of each leaf field of a config."""
    paths = []
    for f in fields(config):
        value, path = getattr(config, f.name), f"{prefix}{f.name}"
        paths += field_paths(value, f"{path}.") if is_dataclass(value) else [path]
    return paths


def _problem(schema: type, error: Any) -> str:
    """Return one line: the path, what it must be, what it got, and the nearest name for a typo."""
    location = [str(part) for part in error["loc"]]
    kind, context, got = error["type"], error.get("ctx", {}), error.get("input")
    path = ".".join(_without_union_tags(schema, location))
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _names_beside(schema, location)
        near = get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        return f"{path}: no such field; {hint}"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{path}: is required but missing"
    if kind == "union_tag_not_found":
        return f"{path}: needs {context['discriminator']}, which says what kind it is"
    if kind == "union_tag_invalid":
        tag = context["discriminator"].strip("'")
        return f"{path}.{tag}: must be one of {context['expected_tags']} but got {context['tag']!r}"
    if kind == "value_error":
        return f"{path}: {context['error']}" if path else str(context["error"])
    if kind == "dataclass_type":
        return f"{path}: must be a mapping of its fields but got {got!r}"
    requirement = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{path}: must be {requirement} but got {got!r}"


def _without_union_tags(schema: type, location: list[str]) -> list[str]:
    """Drop from a pydantic location the parts that name a union's branch rather than a key."""
    return [part for part, _ in _walk(schema, location) if part]


def _names_beside(schema: type, location: list[str]) -> list[str]:
    walked = list(_walk(schema, location))
    owner = walked[-1][1]
    return [f.name for f in fields(owner)] if is_dataclass(owner) else []


def _walk(schema: Any, location: list[str]) -> list[tuple[str, Any]]:
    """Return for each part of a location the key it stands for ("" for a union tag) and the schema that owns it."""
    walked, owner = [], schema
    for part in location:
        members = _dataclasses_in(owner)
        if len(members) > 1:
            tagged = [m for m in members if part in _literals(m)]
            if tagged:
                walked.append(("", owner))
                owner = tagged[0]
                continue
        owner_class = members[0] if members else owner
        walked.append((part, owner_class))
        if is_dataclass(owner_class):
            found = [f.type for f in fields(owner_class) if f.name == part]
            owner = found[0] if found else None
    return walked


def _dataclasses_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and is_dataclass(annotation):
        return [annotation]
    return [found for arg in get_args(annotation) for found in _dataclasses_in(arg)]


def _literals(schema: Any) -> list[Any]:
    return [value for f in fields(schema) for value in get_args(f.type)]
