"""The scaling model of docs/cluster.md: its sums, and its epochs against the planner of studies."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lncis import documents
from lncis.execution.tasks import Task
from lncis.studies.plan import makespan, plan
from lncis.studies.spec import StudySpec

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "cluster.md").read_text()
ROWS = {
    int(number): [float(cell) for cell in cells.split("|")[:-1]]
    for number, cells in re.findall(r"^\| (\d): [^|]*\|(.*)$", TEXT, re.MULTILINE)
}
NOISES: list[dict[str, Any]] = [{"type": "none"}] + [
    {"type": type_, "rate": rate}
    for type_, rates in {"symmetric": (0.2, 0.4, 0.6, 0.8), "asymmetric": (0.2, 0.4)}.items()
    for rate in rates
]


def chains(schedule: dict[str, Any], path: str, choices: Sequence[float], **more: Any) -> list[list[Task]]:
    base = {"schedule": schedule} | more.pop("base", {})
    search = {path: {"type": "categorical", "choices": list(choices)}}
    document = {"name": "table", "base": base, "search": search} | more
    return [tasks for _, tasks in plan(documents.parse(StudySpec, document, source="test")).trials]


def trained(trials: list[list[Task]]) -> float:
    return makespan(trials, worker_groups=1, seconds_per_epoch=1)


@pytest.mark.parametrize("row", ROWS.values(), ids=[f"table {number}" for number in ROWS])
def test_hours_and_money_are_what_the_formula_gives(row):
    _, asked, trained, images, a_second, hours_asked, hours, spot, on_demand = row
    assert trained < asked
    assert hours_asked == round(asked * images / a_second / 3600)
    exact = trained * images / a_second / 3600
    assert (hours, spot, on_demand) == (round(exact), round(exact * 0.45), round(exact * 1.006))


@pytest.mark.parametrize(("table", "epochs", "other_losses"), [(1, 12, 4), (2, 12, 1), (3, 64, 1)])
def test_lncis_shares_stage_1_with_cross_entropy_of_the_same_noise(table, epochs, other_losses):
    baselines = {"cross entropy": {"loss": {"type": "cross_entropy"}}}
    two = [
        chain
        for noise in NOISES
        for chain in chains({"epochs": epochs}, "loss.gamma", [6.0], baselines=baselines, base={"noise": noise})
    ]
    others = other_losses * len(NOISES) * epochs
    trainings, asked, trained_epochs, *_ = ROWS[table]
    assert trainings == len(two) + other_losses * len(NOISES)
    assert (asked, trained_epochs) == (2 * len(NOISES) * epochs + others, trained(two) + others)


def test_table_5_has_one_trunk_and_table_6_one_stage_1():
    path = "schedule.stage1_epochs"
    five = chains({"epochs": 12}, path, [3, 6, 9]) + chains({"epochs": 18}, path, [6, 9, 12, 15])
    six = chains({"epochs": 12}, "loss.gamma", [4.0, 5.0, 6.0, 7.0, 8.0, math.inf])
    for table, trials in ((5, five), (6, six)):
        assert ROWS[table][:3] == [len(trials), sum(chain[-1].until for chain in trials), trained(trials)]
    said = re.search(r"Table 6 ends after (\d+) epochs.*?Table 5 after (\d+)", TEXT, re.DOTALL)
    assert said and [float(n) for n in said.groups()] == [makespan(trials, 4, 1) for trials in (six, five)]


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", TEXT))
def test_its_links_lead_somewhere(link):
    assert (ROOT / "docs" / link).exists()


def test_the_scripts_and_settings_it_names_exist():
    files = {file.name for file in (ROOT / "service" / "deploy").rglob("*")}
    assert set(re.findall(r"`(\w[\w-]*\.(?:sh|json))`", TEXT)) <= files
    own = (ROOT / "service" / "deploy" / "own-machines.yaml").read_text()
    settings = own + (ROOT / "docs" / "service.md").read_text()
    assert all(name in settings for name in re.findall(r"`(LNCIS_\w+)`", TEXT))
