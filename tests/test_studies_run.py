"""Two whole studies on real Tune trials, worker groups and MLflow; each serves several tests."""

import json
import math
from pathlib import Path

import mlflow
import pytest
import small_study
import torch
from conftest import run_in
from small_study import STUDY, Watch

from lncis import datasets, documents
from lncis.config import TrainConfig
from lncis.detection import checkpoint, engine
from lncis.errors import StudyError
from lncis.studies import run
from lncis.studies.record.history import History
from lncis.studies.record.journal import End, SessionStarted
from lncis.studies.report import table
from lncis.studies.report.result import StudyResult
from lncis.studies.search import Suggester
from lncis.studies.spec import StudySpec


@pytest.fixture(name="study")
def finished(watched: tuple[StudyResult, Watch]) -> tuple[StudyResult, Watch]:
    return watched


def test_every_trial_ends_and_a_failed_one_does_not_end_the_study(study):
    result, _ = study
    failed = {t.trial.label: t.reason for t in result.trials if t.reason}
    assert list(failed) == ["diverging", "huge"]
    assert "the loss is" in failed["diverging"]
    assert {t.trial.label for t in result.trials if not t.reason} == {"cross entropy", "gamma = 2.4", "gamma = 6"}
    assert result.best.trial.label in ("gamma = 2.4", "gamma = 6")


def test_a_trial_that_runs_out_of_memory_fails_alone(study):
    result, _ = study
    (huge,) = (t for t in result.trials if t.trial.label == "huge")
    assert huge.end is End.FAILED
    assert huge.reason.startswith("out of memory; lower batch_size (4)")


def test_observers_see_each_trial_from_its_start_through_all_epochs_to_its_end(study):
    _, watch = study
    epochs = [f"epoch {number}" for number in range(1, 7)]
    for label in ("cross entropy", "gamma = 2.4", "gamma = 6"):
        assert [what for who, what in watch.seen if who == label] == ["start", *epochs, "finished"]


def test_stage_1_is_trained_once_for_all_that_share_it(study):
    result, _ = study
    # CE and two gammas: two shared epochs and four each of their own; those that fail do not finish one
    assert (result.cost.requested, result.cost.trained, result.cost.shared, result.cost.skipped) == (30, 14, 4, 12)
    firsts = {json.dumps(t.records[:2]) for t in result.trials if not t.reason}
    assert len(firsts) == 1, "the first epochs of all are the same records, their durations included"


def test_a_trial_of_a_study_equals_the_same_training_run_alone(study):
    result, _ = study
    trial = next(t for t in result.trials if t.trial.label == "gamma = 2.4")
    engine.train(trial.trial.config, datasets.load(trial.trial.config), Path("alone"))
    alone, forked = (checkpoint.load(folder / engine.CHECKPOINT) for folder in (Path("alone"), trial.directory))
    assert all(torch.equal(alone.model[key], forked.model[key]) for key in alone.model)


def test_mlflow_holds_study_and_trials_with_their_curves(study):
    result, _ = study
    client = mlflow.MlflowClient(f"sqlite:///{result.directory.parents[1]}/tracking.db")
    experiment = client.get_experiment_by_name("whole")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    stages = [run for run in children if run.info.run_name.startswith("stage ")]
    assert sorted(run.info.status for run in stages) == ["FINISHED", "KILLED", "KILLED"], "of those that fail none ends"
    children = [run for run in children if run not in stages]
    assert parent.info.run_name == result.study_id
    assert parent.info.status == "FINISHED"
    assert {"best.yaml", "plot.png", "spec.yaml", "table.txt", "results.json", "table.csv"} <= {
        file.path for file in client.list_artifacts(parent.info.run_id)
    }
    for metric in ("val/segm_AP_agnostic", "test/segm_AP_agnostic"):
        assert parent.data.metrics[f"best/{metric}"] == pytest.approx(result.best.over_seeds(metric).mean)
    status = {run.info.run_name: run.info.status for run in children}
    assert status == {
        "cross entropy, seed 0": "FINISHED",
        "diverging, seed 0": "FAILED",
        "huge, seed 0": "FAILED",
        "gamma = 2.4, seed 0": "FINISHED",
        "gamma = 6, seed 0": "FINISHED",
    }
    for t in (t for t in result.trials if not t.reason):
        (run,) = (run for run in children if run.info.run_name == f"{t.trial.label}, seed 0")
        curve = client.get_metric_history(run.info.run_id, "train/loss")
        assert [(point.step, point.value) for point in curve] == [(r["epoch"], r["train/loss"]) for r in t.records]
        assert run.data.params["loss.type"] == t.trial.config.loss.type
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["noise.json"]
    (diverging,) = (run for run in children if run.info.run_name == "diverging, seed 0")
    assert "the loss is" in diverging.data.tags["lncis.reason"]


def test_the_folder_holds_what_the_study_found(study):
    result, _ = study
    best = documents.load(TrainConfig, result.directory / "best.yaml")
    assert best == result.best.trial.config
    again = documents.load(StudySpec, result.directory / "spec.yaml")
    assert again == result.spec
    figures = json.loads((result.directory / "results.json").read_text())
    assert len(figures["trials"]) == 5
    assert "gamma = 2.4" in (result.directory / "table.txt").read_text()
    assert (result.directory / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert len((result.directory / "table.csv").read_text().splitlines()) == 6


def test_the_conclusions_say_what_failed_and_that_one_seed_decides_nothing(study):
    result, _ = study
    lines = "\n".join(table.conclusions(result))
    assert "failed: diverging, seed 0: the loss is" in lines
    assert "one seed" in lines
    assert math.isnan(result.best.over_seeds("val/segm_AP").half_width)


@pytest.fixture(scope="module")
def tpe(local_ray, tmp_path_factory) -> tuple[StudyResult, Watch]:
    """A study whose second parameter changes stage 1 as well."""
    search = {
        "loss.gamma": {"type": "float", "low": 2.0, "high": 8.0},
        "optimizer.weight_decay": {"type": "categorical", "choices": [0.0, 0.1]},
    }
    document = STUDY | {
        "name": "tpe",
        "base": STUDY["base"] | {"schedule": {"epochs": 2}},
        "search": search,
        "sampler": {"type": "tpe", "configurations": 3, "seed": 7},
        "sensitivity_check": True,
    }
    watch = Watch()
    spec = documents.parse(StudySpec, document, source="test")
    return run_in(tmp_path_factory.mktemp("tpe"), spec, observers=[watch]), watch


def test_optuna_proposes_what_a_tpe_study_tries(tpe):
    result, _ = tpe
    tried = [c.trial.config.loss.gamma for c in result.searched]
    again = Suggester(result.spec)
    assert tried == [again.ask()[1]["loss.gamma"] for _ in range(3)], "the sampler's seed decides"
    assert len(set(tried)) == 3
    assert result.best.trial.config.loss.gamma in tried


def test_a_parameter_that_changes_stage_1_is_told_and_one_of_stage_2_is_not(tpe):
    _, watch = tpe
    (note,) = watch.notes
    assert note.startswith("optimizer.weight_decay changes stage 1 as well")


def test_a_study_does_not_go_on_with_other_data():
    before = SessionStarted(worker_groups=1, versions={}, code="", storage="", data={"images of test": "a"})
    history = History.of(small_study.spec(), [before])
    run._check_data(history, {"images of test": "a"}, "s")
    with pytest.raises(StudyError, match=r"study s was begun on other data \(images of test changed since\)"):
        run._check_data(history, {"images of test": "b"}, "s")
