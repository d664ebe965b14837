"""Studies side by side, from made-up journals."""

import io
import re
from pathlib import Path

from made_up_study import CE, Book, study_spec
from rich.console import Console

from lncis.studies.report import comparison
from lncis.studies.report.result import StudyResult

PAPER = {
    "table": "Table 1",
    "rows": [
        {"set": CE, "given": {"noise.rate": 0.2}, "AP": 34.2},
        {"set": {"loss.gamma": 4.0}, "given": {"noise.rate": 0.2}, "AP": 38.5},
        {"set": {"loss.gamma": 4.0}, "given": {"noise.rate": 0.4}, "AP": 38.1},
    ],
}


def study(
    rate: float, values: dict[str, float], *, complete: bool = True, directory: Path = Path("runs")
) -> StudyResult:
    gammas = {"loss.gamma": {"type": "categorical", "choices": [4.0]}}
    base = {"schedule": {"epochs": 4}, "noise": {"type": "symmetric", "rate": rate}}
    book = Book(study_spec(base=base, search=gammas, paper=PAPER))
    for number, (overrides, baseline) in enumerate([(CE, "ce"), ({"loss.gamma": 4.0}, None)]):
        for trial in book.spec.trials(number, overrides, baseline=baseline):
            book.train(trial, values[trial.label] + trial.seed)
    if complete:
        book.end_session()
    return book.result(directory)


def shown(*results: StudyResult) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=160).print(comparison.comparison_table(results))
    return [re.sub(r"[┃│]", " ", line).strip() for line in text.getvalue().splitlines()]


def cells(lines: list[str], label: str) -> list[str]:
    (line,) = (line for line in lines if line.startswith(label))
    return re.split(r"\s{2,}", line)[1:]


def test_a_column_is_a_study_and_a_row_a_configuration():
    lines = shown(study(0.2, {"ce": 30.0, "gamma = 4": 34.0}), study(0.4, {"ce": 20.0, "gamma = 4": 26.0}))
    assert "symmetric 20%" in lines[2] and "symmetric 40%" in lines[2]
    assert [cell.split(" ±")[0] for cell in cells(lines, "ce")] == ["31.5", "21.5"]  # test is one above val
    assert [cell.split(" ±")[0] for cell in cells(lines, "gamma = 4")] == ["35.5", "27.5"]
    assert cells(lines, "over the baseline") == ["+4.0 ± 0.0", "+6.0 ± 0.0"]


def test_the_papers_figures_stand_in_the_column_that_they_are_of():
    lines = shown(study(0.2, {"ce": 30.0, "gamma = 4": 34.0}), study(0.4, {"ce": 20.0, "gamma = 4": 26.0}))
    papers = [re.split(r"\s{2,}", line)[1:] for line in lines if line.startswith("paper  ")]
    assert papers == [["34.2"], ["38.5", "38.1"]]
    assert lines[-1] == "paper: Table 1"
    assert "each interval holds 95 % by itself: of 2 gains of nothing, 0.1 would exclude 0" in lines


def test_the_heading_says_the_realised_rate_and_the_title_for_what_the_intervals_hold(tmp_path):
    one = study(0.2, {"ce": 30.0, "gamma = 4": 34.0}, directory=tmp_path)
    stage = tmp_path / "stages" / "two-0000-seed0"
    stage.mkdir(parents=True)
    (stage / "noise.json").write_text('{"train": {"realised_rate": 0.16}}')
    lines = shown(one, study(0.4, {"ce": 20.0, "gamma = 4": 26.0}))
    assert "mean ± 95 % CI for this draw of the noise" in lines[0]
    assert "symmetric 20%" in lines[2] and "realised 16.0%" in lines[3]


def test_a_study_that_runs_is_said_to():
    lines = shown(study(0.2, {"ce": 30.0, "gamma = 4": 34.0}, complete=False))
    assert any(line.startswith("unfinished: ") for line in lines)
