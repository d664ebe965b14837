from dataclasses import replace
from pathlib import Path

import pytest

from lncis import documents
from lncis.config import (
    CrossEntropyLoss,
    DigitsData,
    LncisLoss,
    Model,
    Noise,
    Optimizer,
    Schedule,
    TrainConfig,
    Workers,
)
from lncis.studies import stages
from lncis.studies.plan import plan
from lncis.studies.spec import StudySpec, Trial
from lncis.studies.stages import Sharing, chain, sharing, switch_epochs

SCHEDULE = Schedule(epochs=12, stage1_epochs=6, lr_drops=(9,))
BASE = TrainConfig(schedule=SCHEDULE)


def tasks(config: TrainConfig, workers: Workers = Workers()):  # noqa: B008  (frozen)
    return chain(Trial(configuration=0, overrides={}, seed=config.seed, config=config), workers, Path("stages"))


def keys(config: TrainConfig, **workers) -> tuple[str, ...]:
    return tuple(task.key for task in tasks(config, Workers(**workers)))


def test_chain_is_stage_1_then_stage_2():
    first, second = tasks(BASE)
    assert (first.until, first.after) == (6, None)
    assert (second.until, second.after) == (12, first)
    assert first.config == second.config == BASE
    assert (first.directory, second.directory) == (Path("stages") / first.key, Path("stages") / second.key)
    assert first.key != second.key


def test_without_stage_1_there_is_one_task():
    (only,) = tasks(replace(BASE, schedule=Schedule(epochs=12, stage1_epochs=0)))
    assert (only.until, only.after) == (12, None)


def test_same_trial_has_the_same_keys():
    assert keys(BASE) == keys(TrainConfig(schedule=replace(SCHEDULE)))


@pytest.mark.parametrize("loss", [LncisLoss(gamma=4.0), LncisLoss(A=-1.0), CrossEntropyLoss()])
def test_loss_of_stage_2_leaves_stage_1_alone(loss):
    (first, second), (changed_first, changed_second) = keys(BASE), keys(replace(BASE, loss=loss))
    assert changed_first == first
    assert changed_second != second


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"noise": Noise(rate=0.2)},
        {"noise": Noise(seed=1)},
        {"noise": Noise(kind="asymmetric")},
        {"optimizer": Optimizer(lr=2e-3)},
        {"optimizer": Optimizer(name="sgd")},
        {"optimizer": Optimizer(weight_decay=0)},
        {"batch_size": 8},
        {"precision": "bf16"},
        {"dataset": DigitsData(train_scenes=201)},
        {"dataset": DigitsData(seed=1)},
        {"model": Model(max_size=160)},
        {"schedule": replace(SCHEDULE, stage1_epochs=5)},
        {"schedule": replace(SCHEDULE, lr_drops=(3, 9))},
        {"schedule": replace(SCHEDULE, warmup_iterations=10)},
        {"schedule": replace(SCHEDULE, evaluate_every=2)},
    ],
    ids=str,
)
def test_what_enters_stage_1_changes_both_keys(change):
    assert not set(keys(BASE)) & set(keys(replace(BASE, **change)))


@pytest.mark.parametrize(
    "schedule",
    [
        replace(SCHEDULE, epochs=16),
        replace(SCHEDULE, lr_drops=(8, 11)),
        Schedule(epochs=12),  # E1 = 6 and a drop after 9 are the defaults
        Schedule(epochs=13, stage1_epochs=6, lr_drops=()),
    ],
    ids=str,
)
def test_schedule_behind_the_switch_leaves_stage_1_alone(schedule):
    assert keys(replace(BASE, schedule=schedule))[0] == keys(BASE)[0]


def test_schedule_written_otherwise_is_the_same():
    assert keys(replace(BASE, schedule=Schedule(epochs=12))) == keys(BASE)


def test_schedule_behind_the_switch_changes_stage_2():
    assert keys(replace(BASE, schedule=replace(SCHEDULE, lr_drops=(8,))))[1] != keys(BASE)[1]


def test_evaluations_inside_stage_1_count_and_not_those_after():
    def config(epochs):
        return replace(BASE, schedule=Schedule(epochs=epochs, stage1_epochs=6, lr_drops=(9,), evaluate_every=8))

    # no epoch of the first six is evaluated, whatever the length
    assert keys(config(12))[0] == keys(config(16))[0]
    assert keys(config(12))[0] != keys(BASE)[0]


@pytest.mark.parametrize("workers", [{"num_workers": 2}, {"cpus_per_worker": 2}, {"gpus_per_worker": 1}])
def test_workers_change_the_keys(workers):
    assert not set(keys(BASE)) & set(keys(BASE, **workers))


def test_version_changes_the_keys(monkeypatch):
    before = keys(BASE)
    monkeypatch.setattr(stages, "__version__", "999")
    assert not set(before) & set(keys(BASE))


def study_chains(*, gammas: list[float], seeds: list[int], schedule: Schedule):
    spec = StudySpec(
        name="s",
        base=TrainConfig(schedule=schedule),
        search={"loss.gamma": {"type": "categorical", "choices": gammas}},
        baselines={"ce": {"loss": {"name": "cross_entropy"}}},
        seeds=seeds,
    )
    configurations = [*spec.baselines.values(), *spec.grid]
    trials = [trial for i, overrides in enumerate(configurations) for trial in spec.trials(i, overrides)]
    return [chain(trial, spec.resources, Path("stages")) for trial in trials]


def test_sharing_of_the_gamma_sweep():
    chains = study_chains(gammas=[4, 5, 6, 7, 8], seeds=[0, 1], schedule=SCHEDULE)
    assert len(chains) == 12
    # 12 trials of 12 epochs; 6 epochs of stage 1 for each of 2 seeds, then 6 of stage 2 for each of 12 trials
    assert sharing(chains) == stages.Sharing(asked=144, trained=84)


def test_sharing_of_one_trial_and_of_none():
    assert sharing([tasks(BASE)]) == stages.Sharing(asked=12, trained=12)
    assert sharing([]) == stages.Sharing(asked=0, trained=0)


def test_without_stage_1_nothing_is_shared():
    chains = study_chains(gammas=[4, 5], seeds=[0], schedule=Schedule(epochs=4, stage1_epochs=0))
    assert sharing(chains) == stages.Sharing(asked=12, trained=12)


def spec(search: dict, sampler: dict | None = None, epochs: int = 12) -> StudySpec:
    base = {"schedule": {"epochs": epochs, "lr_drops": [9]}}
    return documents.parse(
        StudySpec, {"name": "t", "base": base, "search": search, "sampler": sampler or {"type": "grid"}}, source="test"
    )


def test_trials_that_leave_stage_1_at_different_epochs_share_what_they_can():
    """Table 5 at E = 12: nine epochs of stage 1 serve E1 = 3, 6 and 9."""
    table5 = spec({"schedule.stage1_epochs": {"type": "categorical", "choices": [3, 6, 9]}})
    cuts = switch_epochs(table5)
    assert cuts == {3, 6, 9}
    chains = [chain(trial, Workers(), Path(), cuts) for g in table5.grid for trial in table5.trials(0, g)]
    assert [[task.until for task in tasks] for tasks in chains] == [[3, 12], [3, 6, 12], [3, 6, 9, 12]]
    assert len({tasks[0].key for tasks in chains}) == 1
    assert chains[1][1].key == chains[2][1].key
    assert len({tasks[-1].key for tasks in chains}) == 3
    assert sharing(chains) == Sharing(asked=36, trained=9 + 9 + 6 + 3)
    assert plan(table5).sharing == Sharing(asked=36, trained=27)


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        ({"type": "int", "low": 4, "high": 7}, {4, 5, 6, 7}),
        ({"type": "categorical", "choices": [3, None]}, {3, 6}),
    ],
)
def test_where_a_sampler_decides_stage_1_is_cut_wherever_it_may_end(parameter, expected):
    drawn = spec({"schedule.stage1_epochs": parameter}, {"type": "tpe", "configurations": 3})
    assert switch_epochs(drawn) - {6} == expected - {6}


def test_one_e1_for_all_cuts_stage_1_nowhere_else():
    assert switch_epochs(spec({"loss.gamma": {"type": "categorical", "choices": [4.0, 6.0]}})) == {6}
