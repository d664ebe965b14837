"""Files of annotations, suspects and decisions, bent at random: used, or refused in one line."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import test_coco_fuzz as fuzz
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from suspect_documents import document, lay_out
from typer.testing import CliRunner

from lncis.commands import app as cli

COMMANDS = [
    ["suspects", "apply", "decisions.json", "in.json", "out.json", "--force"],
    ["suspects", "apply", "suspects.json", "in.json", "out.json", "--accept-above", "0.3", "--force"],
    ["suspects", "gallery", "suspects.json", "in.json", "out.html", "--images", "images", "--force"],
    ["suspects", "export", "suspects.json", "in.json", "--coco", "c.json", "--label-studio", "l.json", "--force"],
    ["noise", "join", "in.json", "clean.json", "joined.json", "--force"],
    ["noise", "join", "in.json", "clean.json", "joined.json", "--by-mask", "--force"],
]


def run(command: list[str]) -> Result:
    ran = CliRunner().invoke(cli.app, command)
    assert ran.exit_code in (0, 2), (command, ran.output, ran.exception)
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    if ran.exit_code:
        assert ran.stderr.startswith("error: ")
        assert ran.stderr.count("\n") == 1, ran.stderr
    return ran


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all files that the commands read."""
    root = tmp_path_factory.mktemp("suspects")
    made = lay_out(root)
    (root / "clean.json").write_text(json.dumps(document()))
    rows = [
        {"rank": s.rank, "image_id": s.image_id, "annotation_id": s.annotation_id, "given": s.given, "label": "dog"}
        for s in made.suspects
    ]
    decisions = {"lncis_decisions": 1, "list": made.digest, "annotations": "in.json", "decisions": rows}
    (root / "decisions.json").write_text(json.dumps(decisions))
    return root


def bend(draw: st.DrawFn, content: Any) -> None:
    for _ in range(draw(st.integers(1, 3))):
        *above, key = draw(st.sampled_from(fuzz.places(content)[1:]))
        holder = content
        for step in above:
            holder = holder[step]
        match draw(st.sampled_from(["replace", "replace", "remove", "double"])):
            case "replace":
                holder[key] = copy.deepcopy(draw(fuzz.JUNK))
            case "remove":
                del holder[key]
            case "double" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
        if not fuzz.places(content)[1:]:
            return


def check(files: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    monkeypatch.chdir(files)
    name = data.draw(st.sampled_from(["in.json", "suspects.json", "decisions.json", "clean.json"]))
    sound = Path(name).read_text("utf-8")
    content = json.loads(sound)

    @st.composite
    def bent(draw: st.DrawFn) -> Any:
        bend(draw, content)
        return content

    data.draw(bent())
    try:
        Path(name).write_text(json.dumps(content), encoding="utf-8")
        for command in COMMANDS:
            if name in command:
                run(command)
    finally:
        Path(name).write_text(sound, encoding="utf-8")


def test_the_sound_files_are_accepted(files, monkeypatch):
    monkeypatch.chdir(files)
    for command in COMMANDS:
        assert run(command).exit_code == 0, command


@settings(max_examples=40, derandomize=True, **fuzz.RELAXED)
@given(data=st.data())
def test_bent_files_are_used_or_refused_in_one_line(files, data):
    with pytest.MonkeyPatch.context() as monkeypatch:
        check(files, monkeypatch, data)


@pytest.mark.slow
@settings(max_examples=400, **fuzz.RELAXED)
@given(data=st.data())
def test_hundreds_of_bent_files_are_used_or_refused_in_one_line(files, data):
    with pytest.MonkeyPatch.context() as monkeypatch:
        check(files, monkeypatch, data)
