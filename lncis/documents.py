"""YAML and JSON documents to configs and back, with every mistake reported at once.

The schemas are the dataclasses themselves (lncis.config, lncis.studies.spec).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache, partial, reduce
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from lncis import files
from lncis.errors import ConfigError

Config = TypeVar("Config")


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
_hints: Callable[[Any], dict[str, Any]] = cache(partial(get_type_hints, include_extras=True))


def load(schema: type[Config], path: Path) -> Config:
    """Return the config in a YAML file; ConfigError names the file, each field, value and remedy."""
    return parse(schema, read_mapping(path), source=str(path))


def load_merged(schema: type[Config], paths: Sequence[Path]) -> Config:
    """Return the config that YAML files describe together; where two name the same field, the later one stands.

    A recipe, what is special to a data set and one's own paths can so be three files. ConfigError as in `load`.
    """
    document = reduce(partial(overlaid, schema=schema), map(read_mapping, paths))
    return parse(schema, document, source=" + ".join(map(str, paths)))


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
        config: Config = _adapter(schema).validate_python(document)
        return config
    except ValidationError as error:
        problems = [line for e in error.errors() for line in _problem(schema, e).splitlines()]
        raise ConfigError(source, problems) from error


def dump(config: Any) -> dict[str, Any]:
    """Return a config as plain lists, dicts and scalars; `parse` gives the config again."""
    plain: dict[str, Any] = _adapter(type(config)).dump_python(config, mode="json")
    return plain


def to_yaml(config: Any, *, comment: str = "") -> str:
    """Return a config as YAML text, after comment lines if any."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + yaml.safe_dump(dump(config), sort_keys=False)


def plain(value: Any) -> Any:
    """Return a document that strict JSON can hold: infinity as a word, which a config reads as the number."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def claim(directory: Path, config: Config) -> None:
    """Write a config into the folder of its training, or see that it is the one that was begun there.

    Raises ConfigError where the folder belongs to another config, or cannot be written.
    """
    path = directory / "config.yaml"
    try:
        if not path.exists():
            files.replace(path, to_yaml(config))
    except OSError as error:
        raise ConfigError(str(directory), [f"cannot be written: {error.strerror}; name another folder"]) from error
    if load(type(config), path) != config:
        raise ConfigError(str(directory), ["holds the training of another config (config.yaml); name another folder"])


def with_overrides(document: dict[str, Any], overrides: dict[str, Any], *, schema: Any = None) -> dict[str, Any]:
    """Return a copy of a nested mapping with dotted paths replaced: `{"loss.gamma": 5}`.

    Where `schema` says that a path is the tag of a union, another tag begins a new branch: fields of the old one go.
    """
    result = dict(document)
    hints = _hints(schema) if is_dataclass(schema) else {}
    for path, value in sorted(overrides.items(), key=lambda item: not _is_tag(hints, item[0])):  # tags first
        head, _, rest = path.partition(".")
        inner = result.get(head)
        below = inner if isinstance(inner, dict) else {}
        if not rest:
            result[head] = value
        elif _is_tag(hints, path) and below.get(rest) != value:
            result[head] = {rest: value}
        else:
            result[head] = with_overrides(below, {rest: value}, schema=hints.get(head))
    return result


def overlaid(below: dict[str, Any], above: dict[str, Any], schema: Any) -> dict[str, Any]:
    """Return `below` with the fields of `above`, mapping by mapping; one of another tag takes the other's place."""
    result, hints = dict(below), _hints(schema) if is_dataclass(schema) else {}
    for key, value in above.items():
        inner = result.get(key)
        if isinstance(value, dict) and isinstance(inner, dict):
            tags = [tag for tag in value if _is_tag(hints, f"{key}.{tag}")]
            if all(inner.get(tag) == value[tag] for tag in tags):
                value = overlaid(inner, value, hints.get(key))
        result[key] = value
    return result


def _is_tag(hints: dict[str, Any], path: str) -> bool:
    """Say whether a path such as `loss.name` is what tells the members of a union apart."""
    head, _, rest = path.partition(".")
    hint = hints.get(head)
    marks = [getattr(mark, "discriminator", None) for mark in get_args(hint)] if get_origin(hint) is Annotated else []
    return bool(rest) and rest in marks


def _problem(schema: type, error: Any) -> str:
    """Return one line: the path, what it must be, what it got, and the nearest name for a typo."""
    location = [str(part) for part in error["loc"]]
    kind, context, got = error["type"], error.get("ctx", {}), error.get("input")
    keys, known = _walk(schema, location)
    path = ".".join(keys)
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        near = get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        return f"{path}: no such field; {hint}"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{path}: is required but missing"
    if kind == "union_tag_not_found":
        tag = context["discriminator"].strip("'")
        return f"{path}: needs {tag}, which says what kind it is"
    if kind == "union_tag_invalid":
        tag = context["discriminator"].strip("'")
        return f"{path}.{tag}: must be one of {context['expected_tags']} but got {context['tag']!r}"
    if kind == "value_error":
        return f"{path}: {context['error']}" if path else str(context["error"])
    if kind == "dataclass_type":
        return f"{path}: must be a mapping of its fields but got {got!r}"
    message = str(error["msg"])
    if message.startswith("Input should be "):
        return f"{path}: must be {message.removeprefix('Input should be ')} but got {got!r}"
    return f"{path}: {message[0].lower()}{message[1:]}"


def _walk(schema: Any, location: list[str]) -> tuple[list[str], list[str]]:
    """Return the keys of a pydantic location, without the tags of unions, and the field names beside the last."""
    keys: list[str] = []
    beside: list[str] = []
    for part in location:
        if get_origin(schema) is Annotated:
            schema = get_args(schema)[0]
        if get_origin(schema) in (Union, UnionType):
            members = [member for member in get_args(schema) if member is not NoneType]
            tagged = [member for member in members if part in _tags(member)]
            schema = (tagged or members)[0]
            if tagged:
                continue
        keys.append(part)
        beside = [f.name for f in fields(schema)] if is_dataclass(schema) else []
        if is_dataclass(schema):
            schema = get_type_hints(schema, include_extras=True).get(part)
        else:
            schema = (get_args(schema) or (None,))[-1]  # the values of a dict, the items of a list
    return keys, beside


def _tags(schema: Any) -> list[Any]:
    """Return the literal values among a dataclass's fields, by which a union knows its branch."""
    return (
        [value for hint in get_type_hints(schema).values() for value in get_args(hint)] if is_dataclass(schema) else []
    )
