import math

import pytest

from lncis import documents
from lncis.errors import ConfigError
from lncis.studies.spec import StudySpec, space
from lncis.studies.spec.files import parse_spec
from lncis.studies.spec.space import Categorical, Range, applies

LOSS = Categorical(choices=["lncis", "cross_entropy"])
GAMMA = Categorical(choices=[4.0, 6.0], when={"loss.type": "lncis"})


def spec(search: dict, **fields) -> StudySpec:
    return parse_spec({"name": "s", "search": search, **fields}, source="study")


def problems(search: dict, **fields) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        spec(search, **fields)
    return caught.value.problems


def test_a_parameter_applies_where_all_its_conditions_hold():
    both = Categorical(choices=[1], when={"a": 1, "b": ["x", None]})
    assert applies(both, {"a": 1, "b": "x"})
    assert applies(both, {"a": 1, "b": None})
    assert not applies(both, {"a": 1, "b": "y"})
    assert not applies(both, {"a": 2, "b": "x"})
    assert not applies(both, {"b": "x"}), "what is not searched itself has no value"
    assert applies(LOSS, {})


def test_a_grid_has_each_combination_once_and_no_parameter_where_it_does_not_apply():
    grid = space.grid({"loss.type": LOSS, "loss.gamma": GAMMA, "optimizer.lr": Categorical(choices=[1e-3, 1e-4])})
    assert grid == [
        {"loss.type": "lncis", "loss.gamma": 4.0, "optimizer.lr": 1e-3},
        {"loss.type": "lncis", "loss.gamma": 4.0, "optimizer.lr": 1e-4},
        {"loss.type": "lncis", "loss.gamma": 6.0, "optimizer.lr": 1e-3},
        {"loss.type": "lncis", "loss.gamma": 6.0, "optimizer.lr": 1e-4},
        {"loss.type": "cross_entropy", "optimizer.lr": 1e-3},
        {"loss.type": "cross_entropy", "optimizer.lr": 1e-4},
    ]


def test_conditions_reach_through_conditions():
    chain = {
        "a": Categorical(choices=[1, 2]),
        "b": Categorical(choices=[1, 2], when={"a": 1}),
        "c": Categorical(choices=[1, 2], when={"b": [2]}),
    }
    assert space.grid(chain) == [
        {"a": 1, "b": 1},
        {"a": 1, "b": 2, "c": 1},
        {"a": 1, "b": 2, "c": 2},
        {"a": 2},
    ]
    assert space.example(chain, "c", 2) == {"a": 1, "b": 2, "c": 2}
    assert space.example(chain, "a", 2) == {"a": 2}


def test_an_example_is_one_under_which_the_parameter_applies():
    crossed = {
        "a": Categorical(choices=[1, 2]),
        "b": Categorical(choices=[1, 2], when={"a": [1, 2]}),
        "c": Categorical(choices=[1], when={"b": [2], "a": [2]}),
        "d": Range(type="float", low=0, high=1, when={"c": 1}),
    }
    for path, parameter in crossed.items():
        assert applies(parameter, space.example(crossed, path, parameter.examples[0]))
    assert space.example(crossed, "d", 0.5) == {"a": 2, "b": 2, "c": 1, "d": 0.5}


def test_a_conditional_grid_is_a_study():
    study = spec({"loss.type": documents.dump(LOSS), "loss.gamma": documents.dump(GAMMA)})
    assert study.configurations == 3
    configs = [study.configure(overrides, seed=0) for overrides in study.grid]
    assert [(c.loss.type, getattr(c.loss, "gamma", None)) for c in configs] == [
        ("lncis", 4.0),
        ("lncis", 6.0),
        ("cross_entropy", None),
    ]


NAMES = {"type": "categorical", "choices": ["adamw", "sgd"]}
MOMENTUM = {"type": "categorical", "choices": [0.8, 0.9]}


@pytest.mark.parametrize(
    ("search", "problem"),
    [
        (
            {"optimizer.momentum": {**MOMENTUM, "when": {"optimizer.type": "sgd"}}, "optimizer.type": NAMES},
            "search.optimizer.momentum.when.optimizer.type: must name a categorical parameter that stands above "
            "optimizer.momentum in search",
        ),
        (
            {"optimizer.momentum": {**MOMENTUM, "when": {"optimizer.momentum": 0.8}}},
            "search.optimizer.momentum.when.optimizer.momentum: must name a categorical parameter that stands above "
            "optimizer.momentum in search",
        ),
        (
            {"optimizer.type": NAMES, "optimizer.momentum": {**MOMENTUM, "when": {"optimizer.type": "sdg"}}},
            "search.optimizer.momentum.when.optimizer.type: must be among the choices ['adamw', 'sgd'] but got 'sdg'",
        ),
        (
            {"optimizer.type": NAMES, "optimizer.momentum": {**MOMENTUM, "when": {"optimizer.type": ["sgd", "lbfgs"]}}},
            "search.optimizer.momentum.when.optimizer.type: must be among the choices ['adamw', 'sgd'] but got 'lbfgs'",
        ),
        (
            {"optimizer.type": NAMES, "optimizer.momentum": {**MOMENTUM, "when": {"optimizer.type": []}}},
            "search.optimizer.momentum.when: can never hold; correct or drop it",
        ),
        (
            {
                "optimizer.type": NAMES,
                "optimizer.momentum": {**MOMENTUM, "when": {"optimizer.type": "sgd"}},
                "optimizer.lr": {
                    "type": "categorical",
                    "choices": [1e-3],
                    "when": {"optimizer.momentum": 0.8, "optimizer.type": "adamw"},
                },
            },
            "search.optimizer.lr.when: can never hold; correct or drop it",
        ),
    ],
)
@pytest.mark.parametrize("sampler", [{"type": "grid"}, {"type": "tpe", "configurations": 2}], ids=lambda s: s["type"])
def test_a_condition_that_can_never_hold_is_named(search, problem, sampler):
    assert problems(search, sampler=sampler) == [problem]


def test_a_condition_may_not_name_a_range():
    search = {
        "optimizer.lr": {"type": "float", "low": 1e-4, "high": 1e-3},
        "optimizer.momentum": {**MOMENTUM, "when": {"optimizer.lr": 1e-4}},
    }
    (problem,) = problems(search, sampler={"type": "random", "configurations": 2})
    assert problem.startswith("search.optimizer.momentum.when.optimizer.lr: must name a categorical parameter")


def test_examples_of_a_range_are_inside_it():
    assert Range(type="int", low=2, high=5).examples == [2, 5]
    low, middle, high = Range(type="float", low=1e-5, high=1e-2, log=True).examples
    assert (low, high) == (1e-5, 1e-2)
    assert low < middle < high
    assert not math.isclose(middle, round(middle))
