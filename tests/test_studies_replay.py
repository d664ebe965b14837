"""Replays of finished studies: against the studies themselves, and against ASHA written down once more."""

import json
import random
from collections import Counter
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from made_up_study import METRIC, Book, study_spec
from simulated import Session, finished, study, written
from study_command import one_line, run

from lncis import documents
from lncis.studies.record.journal import End, SessionStarted
from lncis.studies.replay import figures
from lncis.studies.replay.curves import read_curves
from lncis.studies.spec.samplers import AshaPruner, MedianPruner, NoPruner, OptunaSampler
from lncis.studies.stages.tree import StageTree

pytestmark = pytest.mark.usefixtures("journal_in_memory_of_the_disk")

SIX = {"type": "categorical", "choices": [5.0, 2.5, 8.0, 4.0, 6.0, 3.0]}


def made_up(folder, curves, *, epochs=8, **fields):
    """A study of one seed with these curves: the objective after each epoch of each configuration."""
    gammas = [3.0 + number for number in range(len(curves))]
    spec = study_spec(
        base={"schedule": {"epochs": epochs, "stage1_epochs": 1}},
        search={"loss.gamma": {"type": "categorical", "choices": gammas}},
        **{"baselines": {}, "seeds": [0], **fields},
    )
    book = Book(spec)
    for number, curve in enumerate(curves):
        for trial in spec.trials(number, {"loss.gamma": gammas[number]}):
            book.start(trial)
            for epoch, value in enumerate(curve, 1):
                book.epoch(trial, epoch, **{METRIC: value + trial.seed})
            book.end(trial)
    book.end_session()
    written(folder, spec, book.events)
    return read_curves(folder, folder.parent)


def random_curves(number, epochs=8, seed=0):
    draw = random.Random(seed)
    return [[draw.random() * 30 + 3 * epoch for epoch in range(epochs)] for _ in range(number)]


def replayed(known, pruner, sampler=None, *, orders=1000, at_a_time=1):
    return figures.replayed(known, pruner, sampler, orders=orders, at_a_time=at_a_time)


# the study itself


@pytest.mark.parametrize(
    "pruner",
    [
        AshaPruner(),
        AshaPruner(reduction_factor=3),
        AshaPruner(first_rung=2),
        MedianPruner(startup_configurations=2),
    ],
)
@pytest.mark.parametrize(
    "fields", [{}, {"seeds": [0, 1, 2]}, {"baselines": {"ce": {"loss": {"type": "cross_entropy"}}}}]
)
def test_in_its_own_order_a_replay_is_the_study_with_the_pruner(tmp_path, pruner, fields):
    fields = {"search": {"loss.gamma": SIX}, "base": {"schedule": {"epochs": 9, "stage1_epochs": 2}}, **fields}
    without = study(**fields)
    finished(tmp_path / "without", without)
    real = finished(tmp_path / "with", replace(without, pruner=pruner)).result
    known = read_curves(tmp_path / "without", tmp_path)
    spec = replace(without, pruner=pruner)
    tree = StageTree(spec, tmp_path)
    course = figures.follow_order(
        figures.Suggester(spec),
        iter(known.curves),
        {},
        {c.trial.configuration: tree.rungs_of(c.trial) for c in known.curves},
        baselines=known.baselines,
    )
    stopped = {
        c.trial.configuration: int(c.trials[0].records[-1]["epoch"])
        for c in real.configurations
        if all(t.end is End.PRUNED for t in c.trials)
    }
    assert stopped
    assert course.stopped == stopped
    assert course.trained.bit_count() == real.cost.trained
    whole = replayed(known, NoPruner(), orders=1)
    assert whole.epochs.mean == known.epochs == read_curves(tmp_path / "without", tmp_path).epochs


# ASHA once more, by brute force


def asha_once_more(curves, order, first_rung, eta, stage1=1):
    """The rungs at which ASHA stops configurations that run one after the other, from the paper's words alone."""
    rungs, step = [], first_rung
    while stage1 + step < len(curves[0]):
        rungs.append(stage1 + step)
        step *= eta
    seen, stopped = {rung: [] for rung in rungs}, {}
    for number in order:
        for rung in rungs:
            value = curves[number][rung - 1]
            seen[rung].append(value)
            promoted = sorted(seen[rung], reverse=True)[: max(1, len(seen[rung]) // eta)]
            if value not in promoted:
                stopped[number] = rung
                break
    return stopped


@pytest.mark.parametrize("first_rung", [1, 2])
@pytest.mark.parametrize("eta", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_asha_over_every_order(tmp_path, first_rung, eta, seed):
    curves = random_curves(5, seed=seed)
    known = made_up(tmp_path / "s", curves)
    found = replayed(known, AshaPruner(first_rung=first_rung, reduction_factor=eta))
    finals = [curve[-1] for curve in curves]
    winner = finals.index(max(finals))
    stops, epochs, regrets = Counter(), [], []
    for order in permutations(range(5)):
        stopped = asha_once_more(curves, order, first_rung, eta)
        if winner in stopped:
            stops[stopped[winner]] += 1
        epochs.append(1 + sum(stopped.get(number, 8) - 1 for number in order))  # they share the first epoch
        regrets.append(max(finals) - max(finals[number] for number in order if number not in stopped))
    assert found.every_order
    assert found.orders == 120
    assert found.unknown == 0
    assert found.winner_stopped == {rung: count / 120 for rung, count in sorted(stops.items())}
    assert found.epochs.mean == pytest.approx(np.mean(epochs))
    assert (found.epochs.low, found.epochs.high) == tuple(np.percentile(epochs, [2.5, 97.5]))
    assert found.regret.mean == pytest.approx(np.mean(regrets))
    assert found.regret.high == pytest.approx(np.percentile(regrets, 97.5))
    own = asha_once_more(curves, range(5), first_rung, eta)
    assert found.own_order_stops == own.get(winner, 0)


def test_random_orders_come_near_to_every_order(tmp_path):
    known = made_up(tmp_path / "s", random_curves(6))
    some, every = (replayed(known, AshaPruner(), orders=orders) for orders in (300, 720))
    assert not some.every_order
    assert every.every_order
    assert abs(sum(some.winner_stopped.values()) - sum(every.winner_stopped.values())) < 4 * (0.25 / 300) ** 0.5


def test_beside_each_other_none_has_finished_before_the_rung(tmp_path):
    # the median is of those that finished: of none, where both train at the same time
    known = made_up(tmp_path / "s", [[0, 20, 20, 20], [0, 10, 10, 10]], epochs=4)
    spec = replace(known.spec, pruner=MedianPruner(startup_configurations=1))
    rungs = {c.trial.configuration: StageTree(spec, tmp_path).rungs_of(c.trial) for c in known.curves}
    assert set(rungs.values()) == {(2, 3)}
    courses = [
        figures.follow_order(figures.Suggester(spec), iter(known.curves), {}, rungs, at_a_time=n) for n in (1, 2)
    ]
    assert [course.stopped for course in courses] == [{1: 2}, {}]


def test_a_shared_epoch_is_waited_for(tmp_path):
    # the first rung of both is epoch 2; epoch 1 is shared, so the second one is there no sooner, and the first decides
    known = made_up(tmp_path / "s", [[0, 10, 10, 10], [0, 20, 20, 20]], epochs=4)
    assert replayed(known, AshaPruner(), at_a_time=2).own_order_stops == 0
    spec = replace(known.spec, pruner=AshaPruner())
    rungs = {c.trial.configuration: (2, 3) for c in known.curves}
    course = figures.follow_order(figures.Suggester(spec), iter(known.curves), {}, rungs, at_a_time=2)
    assert course.stopped == {}
    assert course.trained.bit_count() == 1 + 2 * 3


def test_regret_over_seeds_is_paired(tmp_path):
    known = made_up(tmp_path / "s", [[0, 10, 30, 30], [0, 20, 20, 20]], epochs=4, seeds=[0, 1, 2])
    found = replayed(known, AshaPruner())
    # the winner is behind at epoch 2: second, it is stopped there, and 10 points are lost with every seed
    assert found.winner_stopped == {2: 0.5}
    assert found.regret.mean == pytest.approx(5.0)
    assert found.regret_over_seeds.mean == pytest.approx(5.0)
    assert found.regret_over_seeds.half_width == pytest.approx(0.0, abs=1e-9)
    assert found.regret_over_seeds.number == 3


def test_where_less_is_better_regret_is_positive(tmp_path):
    objective = {"metric": METRIC, "mode": "min"}
    known = made_up(tmp_path / "s", [[0, 10, 5, 5], [0, 8, 9, 9]], epochs=4, objective=objective)
    assert known.winner.trial.configuration == 0
    assert replayed(known, AshaPruner()).regret.mean == pytest.approx(2.0)


# what is not known


def test_beyond_a_pruned_curve_nothing_is_guessed(tmp_path):
    pruned = study(search={"loss.gamma": SIX}, base={"schedule": {"epochs": 9}}, pruner={"type": "asha"})
    result = finished(tmp_path / "s", pruned).result
    assert any(t.end is End.PRUNED for t in result.trials)
    known = read_curves(tmp_path / "s", tmp_path)
    assert known.pruned == 6 - len(known.whole)
    nothing = replayed(known, NoPruner(), orders=10)
    assert (nothing.unknown, nothing.epochs, nothing.regret, nothing.own_order_stops) == (10, None, None, None)
    same = replayed(known, AshaPruner(), orders=720)
    assert 0 < same.unknown < 720
    assert same.own_order_stops == 0
    text = run("replay", tmp_path / "s", "--orders", 10).stdout
    assert f"{known.pruned} configurations were pruned" in text
    assert "none: 10 of 10 orders are not known and left out; replay a study without a pruner" in text


def test_a_failed_configuration_is_left_out(tmp_path):
    spec = study(search={"loss.gamma": SIX})
    finished(tmp_path / "s", spec, diverges=lambda config: 4 if config.loss.gamma == 4.0 else None)
    known = read_curves(tmp_path / "s", tmp_path)
    assert (known.failed, len(known.curves)) == (1, 5)
    assert "1 configurations with a failed trial are left out" in run("replay", tmp_path / "s").stdout


def test_rungs_that_are_not_evaluated_are_said(tmp_path):
    spec = study(base={"schedule": {"epochs": 12, "stage1_epochs": 2, "evaluate_every": 3}})
    assert figures.moved_rungs(spec, AshaPruner()) == (
        "evaluated every 3 epochs, so rungs after 3, 4, 6, 10 become 3, 6: what lies between is not known"
    )
    assert figures.moved_rungs(study(), AshaPruner()) == ""


# samplers


def test_a_random_sampler_misses_the_winner_as_often_as_chance(tmp_path):
    known = made_up(tmp_path / "s", random_curves(4))
    found = replayed(known, NoPruner(), OptunaSampler(type="random", configurations=3), orders=400)
    assert found.own_order_stops is None
    assert abs(found.winner_untried - (3 / 4) ** 3) < 4 * (0.25 / 400) ** 0.5  # draws may repeat
    assert found.epochs.mean < known.epochs


def test_a_sampler_needs_every_point(tmp_path):
    draws = {"loss.gamma": {"type": "float", "low": 3, "high": 9}}
    finished(tmp_path / "range", study(search=draws, sampler={"type": "random", "configurations": 3}))
    asked = run("replay", tmp_path / "range", "--sampler", "tpe:configurations=3")
    assert one_line(asked) == (
        "error: --sampler: cannot be replayed over the range of loss.gamma: most of it was never trained; drop it"
    )
    some = study(search={"loss.gamma": SIX}, sampler={"type": "random", "configurations": 3})
    finished(tmp_path / "some", some)
    asked = run("replay", tmp_path / "some", "--sampler", "tpe:configurations=3")
    assert "needs every combination trained to its end" in one_line(asked)


# the command


def test_table_document_and_picture(tmp_path):
    known = made_up(tmp_path / "s", random_curves(5), seeds=[0, 1])
    pruner = "asha:reduction_factor=3,first_rung=2"
    asked = run(
        "replay", "s", "--runs", tmp_path, "--pruner", pruner, "--pruner", "median", "--out", tmp_path / "p.png"
    )
    assert asked.exit_code == 0, asked.output
    assert pruner in asked.stdout
    assert f"the winner is {known.winner.trial.label}" in asked.stdout
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    asked = run("replay", "s", "--runs", tmp_path, "--pruner", pruner, "--json")
    (row,) = json.loads(asked.stdout)["replayed"]
    found = replayed(known, AshaPruner(reduction_factor=3, first_rung=2))
    assert row["epochs"]["mean"] == found.epochs.mean
    assert row["orders"] == 120
    assert row["winner_stopped"] == {str(rung): share for rung, share in found.winner_stopped.items()}


@pytest.mark.parametrize(
    ("pruner", "said"),
    [
        ("halving", "pruner"),
        ("asha:reduction_factor=1", "reduction_factor"),
        ("asha:rung=2", "rung"),
        ("asha:2", "must be FIELD=VALUE, such as first_rung=2"),
        ("asha:first_rung=2,first_rung=3", "first_rung stands twice; name it once"),
        ("asha:type=median", "type stands twice; name it once"),
    ],
)
def test_a_pruner_that_is_none_is_named(tmp_path, pruner, said):
    made_up(tmp_path / "s", random_curves(3))
    line = one_line(run("replay", tmp_path / "s", "--pruner", pruner))
    assert line.startswith(f"error: --pruner {pruner}: ")
    assert said in line


def test_what_cannot_be_replayed_is_said_in_a_line(tmp_path):
    assert "has no study 'none'" in one_line(run("replay", "none", "--runs", tmp_path))
    spec = study(search={"loss.gamma": SIX})
    written(tmp_path / "new", spec, [])
    assert "has no trial yet" in one_line(run("replay", tmp_path / "new"))
    started = SessionStarted(worker_groups=1, versions={}, code="c", storage="")
    written(tmp_path / "half", spec, [started])
    Session(spec, tmp_path / "half").run(epochs=5)
    assert "is not finished" in one_line(run("replay", tmp_path / "half"))
    single = {"type": "categorical", "choices": [6.0]}
    finished(tmp_path / "one", study(search={"loss.gamma": single}))
    assert "knows 1 of its 1 configurations" in one_line(run("replay", tmp_path / "one"))


@pytest.mark.parametrize(
    "other",
    [
        {"search": {"loss.A": {"type": "categorical", "choices": [-1.0, -4.0]}}},
        {"base": {"schedule": {"epochs": 7}}},
        {"seeds": [5]},
    ],
)
def test_the_journal_of_another_study_is_refused(tmp_path, other):
    finished(tmp_path / "s", study())
    (tmp_path / "s/spec.yaml").write_text(documents.to_yaml(study(**other)))
    line = one_line(run("replay", tmp_path / "s"))
    assert "is not of the study in spec.yaml beside it" in line
    assert line.endswith("name a study's own folder")
