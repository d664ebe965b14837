"""Finished studies extended: against the same study run at once, and what is taken over."""

from dataclasses import replace
from pathlib import Path

import pytest
import small_study
import torch
from conftest import run_in
from simulated import LR, Session, finished, study, written
from study_command import one_line, run

from lncis import datasets, documents
from lncis.detection import checkpoint, engine
from lncis.errors import ConfigError, StudyError
from lncis.studies import folders
from lncis.studies.extension import extend, offer_stages
from lncis.studies.plan import plan
from lncis.studies.record.journal import SessionStarted
from lncis.studies.run import run_study
from lncis.studies.spec import StudySpec
from lncis.studies.stages.store import StageStore
from lncis.studies.stages.tree import STAGES

pytestmark = pytest.mark.usefixtures("journal_in_memory_of_the_disk")

GAMMAS = {"loss.gamma": {"type": "categorical", "choices": [4.0, 6.0, 8.0]}}
RATES = {"loss.gamma": {"type": "float", "low": 3.0, "high": 9.0}, "optimizer.lr": LR}


@pytest.fixture
def store(tmp_path):
    return StageStore(tmp_path / STAGES, 1e9)


def tried(session: Session) -> list[tuple]:
    return [
        (t.trial.overrides, t.trial.seed, [r["epoch"] for r in t.records], t.records[-1]) for t in session.result.trials
    ]


def refused(tmp_path, **changes) -> list[str]:
    with pytest.raises(ConfigError) as error:
        extend("s", tmp_path, changes)
    return error.value.problems


@pytest.mark.parametrize("type_", ["random", "tpe"])
def test_more_configurations_are_those_of_the_larger_study(tmp_path, store, type_):
    def of(number):
        return study(search=RATES, sampler={"type": type_, "configurations": number, "seed": 3})

    finished(tmp_path / "s", of(12), store)
    at_once = finished(tmp_path / "at once", of(16), None)
    extended = extend("s", tmp_path, {"sampler.configurations": 16})
    assert extended.differences == ["sampler.configurations: was 12, now 16"]
    assert extended.spec.extends.study == "s"
    went_on = finished(tmp_path / "more", extended.spec, store)
    assert tried(went_on) == tried(at_once)
    assert went_on.trained.total() == extended.to_train == 4 * 6
    assert went_on.result.cost.reused == 12 * 6


@pytest.mark.parametrize(
    ("changes", "trained"),
    [
        ({"seeds": [0, 1]}, 2 + 3 * 4),
        ({"search": {"loss.gamma": {"type": "categorical", "choices": [4.0, 5.0, 6.0, 8.0]}}}, 4),
        ({"baselines": {"ce": {"loss": {"type": "cross_entropy"}}}}, 4),
        ({"pruner": {"type": "asha"}}, 0),
    ],
    ids=["seeds", "space", "baseline", "pruner"],
)
def test_only_what_is_new_is_trained(tmp_path, store, changes, trained):
    finished(tmp_path / "s", study(search=GAMMAS), store)
    before = {path: path.read_bytes() for path in (tmp_path / "s").glob("*.*")}
    extended = extend("s", tmp_path, changes)
    assert extended.to_train == trained
    assert f"{extended.trained} epochs are taken over from it, {trained} are to train" in extended.lines()
    went_on = finished(tmp_path / "more", extended.spec, store)
    assert went_on.trained.total() == trained
    alone = finished(tmp_path / "alone", replace(extended.spec, extends=None), None)
    assert sorted(map(repr, tried(went_on))) == sorted(map(repr, tried(alone)))
    assert {path: path.read_bytes() for path in (tmp_path / "s").glob("*.*")} == before


def test_a_wider_space_keeps_what_the_sampler_was_told(tmp_path, store):
    finished(tmp_path / "s", study(search=RATES, sampler={"type": "tpe", "configurations": 12, "seed": 3}), store)
    wider = {**RATES, "loss.gamma": {**RATES["loss.gamma"], "high": 20.0}}
    extended = extend("s", tmp_path, {"search": wider, "sampler.configurations": 30})
    assert [line.partition(":")[0] for line in extended.differences] == [
        "search.loss.gamma.high",
        "sampler.configurations",
    ]
    went_on = finished(tmp_path / "more", extended.spec, store)
    earlier = folders.read_result(tmp_path, "s")
    points = [c.trial.overrides for c in went_on.result.searched]
    assert points[:12] == [c.trial.overrides for c in earlier.searched]
    assert max(point["loss.gamma"] for point in points[12:]) > 9.0  # the response grows with gamma


@pytest.mark.parametrize(("drops", "goes_on"), [([3], True), (None, False)])
def test_more_epochs_go_on_only_where_the_numbers_are_equal(tmp_path, store, drops, goes_on):
    schedule = {"epochs": 6, "stage1_epochs": 2, "lr_drops": drops}
    finished(tmp_path / "s", study(search=GAMMAS, base={"schedule": schedule}), store)
    extended = extend("s", tmp_path, {"schedule.epochs": 8})
    said = " ".join(extended.lines())
    if goes_on:  # two more epochs for each
        assert "3 trials go on from their last checkpoints" in said
        assert extended.to_train == 3 * 2
    else:  # the learning rate would have dropped after epoch 6 and not after epoch 5
        assert "others train anew after epoch 2, the end of the last stage whose numbers are equal" in said
        assert extended.to_train == 3 * 6
    assert offer_stages(extended.spec, tmp_path, store) == ""
    went_on = finished(tmp_path / "more", extended.spec, store)
    assert went_on.trained.total() == extended.to_train
    alone = finished(tmp_path / "alone", study(search=GAMMAS, base={"schedule": {**schedule, "epochs": 8}}), None)
    assert tried(went_on) == tried(alone)
    # and once more, from there
    again = extend("more", tmp_path, {"seeds": [0, 3]})
    assert again.spec.extends.study == "more"
    assert again.to_train == 2 + 3 * 6


def test_a_longer_training_that_goes_on_from_a_whole_one_is_the_longer_one_to_the_bit():
    """What a worker does with the stage: it goes on from the checkpoint of a training that had ended there."""
    short, longer = (
        small_study.spec(
            base=small_study.STUDY["base"] | {"schedule": {"epochs": epochs, "stage1_epochs": 1, "lr_drops": [2]}}
        ).configure({"loss.gamma": 2.4}, seed=0)
        for epochs in (3, 4)
    )
    data = datasets.load(short)
    engine.train(short, data, Path("short"))
    went_on = engine.train(longer, data, Path("more"), fork_from=Path("short"))
    alone = engine.train(longer, data, Path("alone"))
    assert small_study.without_time(went_on[3]) == small_study.without_time(alone[3])
    for ours, theirs in zip(went_on[:3], alone[:3], strict=True):
        assert all(ours[key] == value for key, value in theirs.items() if key != "seconds")
    assert {key.partition("/")[0] for key in set(went_on[2]) - set(alone[2])} == {"test"}  # it had ended there
    one, other = (checkpoint.load(Path(name) / engine.CHECKPOINT).model for name in ("more", "alone"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_an_extension_on_ray_shares_its_parents_stages_and_equals_the_study_made_at_once(small):
    """One more seed and one more configuration; to the bit, weights included."""
    runs, wider = small.directory.parent, {"type": "categorical", "choices": [2.4, 6.0, 4.0]}
    before = {path: path.read_bytes() for path in small.directory.rglob("*") if path.is_file()}
    extended = extend("small", runs, {"seeds": [0, 1], "search": {"loss.gamma": wider}})
    assert (extended.trained, extended.to_train) == (2 + 2 * 2, 2 + 2 + 3 * 2)
    went_on = run_in(runs.parent, extended.spec, study_id="extended")
    assert (went_on.cost.trained, went_on.cost.reused) == (10, 6)
    at_once = run_study(replace(extended.spec, extends=None), study_id="at-once")
    assert at_once.cost.trained == 16

    def found(result):
        return {t.trial.name: [small_study.without_time(record) for record in t.records] for t in result.trials}

    assert found(went_on) == found(at_once)
    for ours, theirs in zip(went_on.trials, at_once.trials, strict=True):
        one, other = (checkpoint.load(t.directory / engine.CHECKPOINT).model for t in (ours, theirs))
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert {path: path.read_bytes() for path in before} == before


def test_a_key_of_a_longer_training_is_that_of_its_stage():
    """Derived the other way round: the longer training's own stage, cut where the shorter one ends."""
    from lncis.studies.stages.tree import chain, key_within_longer

    short, long = (
        study(base={"schedule": {"epochs": epochs, "stage1_epochs": 2, "lr_drops": [3], "evaluate_every": 4}})
        for epochs in (6, 9)
    )
    ours, theirs = (spec.trials(0, {"loss.gamma": 4.0})[0] for spec in (short, long))
    data = {"images": "x"}
    key = key_within_longer(ours, short.resources, data)
    tasks = chain(theirs, long.resources, folders.Path(), ends_before=[6], data_of=lambda dataset: data)
    assert [task.until for task in tasks] == [2, 6, 9]
    assert tasks[1].key == key
    whole = chain(ours, short.resources, folders.Path(), data_of=lambda dataset: data)
    assert whole[-1].key != key  # that one was tested


def test_a_stage_that_the_store_has_deleted_comes_from_the_parents_folder(tmp_path, store):
    finished(tmp_path / "s", study(search=GAMMAS), None)
    extended = extend("s", tmp_path, {"seeds": [0, 1]})
    assert offer_stages(extended.spec, tmp_path, store) == ""
    assert finished(tmp_path / "more", extended.spec, store).trained.total() == extended.to_train


def test_a_parent_that_is_gone_or_of_other_code_offers_nothing_and_that_is_said(tmp_path, store):
    finished(tmp_path / "s", study(search=GAMMAS))
    extended = extend("s", tmp_path, {"seeds": [0, 1]})
    (tmp_path / "s").rename(tmp_path / "gone")
    said = "only what the stage store holds is taken over from study s"
    assert offer_stages(extended.spec, tmp_path, store).startswith(f"{said}: {tmp_path}: has no study 's'")
    (tmp_path / "gone").rename(tmp_path / "s")
    replaced = next(iter(plan(study(search=GAMMAS)).trials[0][1])).key
    journal = tmp_path / "s/journal.jsonl"
    journal.write_text(journal.read_text().replace(replaced, "0" * 16))
    assert offer_stages(extended.spec, tmp_path, store).startswith(f"{said}: study s was run with other code")
    assert not (tmp_path / STAGES).exists()


def test_seeds_are_added_to_a_study_with_folds_and_folds_are_not(tmp_path, store):
    finished(tmp_path / "s", study(search=GAMMAS, folds=2), store)
    extended = extend("s", tmp_path, {"seeds": [0, 1]})
    assert extended.to_train == extended.trained == 2 * (2 + 3 * 4)
    assert finished(tmp_path / "more", extended.spec, store).trained.total() == extended.to_train
    (line,) = refused(tmp_path, folds=5)
    assert line.startswith("folds: was 2, now 5: trials would be judged on another val")


def test_a_grid_goes_on_as_a_search(tmp_path, store):
    finished(tmp_path / "s", study(search=GAMMAS), store)
    extended = extend("s", tmp_path, {"sampler": {"type": "random", "configurations": 4}})
    assert extended.spec.sampler.first == plan(study(search=GAMMAS)).spec.grid


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"noise.rate": 0.3}, "base.noise.rate: was"),
        ({"objective.metric": "val/bbox_AP"}, "run it as a study of its own"),
        ({"seeds": [1, 2]}, "seeds: must keep [0], which the study was trained with; add to them"),
        ({"noise_seeds": [4, 5]}, "noise_seeds: must keep [0]"),
        ({"schedule.epochs": 5}, "schedule.epochs: must be 6 or more but got 5"),
        ({"baselines": {}}, "baselines.ce: must stay as it was trained; add baselines beside it"),
        ({"search": {**RATES, "loss.gamma": {"type": "float", "low": 8.9, "high": 9.0}}}, "widen it, do not move it"),
        ({"search": {"optimizer.lr": LR}}, "search.loss.gamma: an extension searches the same parameters"),
        ({"sampler.configurations": 2}, "sampler.configurations: must be 3 or more, as were tried, but got 2"),
        ({"extends": {"study": "other", "epochs": [1]}}, "extends: is set by lncis itself; leave it out"),
        ({}, "nothing differs from the finished study; say with --set what to add, such as seeds=[0,1,2]"),
        ({"seds": [0]}, "seds: names no field"),
    ],
)
def test_what_is_no_extension_is_refused_and_nothing_changes(tmp_path, changes, said):
    noisy = {"schedule": {"epochs": 6, "stage1_epochs": 2}, "noise": {"type": "symmetric", "rate": 0.4, "seed": 0}}
    sampler = {"type": "random", "configurations": 3}
    baselines = {"ce": {"loss": {"type": "cross_entropy"}}}
    finished(tmp_path / "s", study(search=RATES, base=noisy, sampler=sampler, baselines=baselines), None)
    there = sorted(tmp_path.rglob("*"))
    assert any(said in line for line in refused(tmp_path, **changes))
    assert sorted(tmp_path.rglob("*")) == there


def test_what_cannot_be_taken_over_is_said(tmp_path):
    with pytest.raises(ConfigError, match="has no study 'none'"):
        extend("none", tmp_path, {"seeds": [0, 1]})
    written(tmp_path / "half", study(), [SessionStarted(worker_groups=1, versions={}, code="c", storage="")])
    with pytest.raises(StudyError, match="study half is not finished; finish it first: lncis study run --resume half"):
        extend("half", tmp_path, {"seeds": [0, 1]})
    finished(tmp_path / "alone", study(sharing=False), None)
    with pytest.raises(StudyError, match="trained every trial alone"):
        extend("alone", tmp_path, {"seeds": [0, 1]})
    finished(tmp_path / "s", study(), None)
    journal = tmp_path / "s/journal.jsonl"
    key = next(iter(plan(study()).trials[0][1])).key
    journal.write_text(journal.read_text().replace(key, "0" * 16))  # as another version of the code would have it
    with pytest.raises(StudyError, match="study s was run with other code or on other data"):
        extend("s", tmp_path, {"seeds": [0, 1]})


def test_the_command_shows_what_differs_before_it_starts(tmp_path):
    finished(tmp_path / "s", study(search=GAMMAS), None)
    asked = run("extend", "s", "--runs", tmp_path, "--set", "seeds=[0,1]", "--dry-run")
    assert asked.exit_code == 0, asked.output
    assert "extends s:\n  seeds: was [0], now [0, 1]\n14 epochs are taken over from it, 14 are to train" in asked.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]
    assert "nothing differs" in one_line(run("extend", "s", "--runs", tmp_path))
    assert "has no study" in one_line(run("extend", tmp_path / "s", "--runs", tmp_path)), "a path is no id"


def test_the_result_names_its_parent(tmp_path, store):
    from lncis.studies.report.conclusions import conclusions
    from lncis.studies.report.result import result_document

    finished(tmp_path / "s", study(search=GAMMAS), store)
    extended = extend("s", tmp_path, {"seeds": [0, 1]})
    result = finished(tmp_path / "more", extended.spec, store).result
    assert "extends s, whose result is in its own folder" in conclusions(result)
    assert result_document(result)["extends"] == "s"
    again = documents.parse(StudySpec, documents.dump(extended.spec), source="again")
    assert again == extended.spec
