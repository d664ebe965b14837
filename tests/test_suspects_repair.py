"""`lncis suspects apply`: labels change, and nothing else; every mistake is one line and no file."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from suspect_documents import CLASSES, document, lay_out
from typer.testing import CliRunner

from lncis.commands import app as cli
from lncis.suspects.suspect import Suspect
from lncis.suspects.tables import SuspectList, json_texts

IN, OUT, MANIFEST, DECISIONS, LIST = map(
    Path, ("in.json", "out.json", "out.repair.json", "decisions.json", "suspects.json")
)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, ["suspects", "apply", *map(str, arguments)])


def decide(*rows: dict[str, Any], **head: Any) -> None:
    DECISIONS.write_text(
        json.dumps({"lncis_decisions": 1, "list": "0f", "annotations": "in.json", "decisions": rows} | head)
    )


def about(annotation_id: Any, image_id: Any, given: str, label: str) -> dict[str, Any]:
    return {"annotation_id": annotation_id, "image_id": image_id, "given": given, "label": label}


def test_decided_labels_change_and_nothing_else():
    lay_out()
    decide(about(7, 3, "cat", CLASSES[3]), about(9, 5, CLASSES[2], CLASSES[2]))
    ran = run(DECISIONS, IN, OUT)
    assert ran.exit_code == 0, ran.output
    assert "1 of 5 labels changed, 1 found right" in ran.output
    expected = document()
    expected["annotations"][0] |= {"category_id": 4, "noisy_category_id": 1}
    assert json.loads(OUT.read_text()) == expected
    assert json.loads(IN.read_text()) == document()
    manifest = json.loads(MANIFEST.read_text())
    counts = {key: manifest[key] for key in ("annotations", "reviewed", "changed", "kept", "list", "accept_above")}
    assert counts == {
        "annotations": 5, "reviewed": 2, "changed": 1, "kept": 1, "list": "0f", "accept_above": None,
    }  # fmt: skip
    assert manifest["changes"] == [about(7, 3, "cat", CLASSES[3])]
    assert manifest["changed_by_class"] == {f"cat -> {CLASSES[3]}": 1}


def test_without_a_review_all_suggestions_above_the_probability_are_taken():
    made = lay_out()
    ran = run(LIST, IN, OUT, "--accept-above", "0.4")
    assert ran.exit_code == 0, ran.output
    # by hand: the list says 0.8, 0.6, 0.4 and 0.2, and 0.4 is not above 0.4
    changed = {a["id"]: a["category_id"] for a in json.loads(OUT.read_text())["annotations"]}
    assert changed == {7: 2, 8: 3, 9: 3, 11: 4, 12: 1}
    assert json.loads(MANIFEST.read_text())["list"] == made.digest


def test_an_older_label_stays_when_a_label_changes_again():
    lay_out()
    decide(about(7, 3, "cat", "dog"))
    assert run(DECISIONS, IN, OUT).exit_code == 0
    decide(about(7, 3, "dog", CLASSES[2]))
    assert run(DECISIONS, OUT, "again.json").exit_code == 0
    first = json.loads(Path("again.json").read_text())["annotations"][0]
    assert (first["category_id"], first["noisy_category_id"]) == (3, 1)


def test_ids_of_any_kind_and_numbers_of_any_form_come_back_as_the_file_has_them():
    text = """{"images": [{"id": "left", "file_name": "a.png", "width": 8.0, "height": 8},
        {"id": "right", "file_name": "b.png", "width": 8, "height": 8}],
      "categories": [{"id": "c-1", "name": "cat"}, {"id": "c-2", "name": 5}],
      "annotations": [
        {"id": 1, "image_id": "left", "category_id": "c-1", "segmentation": {}, "area": 1e-7},
        {"id": 1, "image_id": "right", "category_id": "c-1", "segmentation": [[1, 1.0, 2, 2, 3, 3]], "bbox": null},
        {"id": 2, "image_id": "right", "category_id": "c-2", "segmentation": []}]}"""
    IN.write_text(text)
    rows = [("right", 1, "cat", "5"), ("right", 2, "5", "cat")]
    suspects = [
        Suspect(rank=k, annotation_id=n, image_id=image, file_name="b.png", given=given, suggested=new,
                wrong_probability=0.9, given_probability=0.1, margin=0.5, scored_by="")
        for k, (image, n, given, new) in enumerate(rows, start=1)
    ]  # fmt: skip
    LIST.write_text("".join(json_texts(SuspectList(annotations="in.json", classes=["cat", "5"], suspects=suspects))))
    ran = run(LIST, IN, OUT, "--accept-above", "0.5")
    assert ran.exit_code == 0, ran.output
    expected = json.loads(text)
    expected["annotations"][1] |= {"category_id": "c-2", "noisy_category_id": "c-1"}
    expected["annotations"][2] |= {"category_id": "c-1", "noisy_category_id": "c-2"}
    assert json.loads(OUT.read_text()) == expected
    assert '"width": 8.0' in OUT.read_text()


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([about(99, 3, "cat", "dog")], "in.json: has no annotation 99 in an image 3; give the file that was scored"),
        ([about(7, 5, "cat", "dog")], "in.json: has no annotation 7 in an image 5"),
        ([about("7", 3, "cat", "dog")], "in.json: has no annotation 7 in an image 3"),
        ([about(7, 3, "dog", "cat")], "annotation 7 of image 3 is 'cat', was 'dog'; give the file that was scored"),
        ([about(7, 3, "cat", "cow")], "has no category 'cow', which the decision on annotation 7 asks for"),
        ([about(7, 3, "cat", "cat"), about(7, 3, "cat", "dog")], "decides twice about annotation 7 of image 3"),
        ([{"annotation_id": 7}], "decisions.0.image_id: is required but missing"),
    ],
)
def test_decisions_that_do_not_fit_are_one_line_and_no_file(rows, complaint):
    lay_out()
    decide(*rows)
    refused(complaint, DECISIONS, IN, OUT)


def refused(complaint: str, *arguments: str | Path) -> None:
    before = sorted(Path().iterdir())
    ran = run(*arguments)
    assert ran.exit_code == 2, ran.output
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert ran.stderr.startswith("error: ")
    assert complaint in ran.stderr
    assert sorted(Path().iterdir()) == before


def test_files_that_are_something_else_are_refused_in_one_line():
    lay_out()
    decide(about(7, 3, "cat", "dog"))
    refused("suspects.json: is a list of suspects; give the decisions of its review, or --accept-above", LIST, IN, OUT)
    refused("lncis_suspects is missing: this is no list of suspects", DECISIONS, IN, OUT, "--accept-above", "0.5")
    refused("lncis_decisions is missing: this is no file of decisions", IN, IN, OUT)
    refused("suspects.json: has no images; is this the COCO file", DECISIONS, LIST, OUT)
    refused("nowhere.json: no such file", "nowhere.json", IN, OUT)
    refused("--accept-above: must be a number between 0 and 1 but got '95'", LIST, IN, OUT, "--accept-above", "95")
    refused("--accept-above: must be a number between 0 and 1 but got 'nan'", LIST, IN, OUT, "--accept-above", "nan")


def test_it_never_writes_over_its_input_nor_over_another_file_unasked():
    lay_out()
    decide(about(7, 3, "cat", "dog"))
    refused("in.json is the input in.json, which is never written to", DECISIONS, IN, IN, "--force")
    os.link(IN, "linked.json")
    refused("linked.json is the input in.json", DECISIONS, IN, "linked.json", "--force")
    OUT.write_text("mine")
    refused("out.json exists already; name another file, or replace it by --force", DECISIONS, IN, OUT)
    assert OUT.read_text() == "mine"
    assert run(DECISIONS, IN, OUT, "--force").exit_code == 0
    assert json.loads(OUT.read_text())["annotations"][0]["category_id"] == 2
