"""The studies of VOC, Cityscapes and COCO on files made up in the place of the real ones: they are planned, and train.

What is real is the way: paths, recipes, schedule, losses and the resnet50 model. Nothing is said about figures.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lncis import datasets
from lncis.commands.app import app
from lncis.detection import engine
from lncis.studies.spec.files import load_spec

ROOT = Path(__file__).parents[1] / "studies"
STUDIES = sorted(path for data in ("voc", "cityscapes", "coco") for path in (ROOT / data).glob("*.yaml"))
COUNTS = {"voc": 20, "cityscapes": 8, "coco": 80}
README = (ROOT / "README.md").read_text()

TINY = {
    "model.weights": "none",
    "model.min_size": 64,
    "model.max_size": 96,
    "model.other_train_sizes": [],
    "schedule.epochs": 2,
    "schedule.stage1_epochs": 1,
    "schedule.lr_drops": [],
    "batch_size": 4,
}
"""Two steps an epoch on eight images, one epoch a stage."""


def write_data(name: str) -> None:
    """Write `data/<name>` below the current folder: nine images to train on, one of them for val, two to test."""
    rng = np.random.default_rng(0)
    folder = Path("data") / name
    (folder / "images").mkdir(parents=True)
    categories = [{"id": k + 1, "name": f"class {k}"} for k in range(COUNTS[name])]
    for split, count in (("train", 9), ("test", 2)):
        images, annotations = [], []
        for number in range(count):
            file = f"{split}{number}.png"
            Image.fromarray(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(folder / "images" / file)
            images.append({"id": number + 1, "file_name": file, "width": 96, "height": 64})
            for left in (4, 50):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number + 1,
                        "category_id": int(rng.integers(COUNTS[name])) + 1,
                        "bbox": [left, 10, 36, 44],
                        "area": 36 * 44 / 2,
                        "iscrowd": 0,
                        "segmentation": [[left, 10, left + 36, 10, left, 54]],
                    }
                )
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(document))


def epochs_of(path: Path) -> tuple[str, str]:
    """Return the epochs to train and those requested, as a dry run of a study says them."""
    write_data(path.parent.name)
    answer = CliRunner().invoke(app, ["study", "run", str(path), "--dry-run"])
    assert answer.exit_code == 0, answer.output
    found = re.search(r"(\d+) epochs\s+to\s+train\s+for\s+(\d+)\s+requested", answer.output)
    assert found
    return found.group(1), found.group(2)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: f"{path.parent.name}_{path.stem}")
def test_a_dry_run_plans_the_epochs_that_the_readme_says(path):
    trained, requested = epochs_of(path)
    name = f"{path.parent.name}/{path.name}"
    row = re.search(rf"\| `lncis study run studies/{re.escape(name)}` \| (\d+) of (\d+) \| (\d+) \| (\d+) \|", README)
    assert row, f"no row of {name} in studies/README.md"
    assert row.groups()[:2] == (trained, requested)
    images, pace = {"voc": (5061, 13.8), "coco": (105539, 7.75), "cityscapes": (2668, 3.9)}[path.parent.name]
    assert int(row.group(3)) == images
    assert int(row.group(4)) == round(int(trained) * images / pace / 3600)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["voc/table1", "cityscapes/table3", "coco/table2"])
def test_one_study_of_each_data_set_trains_two_steps_of_each_stage(name):
    write_data(name.partition("/")[0])
    study = load_spec(ROOT / f"{name}.yaml", TINY)
    config = study.configure({"loss.type": "lncis"}, seed=0)
    history = engine.train(config, datasets.load(config), Path("out"))
    assert [record["epoch"] for record in history] == [1, 2]
    assert all(np.isfinite(record["train/loss"]) for record in history)
    assert "test/segm_AP" in history[-1]
