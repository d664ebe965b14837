"""The list of suspects as JSON and CSV: what is written is read again, and what is none of ours is refused."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from suspect_documents import document, lay_out, listed

from lncis.errors import DataError
from lncis.suspects.tables import COLUMNS, SuspectList, csv_texts, json_texts, read_list

LIST = Path("suspects.json")


def test_the_json_file_is_read_as_it_was_written():
    written = lay_out()
    assert read_list(LIST) == written
    assert json.loads(LIST.read_text("utf-8"))["suspects"][0]["annotation_id"] == 7


def test_ids_keep_their_types():
    rows = listed().suspects
    mixed = [replace(rows[0], annotation_id="7", image_id="a-b"), replace(rows[1], annotation_id=7, image_id=2**63)]
    LIST.write_text("".join(json_texts(SuspectList(annotations="x", classes=["cat"], suspects=mixed))))
    assert [(s.annotation_id, s.image_id) for s in read_list(LIST).suspects] == [("7", "a-b"), (7, 2**63)]


def test_the_csv_file_holds_the_same_rows():
    made = listed()
    rows = list(csv.DictReader(io.StringIO("".join(csv_texts(made)), newline="")))
    assert [*rows[0]] == list(COLUMNS)
    for row, suspect in zip(rows, made.suspects, strict=True):
        assert row == {k: "" if getattr(suspect, k) is None else str(getattr(suspect, k)) for k in COLUMNS}


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@sum"])
def test_no_name_is_a_formula_in_a_spreadsheet_and_the_json_file_has_it_as_it_is(name):
    made = SuspectList(annotations="x", classes=[name], suspects=[replace(listed().suspects[0], given=name)])
    (row,) = csv.DictReader(io.StringIO("".join(csv_texts(made)), newline=""))
    assert row["given"] == f"'{name}"
    assert float(row["margin"]) == made.suspects[0].margin
    LIST.write_text("".join(json_texts(made)))
    assert read_list(LIST).suspects[0].given == name


def test_another_order_or_label_is_another_list_and_another_figure_is_not():
    one = listed()
    first, second, *rest = one.suspects
    turned = [replace(second, rank=1), replace(first, rank=2), *rest]
    assert replace(one, suspects=turned).digest != one.digest
    assert replace(one, suspects=[replace(first, suggested="cat"), second, *rest]).digest != one.digest
    assert replace(one, suspects=[replace(first, wrong_probability=0.1), second, *rest]).digest == one.digest


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda d: d.pop("lncis_suspects"), "is no list of suspects; `lncis suspects` writes one"),
        (lambda d: d.update(lncis_suspects=2), "lncis_suspects must be 1 but got 2"),
        (lambda d: d["suspects"][1].pop("given"), "suspects.1.given: is required but missing"),
        (lambda d: d["suspects"][1].update(rank=1), "the ranks are not 1, 2, 3"),
        (lambda d: d["suspects"][0].update(wrong_probability=1.5), "must be between 0 and 1 but got 1.5"),
        (lambda d: d["suspects"][0].update(given="dog"), "are not those it was written with"),
        (lambda d: d.pop("classes"), "classes: is required but missing"),
    ],
)
def test_what_is_no_list_is_refused_in_one_line(change, complaint):
    lay_out()
    changed = json.loads(LIST.read_text())
    change(changed)
    LIST.write_text(json.dumps(changed))
    with pytest.raises(DataError) as error:
        read_list(LIST)
    assert complaint in str(error.value)
    assert str(error.value).startswith("suspects.json: ")
    assert "\n" not in str(error.value)


def test_other_json_is_no_list():
    LIST.write_text(json.dumps(document()))
    with pytest.raises(DataError, match="is no list of suspects"):
        read_list(LIST)
    LIST.write_text("[1]")
    with pytest.raises(DataError, match="is no list of suspects"):
        read_list(LIST)
