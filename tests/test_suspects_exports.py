"""Exports of a list: what Datumaro, FiftyOne and Label Studio's SDK read in them, and their bytes against the SDK's.

`exporters/read_suspects.py` had the tools read the exports in exporters/suspects; here they are written again.
"""

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import Result
from exporters.drawing import HERE
from pycocotools import mask as rle
from suspect_documents import CLASSES, HEIGHT, WIDTH, document, lay_out, ring
from typer.testing import CliRunner

from lncis.coco.annotations import read
from lncis.coco.masks import to_rle
from lncis.commands import app as cli
from lncis.suspects.exports import ATTRIBUTES, brush_rle

READ = HERE / "suspects"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["suspects", "export", "suspects.json", "in.json", *arguments])


def read_by(tool: str) -> Any:
    return json.loads((READ / f"read_by_{tool}.json").read_text("utf-8"))["found"]


@pytest.fixture
def exported() -> Any:
    """The list, after its exports were written to the working directory."""
    made = lay_out()
    ran = run("--coco", "enriched.json", "--label-studio", "tasks.json", "--csv", "table.csv")
    assert ran.exit_code == 0, ran.output
    return made


def test_the_tools_read_what_is_written_now(exported):
    for name in ("enriched.json", "tasks.json", "tasks.xml"):
        assert Path(name).read_text("utf-8") == (READ / name).read_text("utf-8"), f"have the tools read {name} again"


def test_coco_has_the_attributes_and_else_what_it_had(exported):
    enriched = json.loads(Path("enriched.json").read_text())
    attributes = {a["id"]: a.pop("attributes", None) for a in enriched["annotations"]}
    assert enriched == document()
    assert attributes[12] is None, "a crowd was not scored"
    assert attributes[8] == {
        "suspect_rank": 2,
        "wrong_probability": 0.6,
        "given_probability": 0.125,
        "suggested_label": CLASSES[2],
        "suspect_margin": 0.5,
        "scored_by": "out of fold: fold 2",
        "times_isolated": 2,
    }, "a loss that is not known is left out"
    assert not read(Path("enriched.json")).errors


def test_datumaro_reads_the_attributes(exported):
    enriched = {a["id"]: a for a in json.loads(Path("enriched.json").read_text())["annotations"]}
    found = [one for one in read_by("datumaro") if one["type"] in ("polygon", "mask") and one["id"] != 12]
    assert {one["id"] for one in found} == {7, 8, 9, 11}
    for one in found:
        assert one["label"] == CLASSES[enriched[one["id"]]["category_id"] - 1]
        assert one["attributes"] == {**enriched[one["id"]]["attributes"], "is_crowd": False}


def test_fiftyone_reads_the_attributes(exported):
    enriched = {a["id"]: a for a in json.loads(Path("enriched.json").read_text())["annotations"]}
    found = [one for one in read_by("fiftyone") if "suspect_rank" in one["attributes"]]
    assert sorted(one["attributes"]["suspect_rank"] for one in found) == [1, 2, 3, 4]
    for one in found:
        row = exported.suspects[one["attributes"]["suspect_rank"] - 1]
        expected = enriched[row.annotation_id]["attributes"]
        assert one["label"] == row.given
        assert {name: one["attributes"].get(name) for name in expected} == expected


def test_label_studio_finds_no_fault_and_the_same_masks_with_their_holes(exported):
    masks = {a["id"]: rle.decode(to_rle(_arrays(a["segmentation"]), HEIGHT, WIDTH)) for a in document()["annotations"]}
    found = read_by("label_studio")
    assert len(found) == len(exported.suspects)
    for one, row in zip(found, exported.suspects, strict=True):
        assert one["errors"] == []
        assert one["its_own_encoding"]
        assert one["label"] == [row.suggested]
        assert one["score"] == row.wrong_probability
        assert np.array_equal([[*map(int, line)] for line in one["mask"]], masks[row.annotation_id])
    assert np.array_equal(masks[9], ring()), "two parts, one with a hole"


def _arrays(segmentation: Any) -> Any:
    return [np.array(p, dtype=float) for p in segmentation] if isinstance(segmentation, list) else segmentation


def unpacked(code: list[int]) -> np.ndarray:
    """Return what thi.ng/rle-pack's decoder, written again from its source, makes of such bytes."""
    bits, at = "".join(f"{byte:08b}" for byte in code), 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    number, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values = list[int]()
    while len(values) < number:
        repeated, length = take(1), take(sizes[take(2)]) + 1
        values += [take(word)] * length if repeated else [take(word) for _ in range(length)]
    return np.array(values)


@pytest.mark.parametrize(
    "mask",
    [
        ring(),
        np.zeros((3, 5), np.uint8),
        np.ones((1, 1), np.uint8),
        np.ones((300, 400), np.uint8),  # longer than one run can be
        np.random.default_rng(0).integers(0, 2, (31, 17), dtype=np.uint8),
    ],
)
def test_brushes_decode_to_their_mask(mask):
    pixels = unpacked(brush_rle(mask)).reshape(*mask.shape, 4)
    assert (pixels == 255 * mask[:, :, None]).all()


def test_the_labeling_interface_names_every_class(exported):
    labels = ElementTree.parse("tasks.xml").iter("Label")
    assert [label.attrib["value"] for label in labels] == CLASSES


def test_file_names_become_addresses(exported):
    images = [task["data"]["image"] for task in json.loads(Path("tasks.json").read_text("utf-8"))]
    assert images == ["/data/local-files/?d=a.png", "/data/local-files/?d=%C3%B6%20%26%20%3Cb%3E.png"]
    assert run("--label-studio", "s3.json", "--image-url", "s3://b/", "--most", "1").exit_code == 0
    (task,) = json.loads(Path("s3.json").read_text("utf-8"))
    assert task["data"]["image"] == "s3://b/a.png"


def test_the_table_is_written(exported):
    with Path("table.csv").open(newline="", encoding="utf-8") as file:
        assert [row["annotation_id"] for row in csv.DictReader(file)] == ["7", "8", "9", "11"]


def test_other_attributes_stay():
    lay_out()
    given = document()
    given["annotations"][0]["attributes"] = {"occluded": True, "suspect_rank": 99}
    Path("in.json").write_text(json.dumps(given))
    assert run("--coco", "out.json").exit_code == 0
    attributes = json.loads(Path("out.json").read_text())["annotations"][0]["attributes"]
    assert attributes.keys() - ATTRIBUTES.keys() == {"occluded"}
    assert attributes["suspect_rank"] == 1


def test_mistakes_are_one_line_and_no_file():
    lay_out()
    refused("needs --coco, --label-studio or --csv")
    refused("give each its own name", "--coco", "a.json", "--csv", "a.json")
    refused("in.json is the input in.json, which is never written to", "--coco", "in.json", "--force")
    given = document()
    given["annotations"][0]["attributes"] = ["occluded"]
    Path("in.json").write_text(json.dumps(given))
    refused("annotation 7 has attributes that are no mapping", "--coco", "a.json")
    given["annotations"][1]["category_id"] = 1
    Path("in.json").write_text(json.dumps(given))
    refused("annotation 8 of image 3 is 'cat', was 'dog'; give the file that was scored", "--coco", "a.json")
    refused("annotation 8 of image 3 is 'cat', was 'dog'", "--label-studio", "a.json")
    given["annotations"] = given["annotations"][1:]
    Path("in.json").write_text(json.dumps(given))
    refused("has no annotation 7 in an image 3", "--csv", "a.csv", "--coco", "a.json")


def refused(complaint: str, *arguments: str) -> None:
    before = sorted(Path().iterdir())
    ran = run(*arguments)
    assert ran.exit_code == 2, ran.output
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert complaint in ran.stderr
    assert sorted(Path().iterdir()) == before
