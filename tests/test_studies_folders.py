from dataclasses import replace
from pathlib import Path

import pytest

from lncis import documents
from lncis.errors import ConfigError
from lncis.studies import folders
from lncis.studies.record.journal import (
    End,
    EpochFinished,
    Journal,
    TrialEnded,
    TrialStarted,
    WarmStarted,
    read,
    trial_of,
)
from lncis.studies.spec import StudySpec
from lncis.studies.stages.tree import STAGES, StageTree

RUNS = Path("runs")
METRIC = "val/segm_AP"


def spec(**fields) -> StudySpec:
    document = {
        "name": "s",
        "base": {"schedule": {"epochs": 2, "stage1_epochs": 1}},
        "search": {"loss.gamma": {"type": "categorical", "choices": [4.0, 6.0, 8.0]}},
        "seeds": [0, 1],
        **fields,
    }
    return documents.parse(StudySpec, document, source="study")


def carried_out(study: StudySpec, study_id: str, values: dict[int, list[float | None]]) -> Path:
    """A study whose trials reached these values, by configuration and seed; None is failed, -1 is running."""
    folder = folders.claim_folder(RUNS, study_id, study)
    tree, journal = StageTree(study, folder / STAGES), Journal(folder)
    baselines = list(study.baselines.items())
    for number, reached in values.items():
        name, overrides = baselines[number] if number < len(baselines) else (None, study.grid[number - len(baselines)])
        for trial, value in zip(study.trials(number, overrides, baseline=name), reached, strict=True):
            tasks = tree.chain(trial)
            stages = {task.key: task.until for task in tasks}
            journal.append(
                TrialStarted(
                    configuration=number,
                    overrides=overrides,
                    seed=trial.seed,
                    noise_seed=None,
                    baseline=name,
                    stages=stages,
                    reused=[],
                )
            )
            for task in tasks:
                task.directory.mkdir(parents=True, exist_ok=True)
                (task.directory / "checkpoint.pt").write_text(trial.name)
            for epoch in (1, 2):
                figures = {METRIC: value, "val/bbox_AP": -value} if value is not None else {}
                journal.append(
                    EpochFinished(
                        trial=trial.name, record={"epoch": float(epoch), "seconds": 1.0, **figures}, reused=False
                    )
                )
            if value != -1:
                end = End.FAILED if value is None else End.FINISHED
                journal.append(TrialEnded(trial=trial.name, end=end, reason="nan" if value is None else ""))
    journal.close()
    return folder


def left(study_id: str) -> set[str]:
    """The trials whose final checkpoints are there, and how many other stages."""
    result = folders.read_result(RUNS, study_id)
    return {t.trial.name for t in result.trials if (t.directory / "checkpoint.pt").exists()}


def stages_of(folder: Path) -> int:
    return len(list((folder / STAGES).iterdir()))


def test_a_folder_is_claimed_once_and_found_again():
    folder = folders.claim_folder(RUNS, "a", spec())
    assert folder.is_absolute()
    assert folders.claim_folder(RUNS, "a", spec()) == folder
    assert folders.read_spec(RUNS, "a") == spec()
    assert [file.name for file in folder.iterdir()] == ["spec.yaml"]


def test_another_study_in_the_folder_is_refused_with_what_differs():
    folders.claim_folder(RUNS, "a", spec())
    other = spec(seeds=[0], base={"schedule": {"epochs": 3, "stage1_epochs": 1}}, pruner={"type": "asha"})
    with pytest.raises(ConfigError) as caught:
        folders.claim_folder(RUNS, "a", other)
    assert caught.value.problems == [
        "base.schedule.epochs: was 2, now 3",
        "pruner.type: was 'none', now 'asha'",
        "pruner.first_rung: was None, now 1",
        "pruner.reduction_factor: was None, now 2",
        "seeds: was [0, 1], now [0]",
        "it was begun with another spec; give the study another id",
    ]
    assert folders.read_spec(RUNS, "a") == spec()


def test_a_folder_that_cannot_be_made_is_refused():
    RUNS.write_text("a file")
    with pytest.raises(ConfigError, match=r"runs: cannot hold the study's folder: .*; name another one"):
        folders.claim_folder(RUNS, "a", spec())


def test_a_process_killed_between_folder_and_spec_leaves_nothing_to_mend():
    (RUNS / "a").mkdir(parents=True)
    (RUNS / "a" / ".spec.yaml").write_text("name: ha")
    folders.claim_folder(RUNS, "a", spec())
    assert folders.read_spec(RUNS, "a") == spec()


def test_an_id_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(ConfigError, match="runs: has no study 'x'; the latest are none"):
        folders.read_spec(RUNS, "x")
    for study_id in ("b", "a"):
        folders.claim_folder(RUNS, study_id, spec())
    with pytest.raises(ConfigError, match="runs: has no study 'x'; the latest are a, b"):
        folders.read_spec(RUNS, "x")


def test_ids_differ_and_begin_with_the_name():
    ids = {folders.new_study_id(spec()) for _ in range(20)}
    assert len(ids) == 20
    assert all(study_id.startswith("s-") for study_id in ids)


def test_the_sampler_begins_with_the_means_of_configurations_that_finished():
    objectives = {"secondary_objectives": [{"metric": "val/bbox_AP", "mode": "min"}]}
    earlier = spec(baselines={"ce": {"loss.type": "cross_entropy"}}, **objectives)
    carried_out(earlier, "earlier", {0: [9, 9], 1: [1.0, 2.0], 2: [5.0, None], 3: [3.0, 3.0]})
    sampler = {"type": "tpe", "configurations": 3, "warm_start": "earlier"}
    found = folders.observations(RUNS, spec(sampler=sampler, seeds=[7], **objectives), "new")
    assert [(o.overrides, o.values) for o in found] == [
        ({"loss.gamma": 4.0}, [1.5, -1.5]),
        ({"loss.gamma": 8.0}, [3.0, -3.0]),
    ]
    assert folders.observations(RUNS, spec(), "new") == []


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {"search": {"loss.gamma": {"type": "categorical", "choices": [4.0]}}},
            "is of another space: search.loss.gamma.choices: was [4.0, 6.0, 8.0], now [4.0]",
        ),
        ({"objective": {"metric": "val/bbox_AP"}}, "is of another space: objectives: was "),
        ({"objective": {"mode": "min"}}, "is of another space: objectives: was "),
    ],
)
def test_a_study_of_another_space_is_no_beginning(fields, problem):
    carried_out(spec(), "earlier", {})
    sampler = {"type": "tpe", "configurations": 3, "warm_start": "earlier"}
    with pytest.raises(ConfigError) as caught:
        folders.observations(RUNS, spec(sampler=sampler, **fields), "new")
    (found,) = caught.value.problems
    assert found.startswith(problem)


def test_a_study_that_was_begun_goes_on_with_what_it_began_with():
    carried_out(spec(), "earlier", {0: [1.0, 2.0]})
    study = spec(sampler={"type": "tpe", "configurations": 3, "warm_start": "earlier"})
    begun = folders.observations(RUNS, study, "later")
    later = Journal(folders.claim_folder(RUNS, "later", study))
    later.append(WarmStarted(observations=begun))
    later.close()
    carried_out(spec(), "earlier", {1: [5.0, 6.0]})
    assert len(folders.observations(RUNS, study, "another")) == 2
    assert folders.observations(RUNS, study, "later") == begun


def test_how_the_best_is_chosen_does_not_make_another_space():
    carried_out(spec(), "earlier", {0: [1.0, 2.0]})
    sampler = {"type": "tpe", "configurations": 3, "warm_start": "earlier"}
    assert folders.observations(RUNS, spec(sampler=sampler, objective={"select": "lower_bound"}), "new")


def test_a_beginning_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="has no study 'nobody'"):
        folders.observations(RUNS, spec(sampler={"type": "tpe", "configurations": 3, "warm_start": "nobody"}), "new")


def told(study: StudySpec, study_id: str, *, live: bool = True) -> folders.DropBeatenCheckpoints:
    """An observer that was told what happened to a study, as it happened or by a session that resumes it."""
    observer, folder = folders.DropBeatenCheckpoints(study), RUNS.absolute() / study_id
    tree = StageTree(study, folder / STAGES)
    trials = {trial_of(study, e).name: trial_of(study, e) for e in read(folder) if isinstance(e, TrialStarted)}
    if live:
        observer.on_session_start()
    for event in read(folder):
        if isinstance(event, TrialStarted):
            observer.on_trial_start(trials[event.trial], tree.chain(trials[event.trial]))
        elif isinstance(event, EpochFinished):
            observer.on_epoch(trials[event.trial], event.record)
        elif isinstance(event, TrialEnded):
            observer.on_trial_end(trials[event.trial], event.end, event.reason)
    return observer


def test_losers_go_as_soon_as_they_are_beaten_and_what_runs_stays():
    study = spec(keep_checkpoints="best")
    folder = carried_out(study, "a", {0: [5.0, 5.0], 1: [6.0, 7.0], 2: [1.0, -1]})
    before = stages_of(folder)
    told(study, "a")
    assert left("a") == {"0001-seed0", "0001-seed1", "0002-seed0", "0002-seed1"}
    assert stages_of(folder) == before - 2, "shared stages stay while trials may need them"


def test_where_nothing_finished_nothing_is_dropped():
    study = spec(keep_checkpoints="best")
    carried_out(study, "a", {0: [5.0, -1], 1: [None, 7.0]})
    told(study, "a")
    assert len(left("a")) == 4


def test_a_checkpoint_that_the_best_shares_with_a_loser_stays():
    twins = {"type": "categorical", "choices": [4.0, 6.0, 8.0]}
    baselines = {"as the best": {"loss.gamma": 6.0}}
    study = spec(search={"loss.gamma": twins}, baselines=baselines, keep_checkpoints="best")
    carried_out(study, "a", {0: [1.0, 1.0], 1: [2.0, 2.0], 2: [6.0, 7.0]})
    told(study, "a")
    assert left("a") == {"0000-seed0", "0000-seed1", "0002-seed0", "0002-seed1"}


def test_all_checkpoints_stay_where_all_are_wanted():
    study = spec(keep_checkpoints="all")
    carried_out(study, "a", {0: [5.0, 5.0], 1: [6.0, 7.0]})
    told(study, "a")
    assert len(left("a")) == 4


def test_what_an_earlier_session_found_beaten_goes_when_the_next_begins():
    study = spec(keep_checkpoints="best")
    carried_out(study, "a", {0: [5.0, 5.0], 1: [6.0, 7.0]})
    observer = told(study, "a", live=False)
    assert len(left("a")) == 4, "nothing goes while the journal is replayed"
    observer.on_session_start()
    assert left("a") == {"0001-seed0", "0001-seed1"}


def test_while_a_trial_may_be_retried_its_stages_stay():
    folder = carried_out(spec(), "a", {0: [5.0, 5.0], 1: [6.0, 7.0], 2: [1.0, None]})
    before = stages_of(folder)
    folders.drop_unneeded_stages(folders.read_result(RUNS, "a"))
    assert stages_of(folder) == before


@pytest.mark.parametrize(("keep", "trials"), [("all", 6), ("best", 2)])
def test_a_finished_study_keeps_its_trials_checkpoints_and_no_shared_stages(keep, trials):
    folder = carried_out(spec(keep_checkpoints=keep), "a", {0: [5.0, 5.0], 1: [6.0, 7.0], 2: [1.0, 2.0]})
    (folder / STAGES / ".leftover").mkdir()
    result = folders.read_result(RUNS, "a")
    folders.drop_unneeded_stages(result)
    assert stages_of(folder) == trials == len(left("a"))
    assert all((t.directory / "checkpoint.pt").exists() for t in result.best.trials)
    folders.drop_unneeded_stages(result)
    assert stages_of(folder) == trials


def test_a_result_is_read_while_the_study_runs():
    carried_out(spec(), "a", {0: [5.0, -1]})
    result = folders.read_result(RUNS, "a")
    assert [t.end for t in result.trials] == [End.FINISHED, None]
    assert replace(result).directory == (RUNS / "a").absolute()
