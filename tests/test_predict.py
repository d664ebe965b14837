"""`lncis evaluate` and `lncis predict` on what trainings leave, and what they say to bad input."""

import contextlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner

from lncis import datasets, documents
from lncis.coco import annotations
from lncis.commands import app as cli
from lncis.config import (
    AdamWOptimizer,
    CocoData,
    DigitsData,
    DigitsRCNN,
    LncisLoss,
    MaskRCNNResNet50FPN,
    NoNoise,
    Schedule,
    TrainConfig,
)
from lncis.detection import checkpoint, engine
from lncis.detection.inference import prediction
from lncis.metrics import AP_FIGURES
from lncis.studies import folders, trained
from lncis.studies.record.journal import End, EpochFinished, Journal, TrialEnded, TrialStarted
from lncis.studies.spec import StudySpec
from lncis.studies.stages.tree import STAGES, StageTree

CONFIG = TrainConfig(
    dataset=DigitsData(train_scenes=24, val_scenes=4, test_scenes=6),
    model=DigitsRCNN(weights="letters"),
    schedule=Schedule(epochs=4, evaluate_every=4),
    optimizer=AdamWOptimizer(lr=2e-3),
    batch_size=2,
)


def lncis(*arguments: str | Path | float) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, digits_cache: None) -> Path:
    """A training that detects something."""
    folder = tmp_path_factory.mktemp("kept") / "run"
    documents.claim(folder, CONFIG)
    engine.train(CONFIG, datasets.load(CONFIG), folder)
    return folder


@pytest.fixture
def run(kept: Path) -> Path:
    return Path(shutil.copytree(kept, "run"))


@pytest.fixture
def scenes() -> list[Path]:
    """The clean test scenes as image files."""
    data = datasets.load(CONFIG).test
    paths = [Path(image["file_name"]) for image in data.document["images"]]
    for index, path in enumerate(paths):
        pixels = data[index][0].mul(255).round().to(torch.uint8)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    return paths


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def one_line(ran: Result) -> str:
    assert ran.exit_code in (1, 2), ran.output
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("\n") == 1
    return ran.stderr.removeprefix("error: ").strip()


# evaluate


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluate_gives_the_trainings_own_figures(run: Path, split: str) -> None:
    recorded = checkpoint.load(run / engine.CHECKPOINT).history[-1]
    for place in (run, run / engine.CHECKPOINT):
        ran = lncis("evaluate", place, "--split", split, "--json")
        assert ran.exit_code == 0, ran.output
        found = json.loads(ran.stdout)
        assert found.pop("epoch") == 4
        assert found == {f"{split}/{figure}": recorded[f"{split}/{figure}"] for figure in AP_FIGURES}
    assert found[f"{split}/segm_AP_agnostic"] > 1, "there is something to compare"


def test_evaluate_prints_a_table_beside_the_record(run: Path) -> None:
    recorded = checkpoint.load(run / engine.CHECKPOINT).history[-1]["test/bbox_AP"]
    output = lncis("evaluate", run).output
    assert "test, 6 images" in output
    assert "epoch 4 of 4" in output
    assert f"│ test/bbox_AP          │ {recorded:.2f}" in output
    assert "recorded in training" in output
    on_train = lncis("evaluate", run, "--split", "train").output
    assert "train, 24 images" in on_train
    assert "recorded" not in on_train


@pytest.fixture
def study(run: Path) -> Path:
    """A study of two configurations whose stages hold the training's checkpoint; the second is the best."""
    document = {
        "name": "s",
        "base": documents.dump(replace(CONFIG, schedule=Schedule(epochs=4, stage1_epochs=2))),
        "search": {"loss.gamma": {"type": "categorical", "choices": [4.0, 8.0]}},
        "seeds": [0],
    }
    spec = documents.parse(StudySpec, document, source="study")
    folder = folders.claim_folder(Path("runs"), "s-1", spec)
    tree, journal = StageTree(spec, folder / STAGES), Journal(folder)
    for number, overrides in enumerate(spec.grid):
        (trial,) = spec.trials(number, overrides)
        tasks = tree.chain(trial)
        journal.append(
            TrialStarted(
                configuration=number,
                overrides=overrides,
                seed=0,
                noise_seed=None,
                baseline=None,
                stages={task.key: task.until for task in tasks},
                reused=[],
            )
        )
        for task in tasks:
            task.directory.mkdir(parents=True, exist_ok=True)
            shutil.copy(run / engine.CHECKPOINT, task.directory)
        journal.append(
            EpochFinished(
                trial=trial.name, record={"epoch": 4.0, "seconds": 1.0, "val/segm_AP": float(number)}, reused=False
            )
        )
        journal.append(TrialEnded(trial=trial.name, end=End.FINISHED, reason=""))
    journal.close()
    return folder


def test_a_study_stands_for_its_best_and_a_stage_for_its_trial(study: Path) -> None:
    best = trained.find(Path("runs/s-1"))
    assert best.config.loss == LncisLoss(gamma=8.0)
    stages = sorted((study / STAGES).iterdir())
    assert len(stages) == 3
    assert best.path.parent in stages
    assert {trained.find(stage).config.loss.gamma for stage in stages} == {4.0, 8.0}
    assert trained.find(best.path).config == trained.find(best.path.parent).config == best.config


def test_a_config_may_lie_elsewhere(run: Path) -> None:
    Path("elsewhere").mkdir()
    bare = Path("elsewhere/weights.pt")
    shutil.copy(run / engine.CHECKPOINT, bare)
    assert one_line(lncis("evaluate", bare)) == (
        f"{bare}: has no config.yaml beside it; say with --config which training it is of"
    )
    assert trained.find(bare, run / "config.yaml").config == CONFIG


# predict


def test_predicted_results_are_the_models_and_load_in_pycocotools(run: Path, scenes: list[Path]) -> None:
    data = datasets.load(CONFIG).test
    ids = [image["id"] for image in data.document["images"]]
    Path("truth.json").write_text(json.dumps(data.document))
    ran = lncis("predict", run, *scenes, "--out", "out", "--annotations", "truth.json", "--score", 0.2)
    assert ran.exit_code == 0, ran.output
    results = json.loads(Path("out/results.json").read_text())
    expected = engine.predict(trained.find(run).model(), data, engine.CPU)
    assert len(expected) > 6
    assert results == json.loads(json.dumps(expected))
    assert f"{sum(d['score'] >= 0.2 for d in expected)} instances with a score of 0.2 or more in 6 images" in ran.output
    assert {path.name for path in Path("out").iterdir()} == {"results.json"} | {
        f"{number}-{path.stem}.png" for number, path in zip(ids, scenes, strict=True)
    }
    with contextlib.redirect_stdout(io.StringIO()):
        assert len(COCO("truth.json").loadRes("out/results.json").anns) == len(results)


def test_without_annotations_the_images_are_numbered_in_their_order(run: Path, scenes: list[Path]) -> None:
    assert lncis("predict", run, scenes[2], scenes[0], "--out", "deep/out").exit_code == 0
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO("deep/out/images.json")
        found = truth.loadRes("deep/out/results.json")
    assert [(truth.imgs[i]["file_name"], truth.imgs[i]["width"]) for i in (1, 2)] == [
        (str(scenes[2]), 128), (str(scenes[0]), 128)
    ]  # fmt: skip
    assert {a["image_id"] for a in found.anns.values()} <= {1, 2}
    assert {category["name"] for category in truth.cats.values()} == set("0123456789")


def test_pictures_show_what_reaches_the_score(run: Path, scenes: list[Path]) -> None:
    for score, folder in ((0, "all"), (1, "none")):
        assert lncis("predict", run, scenes[0], "--out", folder, "--score", score).exit_code == 0
    drawn, plain = (pixels(f"{folder}/1-{scenes[0].stem}.png") for folder in ("all", "none"))
    assert drawn.shape == plain.shape == (640, 640, 3)
    assert (plain == pixels(scenes[0]).repeat(5, axis=0).repeat(5, axis=1)).all()
    assert (drawn != plain).any()


def test_grey_and_transparent_images_are_images(run: Path, scenes: list[Path]) -> None:
    with Image.open(scenes[0]) as scene:
        scene.convert("L").save("grey.png")
        scene.convert("RGBA").save("clear.png")
        scene.resize((300, 200)).save("wide.jpg")
    assert lncis("predict", run, "grey.png", "clear.png", "wide.jpg", "--out", "out").exit_code == 0
    assert pixels("out/3-wide.png").shape == (600, 900, 3)


def test_what_is_no_photograph_is_passed_over_in_a_folder(scenes: list[Path]) -> None:
    Path("photos/.thumbnails").mkdir(parents=True)
    for name in (
        "b.png",
        "a.JPG",
        "._a.JPG",
        ".thumbnails/a.png",
        "notes.pdf",
        "film.mpg",
        "c.mpo",
        "data.h5",
        "readme.txt",
    ):
        shutil.copy(scenes[0], Path("photos", name))
    assert prediction.found_in([Path("photos")]) == [Path("photos/a.JPG"), Path("photos/b.png"), Path("photos/c.mpo")]
    assert prediction.found_in([Path("photos/._a.JPG")]) == [Path("photos/._a.JPG")], "where it is named"


# bad input


def test_a_truncated_checkpoint_is_said(run: Path) -> None:
    path = run / engine.CHECKPOINT
    path.write_bytes(path.read_bytes()[:-5000])
    for command in (["evaluate", run], ["predict", run, "x.png", "--out", "out"]):
        assert "checkpoint.pt is not a readable checkpoint" in one_line(lncis(*command))


@pytest.mark.parametrize(
    "other",
    [
        replace(CONFIG, model=MaskRCNNResNet50FPN()),
        replace(CONFIG, model=DigitsRCNN(class_agnostic_masks=True)),
    ],
    ids=["another model", "other heads"],
)
def test_a_config_of_another_model_is_said(run: Path, other: TrainConfig) -> None:
    Path("other.yaml").write_text(documents.to_yaml(other))
    said = one_line(lncis("evaluate", run, "--config", "other.yaml"))
    assert "checkpoint.pt is not of the model that its config describes; name the right one with --config" in said


def test_other_classes_than_the_data_sets_are_said(run: Path) -> None:
    state = checkpoint.load(run / engine.CHECKPOINT)
    renamed = [{**category, "name": f"n{category['name']}"} for category in state.categories]
    checkpoint.save(replace(state, categories=renamed), run / engine.CHECKPOINT)
    assert "has other classes (1: n0, 2: n1, " in one_line(lncis("evaluate", run))


def test_a_folder_that_holds_no_run_is_said() -> None:
    Path("empty").mkdir()
    assert one_line(lncis("evaluate", "empty")).startswith("empty: holds neither checkpoint.pt nor spec.yaml; name")


def test_a_missing_run_is_said() -> None:
    assert one_line(lncis("evaluate", "nowhere")).startswith("nowhere: there is nothing of that name")


@pytest.fixture
def not_an_image() -> str:
    Path("notes.txt").write_text("not an image")
    return "notes.txt"


@pytest.fixture
def half_an_image(scenes: list[Path]) -> str:
    with Image.open(scenes[0]) as scene:
        scene.save("half.jpg")
    Path("half.jpg").write_bytes(Path("half.jpg").read_bytes()[:1500])
    return "half.jpg"


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ("missing.png", "missing.png: no such image; check the path"),
        (
            "not_an_image",
            "notes.txt: cannot be read as an image (cannot identify image file 'notes.txt'); replace it, "
            "or leave it out",
        ),
        (
            "half_an_image",
            "half.jpg: cannot be read as an image (image file is truncated (17 bytes not processed)); replace it, "
            "or leave it out",
        ),
    ],
)
def test_a_bad_image_is_named_and_nothing_is_written(
    run: Path, scenes: list[Path], request: pytest.FixtureRequest, bad: str, complaint: str
) -> None:
    path = bad if "." in bad else request.getfixturevalue(bad)
    before = {*Path().iterdir()}
    assert one_line(lncis("predict", run, scenes[0], path, "--out", "out")) == complaint
    assert {*Path().iterdir()} == before


def test_a_folder_in_use_is_left_alone(run: Path, scenes: list[Path]) -> None:
    before = {path: path.read_bytes() for path in run.iterdir()}
    said = one_line(lncis("predict", run, scenes[0], "--out", run))
    assert said == f"{run}: holds something already; name a new folder"
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_said(run: Path, scenes: list[Path]) -> None:
    said = one_line(lncis("predict", run, scenes[0], "--out", scenes[1] / "out"))
    assert "cannot be written: Not a directory; name another folder" in said


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda d: d["images"].pop(0), "truth.json has 0 images that test-00000.png may be; one is needed"),
        (lambda d: d["images"].append({**d["images"][0], "id": 99}), "truth.json has 2 images that test-00000.png may"),
        (lambda d: d["categories"][3].update(name="x"), "other categories than the model: 4 is x there and 3 here"),
        (
            lambda d: d.pop("images"),
            "truth.json: 1 JSON value at the top must be a mapping with images and categories",
        ),
    ],
)
def test_annotations_that_do_not_fit_are_said(run: Path, scenes: list[Path], change, complaint: str) -> None:
    document = json.loads(json.dumps(datasets.load(CONFIG).test.document))
    change(document)
    Path("truth.json").write_text(json.dumps(document))
    said = one_line(lncis("predict", run, scenes[0], "--out", "out", "--annotations", "truth.json"))
    assert complaint in said
    assert not Path("out").exists()


def test_an_image_in_a_folder_of_the_annotations_is_found_by_the_end_of_its_path(run: Path, scenes: list[Path]) -> None:
    document = datasets.load(CONFIG).test.document
    images = [{"id": 7, "file_name": f"a/{scenes[0]}"}, {"id": 8, "file_name": f"b/{scenes[0]}"}]
    Path("truth.json").write_text(json.dumps({**document, "images": images}))
    Path("b").mkdir()
    scenes[0].rename(Path("b") / scenes[0])
    ran = lncis("predict", run, Path("b") / scenes[0], "--out", "out", "--annotations", "truth.json")
    assert ran.exit_code == 0, ran.output
    assert Path(f"out/8-{scenes[0].stem}.png").exists()


def test_of_listed_names_that_fit_the_longest_is_meant_and_ids_with_slashes_stay_apart(
    run: Path, scenes: list[Path]
) -> None:
    document = datasets.load(CONFIG).test.document
    images = [{"id": "a_b", "file_name": "1.png"}, {"id": "a/b", "file_name": "sub/1.png"}]
    Path("truth.json").write_text(json.dumps({**document, "images": images}))
    Path("imgs/sub").mkdir(parents=True)
    shutil.copy(scenes[0], "imgs/1.png")
    shutil.copy(scenes[1], "imgs/sub/1.png")
    ran = lncis("predict", run, "imgs", "--out", "out", "--score", 0, "--annotations", "truth.json")
    assert ran.exit_code == 0, ran.output
    assert {path.name for path in Path("out").glob("*.png")} == {"a_b-1.png", "a%2Fb-1.png"}
    alone = lncis("predict", run, scenes[1], "--out", "alone")
    assert alone.exit_code == 0, alone.output
    of_second = [d["score"] for d in json.loads(Path("out/results.json").read_text()) if d["image_id"] == "a/b"]
    assert of_second == [d["score"] for d in json.loads(Path("alone/results.json").read_text())]


@pytest.mark.parametrize(
    "name", ["../imgs/{}", "imgs//{}", "imgs/./{}", "imgs/../imgs/{}", "imgs\\\\{}", "{cwd}/imgs/{}"]
)
def test_names_with_detours_are_found(run: Path, scenes: list[Path], name: str) -> None:
    Path("imgs").mkdir()
    shutil.copy(scenes[0], "imgs/1.png")
    Path("link").symlink_to("imgs")
    document = datasets.load(CONFIG).test.document
    images = [{"id": 5, "file_name": name.format("1.png", cwd=Path.cwd()), "width": None, "height": None}]
    Path("truth.json").write_text(json.dumps({**document, "images": images}))
    for folder in ("imgs", "link"):
        ran = lncis("predict", run, folder, "--out", f"out {folder}", "--annotations", "truth.json")
        assert ran.exit_code == 0, ran.output
        assert Path(f"out {folder}/5-1.png").exists()


def test_ids_and_names_of_any_length_have_pictures(run: Path, scenes: list[Path]) -> None:
    stem = "é" * 120
    shutil.copy(scenes[0], f"{stem}.png")
    images = [{"id": f"\0{'x' * 300}", "file_name": f"{stem}.png"}]
    Path("truth.json").write_text(json.dumps({**datasets.load(CONFIG).test.document, "images": images}))
    ran = lncis("predict", run, f"{stem}.png", "--out", "out", "--annotations", "truth.json", "--score", 0)
    assert ran.exit_code == 0, ran.output
    assert {d["image_id"] for d in json.loads(Path("out/results.json").read_text())} == {images[0]["id"]}


def test_the_folder_one_is_in_can_be_filled(run: Path, scenes: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty").mkdir()
    image = scenes[0].absolute()
    model = run.absolute()
    monkeypatch.chdir("empty")
    ran = lncis("predict", model, image, "--out", ".")
    assert ran.exit_code == 0, ran.output
    assert (image.parent / "empty/results.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said(run: Path) -> None:
    assert one_line(lncis("evaluate", run, "--gpu")) == "--gpu: torch finds no GPU here; leave it out"


def test_evaluate_says_where_the_files_are_others_than_those_trained_on(scenes: list[Path]) -> None:
    document = datasets.load(CONFIG).test.document
    parts = {"tested.json": {document["images"][0]["id"]}}
    parts["my.json"] = {image["id"] for image in document["images"]} - parts["tested.json"]
    for name, ids in parts.items():
        Path(name).write_text(json.dumps(annotations.with_images(document, ids)))
    config = replace(
        CONFIG,
        dataset=CocoData(images=Path.cwd(), train=Path("my.json").absolute(), test=Path("tested.json").absolute()),
        noise=NoNoise(),
        schedule=Schedule(epochs=1),
    )
    documents.claim(Path("mine"), config)
    engine.train(config, datasets.load(config), Path("mine"))
    assert lncis("evaluate", "mine", "--json").stderr == ""
    shutil.copy(scenes[1], scenes[0])
    shutil.copy(scenes[2], scenes[1])
    for split, changed in (("test", "images of test"), ("val", "images of train")):
        ran = lncis("evaluate", "mine", "--json", "--split", split)
        assert json.loads(ran.stdout)["epoch"] == 1
        assert ran.stderr == f"note: {changed} changed since the training: its record is of the earlier files\n"
