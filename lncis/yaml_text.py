"""YAML text to plain values and back.

It is read by the core schema of YAML 1.2 (section 10.3.2): `1e-3` is a number; `no`, `on`, `1_000`, `1:30` and dates
are text; `010` is ten. Keys are text as written. Merge keys (`<<`), which only YAML 1.1 has, are still read.

PyYAML's C parser gives the events: ruamel.yaml takes five times as long, and reads dates and `1_000` as YAML 1.1 does.
Nothing here recurses, so no text can exhaust the stack.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from lncis.document_text import MAX_DEPTH, MAX_DUPLICATES, MAX_VALUES, decode, duplicate_line
from lncis.errors import ConfigError

_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_TAGS = "tag:yaml.org,2002:"
_MERGE = "<<"

_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((f"{sign}.{word}" for sign in ("", "+") for word in ("inf", "Inf", "INF")), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def parse_yaml(content: bytes, *, source: str, aliases: bool = True) -> Any:
    """Return the value in YAML text, None where there is none; `aliases` says whether `*name` may stand for a value.

    ConfigError names the line of what cannot be read, and both lines of each key that stands twice.
    """
    text = decode(content, source=source)
    if odd := _UNREADABLE.search(text):
        line = text.count("\n", 0, odd.start()) + 1
        raise ConfigError(source, [f"line {line}: holds the control character U+{ord(odd[0]):04X}; remove it"])
    reader = _Reader(source, aliases)
    try:
        for event in yaml.parse(text, Loader=_PARSER):
            reader.read(event)
    except yaml.YAMLError as error:
        raise ConfigError(source, [f"is not YAML: {_complaint(error)}"]) from error
    if reader.duplicates:
        raise ConfigError(source, reader.duplicates)
    return reader.document


def yaml_text(document: Any) -> str:
    """Return plain values as YAML text in ASCII, which `parse_yaml` and readers of YAML 1.1 read back equal.

    Raises ConfigError for text that is not Unicode, such as the name of a file in another encoding.
    """
    try:
        text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False)
        return text
    except UnicodeEncodeError as error:
        raise ConfigError("YAML", [f"cannot hold {error.object!a:.200}, which is not Unicode; rename it"]) from error


class _Dumper(_DUMPER):  # type: ignore[misc]
    """Quotes text that any reader could take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver(f"{_TAGS}float", re.compile(f"(?:{_FLOAT.pattern})$"), list("-+.0123456789"))
_Dumper.add_implicit_resolver(f"{_TAGS}int", re.compile(f"(?:{_BASED.pattern})$"), ["0"])
_Dumper.add_implicit_resolver(f"{_TAGS}bool", re.compile(r"[yYnN]$"), list("yYnN"))


@dataclass(slots=True)
class _Anchored:
    """A value that aliases may stand for."""

    value: Any
    values: int = 1
    height: int = 0
    """Levels of lists and mappings in it, its own included."""


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not been read."""

    value: dict[str, Any] | list[Any]
    anchor: str | None
    values_before: int
    key: str | None = None
    """Of the value that comes next."""
    is_merge: bool = False
    key_lines: dict[str, int] = field(default_factory=dict)
    merged: dict[str, Any] = field(default_factory=dict)
    height: int = 1


class _Reader:
    """Builds a document from YAML's events, one at a time; what exceeds a bound is refused before it is built."""

    def __init__(self, source: str, aliases: bool) -> None:
        self.document: Any = None
        self.duplicates: list[str] = []
        self._source, self._aliases = source, aliases
        self._open: list[_Open] = []
        self._anchors: dict[str, _Anchored] = {}
        self._values = self._documents = 0

    def read(self, event: Any) -> None:
        """Take the next event of the text."""
        match event:
            case yaml.ScalarEvent():
                if self._wants_key:
                    self._take_key(event, event.value)
                else:
                    self._count(event, 1)
                    self._add(event, _Anchored(self._scalar(event)), event.anchor)
            case yaml.AliasEvent():
                self._alias(event)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._begin(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                ended = self._open.pop()
                value = {**ended.merged, **ended.value} if isinstance(ended.value, dict) else ended.value
                self._add(event, _Anchored(value, self._values - ended.values_before, ended.height), ended.anchor)
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise self._refusal(event, "a second document begins; keep one")

    @property
    def _wants_key(self) -> bool:
        return bool(self._open) and self._open[-1].key is None and isinstance(self._open[-1].value, dict)

    def _take_key(self, event: Any, key: Any) -> None:
        if not isinstance(key, str) or getattr(event, "tag", None) not in (None, "!", f"{_TAGS}str"):
            raise self._refusal(event, "a key must be text; quote it")
        top, line = self._open[-1], _line(event)
        self._count(event, 1)
        top.key, top.is_merge = key, key == _MERGE and getattr(event, "implicit", (False,))[0]
        if key not in top.key_lines:
            top.key_lines[key] = line
        elif len(self.duplicates) < MAX_DUPLICATES:
            path = [*(_step(one) for one in self._open[:-1]), key]
            self.duplicates.append(duplicate_line(path, top.key_lines[key], line))
        if getattr(event, "anchor", None):
            self._anchors[event.anchor] = _Anchored(key)

    def _begin(self, event: Any) -> None:
        kind = dict if isinstance(event, yaml.MappingStartEvent) else list
        if self._wants_key:
            raise self._refusal(event, f"a key must be text but is a {'mapping' if kind is dict else 'list'}")
        if event.tag not in (None, "!", f"{_TAGS}{'map' if kind is dict else 'seq'}"):
            raise self._refusal(event, f"must not use the tag {_shown_tag(event)}; write a plain value")
        self._count(event, 1)
        self._open.append(_Open(kind(), event.anchor, self._values - 1))
        self._check_depth(event, 0)

    def _alias(self, event: Any) -> None:
        if not self._aliases:
            raise self._refusal(event, "must not use YAML aliases (*name); write the value out")
        named = self._anchors.get(event.anchor)
        if named is None:
            raise self._refusal(event, f"*{event.anchor:.60} stands for no value that ends above it")
        if self._wants_key:
            self._take_key(event, named.value)
            return
        self._count(event, named.values)
        self._check_depth(event, named.height)
        self._add(event, named, None)

    def _add(self, event: Any, new: _Anchored, anchor: str | None) -> None:
        """Put a value where it belongs: at the top, into a list, or under its key."""
        if anchor is not None:
            self._anchors[anchor] = new
        if not self._open:
            self.document = new.value
            return
        top = self._open[-1]
        top.height = max(top.height, new.height + 1)
        if isinstance(top.value, list):
            top.value.append(new.value)
            return
        assert top.key is not None
        if top.is_merge:
            layers = new.value if isinstance(new.value, list) else [new.value]
            if not all(isinstance(layer, dict) for layer in layers):
                raise self._refusal(event, "<< must stand for a mapping or a list of mappings")
            for layer in reversed(layers):
                top.merged.update(layer)
        else:
            top.value[top.key] = new.value
        top.key = None

    def _scalar(self, event: Any) -> Any:
        plain, _ = event.implicit
        if event.tag in (None, "!"):
            return self._resolved(event) if plain else event.value
        match event.tag.removeprefix(_TAGS):
            case "str":
                return event.value
            case "null" | "bool" | "int" | "float" as kind:
                value = self._resolved(event, as_float=kind == "float")
                if type(value).__name__ == {"null": "NoneType"}.get(kind, kind):
                    return value
                raise self._refusal(event, f"{event.value!a:.60} is no {kind}")
        raise self._refusal(event, f"must not use the tag {_shown_tag(event)}; write a plain value")

    def _resolved(self, event: Any, *, as_float: bool = False) -> Any:
        try:
            value = _core_value(event.value)
            return float(value) if as_float and type(value) is int else value
        except (ValueError, OverflowError) as error:  # Python converts 4300 digits at most
            raise self._refusal(event, f"holds a number of {len(event.value)} digits; write a shorter one") from error

    def _count(self, event: Any, values: int) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise self._refusal(event, f"must not hold more than {MAX_VALUES} values, aliases written out")

    def _check_depth(self, event: Any, below: int) -> None:
        if len(self._open) + below > MAX_DEPTH:
            raise self._refusal(event, f"must not be nested deeper than {MAX_DEPTH} levels")

    def _refusal(self, event: Any, problem: str) -> ConfigError:
        return ConfigError(self._source, [f"line {_line(event)}: {problem}"])


def _core_value(text: str) -> Any:
    """Return what plain text means in the core schema; ValueError for an integer too long to convert."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in "-+.0123456789":
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _BASED.fullmatch(text):
            return int(text, base=0)
    return text


def _step(one: _Open) -> str:
    return str(len(one.value)) if isinstance(one.value, list) else str(one.key)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _shown_tag(event: Any) -> str:
    tag = event.tag
    return f"{'!!' + tag.removeprefix(_TAGS) if tag.startswith(_TAGS) else tag:.60}"


def _complaint(error: yaml.YAMLError) -> str:
    """Return an error of the parser on one line, with the place it means."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    about = ", ".join(filter(None, (error.context, error.problem)))  # type: ignore[attr-defined]
    return f"line {mark.line + 1}, column {mark.column + 1}: {about}"
