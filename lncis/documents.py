"""YAML and JSON documents to configs and back, with every mistake reported at once.

The schemas are the dataclasses themselves (lncis.config, lncis.studies.spec).
"""

import gc
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache, partial, reduce
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from lncis import files
from lncis.document_text import MAX_BYTES, parse_json
from lncis.errors import ConfigError, DataError
from lncis.yaml_text import parse_yaml, yaml_text

Config = TypeVar("Config")

TAG = "type"
"""The field that says which member of a union a mapping is."""

MAX_PROBLEMS = 100
"""Mistakes of a document that `parse` words; more are counted."""
MAX_LINE = 500
"""Characters of each."""

TAG_SYNONYMS = ("kind", "name")
"""What people write for it."""


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
    """Return the mapping in a YAML file, or in a JSON file (`.json`), unchecked.

    ConfigError where it cannot be read, is not UTF-8 whatever the locale, or a key stands twice.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(str(path), ["no such file; check the path"]) from error
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}; check the path"]) from error
    parse_text = parse_json if path.suffix.lower() == ".json" else parse_yaml
    document = parse_text(content, source=str(path))
    if not isinstance(document, dict):
        raise ConfigError(str(path), [f"must hold a mapping of fields but holds {document!r:.60}"])
    return document


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def read_json(
    path: Path,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
    on_constant: Callable[[str], None] = lambda name: None,
) -> Any:
    """Return what a JSON file holds, unchecked; DataError where it is missing or no JSON.

    NaN and Infinity, which JSON has not but Python writes, are None; `on_constant` is called with each.
    """
    try:
        with path.open("rb") as file, _no_garbage_collected():
            return json.load(file, object_pairs_hook=object_pairs_hook, parse_constant=on_constant)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise DataError(
            f"{path}: byte 0x{byte:02x} at position {error.start} is not UTF-8; unpack it if it is an archive, else "
            "save it as UTF-8 (iconv -f ISO-8859-1 -t UTF-8, if it is Latin-1)"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error}); was it written or copied to its end?") from error


@contextmanager
def _no_garbage_collected() -> Iterator[None]:
    """Keep Python from looking through a document for garbage again and again while it grows: half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def parse(schema: type[Config], document: dict[str, Any], *, source: str) -> Config:
    """Return the config that a mapping describes; `source` is named in a ConfigError."""
    try:
        config: Config = _adapter(schema).validate_python(document)
        return config
    except ValidationError as error:
        errors = error.errors(include_url=False)
        problems = [f"{line:.{MAX_LINE}}" for e in errors[:MAX_PROBLEMS] for line in _problem(schema, e).splitlines()]
        if len(errors) > MAX_PROBLEMS:
            problems.append(f"and {len(errors) - MAX_PROBLEMS} more mistakes; correct these first")
        raise ConfigError(source, problems) from error


def dump(config: Any) -> dict[str, Any]:
    """Return a config as plain lists, dicts and scalars; `parse` gives the config again."""
    plain: dict[str, Any] = _adapter(type(config)).dump_python(config, mode="json")
    return plain


def to_yaml(config: Any, *, comment: str = "") -> str:
    """Return a config as YAML text, after comment lines if any."""
    lines = ("".join(c if c.isprintable() else "?" for c in line) for line in comment.splitlines())
    head = "".join(f"# {line}\n" for line in lines)  # a control character would make the file no YAML
    return head + yaml_text(dump(config))


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


def with_overrides(document: dict[str, Any], overrides: Mapping[str, Any], *, schema: Any = None) -> dict[str, Any]:
    """Return a copy of a nested mapping with dotted paths replaced: `{"loss.gamma": 5}`.

    A value replaces what stands at its path, also where both are mappings. Where `schema` says that a path is the tag
    of a union, another tag begins a new branch: it keeps the fields that both inherit from one base, and no others.
    """
    return _with_values(document, [(tuple(path.split(".")), value) for path, value in overrides.items()], schema)


def overlaid(below: dict[str, Any], above: dict[str, Any], schema: Any) -> dict[str, Any]:
    """Return `below` with the fields of `above`, mapping by mapping; here, too, another tag begins a new branch."""
    return _with_values(below, list(_leaves(above)), schema)


def differences(earlier: Any, now: Any, path: str = "") -> list[dict[str, Any]]:
    """Return `{path, earlier, now}` for each field that differs between two documents; an absent field is None."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        keys = [*earlier, *(key for key in now if key not in earlier)]
        return [
            line
            for key in keys
            for line in differences(
                earlier.get(key, _ABSENT), now.get(key, _ABSENT), f"{path}.{key}" if path else str(key)
            )
        ]
    if earlier == now:
        return []
    shown = {name: None if value is _ABSENT else value for name, value in (("earlier", earlier), ("now", now))}
    return [{"path": path, **shown}]


_ABSENT = object()

Keys = tuple[Any, ...]
"""The keys from the top of a document to a value in it."""


def _leaves(document: dict[str, Any], above: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Yield each value that is no mapping, with its path; an empty mapping has nothing to say."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _with_values(document: dict[str, Any], values: list[tuple[Keys, Any]], schema: Any) -> dict[str, Any]:
    for path, value in sorted(values, key=lambda item: not _is_tag(schema, item[0])):  # a tag before its fields
        document = _with_value(document, path, value, schema)
    return dict(document)


def _with_value(document: dict[str, Any], path: Keys, value: Any, schema: Any) -> dict[str, Any]:
    key, *rest = path
    if rest:
        part, hint = document.get(key), _hint_of(schema, key)
        part = part if isinstance(part, dict) else {}
        if rest == [TAG] and part.get(TAG) != value and (branches := _branches(hint)):
            kept = _common_fields(branches.get(str(part.get(TAG))), branches.get(str(value)))
            part = {name: inner for name, inner in part.items() if name in kept}
        value = _with_value(part, (*rest,), value, hint)
    return {**document, key: value}


def _common_fields(one: Any, other: Any) -> set[str]:
    """Return the fields that two members of a union inherit from one base: they mean the same in both."""
    if one is None or other is None:
        return set()
    bases = [base for base in one.__mro__ if base in other.__mro__ and is_dataclass(base)]
    return {field.name for base in bases for field in fields(base)} - {TAG}


def _is_tag(schema: Any, path: Keys) -> bool:
    *above, last = path
    return last == TAG and bool(_branches(reduce(_hint_of, above, schema)))


def _hint_of(schema: Any, key: Any) -> Any:
    """Return the type hint of a field, of the values of a dict or of the items of a list; None where there is none."""
    schema = _plain_hint(schema)
    if isinstance(schema, type) and is_dataclass(schema):
        return _hints_of(schema).get(key)
    return next(reversed(get_args(schema)), None)


def _plain_hint(hint: Any) -> Any:
    """Return a hint without its annotations, and without the None of an optional field."""
    if get_origin(hint) is Annotated:
        return _plain_hint(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return next(member for member in get_args(hint) if member is not NoneType)
    return hint


@cache
def _hints_of(schema: type) -> dict[str, Any]:
    return get_type_hints(schema, include_extras=True)


def _branches(hint: Any) -> dict[str, Any]:
    """Return the members of a tagged union by their tags; none for any other hint."""
    if get_origin(hint) is not Annotated or not any(getattr(mark, "discriminator", None) for mark in get_args(hint)):
        return {}
    return {tag: member for member in get_args(get_args(hint)[0]) for tag in get_args(_hints_of(member)[TAG])}


def _problem(schema: Any, error: Any) -> str:
    """Return one line: the path, what it must be, what it got, and the nearest name for a typo."""
    location = [str(part) for part in error["loc"]]
    kind, context, got = error["type"], error.get("ctx", {}), error.get("input")
    keys, known, tags, others = _walk(schema, location)
    path = ".".join(keys)
    at = f"{path}: " if path else ""
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        if TAG in known and location[-1] in TAG_SYNONYMS:
            return f"{path}: no such field; the tag is called {TAG}"
        if others:
            return f"{path}: no such field with {TAG} {location[-2]}, only with {' or '.join(others)}"
        near = get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        return f"{path}: no such field; {hint}"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{path}: is required but missing"
    if kind == "union_tag_not_found":
        instead = next((key for key in TAG_SYNONYMS if isinstance(got, dict) and key in got), None)
        remedy = f"; write {TAG} for {instead}" if instead else ""
        return f"{at}needs {TAG}, one of {', '.join(map(repr, tags))}{remedy}"
    if kind == "union_tag_invalid":
        return f"{'.'.join([*keys, TAG])}: must be one of {context['expected_tags']} but got {context['tag']!r}"
    if kind == "value_error":
        return f"{at}{context['error']}"
    if kind == "path_type":
        return f"{path}: must be the text of a path but got {got!r}; put it in quotes"
    if kind == "model_attributes_type" and tags:
        return f"{at}must be a mapping with {TAG}, such as {{{TAG}: {tags[0]}}}, but got {got!r}"
    if kind == "dataclass_type":
        return f"{path}: must be a mapping of its fields but got {got!r}"
    message = str(error["msg"])
    if message.startswith("Input should be "):
        return f"{path}: must be {message.removeprefix('Input should be ')} but got {got!r}"
    return f"{path}: {message[0].lower()}{message[1:]}"


def _walk(schema: Any, location: list[str]) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return of a pydantic location its keys, and the field names beside the last one.

    Then the tags of the union that is there, and those whose members have the last key, if it is within a union.
    """
    keys: list[str] = []
    known: list[str] = []
    owners: list[str] = []
    for part in location:
        branches = _branches(schema)
        if part in branches:  # pydantic names the branch that it took: no key of the document
            schema, owners = (
                branches[part],
                [tag for tag, member in branches.items() if location[-1] in _hints_of(member)],
            )
            continue
        keys.append(part)
        beside = _plain_hint(schema)
        known = [f.name for f in fields(beside)] if is_dataclass(beside) else []
        schema = _hint_of(schema, part)
    return keys, known, list(_branches(schema)), owners
