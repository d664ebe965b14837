"""`lncis noise join`: truth from a pair of files, against noise whose truth was known all along."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from exporters.drawing import HERE
from typer.testing import CliRunner

from lncis.coco.annotations import read
from lncis.commands import app as cli
from lncis.config import SymmetricNoise
from lncis.noise import corrupt

NOISY, CLEAN, OUT, MANIFEST = map(Path, ("noisy.json", "clean.json", "out.json", "out.noise.json"))
COCO_N = HERE / "coco_n"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, ["noise", *map(str, arguments)])


def clean_document() -> dict[str, Any]:
    return json.loads((COCO_N / "clean.json").read_text())


def pair() -> tuple[dict[str, Any], dict[str, Any]]:
    """Write a noisy file without its truth, and the clean one; return the noisy one with it, and its manifest."""
    clean = clean_document()
    noisy, manifest = corrupt(clean, SymmetricNoise(rate=0.4, seed=3), stream="train")
    without = copy.deepcopy(noisy)
    for annotation in without["annotations"]:
        del annotation["clean_category_id"]
    NOISY.write_text(json.dumps(without))
    CLEAN.write_text(json.dumps(clean))
    return noisy, manifest


def truth(path: Path) -> dict[int, Any]:
    return {a["id"]: a.get("clean_category_id") for a in json.loads(path.read_text())["annotations"]}


def test_the_truth_that_noise_had_thrown_away_comes_back():
    noisy, drawn = pair()
    ran = run("join", NOISY, CLEAN, OUT)
    assert ran.exit_code == 0, ran.output
    assert json.loads(OUT.read_text()) == noisy
    manifest = json.loads(MANIFEST.read_text())
    shared = ("realised_rate", "annotations", "classes", "realised_rate_by_class", "labels_sha256")
    assert {key: manifest[key] for key in shared} == {key: drawn[key] for key in shared}
    assert manifest["counts_given_clean_given_noisy"] == drawn["counts_given_clean_given_noisy"]
    assert (manifest["type"], manifest["by"], manifest["unmatched"]) == ("joined", "id", 0)
    assert f"of 48 labels differ ({drawn['realised_rate']:.1%}), joined by id" in ran.output


def test_classes_are_known_by_name_and_annotations_by_their_masks():
    pair()
    other = clean_document()
    for category in other["categories"]:
        category["id"] = 100 - category["id"]
    numbers = {image["id"]: f"image {image['id']}" for image in other["images"]}
    for image in other["images"]:
        image["id"] = numbers[image["id"]]
    for annotation in other["annotations"]:
        annotation["category_id"] = 100 - annotation["category_id"]
        annotation["image_id"] = numbers[annotation["image_id"]]
    order = np.random.default_rng(0).permutation(len(other["annotations"]))
    other["annotations"] = [other["annotations"][at] | {"id": n} for n, at in enumerate(order.tolist())]
    CLEAN.write_text(json.dumps(other))
    ran = run("join", NOISY, CLEAN, OUT)
    assert ran.exit_code == 2
    assert "noisy.json: none of 48 annotations is in clean.json; where ids differ, join --by-mask" in ran.stderr
    ran = run("join", NOISY, CLEAN, OUT, "--by-mask")
    assert ran.exit_code == 0, ran.output
    assert truth(OUT) == {a["id"]: a["category_id"] for a in clean_document()["annotations"]}


def test_masks_that_were_moved_a_little_are_known_and_those_that_are_not_there_stay_without_truth():
    pair()
    other = clean_document()
    other["annotations"] = other["annotations"][5:]
    for annotation in other["annotations"]:
        annotation["segmentation"] = [[c + 1 for c in annotation["segmentation"][0]]]
        annotation["id"] += 1
    CLEAN.write_text(json.dumps(other))
    ran = run("join", NOISY, CLEAN, OUT, "--by-mask")
    assert "warning: 5 annotations have no partner: they stay, without a clean label" in ran.output
    expected = {a["id"]: a["category_id"] for a in clean_document()["annotations"]}
    lost = [a["id"] for a in clean_document()["annotations"]][:5]
    assert truth(OUT) == expected | dict.fromkeys(lost)
    assert json.loads(MANIFEST.read_text())["annotations"] == 43
    assert run("join", NOISY, CLEAN, "high.json", "--by-mask", "--least-iou", "0.99").exit_code == 2


def test_a_file_of_coco_n_is_recognised():
    """Noise that COCO-N's own script made: what it says it flipped is what differs."""
    ran = run("join", COCO_N / "noisy.json", COCO_N / "clean.json", OUT)
    assert ran.exit_code == 0, ran.output
    assert "note: a file of COCO-N (class_noise, boundary_type). Its val is noisy too" in ran.output
    assert "class_noise says that 8 labels were flipped" in ran.output
    assert "8 of 48 labels differ (16.7%), joined by id" in ran.output
    joined = json.loads(OUT.read_text())["annotations"]
    assert [a["category_id"] != a["clean_category_id"] for a in joined] == [a["class_noise"] for a in joined]
    assert not read(OUT).errors
    # its masks were moved, so this is a test of masks, too: all but those that it left nothing of are found
    ran = run("join", COCO_N / "noisy.json", COCO_N / "clean.json", "masks.json", "--by-mask", "--least-iou", "0.3")
    assert ran.exit_code == 0, ran.output
    by_mask = {i: label for i, label in truth(Path("masks.json")).items() if label is not None}
    assert by_mask.items() <= truth(OUT).items()
    assert len(by_mask) > 40


def test_ids_that_mean_other_annotations_are_noticed():
    pair()
    other = clean_document()
    ids = [annotation["id"] for annotation in other["annotations"]]
    for annotation, i in zip(other["annotations"], reversed(ids), strict=True):
        annotation["id"] = i
        annotation["image_id"] = next(a["image_id"] for a in clean_document()["annotations"] if a["id"] == i)
    CLEAN.write_text(json.dumps(other))
    refused("annotations lie apart from those of their ids in clean.json", "join", NOISY, CLEAN, OUT)


def test_mistakes_are_one_line_and_no_file():
    noisy, _ = pair()
    refused("noisy.json is the input noisy.json, which is never written to", "join", NOISY, CLEAN, NOISY, "--force")
    refused("nowhere.json: no such file", "join", "nowhere.json", CLEAN, OUT)
    Path("known.json").write_text(json.dumps(noisy))
    refused("known.json: has clean_category_id already", "join", "known.json", CLEAN, OUT)
    Path("labels.json").write_text(json.dumps({"categories": [], "annotations": []}))
    refused("labels.json: has no images; is this a COCO instances file?", "join", NOISY, "labels.json", OUT)
    other = clean_document()
    other["categories"][0]["name"] = "human"
    Path("other.json").write_text(json.dumps(other))
    refused("the clean class 'human' is no category of the noisy file; add it", "join", NOISY, "other.json", OUT)


def refused(complaint: str, *arguments: str | Path) -> None:
    before = sorted(Path().iterdir())
    ran = run(*arguments)
    assert ran.exit_code == 2, ran.output
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert complaint in ran.stderr
    assert sorted(Path().iterdir()) == before


def test_noise_itself_goes_on_as_before_and_says_where_join_is():
    CLEAN.write_text(json.dumps(clean_document()))
    ran = run(CLEAN, OUT, "--type", "symmetric", "--rate", "0.4", "--seed", "7")
    assert ran.exit_code == 0, ran.output
    ran = run("--help")
    assert "lncis noise join" in " ".join(ran.output.split())
    assert "--rate" in ran.output
    ran = run("join", "--help")
    assert "Usage: root noise join" in ran.output or "noise join [OPTIONS]" in ran.output
    assert "--by-mask" in ran.output
    assert run("./join", OUT, "--type", "none").exit_code == 2, "a file of that name is a file"


@pytest.mark.parametrize("shift", [0, 5])
def test_in_an_image_the_pairs_are_those_of_the_greatest_sum(shift):
    """Two masks beside each other, moved by less than half their distance: the first partner is not taken greedily."""
    pair()
    noisy, clean = json.loads(NOISY.read_text()), clean_document()
    for document, move in ((noisy, 0), (clean, shift)):
        document["annotations"] = document["annotations"][:2]
        for place, annotation in enumerate(document["annotations"]):
            x = 10 + 12 * place + move
            annotation["segmentation"] = [[x, 10, x + 12, 10, x + 12, 22, x, 22]]
            annotation["bbox"] = [x, 10, 12, 12]
        document["annotations"].append(clean_document()["annotations"][20])  # a mask that is no rectangle
    clean["annotations"].reverse()
    NOISY.write_text(json.dumps(noisy))
    CLEAN.write_text(json.dumps(clean))
    ran = run("join", NOISY, CLEAN, OUT, "--by-mask", "--least-iou", "0.3")
    assert ran.exit_code == 0, ran.output
    assert truth(OUT) == {a["id"]: a["category_id"] for a in clean["annotations"]}
