import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lncis import document_text
from lncis.commands.study import changes_of
from lncis.document_text import MAX_BYTES, MAX_DEPTH, parse_json
from lncis.errors import ConfigError
from lncis.studies.spec import files as spec_files
from lncis.yaml_text import parse_yaml, yaml_text


def problems(content: bytes, parse=parse_yaml, **how) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(content, source="here", **how)
    assert str(caught.value).splitlines() == [f"here: {problem}" for problem in caught.value.problems]
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, None) for text in ("", "~", "null", "NULL")),
        *((text, True) for text in ("true", "True", "TRUE")),
        *((text, False) for text in ("false", "False")),
        *((text, text) for text in ("no", "No", "on", "OFF", "y", "n", "yes", "nUll", "tRue")),
        *(("1e-3", 0.001), ("1E3", 1000.0), ("1.", 1.0), (".5", 0.5), ("-0.5e+1", -5.0)),
        *(("010", 10), ("+1", 1), ("0o17", 15), ("0x1F", 31)),
        *(("-.inf", -math.inf), ("+.INF", math.inf)),
        *((text, text) for text in ("1_000", "1:30", "0b1", "2001-01-01", "1e", ".", "--", "=", "-0x1", "inf", "nan")),
        *(("!!str 1", "1"), ("!!float 1", 1.0), ("!!int 0x2", 2), ("!!null ''", None)),
        *(("'1e-3'", "1e-3"), ('"no"', "no")),
    ],
)
def test_values_are_those_of_the_core_schema_of_yaml_1_2(text, value):
    found = parse_yaml(f"key: {text}".encode(), source="here")["key"]
    assert found == value
    assert type(found) is type(value)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.from_regex(r"[-+]?[0-9_:.]{1,6}(e[-+]?[0-9]+)?", fullmatch=True),
    st.sampled_from(["no", "on", "y", "N", "null", "~", "", "<<", "1e-3", "0o7", "0x1", "1_0", "1:30", "2001-01-01"]),
    st.sampled_from(["=", ".inf", "-", "?", "*a", "&a", "!a", "#", "]"]),
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS.map(str), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None, database=None)
@given(DOCUMENTS)
def test_what_is_written_is_read_back_equal(document):
    text = yaml_text(document)
    assert text.isascii()
    for found in (
        parse_yaml(text.encode(), source="here"),
        parse_yaml(text.replace("\n", "\r\n").encode("utf-8-sig"), source="here"),
        yaml.safe_load(text),  # a reader of YAML 1.1
        parse_json(json.dumps(document, ensure_ascii=False).encode(), source="here"),
        parse_json(json.dumps(document, indent=1).encode(), source="here"),
    ):
        assert repr(found) == repr(document)


def test_what_occurs_twice_is_written_out():
    same = [1, 2]
    assert parse_yaml(yaml_text({"a": same, "b": same}).encode(), source="here", aliases=False) == {
        "a": same,
        "b": same,
    }


def test_text_that_is_not_unicode_is_not_written():
    with pytest.raises(ConfigError, match=r"cannot hold .*\\udce9.*, which is not Unicode; rename it"):
        yaml_text({"images": "caf\udce9"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3", ["a: stands in line 1 and in line 3; keep one of the two"]),
        ("a: {b: 1, c: 2, b: 3}", ["a.b: stands twice in line 1; keep one of the two"]),
        ("a:\n- {}\n- b.c: 1\n  b.c: 2", ["a.1.b.c: stands in line 3 and in line 4; keep one of the two"]),
        ("a: 1\n'a': 2\n\"\\x61\": 3", ["a: stands in line 1 and in line 2; keep one of the two"] * 2),
        ("7: 1\n'7': 2", ["7: stands in line 1 and in line 2; keep one of the two"]),
        ('"a\\nb": 1\n"a\\nb": 2', ["'a\\nb': stands in line 1 and in line 2; keep one of the two"]),
    ],
)
def test_a_key_that_stands_twice_is_named_with_both_lines(text, expected):
    found = problems(text.encode())
    assert found[0] == expected[0]
    assert len(found) == len(expected)


@settings(max_examples=30, deadline=None, database=None)
@given(st.dictionaries(st.text(), st.integers() | st.text(), min_size=1, max_size=4), st.data(), st.booleans())
def test_any_key_written_twice_in_json_is_found(document, data, ascii_):
    key = data.draw(st.sampled_from(sorted(document)))
    again = f"{json.dumps(key)}: 0, {json.dumps(document, ensure_ascii=ascii_)[1:]}"
    (problem,) = problems(f'[[],\n{{"x": {{{again}}}]'.encode(), parse_json)
    assert problem.endswith(": stands twice in line 2; keep one of the two")
    assert problem.startswith(("1.x.", "'"))


def test_lines_of_keys_in_json():
    content = b'{"a": "}",\n "b": [{"c": 1}, {"c": 1,\n "\\u0063": {}}],\n "a": 2}'
    assert problems(content, parse_json) == [
        "b.1.c: stands in line 2 and in line 3; keep one of the two",
        "a: stands in line 1 and in line 4; keep one of the two",
    ]


def test_duplicates_are_not_listed_without_end():
    assert len(problems(b"a:\n" * 1000)) == document_text.MAX_DUPLICATES
    assert len(problems(b"{" + b'"a":1,' * 1000 + b'"a":1}', parse_json)) == document_text.MAX_DUPLICATES


DEEP = f"line 1: must not be nested deeper than {MAX_DEPTH} levels"


@pytest.mark.parametrize(
    "content",
    [
        b"name: " + b"[" * 30_000,
        b"name: " + b"[" * 30_000 + b"]" * 30_000,
        b"[" * 1_000_000,
        b"- " * 500_000,
        b"{a: " * 250_000,
    ],
)
def test_deep_text_is_refused_at_once(content):
    begun = time.perf_counter()
    assert problems(content) == [DEEP]
    assert time.perf_counter() - begun < 1


@pytest.mark.parametrize("content", [b"[" * 1_000_000, b'{"a":' * 200_000])
def test_deep_json_is_refused_at_once(content):
    assert problems(content, parse_json) == [DEEP]


@pytest.mark.parametrize("parse", [parse_yaml, parse_json])
def test_the_deepest_text_that_is_read(parse):
    assert parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, source="here")
    assert problems(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), parse) == [DEEP]


@pytest.mark.parametrize(
    ("content", "parse"),
    [
        (b"a: [" + b"1," * 128_000 + b"]", parse_yaml),
        (b"a: [" + b"[]," * 85_000 + b"]", parse_yaml),
        (b'"\\"' * 85_000, parse_json),  # in quadratic time it would take minutes
        (b'"' + b'\\"' * 128_000, parse_json),
        (b"[" + b'"a",' * 64_000 + b"0]", parse_json),
    ],
)
def test_the_longest_body_of_the_service_takes_well_below_a_second_or_two(content, parse):  # of a core
    begun = time.process_time()
    try:
        parse(content, source="here")
    except ConfigError as error:
        assert len(error.problems) == 1
    assert time.process_time() - begun < 2


def test_aliases_stand_for_values_within_bounds():
    text = b"a: &a {k: 1}\nb: *a\nc: {<<: *a, j: 2}\nd: {<<: [{k: 3, l: 4}, *a], k: 5}"
    assert parse_yaml(text, source="here") == {
        "a": {"k": 1},
        "b": {"k": 1},
        "c": {"k": 1, "j": 2},
        "d": {"k": 5, "l": 4},
    }
    assert problems(text, aliases=False) == ["line 2: must not use YAML aliases (*name); write the value out"]
    levels = [
        b"a0: &a0 [x, x]",
        *(b"a%d: &a%d [%s]" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)),
    ]
    (laughs,) = problems(b"\n".join(levels))
    assert "must not hold more than 2000000 values, aliases written out" in laughs
    chain = [b"a0: &a0 [x]", *(b"a%d: &a%d [*a%d]" % (n, n, n - 1) for n in range(1, 60))]
    assert problems(b"\n".join(chain)) == [f"line {MAX_DEPTH}: must not be nested deeper than {MAX_DEPTH} levels"]
    assert problems(b"a: &a [*a]") == ["line 1: *a stands for no value that ends above it"]
    assert problems(b"<<: 3") == ["line 1: << must stand for a mapping or a list of mappings"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("name: Gebäude".encode("latin-1"), "line 1: byte 0xe4 is not UTF-8; save it as UTF-8 (iconv -f ISO-8859-1"),
        ("a: 1\r\nb: ß".encode("latin-1"), "line 2: byte 0xdf is not UTF-8"),
        ("name: x".encode("utf-16"), "is UTF-16 or UTF-32; save it as UTF-8 (iconv -f UTF-16"),
        ("name: x".encode("utf-16-le"), "is UTF-16 or UTF-32"),
        (b"a: 1\nb: \x07", "line 2: holds the control character U+0007; remove it"),
        (b"a: 1\n---\nb: 2", "line 2: a second document begins; keep one"),
        (b"a: !!timestamp abc", "line 1: must not use the tag !!timestamp; write a plain value"),
        (b"a: !!int abc", "line 1: 'abc' is no int"),
        (b"? [a]\n: 1", "line 1: a key must be text but is a list"),
        (b"a: " + b"9" * 5000, "line 1: holds a number of 5000 digits; write a shorter one"),
        (b"a: [1, 2", "is not YAML: line 2, column 1: while parsing a flow sequence, did not find expected ',' or ']'"),
        (b" " * (MAX_BYTES + 1), f"is longer than the {MAX_BYTES} bytes that are read"),
    ],
)
def test_what_cannot_be_read_is_one_line(content, problem):
    (found,) = problems(content)
    assert found.startswith(problem)


def test_values_of_set_are_judged_like_files():
    assert changes_of(["optimizer.lr=1e-3", "noise.map={no: on}"]) == {"optimizer.lr": 0.001, "noise.map": {"no": "on"}}
    typed = "Gebäude".encode().decode("ascii", "surrogateescape")  # as Python reads it where the locale is C
    assert changes_of([f"name={typed}"]) == {"name": "Gebäude"}
    with pytest.raises(ConfigError) as caught:
        changes_of(["a={b: 1, b: 2}", "c=[", "seed=1", "seed=2", f"d={'[' * 3000}", "e=caf\udce9"])
    assert [problem.split(";")[0] for problem in caught.value.problems] == [
        "a: b: stands twice in line 1",
        "c: is not YAML: line 2, column 1: while parsing a flow node, did not find expected node content",
        "seed: is set twice",
        f"d: {DEEP}",
        "e: line 1: byte 0xe9 is not UTF-8",
    ]


def test_a_field_is_not_set_by_two_paths(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("name: x\nsearch: {loss.gamma: {type: categorical, choices: [4.0]}}")
    with pytest.raises(ConfigError, match=r"base\.seed: is the same field as seed, which is set too"):
        spec_files.load_spec(path, {"seed": 1, "base.seed": 2})


@pytest.mark.processes
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_files_are_utf_8_whatever_the_locale(tmp_path, encoding):
    (tmp_path / "t.yaml").write_bytes("noise: {type: asymmetric, map: {Gebäude: Straße}}".encode())
    code = (
        "import locale; from pathlib import Path; from lncis import documents; from lncis.config import TrainConfig;"
        "assert 'utf' not in locale.getpreferredencoding(False).lower();"
        "print(ascii(documents.load(TrainConfig, Path('t.yaml')).noise.map))"
    )
    locales = {"ascii": {"LC_ALL": "C"}, "latin-1": {"LC_ALL": "en_US.ISO-8859-1", "LOCPATH": str(tmp_path)}}[encoding]
    if encoding == "latin-1":
        made = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(tmp_path / "en_US.ISO-8859-1")]
        try:
            subprocess.run(made, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this machine cannot make the locale")
    where = {"PYTHONPATH": str(Path(document_text.__file__).parents[1]), "PYTHONUTF8": "0"}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, **where, **locales},
        capture_output=True,
        text=True,
    )
    assert ran.stdout == ascii({"Gebäude": "Straße"}) + "\n", ran.stderr
