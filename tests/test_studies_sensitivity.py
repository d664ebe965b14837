import math
from dataclasses import replace
from functools import cache

import pytest

from lncis import datasets, documents
from lncis.config import AdamWOptimizer, CrossEntropyLoss, Schedule, SGDOptimizer
from lncis.detection import probing
from lncis.errors import ConfigError
from lncis.studies.sensitivity import ProbedParameter, probed_parameters, remark_on
from lncis.studies.spec import StudySpec

SAME = {"epoch": 1.0, "stage1/loss": 2.0, "stage1/weights": 9.0, "stage2/loss": 3.0, "stage2/weights": 8.0}


def spec(search: dict, **fields) -> StudySpec:
    return documents.parse(StudySpec, {"name": "s", "search": search, **fields}, source="study")


def gamma() -> ProbedParameter:
    (parameter,) = probed_parameters(spec({"loss.gamma": {"type": "categorical", "choices": [4.0, 6.0, 8.0]}}))
    return parameter


def test_a_parameter_is_probed_at_the_ends_of_its_range_or_choices():
    found = probed_parameters(
        spec(
            {
                "loss.gamma": {"type": "float", "low": 3, "high": 9},
                "optimizer.type": {"type": "categorical", "choices": ["adamw", "sgd"]},
                "optimizer.momentum": {"type": "float", "low": 0.5, "high": 0.9, "when": {"optimizer.type": "sgd"}},
                "schedule.stage1_epochs": {"type": "int", "low": 3, "high": 9},
                "loss.A": {"type": "categorical", "choices": [-4.0]},
            },
            sampler={"type": "random", "configurations": 3},
            seeds=[5, 6],
        )
    )
    assert [(parameter.path, parameter.values) for parameter in found] == [
        ("loss.gamma", [3.0, 9.0, pytest.approx(5.292)]),
        ("optimizer.type", ["adamw", "sgd"]),
        ("optimizer.momentum", [0.5, 0.9, pytest.approx(0.6528)]),
    ]
    assert len({probe.key for parameter in found for probe in parameter.probes}) == 8
    momentum = found[2].probes
    assert [(p.config.optimizer.type, p.config.optimizer.momentum) for p in momentum[:2]] == [
        ("sgd", 0.5),
        ("sgd", 0.9),
    ]
    assert all(probe.probe and probe.config.seed == 5 for parameter in found for probe in parameter.probes)


def test_a_parameter_that_fits_with_others_of_a_grid_only_is_not_probed():
    grid = spec(
        {
            "model.max_size": {"type": "categorical", "choices": [256]},
            "model.min_size": {"type": "categorical", "choices": [128, 256]},
        }
    )
    assert probed_parameters(grid) == []


def test_one_that_changes_stage_2_alone_is_as_it_should_be():
    assert remark_on(gamma(), (SAME, {**SAME, "stage2/weights": 8.1})) is None


def test_one_that_changes_stage_1_is_worth_a_note():
    note = remark_on(gamma(), (SAME, {**SAME, "stage1/loss": 2.1, "stage2/loss": 3.3}))
    assert note.startswith("loss.gamma changes stage 1 as well (4.0, 8.0, 6.0 were tried)")


def test_one_that_changes_nothing_is_a_mistake():
    with pytest.raises(ConfigError, match=r"search.loss.gamma: has no effect here: 4.0, 8.0, 6.0 gave"):
        remark_on(gamma(), (SAME, dict(SAME), dict(SAME)))


def test_one_that_matters_between_other_values_only_is_alive():
    assert remark_on(gamma(), (SAME, dict(SAME), {**SAME, "stage2/weights": 8.1})) is None


def test_one_that_may_matter_beside_another_choice_is_told_and_not_refused():
    both = {
        "loss.gamma": {"type": "categorical", "choices": [4.0, 8.0]},
        "loss.isolation": {"type": "categorical", "choices": [False, True]},
    }
    found = probed_parameters(spec(both))[0]
    assert remark_on(found, (SAME, dict(SAME))).startswith("loss.gamma changes nothing beside the base's other")


@pytest.mark.parametrize("other", [SAME, {**SAME, "stage2/loss": math.nan}])
def test_where_one_diverged_it_is_not_called_dead(other):
    assert remark_on(gamma(), ({**SAME, "stage2/loss": math.nan}, other)) is None


def probed(config, path, values):
    base, tried = documents.dump(config), []
    for value in values:
        document = documents.with_overrides(base, {path: value}, schema=type(config))
        tried.append(documents.parse(type(config), document, source="probe"))
    return [probe(changed) for changed in tried]


@cache
def probe(config):
    """Once for all parameters that are tried beside the value they have."""
    return probing.probe(config, datasets.load(config))


def changed(records) -> set[str]:
    return {figure for figure in records[0] if records[0][figure] != records[1][figure]}


@pytest.mark.parametrize(
    ("path", "values", "stages"),
    [
        ("loss.gamma", (4.0, 8.0), {"stage2"}),
        ("loss.gamma", (50.0, 60.0), set()),
        ("loss.A", (-1.0, -4.0), {"stage2"}),
        ("loss.clamped", (False, True), {"stage2"}),
        ("loss.negatives", (True, False), {"stage2"}),
        ("loss.pseudo_negatives", (True, False), {"stage2"}),
        ("loss.isolation", (True, False), {"stage2"}),
        ("loss.stagewise", (True, False), {"stage1"}),
        ("loss.type", ("lncis", "cross_entropy"), {"stage2"}),
        ("loss.type", ("cross_entropy", "generalized_cross_entropy"), {"stage1", "stage2"}),
        ("optimizer.weight_decay", (0.0, 0.1), {"stage1", "stage2"}),
        ("seed", (0, 1), {"stage1", "stage2"}),
    ],
)
def test_probes_tell_what_a_parameter_changes(tiny, path, values, stages):
    tiny = replace(tiny, optimizer=AdamWOptimizer(lr=1e-3))
    records = probed(tiny, path, values)
    assert {figure.partition("/")[0] for figure in changed(records)} == stages
    assert all(f"stage{stage}/{what}" in records[0] for stage in (1, 2) for what in ("loss", "weights"))


def test_momentum_is_a_parameter_of_sgd(tiny):
    records = probed(replace(tiny, optimizer=SGDOptimizer(lr=1e-3)), "optimizer.momentum", (0.5, 0.9))
    assert changed(records) >= {"stage1/weights", "stage2/weights"}


def test_a_probe_leaves_out_a_stage_without_epochs_and_survives_divergence(tiny):
    data = datasets.load(tiny)
    without = probing.probe(replace(tiny, schedule=Schedule(epochs=4, stage1_epochs=0)), data)
    assert set(without) == {"epoch", "stage2/loss", "stage2/weights"}
    diverged = probing.probe(replace(tiny, optimizer=AdamWOptimizer(lr=1e30)), data)
    assert math.isnan(diverged["stage1/loss"])


def test_a_probe_is_the_same_each_time(tiny):
    data = datasets.load(tiny)
    assert probing.probe(tiny, data) == probing.probe(tiny, data)
    assert probing.probe(replace(tiny, loss=CrossEntropyLoss()), data)["stage1/weights"] == pytest.approx(
        probing.probe(tiny, data)["stage1/weights"], rel=0, abs=0
    )


def test_what_a_few_steps_need_not_meet_is_not_probed():
    """The first scenes may be the same, and as noisy, in both data sets."""
    search = {
        "dataset.train_scenes": {"type": "categorical", "choices": [50, 100]},
        "noise.rate": {"type": "categorical", "choices": [0.38, 0.4]},
        "schedule.warmup_iterations": {"type": "categorical", "choices": [0, 1000]},
    }
    assert probed_parameters(spec(search)) == []
