"""Files bent at random, given to the commands: each ends with a result, or with its mistake and exit code 2."""

import copy
import json
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import test_coco_fuzz as fuzz
import test_coco_habits as habits
import yaml
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from lncis.commands import app as cli

LONGEST_SECONDS = 60.0
"""Of one command on such small files: what takes longer hangs."""
MOST_BYTES = 4 * 2**30

STUDIES = sorted((Path(__file__).parents[1] / "studies").glob("**/*.yaml"))
TRAINING = {
    "model": {"type": "digits_rcnn", "min_size": 64, "max_size": 64},
    "schedule": {"epochs": 1},
    "loss": {"type": "cross_entropy"},
}


def run(*arguments: str) -> Result:
    """Run a command; it ends in time, without a traceback, in less memory than `MOST_BYTES`."""
    started = time.monotonic()
    ran = CliRunner().invoke(cli.app, arguments)
    assert time.monotonic() - started < LONGEST_SECONDS, arguments
    assert ran.exit_code in (0, 2), (ran.output, ran.exception)
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    assert "Traceback" not in ran.output
    if ran.exit_code:
        assert "error: " in ran.stderr, ran.stderr
        assert len(ran.stderr) < 20_000, ran.stderr[:1000]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < MOST_BYTES
    return ran


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a sound file and a model that was trained on it."""
    root = tmp_path_factory.mktemp("commands")
    habits.write_images(root)
    (root / "sound.json").write_text(json.dumps(fuzz.SOUND))
    assert (
        run("train", str(config(root, "sound.json")), "--num-workers", "0", "--out", str(root / "model")).exit_code == 0
    )
    return root


def config(root: Path, name: str) -> Path:
    splits = habits.splits_of(root, root / name)
    dataset = {"type": "coco", **{field: str(path) for field, path in splits.items()}}
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"dataset": dataset, "noise": {"type": "none"}, **TRAINING}))
    return path


def agree(root: Path, document: Any) -> None:
    (root / "bent.json").write_text(json.dumps(document), encoding="utf-8", errors="surrogatepass")
    training, out = config(root, "bent.json"), root / f"out{time.monotonic_ns()}"
    trained = run("train", str(training), "--num-workers", "0", "--out", str(out))
    assert (out / "checkpoint.pt").exists() == (trained.exit_code == 0)
    evaluated = run("evaluate", str(root / "model"), "--config", str(training), "--json")
    if trained.exit_code == 0:
        assert evaluated.exit_code == 0 or "other classes" in evaluated.stderr, evaluated.stderr
    if evaluated.exit_code == 0:
        assert json.loads(evaluated.stdout)["test/segm_AP"] is not None
    found = root / f"found{time.monotonic_ns()}"
    options = ["--annotations", str(root / "bent.json"), "--out", str(found)]
    predicted = run("predict", str(root / "model"), str(root / "images"), *options)
    assert (found / "results.json").exists() == (predicted.exit_code == 0)


@settings(max_examples=12, derandomize=True, **fuzz.RELAXED)
@given(document=fuzz.bent())
def test_a_bent_coco_file_is_trained_on_evaluated_and_predicted_or_refused(folder, document):
    agree(folder, document)


@pytest.mark.slow
@settings(max_examples=400, **fuzz.RELAXED)
@given(document=fuzz.bent())
def test_hundreds_of_bent_coco_files_are_trained_on_evaluated_and_predicted_or_refused(folder, document):
    agree(folder, document)


def bend(draw: st.DrawFn, document: Any) -> None:
    for _ in range(draw(st.integers(1, 2))):
        if not (places := fuzz.places(document)[1:]):
            return  # all was taken out of it
        *above, key = draw(st.sampled_from(places))
        holder = document
        for step in above:
            holder = holder[step]
        match draw(st.sampled_from(["replace", "replace", "remove", "add"])):
            case "replace":
                holder[key] = copy.deepcopy(draw(fuzz.JUNK))
            case "remove":
                del holder[key]
            case "add" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["gamma", "seeds", "type", "loss.gamma", "", "ä"]))] = copy.deepcopy(
                    draw(fuzz.JUNK)
                )


@st.composite
def bent_studies(draw: st.DrawFn) -> str:
    """Return the text of a study that is shipped, bent in its values, its text, or both."""
    document = yaml.safe_load(draw(st.sampled_from(STUDIES)).read_text())
    if draw(st.booleans()):
        bend(draw, document)
    text = yaml.safe_dump(document, allow_unicode=True) if draw(st.booleans()) else json.dumps(document)
    if draw(st.booleans()):
        at, junk = (
            draw(st.integers(0, len(text))),
            draw(st.sampled_from(["\t", "- ", ": ", "&a ", "*a ", "{", "'", "!!int ", "\0", "<<: "])),
        )
        text = text[:at] + junk + text[at + draw(st.integers(0, 3)) :]
    return text


def plan(root: Path, text: str) -> None:
    study = root / "study.yaml"
    study.write_text(text, encoding="utf-8", errors="surrogatepass")
    run("study", "run", str(study), "--dry-run")
    assert not (root / "runs").exists()


@settings(max_examples=12, derandomize=True, **fuzz.RELAXED)
@given(text=bent_studies())
def test_a_bent_study_is_planned_or_refused(folder, text):
    plan(folder, text)


@pytest.mark.slow
@settings(max_examples=3000, **fuzz.RELAXED)
@given(text=bent_studies())
def test_thousands_of_bent_studies_are_planned_or_refused(folder, text):
    plan(folder, text)
