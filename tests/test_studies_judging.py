"""A study is judged at each of its three doors, and nowhere else."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lncis import documents
from lncis.errors import ConfigError
from lncis.studies import estimate, folders
from lncis.studies.plan import plan
from lncis.studies.run import run_study
from lncis.studies.spec import StudySpec, judge, judging
from lncis.studies.spec.files import load_spec, portable_spec_document
from lncis.studies.spec.space import Categorical
from service.api.submission import bodies, plans
from service.settings import Settings

GOOD = {"name": "s", "search": {"loss.gamma": {"type": "categorical", "choices": [4.0, 6.0]}}}
BAD = {"name": "s", "search": {"loss.gamma": {"type": "categorical", "choices": [4.0, -1.0]}}, "seeds": [1, 1]}
PROBLEMS = [
    "seeds must differ but got [1, 1]",
    "search.loss.gamma: must be a number greater than 0, or auto but got -1.0",
]
RUNS = Path("runs")


def made_in_python() -> StudySpec:
    return StudySpec(name="s", search={"loss.gamma": Categorical(choices=[4.0, -1.0])}, seeds=[1, 1])


def from_yaml() -> StudySpec:
    Path("bad.yaml").write_text(json.dumps(BAD))
    return load_spec(Path("bad.yaml"))


def from_yaml_changed() -> StudySpec:
    Path("good.yaml").write_text(json.dumps(GOOD))
    return load_spec(Path("good.yaml"), {"search": BAD["search"], "seeds": [1, 1]})


def from_request() -> StudySpec:
    return bodies.to_spec(BAD, Settings(runs=RUNS))


def from_preset() -> StudySpec:
    Path("presets").mkdir()
    Path("presets/good.yaml").write_text(json.dumps(GOOD))
    changes = {"search": BAD["search"], "seeds": [1, 1]}
    return bodies.to_spec({"preset": "good", "set": changes}, Settings(runs=RUNS, presets=Path("presets")))


def planned_in_python() -> None:
    plan(made_in_python())


def run_in_python() -> None:
    run_study(made_in_python(), runs=RUNS)


def estimated_in_python() -> None:
    estimate.estimate(plan(made_in_python()), RUNS)


def of_a_judged_one() -> None:
    plan(replace(judge(StudySpec(**GOOD)), search=made_in_python().search, seeds=[1, 1]))


@pytest.mark.parametrize(
    "door",
    [
        from_yaml,
        from_yaml_changed,
        from_request,
        from_preset,
        planned_in_python,
        run_in_python,
        estimated_in_python,
        of_a_judged_one,
    ],
)
def test_no_study_that_cannot_be_run_comes_in(door) -> None:
    with pytest.raises(ConfigError) as caught:
        door()
    assert caught.value.problems == PROBLEMS
    assert not RUNS.exists(), "nothing was begun"


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The studies that were judged, from now on."""
    names, find = list[str](), judging._problems
    monkeypatch.setattr(judging, "_problems", lambda spec, rule: names.append(spec.name) or find(spec, rule))
    return names


def test_a_request_is_judged_once_on_its_whole_way(judged: list[str]) -> None:
    spec = bodies.to_spec(GOOD, Settings(runs=RUNS))
    stored = documents.plain(documents.dump(spec))
    again = documents.parse(StudySpec, stored, source="the database")
    for number in (2, 3):  # as the dispatcher does, before each attempt
        changed = replace(again, resources=replace(again.resources, max_concurrent_trials=number))
        folder = folders.claim_folder(RUNS, "s-1", changed, update=True)
    (folder / "journal.jsonl").touch()
    resumed = folders.read_spec(RUNS, "s-1")
    assert resumed.resources.max_concurrent_trials == 3
    assert plan(resumed).sharing.requested == 40
    assert judge(resumed) is resumed  # as run_study does
    assert estimate.pace_of(replace(resumed, resources=replace(resumed.resources, gpus_per_worker=1)), RUNS) is None
    assert judged == ["s"]
    assert plans.plan_study(stored, RUNS).trials_total == 2
    assert judged == ["s"]


def test_a_file_is_judged_once_and_one_for_the_service_not_here(judged: list[str]) -> None:
    Path("good.yaml").write_text(json.dumps(GOOD))
    spec = load_spec(Path("good.yaml"), {"seeds": [3, 4]})
    plan(spec)
    assert judge(spec) is spec
    assert judged == ["s"]
    assert portable_spec_document(Path("good.yaml"), {"seeds": [3, 4]})["seeds"] == [3, 4]
    assert judged == ["s"]


def test_what_a_study_remembers_of_its_judgement_is_no_part_of_it() -> None:
    spec, other = StudySpec(**GOOD), StudySpec(**GOOD)
    assert judge(spec) == other
    assert documents.dump(spec) == documents.dump(other)
    assert documents.to_yaml(spec) == documents.to_yaml(other)
    assert repr(spec) == repr(other)
