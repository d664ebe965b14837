"""Budgets: what is spent against the cost of the same journal, what fits by hand, and a study that really stops."""

from dataclasses import replace
from pathlib import Path

import pytest
from made_up_study import Book, study_spec
from simulated import finished, study, written
from small_study import figures, spec
from study_command import one_line, run

from lncis.errors import BudgetError, ConfigError
from lncis.studies import folders
from lncis.studies.budget import Spending, fitting
from lncis.studies.plan import plan
from lncis.studies.record import journal
from lncis.studies.record.history import History
from lncis.studies.report.cost import cost_of
from lncis.studies.run import run_study
from lncis.studies.spec import Budget, judge
from lncis.studies.stages.store import StageStore
from lncis.studies.stages.tree import STAGES
from service.dispatch.outcome import BUDGET_SPENT

pytestmark = pytest.mark.usefixtures("journal_in_memory_of_the_disk")

GAMMAS = {"type": "categorical", "choices": [4.0, 5.0, 8.0]}


@pytest.mark.parametrize("fields", [{}, {"seeds": [0, 1]}, {"pruner": {"type": "asha"}}, {"sharing": False}])
def test_epochs_are_those_that_the_cost_says_were_trained(tmp_path, fields):
    store = StageStore(tmp_path / STAGES, 1e9)
    finished(tmp_path / "earlier", study(), store)  # whose stages are found again
    ran = finished(tmp_path / "s", study(**{"search": {"loss.gamma": GAMMAS}, **fields}), store)
    spending, events = Spending(ran.spec), journal.read(tmp_path / "s")
    for number in range(len(events) + 1):  # read on, event by event
        cost = cost_of(History.of(ran.spec, events[:number]))
        assert spending.spent(events[:number], now=0.0).epochs == cost.trained


def test_time_and_money_are_those_of_the_cost_and_go_on_while_it_runs():
    resources = {"num_workers": 2, "price_per_worker_hour": 3.0}
    told = study_spec(resources=resources, budget={"worker_hours": 1.0, "money": 0.2})
    book = Book(told)
    for trial in told.trials(0, {"loss": {"type": "cross_entropy"}}, baseline="ce"):
        book.train(trial, 30.0)
    book.end_session()
    book.clock += 1000.0  # between two sessions nothing is spent
    book.start_session(worker_groups=1)
    spent = Spending(told).spent(book.events, now=book.clock + 50.0)
    # 80 s with two groups of two workers, then 50 s with one
    assert spent.worker_hours == pytest.approx((80 * 2 + 50) * 2 / 3600)
    assert spent.hours == pytest.approx((80 + 50) / 3600)
    assert spent.money == pytest.approx(3 * spent.worker_hours)
    cost = cost_of(History.of(told, book.events))
    assert Spending(told).spent(book.events, now=book.clock).worker_hours == pytest.approx(cost.held_seconds / 3600)
    assert Spending(told).reached(book.events, now=book.clock) == "money: 0.2667 of 0.2"


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({}, ""),
        ({"epochs": 10}, "budget: 2 of 3 trials fit into epochs: 10"),  # 6, then 4 more each, as they share two
        ({"epochs": 14}, "budget: 3 of 3 trials fit into epochs: 14"),
        ({"hours": 0.1}, "budget: about 3 of 3 trials fit into hours: 0.1"),  # 36 epochs of 20 s, two at a time
        ({"worker_hours": 0.05}, "budget: about 1 of 3 trials fit into worker_hours: 0.05"),  # 9 epochs
        ({"money": 0.02}, "budget: about 0 of 3 trials fit into money: 0.02; raise it, or nothing will be found"),
        ({"epochs": 6, "hours": 9.0}, "budget: 1 of 3 trials fit into epochs: 6"),
    ],
)
def test_what_fits_by_hand(limits, said):
    assert fitting(plan(study(budget=limits, resources={"price_per_worker_hour": 1.0})), 20.0) == said


def test_without_a_pace_nothing_is_said_of_time():
    assert fitting(plan(study(budget={"hours": 2.0})), None) == (
        "budget: how much fits into hours is unknown until a first study like it"
    )


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"epochs": 5}, r"budget.epochs: must be 6 or more, the epochs of one trial, but got 5"),
        ({"money": 5.0}, r"budget.money: needs resources.price_per_worker_hour; set that, or limit worker_hours"),
    ],
)
def test_a_budget_of_no_use_is_refused(limits, said):
    with pytest.raises(ConfigError, match=said):
        judge(study(budget=limits))


def test_resuming_takes_a_larger_budget_and_nothing_else(tmp_path):
    written(tmp_path / "s", study(), [])
    asked = run("run", "--resume", "s", "--runs", tmp_path, "--set", "budget.epochs=9", "--set", "seeds=[0,1]")
    assert one_line(asked) == (
        "error: --set, --with: must not be given with --resume s, but for budget: a resumed study keeps its spec"
    )
    larger = replace(study(), budget=Budget(epochs=9))
    folders.claim_folder(tmp_path, "s", larger, update=True)
    assert folders.read_spec(tmp_path, "s") == larger


@pytest.mark.usefixtures("local_ray")
def test_a_study_stops_at_its_budget_and_goes_on_with_a_larger_one():
    told = spec(budget={"epochs": 4})
    with pytest.raises(BudgetError) as error:
        run_study(told, study_id="s")
    assert str(error.value) == (
        "1 trials of study s did not end: its budget is spent (epochs: 4 of 4); go on with: "
        "lncis study run --resume s --set budget.epochs=MORE"
    )
    assert error.value.reached == History.of(told, journal.read(Path("runs/s"))).spent == "epochs: 4 of 4"
    assert error.value.exit_code == BUDGET_SPENT  # a service does not try again
    found = folders.read_result(Path("runs"), "s")
    assert found.best.trial.label == "gamma = 2.4"
    assert (Path("runs/s") / "table.txt").exists()
    with pytest.raises(BudgetError):  # spent is spent
        run_study(told, study_id="s")
    result = run_study(replace(told, budget=Budget(epochs=6)), study_id="s")
    assert result.complete
    undisturbed = run_study(spec(), study_id="undisturbed", runs=Path("elsewhere"))
    assert figures(result) == figures(undisturbed)
    assert result.cost.trained == 6
