import math

import pytest
from optuna.trial import TrialState

from lncis.studies.search import Configurations
from lncis.studies.spec import Categorical, Objective, OptunaSampler, Range, StudySpec

GAMMAS = Categorical(choices=[4.0, 6.0, 8.0])
LR = Range(type="float", low=1e-5, high=1e-2, log=True)
BATCH = Range(type="int", low=1, high=8)
TPE = OptunaSampler(type="tpe", configurations=25, seed=3)


def spec(**fields) -> StudySpec:
    return StudySpec(name="s", **fields)


def ask_all(configurations: Configurations) -> list[tuple[int, dict]]:
    asked = []
    while (one := configurations.ask()) is not None:
        asked.append(one)
    return asked


def run(study: StudySpec, objective) -> list[dict]:
    configurations, tried = Configurations(study), []
    while (asked := configurations.ask()) is not None:
        number, overrides = asked
        configurations.tell(number, [objective(overrides)])
        tried.append(overrides)
    return tried


def hill(overrides: dict) -> float:
    return -abs(math.log10(overrides["optimizer.lr"]) + 3)


def test_grid_is_asked_in_order_and_then_exhausted():
    study = spec(search={"loss.gamma": GAMMAS, "loss.A": Categorical(choices=[-1.0, -4.0])})
    configurations = Configurations(study)
    asked = ask_all(configurations)
    assert asked == list(enumerate(study.grid))
    assert [list(overrides) for _, overrides in asked] == [["loss.gamma", "loss.A"]] * 6
    assert configurations.ask() is None


def test_grid_is_the_same_whatever_is_told():
    study = spec(search={"loss.gamma": GAMMAS})
    assert run(study, lambda overrides: overrides["loss.gamma"]) == run(study, lambda overrides: math.nan) == study.grid


def test_grid_of_words_numbers_and_null():
    choices = ["symmetric", "asymmetric"]
    study = spec(
        search={"noise.kind": Categorical(choices=choices), "schedule.stage1_epochs": Categorical(choices=[None, 3])}
    )
    assert [overrides for _, overrides in ask_all(Configurations(study))] == [
        {"noise.kind": kind, "schedule.stage1_epochs": e} for kind in choices for e in (None, 3)
    ]


@pytest.mark.parametrize("type_", ["random", "tpe"])
def test_sampler_asks_as_often_as_told_and_within_bounds(type_):
    study = spec(
        search={"optimizer.lr": LR, "batch_size": BATCH, "loss.gamma": GAMMAS},
        sampler=OptunaSampler(type=type_, configurations=25),
    )
    tried = run(study, hill)
    assert len(tried) == 25
    for overrides in tried:
        assert 1e-5 <= overrides["optimizer.lr"] <= 1e-2
        assert type(overrides["batch_size"]) is int
        assert 1 <= overrides["batch_size"] <= 8
        assert overrides["loss.gamma"] in GAMMAS.choices
        study.configure(overrides, seed=0)


@pytest.mark.parametrize("type_", ["random", "tpe"])
def test_same_seed_proposes_the_same(type_):
    def tried(seed):
        sampler = OptunaSampler(type=type_, configurations=25, seed=seed)
        return run(spec(search={"optimizer.lr": LR}, sampler=sampler), hill)

    assert tried(3) == tried(3)
    assert tried(3) != tried(4)


def test_tpe_learns_and_follows_the_mode():
    study = spec(search={"optimizer.lr": LR}, sampler=TPE)

    def mean_of_last_ten(mode):
        return sum(
            hill(o) for o in run(spec(search=study.search, sampler=TPE, objective=Objective(mode=mode)), hill)[-10:]
        )

    assert mean_of_last_ten("max") > mean_of_last_ten("min")


def test_log_range_is_drawn_by_its_logarithm():
    sampler = OptunaSampler(type="random", configurations=200)
    drawn = [o["optimizer.lr"] for _, o in ask_all(Configurations(spec(search={"optimizer.lr": LR}, sampler=sampler)))]
    assert 70 < sum(lr < 10**-3.5 for lr in drawn) < 130  # the middle of the exponents


@pytest.mark.parametrize("values", [[math.nan], [30.0, math.nan], [math.inf], []])
def test_configuration_without_a_value_fails(values):
    configurations = Configurations(spec(search={"loss.gamma": GAMMAS}))
    number, _ = configurations.ask()
    configurations.tell(number, values)
    (told,) = (trial for trial in configurations._study.trials if trial.number == number)
    assert told.state is TrialState.FAIL
    assert told.value is None


def test_configuration_counts_with_the_mean_of_its_trials():
    configurations = Configurations(spec(search={"loss.gamma": GAMMAS}))
    first, second = configurations.ask(), configurations.ask()
    configurations.tell(second[0], [30.0, 33.0])  # in whatever order they end
    configurations.tell(first[0], [10.0, 20.0, 60.0])
    assert [trial.value for trial in configurations._study.trials[:2]] == [30.0, 31.5]
    assert configurations._study.best_trial.number == second[0]
