"""`lncis suspects` as people type it: trainings of folds and of everything, their list, their mistakes."""

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from lncis import datasets, documents
from lncis.commands import app as cli
from lncis.config import CocoData, CrossEntropyLoss, Fold, NoNoise, Schedule
from lncis.datasets import digits
from lncis.detection import engine
from lncis.suspects import tables


def lncis(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def config(tiny):
    return replace(tiny, loss=CrossEntropyLoss(), schedule=Schedule(epochs=1))


def trained_at(config, folder: Path) -> Path:
    documents.claim(folder, config)
    engine.train(config, datasets.load(config), folder)
    return folder


@pytest.fixture(scope="module")
def folds(config, digits_cache, tmp_path_factory) -> list[Path]:
    """Trainings of two folds."""
    root = tmp_path_factory.mktemp("folds")
    return [trained_at(replace(config, fold=Fold(number=k, of=2)), root / f"fold{k}") for k in (0, 1)]


@pytest.fixture(scope="module")
def whole(config, digits_cache, tmp_path_factory) -> Path:
    return trained_at(config, tmp_path_factory.mktemp("whole") / "run")


def test_models_of_folds_list_every_annotation_once_and_unseen(folds, config):
    ran = lncis("suspects", *folds, "--out", "out")
    assert ran.exit_code == 0, ran.output
    listed = json.loads(Path("out/suspects.json").read_text())["suspects"]
    document = datasets.load(config).train.document
    assert sorted(s["annotation_id"] for s in listed) == sorted(a["id"] for a in document["annotations"])
    assert [s["rank"] for s in listed] == list(range(1, len(listed) + 1))
    probabilities = [s["wrong_probability"] for s in listed]
    assert probabilities == sorted(probabilities, reverse=True)
    assert Counter(s["scored_by"] for s in listed).keys() == {"out of fold 0: 1 model", "out of fold 1: 1 model"}
    given = {a["id"]: str(a["category_id"] - 1) for a in document["annotations"]}
    true = {a["id"]: str(a["clean_category_id"] - 1) for a in document["annotations"]}
    assert all(s["given"] == given[s["annotation_id"]] and s["true"] == true[s["annotation_id"]] for s in listed)
    assert "judged by models that were trained on them" not in ran.stdout
    recorded = [s for s in listed if s["loss_mean"] is not None]
    assert len(recorded) > len(listed) / 2, "the other fold's training had each; a sample matched most"
    assert all(s["loss_mean"] > 0 and s["isolated"] == 0 for s in recorded)
    assert tables.read_list(Path("out/suspects.json")).classes == [str(k) for k in range(10)]
    with Path("out/suspects.csv").open(newline="") as file:
        assert [row["rank"] for row in csv.DictReader(file)] == [str(s["rank"]) for s in listed]
    assert "errors expected in" in ran.stdout
    assessed = json.loads(Path("out/assessment.json").read_text())
    assert assessed["truth"]["errors"] == sum(given[i] != true[i] for i in given)
    assert set(assessed["truth"]["rankings"]) == {
        "lncis", "random", "loss", "self-confidence", "normalised margin", "mistakenness", "swap",
    }  # fmt: skip
    assert "Suspects: " in Path("out/report.html").read_text()


def test_a_model_of_everything_says_that_it_saw_the_labels(whole):
    ran = lncis("suspects", whole, "--out", "out")
    assert ran.exit_code == 0, ran.output
    assert "judged by models that were trained on them" in ran.stdout
    assert {s["scored_by"] for s in json.loads(Path("out/suspects.json").read_text())["suspects"]} == {
        "in sample: 1 model"
    }


def test_a_file_of_ones_own_is_judged_with_its_ids(whole, config):
    data = digits.export(config.dataset, Path("mine"))
    document = json.loads(data.test.read_text())
    for annotation in document["annotations"]:
        annotation["id"] = f"a{annotation['id']}"
    Path("mine/own.json").write_text(json.dumps(document))
    ran = lncis("suspects", whole, "--data", "mine/own.json", "--images", "mine/images", "--out", "out")
    assert ran.exit_code == 0, ran.output
    listed = json.loads(Path("out/suspects.json").read_text())["suspects"]
    assert sorted(s["annotation_id"] for s in listed) == sorted(a["id"] for a in document["annotations"])
    assert {s["true"] for s in listed} == {None}
    assert {s["scored_by"] for s in listed} == {"another file: 1 model"}
    assert "the training set of these models is another file" in " ".join(ran.stdout.split())
    assert "trained on them" not in ran.stdout
    assert json.loads(Path("out/assessment.json").read_text())["truth"] is None

    clean = {**document, "annotations": [dict(a) for a in document["annotations"][1:]]}
    clean["categories"] = [{**c, "id": 100 + c["id"]} for c in document["categories"]]
    for number, annotation in enumerate(clean["annotations"]):
        annotation["category_id"] = 101 + (annotation["category_id"] - (number % 2)) % 10
    Path("clean.json").write_text(json.dumps(clean))
    given = ("--data", "mine/own.json", "--images", "mine/images", "--truth")
    ran = lncis("suspects", whole, *given, "clean.json", "--out", "judged")
    assert ran.exit_code == 0, ran.output
    name = {c["id"]: c["name"] for c in clean["categories"]}
    true = {a["id"]: name[a["category_id"]] for a in clean["annotations"]}
    listed = json.loads(Path("judged/suspects.json").read_text())["suspects"]
    assert {s["annotation_id"]: s["true"] for s in listed} == {document["annotations"][0]["id"]: None, **true}
    truth = json.loads(Path("judged/assessment.json").read_text())["truth"]
    assert (truth["labels"], truth["errors"]) == (len(true), sum(s["true"] not in (None, s["given"]) for s in listed))
    assert truth["errors"] > 0
    sizes = Counter("small" if a["area"] < 32**2 else "medium" for a in clean["annotations"])
    assert {size: found["labels"] for size, found in truth["by_size"].items()} == sizes
    assert "warning: 1 annotations are not in clean.json" in ran.stdout
    assert "size, as COCO has it" in Path("judged/report.html").read_text()

    others = {
        "no_ids.json": (
            {**clean, "annotations": [{**a, "id": f"x{a['id']}"} for a in clean["annotations"]]},
            "none of",
        ),
        "named.json": (
            {**clean, "categories": [{**c, "name": f"n{c['id']}"} for c in clean["categories"]]},
            "category",
        ),
        "list.json": ([], "has no images"),
    }
    for file, (content, said) in others.items():
        Path(file).write_text(json.dumps(content))
        ran = lncis("suspects", whole, *given, file, "--out", "no")
        assert ran.exit_code in (1, 2), ran.output
        assert said in ran.stderr, ran.stderr
        assert ran.stderr.count("\n") == 1, ran.stderr
    ran = lncis("suspects", whole, "--truth", "clean.json", "--out", "no")
    assert "has clean_category_id already: its truth is known; leave out --truth" in ran.stderr


def test_a_users_file_that_changed_after_the_trainings_of_folds_is_noticed(config):
    data = digits.export(config.dataset, Path("mine"))
    own = replace(config, dataset=CocoData(images=data.images, train=data.train, test=data.test), noise=NoNoise())
    runs = [trained_at(replace(own, fold=Fold(number=k, of=2)), Path(f"run{k}")) for k in (0, 1)]
    document = json.loads(data.train.read_text())
    for annotation in document["annotations"][::2]:  # as a repair in place would
        annotation["category_id"] = document["categories"][0]["id"]
    data.train.write_text(json.dumps(document))
    ran = lncis("suspects", *runs, "--out", "out")
    assert ran.exit_code == 2, ran.output
    assert "which it should have left out: the data set has changed since" in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert not Path("out").exists()


def test_labels_held_out_of_the_users_file_are_judged_too(config):
    data = digits.export(config.dataset, Path("mine"))
    own = replace(
        config,
        dataset=CocoData(images=data.images, train=data.train, test=data.test, val_fraction=0.3),
        noise=NoNoise(),
        fold=Fold(number=0, of=2),
    )
    runs = [trained_at(replace(own, fold=Fold(number=k, of=2)), Path(f"run{k}")) for k in (0, 1)]
    ran = lncis("suspects", *runs, "--out", "out")
    assert ran.exit_code == 0, ran.output
    listed = json.loads(Path("out/suspects.json").read_text())["suspects"]
    assert len(listed) == len(json.loads(data.train.read_text())["annotations"])
    assert Counter(s["scored_by"].partition(":")[0] for s in listed).keys() == {
        "out of fold 0",
        "out of fold 1",
    }
    runs = [trained_at(replace(own, fold=None), Path("all"))]
    ran = lncis("suspects", *runs, "--out", "both")
    assert ran.exit_code == 0, ran.output
    listed = json.loads(Path("both/suspects.json").read_text())["suspects"]
    assert len(listed) == len(json.loads(data.train.read_text())["annotations"])
    assert Counter(s["scored_by"].partition(":")[0] for s in listed).keys() == {"in sample", "held out"}


def test_mistakes_are_said_in_one_line(folds, whole, config, digits_cache):
    full = Path("full")
    full.mkdir()
    (full / "file").touch()
    other = trained_at(replace(config, noise=replace(config.noise, seed=5)), Path("other"))
    Path("other.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    document = json.loads(json.dumps(datasets.load(config).test.document))
    document["categories"][0]["name"] = "nought"
    Path("nought.json").write_text(json.dumps(document))
    for arguments, said in (
        ([folds[0], "--out", "out"], "no model left out fold 1 of 2"),
        ([whole, *folds, "--out", "out"], "only some of the models were trained on folds"),
        ([whole, other, "--out", "out"], "was trained on other data or labels than"),
        ([whole, "--out", full], "holds something already"),
        ([whole, "--out", full / "file/out"], "cannot be written: "),
        ([whole, "--data", "other.json", "--out", "out"], "belong together"),
        ([whole, "--data", "nought.json", "--images", ".", "--out", "out"], "has other classes"),
        (["nowhere", "--out", "out"], "there is nothing of that name"),
    ):
        ran = lncis("suspects", *arguments)
        assert ran.exit_code in (1, 2), ran.output
        assert isinstance(ran.exception, SystemExit), ran.exception
        assert said in ran.stderr
        assert ran.stderr.count("\n") == 1, ran.stderr
    assert not Path("out").exists()
