"""What the README and the manual tell a newcomer is true."""

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lncis import documents
from lncis.commands import app as cli
from lncis.studies.plan import plan
from lncis.studies.spec import StudySpec

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT): path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
README, MANUAL = PAGES[Path("README.md")], "\n".join(PAGES.values())


def test_it_is_short():
    assert len(README.splitlines()) <= 165
    assert len([word for word in README.split() if word != "|"]) <= 1300


def test_its_study_loads_and_can_be_planned():
    (text,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    study = yaml.safe_load(text)
    assert plan(documents.parse(StudySpec, study, source="README.md")).sharing.requested > 0
    (more,) = re.findall(r"```yaml\n(.*?)```", PAGES[Path("docs/studies.md")], flags=re.DOTALL)
    changes = yaml.safe_load(more)
    with_a_pruner = documents.parse(StudySpec, study | changes | {"secondary_objectives": []}, source="studies.md")
    with_two_objectives = documents.parse(
        StudySpec, study | changes | {"pruner": {"type": "none"}}, source="studies.md"
    )
    assert plan(with_a_pruner).sharing.requested > plan(with_two_objectives).sharing.trained > 0


def test_its_python_runs():
    import torch

    from lncis.config import DigitsRCNN
    from lncis.detection.mask_rcnn.models import build_model

    names = {"class_logits": torch.randn(8, 11), "labels": torch.arange(8), "model": build_model(DigitsRCNN(), 10)}
    for code in re.findall(r"```python\n(.*?)```", PAGES[Path("docs/training.md")], flags=re.DOTALL):
        exec(code, names)
    assert names["loss"].isfinite()
    assert names["model"].roi_heads.class_loss is names["lncis_stage2"]


def test_the_make_targets_it_names_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`|^    make ([a-z-]+)", MANUAL, flags=re.MULTILINE)) - {("", "")} <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }


def test_the_commands_and_options_it_names_exist():
    runner = CliRunner()
    commands = "train", "evaluate", "predict", "weights", "noise", "noise join", "data check", "study run"
    for command in map(str.split, (*commands, "suspects gallery", "suspects apply", "suspects export")):
        output = runner.invoke(cli.app, [*command, "--help"], terminal_width=200).output
        said = [line for line in MANUAL.splitlines() if f".venv/bin/lncis {' '.join(command)} " in line]
        assert said
        for option in {option for line in said for option in re.findall(r"(?<= )--[a-z-]+", line)}:
            assert option in output


@pytest.mark.parametrize(
    ("page", "link"),
    [
        (page, link)
        for page, text in PAGES.items()
        for link in re.findall(r"\]\((?!http|#)([^)#]+)(?:#[a-z-]+)?\)", text)
    ],
)
def test_its_links_lead_somewhere(page, link):
    assert (ROOT / page.parent / link).exists()
