"""The text of documents: its encoding, its bounds, and JSON to plain values; YAML is in lncis.yaml_text."""

import codecs
import json
import re
from contextlib import suppress
from typing import Any

from lncis.errors import ConfigError

MAX_BYTES = 16 * 2**20
"""Length of a text; a transition matrix of LVIS's 1203 classes takes 10 MB."""
MAX_DEPTH = 40
"""Levels of lists and mappings within each other."""
MAX_VALUES = 2_000_000
"""Values of a document, where each alias counts as all that it stands for."""
MAX_DUPLICATES = 20
"""Duplicate keys that are named at once."""

# an unclosed string takes the rest: else each quote in it would be tried anew, in quadratic time
_JSON_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)


def decode(content: bytes, *, source: str) -> str:
    """Return UTF-8 text without its byte order mark; ConfigError names the line and the remedy for other encodings."""
    if len(content) > MAX_BYTES:
        raise ConfigError(source, [f"is longer than the {MAX_BYTES} bytes that are read; is it the right file?"])
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content[:4]:
        raise ConfigError(source, ["is UTF-16 or UTF-32; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"])
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        remedy = "save it as UTF-8 (iconv -f ISO-8859-1 -t UTF-8, if it is Latin-1)"
        raise ConfigError(source, [f"line {line}: byte 0x{byte:02x} is not UTF-8; {remedy}"]) from error


def parse_json(content: bytes, *, source: str) -> Any:
    """Return the value in JSON text; ConfigError names what is wrong, and both lines of each key that stands twice."""
    text = decode(content, source=source)
    duplicates = _duplicates_in_json(text, source)
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ConfigError(source, [f"is not JSON: {error}"]) from error
    if duplicates:
        raise ConfigError(source, duplicates)
    return document


def duplicate_line(path: list[str], earlier: int, line: int) -> str:
    """Return the problem of a key that stands twice, at a path from the top, with both lines."""
    where = f"twice in line {line}" if earlier == line else f"in line {earlier} and in line {line}"
    shown = ".".join(key if key.isprintable() else ascii(key) for key in path)
    return f"{shown:.200}: stands {where}; keep one of the two"


def _duplicates_in_json(text: str, source: str) -> list[str]:
    """Return a problem for each key that stands twice; ConfigError where lists and objects are nested too deep."""
    found = list[str]()
    open_: list[dict[str, int] | None] = []  # of each object the keys with their offsets; None for a list
    steps: list[str] = []  # the key or the number of the item in each
    is_key = False
    for token in _JSON_TOKEN.finditer(text):
        match token[0]:
            case "{" | "[" as bracket:
                open_.append({} if bracket == "{" else None)
                steps.append("0")
                is_key = bracket == "{"
                if len(open_) > MAX_DEPTH:
                    line = text.count("\n", 0, token.start()) + 1
                    raise ConfigError(source, [f"line {line}: must not be nested deeper than {MAX_DEPTH} levels"])
            case "}" | "]":
                if open_:
                    open_.pop()
                    steps.pop()
                is_key = False
            case ",":
                is_key = bool(open_) and open_[-1] is not None
                if open_ and not is_key:
                    steps[-1] = str(int(steps[-1]) + 1)
            case quoted if is_key and (keys := open_[-1]) is not None:
                is_key = False
                with suppress(ValueError):  # json.loads says what is wrong with it
                    steps[-1] = json.loads(quoted)
                if keys.setdefault(steps[-1], token.start()) != token.start() and len(found) < MAX_DUPLICATES:
                    earlier, line = (text.count("\n", 0, at) + 1 for at in (keys[steps[-1]], token.start()))
                    found.append(duplicate_line(steps, earlier, line))
    return found
