import json
import math
import os
import random
import subprocess
import sys

import optuna
import pytest
from optuna.trial import TrialState

from lncis.errors import ConfigError
from lncis.studies import pruning
from lncis.studies.pruning import bracket_of
from lncis.studies.search import Observation, Suggester, as_optuna
from lncis.studies.spec import Objective, SelectionObjective, StudySpec, judge
from lncis.studies.spec.samplers import AshaPruner, HyperbandPruner, MedianPruner, OptunaSampler
from lncis.studies.spec.space import Categorical, Range

GAMMAS = Categorical(choices=[4.0, 6.0, 8.0])
LR = Range(type="float", low=1e-5, high=1e-2, log=True)
BATCH = Range(type="int", low=1, high=8)
TPE = OptunaSampler(type="tpe", configurations=25, seed=3)


def spec(**fields) -> StudySpec:
    return StudySpec(name="s", **fields)


def ask_all(configurations: Suggester) -> list[tuple[int, dict]]:
    asked = []
    while (one := configurations.ask()) is not None:
        asked.append(one)
    return asked


def run(study: StudySpec, objective) -> list[dict]:
    configurations, tried = Suggester(study), []
    while (asked := configurations.ask()) is not None:
        number, overrides = asked
        configurations.tell(number, [[objective(overrides)]])
        tried.append(overrides)
    return tried


def hill(overrides: dict) -> float:
    return -abs(math.log10(overrides["optimizer.lr"]) + 3)


def test_grid_is_asked_in_order_and_then_exhausted():
    study = spec(search={"loss.gamma": GAMMAS, "loss.A": Categorical(choices=[-1.0, -4.0])})
    configurations = Suggester(study)
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
        search={"noise.type": Categorical(choices=choices), "schedule.stage1_epochs": Categorical(choices=[None, 3])}
    )
    assert [overrides for _, overrides in ask_all(Suggester(study))] == [
        {"noise.type": kind, "schedule.stage1_epochs": e} for kind in choices for e in (None, 3)
    ]


@pytest.mark.parametrize("type_", ["random", "tpe", "gp"])
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
            hill(o)
            for o in run(spec(search=study.search, sampler=TPE, objective=SelectionObjective(mode=mode)), hill)[-10:]
        )

    assert mean_of_last_ten("max") > mean_of_last_ten("min")


def test_log_range_is_drawn_by_its_logarithm():
    sampler = OptunaSampler(type="random", configurations=200)
    drawn = [o["optimizer.lr"] for _, o in ask_all(Suggester(spec(search={"optimizer.lr": LR}, sampler=sampler)))]
    assert 70 < sum(lr < 10**-3.5 for lr in drawn) < 130  # the middle of the exponents


@pytest.mark.parametrize("values", [[math.nan], [30.0, math.nan], [math.inf], []])
def test_configuration_without_a_value_fails(values):
    configurations = Suggester(spec(search={"loss.gamma": GAMMAS}))
    number, _ = configurations.ask()
    configurations.tell(number, [values])
    (told,) = (trial for trial in configurations._study.trials if trial.number == number)
    assert told.state is TrialState.FAIL
    assert told.value is None


def test_configuration_counts_with_the_mean_of_its_trials():
    configurations = Suggester(spec(search={"loss.gamma": GAMMAS}))
    first, second = configurations.ask(), configurations.ask()
    configurations.tell(second[0], [[30.0, 33.0]])  # in whatever order they end
    configurations.tell(first[0], [[10.0, 20.0, 60.0]])
    assert [trial.value for trial in configurations._study.trials[:2]] == [30.0, 31.5]
    assert configurations._study.best_trial.number == second[0]


MIXED = {
    "loss.type": Categorical(choices=["lncis", "cross_entropy"]),
    "loss.gamma": Range(type="float", low=1, high=9, when={"loss.type": "lncis"}),
    "loss.A": Categorical(choices=[-1.0, -4.0], when={"loss.type": ["lncis"]}),
    "optimizer.lr": LR,
    "batch_size": BATCH,
    "schedule.stage1_epochs": Range(type="int", low=1, high=8),
}


def score(overrides: dict, seed: int = 0) -> float:
    return random.Random(f"{seed} {overrides}").random() - abs(math.log10(overrides["optimizer.lr"]) + 3)


def drive(study: StudySpec, events: list[tuple], replay: int = 0) -> list[tuple]:
    """Ask, judge, tell, with two configurations under way; the first `replay` events are those given."""
    configurations, done, open_ = Suggester(study), [], []

    def note(*event):
        done.append(event)

    while len(done) < len(events) or not events:
        known = events[len(done)] if len(done) < replay else None
        if known and known[0] == "ask":
            asked = configurations.ask(json.loads(json.dumps(known[2])))
        elif known or len(open_) == 2 or (asked := configurations.ask()) is None:
            if not open_:
                break
            number, overrides = open_.pop(0)
            value = score(overrides)
            if study.pruner.type != "none" and configurations.should_prune(number, 7, value):
                configurations.tell_pruned(number)
            elif value < -1.5:
                configurations.tell(number, [[]])
            else:
                configurations.tell(number, [[value, value - 1]])
            note("tell", number, value)
            continue
        open_.append(asked)
        note("ask", *asked)
    return done


@pytest.mark.parametrize(
    "pruner", [AshaPruner(), MedianPruner(startup_configurations=3), HyperbandPruner()], ids=lambda p: p.type
)
@pytest.mark.parametrize("type_", ["random", "tpe"])
def test_a_resumed_search_goes_on_as_it_would_have(type_, pruner):
    sampler = OptunaSampler(type=type_, configurations=18, seed=3, first=[{"loss.gamma": 2.5}, {"batch_size": 8}])
    study = spec(search=MIXED, sampler=sampler, pruner=pruner)
    undisturbed = drive(study, [])
    assert len(undisturbed) == 36
    for replay in (1, 5, 22, 29, 34):
        assert drive(study, undisturbed, replay) == undisturbed


@pytest.mark.processes
def test_suggestions_are_the_same_in_another_process():
    code = (
        "import json; from lncis.studies.search import Suggester; from lncis.studies.spec import StudySpec\n"
        "from lncis.studies.spec.samplers import OptunaSampler\n"
        "search = {'optimizer.lr': {'type': 'float', 'low': 1e-5, 'high': 1e-2, 'log': True}}\n"
        "c = Suggester(StudySpec(name='s', search=search, sampler=OptunaSampler(type='tpe', configurations=14)))\n"
        "for n in range(14):\n"
        "    print(json.dumps(c.ask()[1])); c.tell(n, [[float(n * n % 7)]])\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0].splitlines())) == 14


def test_parameters_that_do_not_apply_are_absent_and_the_others_valid():
    study = spec(search=MIXED, sampler=OptunaSampler(type="tpe", configurations=25))
    tried = run(study, score)
    for overrides in tried:
        lncis = overrides["loss.type"] == "lncis"
        assert ("loss.gamma" in overrides) == ("loss.A" in overrides) == lncis
        assert type(overrides["schedule.stage1_epochs"]) is int
        assert 1 <= overrides["schedule.stage1_epochs"] <= 8
        study.configure(overrides, seed=0)
    assert {overrides["loss.type"] for overrides in tried} == {"lncis", "cross_entropy"}


@pytest.mark.parametrize("type_", ["random", "tpe"])
def test_points_are_tried_first_and_what_they_leave_out_is_drawn(type_):
    first = [
        {"loss.type": "lncis", "loss.gamma": 2.0, "loss.A": -4.0, "optimizer.lr": 1e-4, "batch_size": 2},
        {"optimizer.lr": 0.01, "schedule.stage1_epochs": 3},
        {"loss.type": "cross_entropy"},
    ]
    study = spec(search=MIXED, sampler=OptunaSampler(type=type_, configurations=5, first=first))
    tried = run(study, score)
    assert len(tried) == 5
    assert first[0].items() <= tried[0].items()
    assert "schedule.stage1_epochs" in tried[0]
    assert (tried[1]["optimizer.lr"], tried[1]["schedule.stage1_epochs"]) == (0.01, 3)
    assert set(tried[2]) == {"loss.type", "optimizer.lr", "batch_size", "schedule.stage1_epochs"}


def test_whole_numbers_are_drawn_by_their_logarithm_too():
    e1 = {"schedule.stage1_epochs": Range(type="int", low=1, high=9, log=True)}
    study = spec(search=e1, sampler=OptunaSampler(type="random", configurations=9))
    drawn = [o["schedule.stage1_epochs"] for _, o in ask_all(Suggester(study))]
    assert all(type(e) is int and 1 <= e <= 9 for e in drawn)


def test_earlier_results_lead_tpe_from_the_first_proposal():
    study = spec(search={"optimizer.lr": LR}, sampler=OptunaSampler(type="tpe", configurations=12))
    draw = random.Random(0)

    def earlier(best: float) -> list[Observation]:
        rates = [10 ** draw.uniform(-5, -2) for _ in range(30)]
        return [Observation(overrides={"optimizer.lr": r}, values=[-abs(math.log10(r / best))]) for r in rates]

    def proposed(observations) -> list[float]:
        return [o["optimizer.lr"] for _, o in ask_all(Suggester(study, observations))]

    low, high = proposed(earlier(2e-5)), proposed(earlier(5e-3))
    assert sorted(low)[6] < 1e-4 < 1e-3 < sorted(high)[6]
    assert low[0] != high[0] != proposed([])[0]


def test_an_observation_is_a_finished_trial_for_optuna():
    study = spec(search=MIXED, sampler=TPE, secondary_objectives=[Objective(metric="val/bbox_AP", mode="min")])
    overrides = {"loss.type": "cross_entropy", "optimizer.lr": 1e-3, "batch_size": 2, "schedule.stage1_epochs": 4}
    found = as_optuna(study, Observation(overrides=overrides, values=[3.0, 4.0]))
    assert (found.params, found.values, found.state) == (overrides, [3.0, 4.0], TrialState.COMPLETE)
    assert set(found.distributions) == set(overrides)
    Suggester(study, [Observation(overrides=overrides, values=[3.0, 4.0])]).ask()


def test_several_goals_are_told_each_with_its_mean():
    objectives = [Objective(metric="val/bbox_AP", mode="min"), Objective(metric="val/segm_AP50")]
    configurations = Suggester(spec(search={"optimizer.lr": LR}, sampler=TPE, secondary_objectives=objectives))
    for values, expected in (
        ([[1.0, 3.0], [10.0, 20.0], [0.0]], [2.0, 15.0, 0.0]),
        ([[1.0], [math.nan], [0.0]], None),
        ([[]], None),
    ):
        number, _ = configurations.ask()
        configurations.tell(number, values)
        assert configurations._study.trials[number].values == expected
    assert [d.name for d in configurations._study.directions] == ["MAXIMIZE", "MINIMIZE", "MAXIMIZE"]


def asked(pruner, count: int, mode: str = "max", earlier=()) -> Suggester:
    sampler = OptunaSampler(type="random", configurations=count)
    study = spec(search={"optimizer.lr": LR}, sampler=sampler, pruner=pruner, objective=SelectionObjective(mode=mode))
    configurations = Suggester(study, earlier)
    ask_all(configurations)
    return configurations


@pytest.mark.parametrize("mode", ["max", "min"])
def test_asha_by_hand(mode):
    """E = 20, E1 = 10; each is compared with those that were there before it."""
    configurations, sign = asked(AshaPruner(reduction_factor=2), 8, mode), 1 if mode == "max" else -1

    def judged(*values: float, epoch: int = 11) -> list[bool]:
        return [configurations.should_prune(n, epoch, sign * v) for n, v in enumerate(values) if not math.isnan(v)]

    # alone; below the best of 2; best; best of 4 // 2 = 2; 5 // 2; third of 6 // 2 = 3; worst; best
    assert judged(5, 4, 6, 5.5, 3, 5, 1, 9) == [False, True, False, False, True, False, True, False]
    nan = math.nan
    # a rung of its own: only those that got there
    assert judged(5, nan, 4, 4.5, nan, nan, nan, 5, epoch=12) == [False, True, True, False]


def test_asha_compares_a_late_switch_at_its_own_rungs_only():
    configurations = asked(AshaPruner(reduction_factor=2), 4)
    assert not configurations.should_prune(
        0, 14, 50.0
    )  # left stage 1 after epoch 13: the rungs 11 and 12 are behind it
    assert not configurations.should_prune(1, 11, 10.0), "nobody else was judged after epoch 11"
    assert configurations.should_prune(2, 11, 9.0)
    assert configurations.should_prune(1, 14, 40.0)


def test_median_by_hand():
    configurations = asked(MedianPruner(startup_configurations=2), 6)
    for number, value in ((0, 5.0), (1, 8.0)):
        assert not configurations.should_prune(number, 11, value), "too few have finished"
        configurations.tell(number, [[value]])
    assert not configurations.should_prune(2, 11, 6.5)  # the median of 5 and 8
    assert configurations.should_prune(3, 11, 6.4)
    configurations.tell_pruned(3)
    assert configurations.should_prune(4, 11, 6.4), "pruned ones have not finished"
    assert not configurations.should_prune(2, 12, 0.0), "nobody who finished was judged there"


def test_what_an_earlier_study_found_does_not_begin_pruning():
    earlier = [Observation(overrides={"optimizer.lr": 1e-3}, values=[9.0])] * 5
    configurations = asked(MedianPruner(startup_configurations=2), 3, earlier=earlier)
    configurations.should_prune(0, 11, 9.0)
    configurations.tell(0, [[9.0]])
    assert not configurations.should_prune(1, 11, 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_without_a_finite_value_nothing_is_judged(value):
    configurations = asked(AshaPruner(), 2)
    assert not configurations.should_prune(0, 11, 1.0)
    assert not configurations.should_prune(1, 11, value)


def test_a_pruned_configuration_is_told_as_pruned():
    configurations = asked(AshaPruner(), 2)
    configurations.should_prune(1, 11, 3.0)
    for _ in range(2):
        configurations.tell_pruned(1)
    trial = configurations._study.trials[1]
    assert (trial.state, trial.intermediate_values) == (TrialState.PRUNED, {11: 3.0})


@pytest.mark.parametrize("pruner", [AshaPruner(), MedianPruner(startup_configurations=1)], ids=lambda p: p.type)
def test_a_failed_configuration_that_is_tried_again_counts_and_is_judged(pruner):
    configurations = asked(pruner, 2)
    configurations.tell(0, [[]])
    configurations.reopen(0)
    configurations.reopen(0)
    assert not configurations.should_prune(0, 11, 2.0)
    configurations.tell(0, [[2.0]])
    assert configurations.should_prune(1, 11, 1.0)
    configurations.tell_pruned(1)
    complete = [t for t in configurations._study.trials if t.state is TrialState.COMPLETE]
    assert [t.value for t in complete] == [2.0]
    assert complete[0].params == configurations._study.trials[0].params


# gp


DECAY = Range(type="float", low=1e-6, high=1e-2, log=True)


def valley(overrides: dict) -> float:
    """Best at lr = 10^-3.3 and weight decay = 10^-4.4, with 0 there: a narrow ridge across both axes."""
    x, y = math.log10(overrides["optimizer.lr"]) + 3.3, math.log10(overrides["optimizer.weight_decay"]) + 4.4
    return -((x + y / 2) ** 2 * 4 + y**2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gp_finds_the_optimum_of_a_response_that_is_known(seed):
    def best(type_):
        sampler = OptunaSampler(type=type_, configurations=22, seed=seed)
        study = spec(search={"optimizer.lr": LR, "optimizer.weight_decay": DECAY}, sampler=sampler)
        return max(map(valley, run(study, valley)))

    assert best("gp") > -0.05  # a tenth of a decade and less in either direction
    assert best("gp") > best("random")


def test_a_resumed_gp_goes_on_as_it_would_have():
    sampler = OptunaSampler(type="gp", configurations=13, seed=3)
    study = spec(search={"optimizer.lr": LR, "batch_size": BATCH}, sampler=sampler)
    undisturbed = drive(study, [])
    assert len(undisturbed) == 26
    for replay in (4, 23):
        assert drive(study, undisturbed, replay) == undisturbed


def test_gp_refuses_conditions_before_anything_starts():
    with pytest.raises(ConfigError, match=r"search.loss.gamma.when: sampler gp knows no conditions; use sampler tpe"):
        judge(spec(search=MIXED, sampler=OptunaSampler(type="gp", configurations=5)))


# hyperband: 27 epochs after stage 1, eta = 3: rungs 1, 3 and 9, and four brackets


HYPERBAND = HyperbandPruner(first_rung=1, reduction_factor=3)


def of_27_epochs(count: int, mode: str = "max") -> Suggester:
    study = StudySpec(
        name="s",
        base={"schedule": {"epochs": 37, "stage1_epochs": 10}},
        search={"optimizer.lr": LR},
        sampler=OptunaSampler(type="random", configurations=count),
        pruner=HYPERBAND,
        objective=SelectionObjective(mode=mode),
    )
    configurations = Suggester(study)
    ask_all(configurations)
    return configurations


@pytest.mark.parametrize("mode", ["max", "min"])
def test_hyperband_decides_as_optuna_does(mode):
    count, draw = 120, random.Random(1)
    ours = of_27_epochs(count, mode)
    assert ours._rungs == (11, 13, 19)
    theirs = optuna.create_study(
        study_name="s",
        direction="maximize" if mode == "max" else "minimize",
        pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=27, reduction_factor=3),
    )
    stopped = 0
    for number in range(count):
        trial = theirs.ask()
        for step in (1, 3, 9):
            value = draw.random()
            trial.report(value, step)
            expected = trial.should_prune()
            assert ours.should_prune(number, 10 + step, value) == expected
            if expected:
                stopped += 1
                break
    assert 20 < stopped < count


def test_brackets_have_the_shares_of_hyperband():
    rungs = (11, 13, 19)
    found = [bracket_of(HYPERBAND, "s", number, rungs) for number in range(5000)]
    # the n of its table for R = 27, eta = 3, from s = 3 to 0
    for bracket, n in enumerate((27, 12, 6, 4)):
        assert abs(found.count(bracket) / 5000 - n / 49) < 4 * (0.25 / 5000) ** 0.5


def test_hyperband_keeps_what_begins_slowly():
    """Curves that cross: what is best in the end is last at the first rung. ASHA stops it, a bracket keeps it."""

    def kept(pruner) -> bool:
        configurations = of_27_epochs(60)
        configurations._spec = spec(
            base=configurations._spec.base, search={"optimizer.lr": LR}, sampler=TPE, pruner=pruner
        )
        finished = []
        for number in range(60):
            slow = number % 6 == 0
            curve = {11: 1.0 if slow else 2.0 + number / 100, 13: 9.0 if slow else 3.0, 19: 9.5 if slow else 4.0}
            if not any(configurations.should_prune(number, epoch, value) for epoch, value in curve.items()):
                finished.append(slow)
        return sum(finished) > 1  # the first one of all is never stopped

    assert kept(HYPERBAND)
    assert not kept(AshaPruner(reduction_factor=3))


@pytest.mark.parametrize("seed", range(5))
def test_asha_counts_as_by_looking_at_every_score(seed):
    """Ties and configurations that come back with another score included."""
    draw, pruner = random.Random(seed), AshaPruner(reduction_factor=3)
    rung, known = pruning.RungScores(), dict[int, float]()
    for _ in range(300):
        configuration, score = draw.randrange(200), draw.choice([0.0, -0.0, 1.5, draw.random()])
        known[configuration] = score
        rung.add(configuration, score)
        better = sum(other > score for other in known.values())
        assert pruning.asha_stops(pruner, score, rung) == (better >= max(len(known) // 3, 1))
