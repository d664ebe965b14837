"""Sound files bent at random: check, train, evaluate and noise accept the same, and answer the rest in one line."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import test_coco_habits as habits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from lncis import data_identity, datasets
from lncis.coco import annotations, images
from lncis.commands import app as cli
from lncis.config import CocoData, NoNoise, TrainConfig
from lncis.detection.inference import coco_eval
from lncis.errors import DataError

JUNK: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 50),
    st.sampled_from([2**31, 2**63, 2**64 + 1, -(2**63), 10**30, 10**400]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(["", "1", "2.0", "1e3", "a/b", "..", "\0", "\ud800", "ä", "x" * 300, "-0", "¼"]),
    st.sampled_from([[], {}, [[]], [None], [1, 2], [[1, 2, 3]], {"size": [30, 40], "counts": "1"}, [[1e9] * 6]]),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of each value in a document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, inner in inside for deeper in places(inner, (*path, key)))]


SOUND = habits.sound()
PLACES = places(SOUND)[1:]


@st.composite
def bent(draw: st.DrawFn) -> Any:
    """Return a sound document in which a few values are removed, doubled or replaced by junk."""
    document = copy.deepcopy(SOUND)
    for _ in range(draw(st.integers(1, 3))):
        *above, key = draw(st.sampled_from(PLACES))
        try:
            holder = document
            for step in above:
                holder = holder[step]
            match draw(st.sampled_from(["replace", "replace", "remove", "double"])):
                case "replace":
                    holder[key] = copy.deepcopy(draw(JUNK))  # a later change may bend it, too
                case "remove":
                    del holder[key]
                case "double" if isinstance(holder, list):
                    holder.append(copy.deepcopy(holder[key]))
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    return document


def accepted(folder: Path, text: str) -> bool:
    """Say whether a training on the file begins; whatever is accepted can be trained on and evaluated."""
    (folder / "file.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    file = folder / "file.json"
    config = CocoData(**habits.splits_of(folder, file))
    try:
        data = datasets.load(TrainConfig(dataset=config, noise=NoNoise()))
        datasets.inspect(config, data)
    except DataError as error:
        assert "\n" not in str(error)
        return False
    data_identity.identify(config)
    for image, target in data.train:
        corners = target["boxes"]
        assert image.isfinite().all()
        assert corners.isfinite().all()
        assert (corners[:, 2:] > corners[:, :2]).all()
        assert target["masks"].full_size().flatten(1).any(dim=1).all()
    whole = data.test.document
    detections = [
        {key: entry[key] for key in ("image_id", "category_id", "bbox")}
        | {"score": 0.9, "segmentation": annotations.to_rle(entry["segmentation"], habits.HEIGHT, habits.WIDTH)}
        for entry in whole["annotations"]
        if entry["image_id"] in {1, 2, 3}
    ]
    for evaluate in (coco_eval.by_hotcoco, coco_eval.by_pycocotools):
        for array in evaluate(whole, detections):
            assert not math.isnan(float(array.sum()))
    return True


def agree(folder: Path, document: Any) -> None:
    (folder / "cache").mkdir(exist_ok=True)
    text = json.dumps(document)
    trains = accepted(folder, text)
    run = CliRunner().invoke
    checked = run(cli.app, ["data", "check", str(folder / "file.json"), "--images", str(folder / "images")])
    out = folder / "noisy.json"
    options = ["--type", "symmetric", "--rate", "0.5", "--seed", "0", "--force"]
    noisy = run(cli.app, ["noise", str(folder / "file.json"), str(out), *options])
    for ran, code in ((checked, 1), (noisy, 2)):
        assert ran.exit_code in (0, code), (ran.output, ran.exception)
        assert ran.exit_code == 0 or ran.stderr.count("\n") == 1, ran.stderr
    assert (checked.exit_code == 0) == trains, checked.output
    if trains:
        assert noisy.exit_code == 0, noisy.output
        assert annotations.look(out).errors == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images of the sound document."""
    root = tmp_path_factory.mktemp("fuzz")
    habits.write_images(root)
    return root


RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


def test_the_sound_document_is_accepted(folder):
    assert accepted(folder, json.dumps(SOUND))


@settings(max_examples=120, derandomize=True, **RELAXED)
@given(document=bent())
def test_a_bent_file_is_read_alike_everywhere_or_answered_in_one_line(folder, document):
    agree(folder, document)


@pytest.mark.slow
@settings(max_examples=5000, **RELAXED)
@given(document=bent())
def test_thousands_of_bent_files_are_read_alike_everywhere_or_answered_in_one_line(folder, document):
    agree(folder, document)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of what it reads nevertheless
@settings(max_examples=100, derandomize=True, **RELAXED)
@given(ending=st.sampled_from(["png", "jpg", "tif", "gif"]), at=st.integers(0, 400), junk=st.binary(max_size=6))
def test_a_bent_image_is_read_or_answered_in_one_line(folder, ending, at, junk):
    path = folder / f"bent.{ending}"
    Image.effect_noise((habits.WIDTH, habits.HEIGHT), 50).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:at] + junk + content[at + len(junk) :][: None if len(junk) % 2 else 100])
    try:
        assert images.read(path, habits.WIDTH, habits.HEIGHT).shape == (habits.HEIGHT, habits.WIDTH, 3)
    except DataError as error:
        assert "\n" not in str(error)
        assert str(path) in str(error)


@settings(max_examples=60, derandomize=True, **RELAXED)
@given(cut=st.integers(0, 2000), junk=st.binary(max_size=4))
def test_bent_text_is_answered_in_one_line(folder, cut, junk):
    content = json.dumps(SOUND).encode()
    (folder / "file.json").write_bytes(content[:cut] + junk + content[cut + len(junk) :])
    ran = CliRunner().invoke(cli.app, ["data", "check", str(folder / "file.json")])
    assert ran.exit_code in (0, 1, 2), (ran.output, ran.exception)  # 1: it is JSON, and has faults
    assert ran.exit_code == 0 or ran.stderr.count("\n") == 1
