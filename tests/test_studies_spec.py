from dataclasses import fields
from pathlib import Path

import pytest

from lncis import documents
from lncis.config import (
    AdamWOptimizer,
    AsymmetricNoise,
    CrossEntropyLoss,
    Fold,
    LncisLoss,
    NoNoise,
    SGDOptimizer,
    TrainConfig,
)
from lncis.errors import ConfigError
from lncis.metrics import TEST_METRICS, VAL_METRICS
from lncis.studies.spec import StudySpec
from lncis.studies.spec.files import load_spec, parse_spec, portable_spec_document

SHIPPED = Path(__file__).parents[1] / "studies"
STUDIES = sorted(set(SHIPPED.rglob("*.yaml")) - set((SHIPPED / "recipes").iterdir()))
GAMMAS = {"type": "categorical", "choices": [4.0, 6.0]}
MINIMAL = {"name": "s", "search": {"loss.gamma": GAMMAS}}


def spec(**given) -> StudySpec:
    return parse_spec({**MINIMAL, **given}, source="study.yaml")


def problems(**given) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        spec(**given)
    return caught.value.problems


def name_of(path: Path) -> str:
    return "_".join(path.relative_to(SHIPPED).with_suffix("").parts)


def test_the_papers_tables_are_there():
    assert {name_of(path) for path in STUDIES} == {
        "first",
        "gamma_sweep",
        "own_data",
        "suspects",
        *(f"{data}_{part}" for data in ("digits", "voc") for part in ("table1", "table4", "table6", "figure5")),
        *(f"{data}_table5_{epochs}" for data in ("digits", "voc") for epochs in (12, 18)),
        "coco_table2",
        "cityscapes_table3",
        "digits_auto",
        *("digits_heavy_noise", "digits_rates", "digits_signs"),
    }


@pytest.mark.parametrize("path", STUDIES, ids=name_of)
def test_every_shipped_study_loads(path):
    study = load_spec(path)
    assert study.name == name_of(path)
    assert study.question
    trials = [
        trial for i, (name, o) in enumerate(study.baselines.items()) for trial in study.trials(i, o, baseline=name)
    ]
    assert all(isinstance(trial.config, TrainConfig) for trial in trials)
    assert documents.parse(StudySpec, documents.dump(study), source="dump") == study


@pytest.mark.parametrize("path", STUDIES, ids=name_of)
def test_every_combination_of_a_shipped_grid_is_a_config(path):
    study = load_spec(path)
    for overrides in study.grid if study.sampler.type == "grid" else []:
        study.configure(overrides, seed=0)


@pytest.mark.parametrize("path", STUDIES, ids=name_of)
def test_paper_rows_of_shipped_studies_set_what_the_study_varies(path):
    study = load_spec(path)
    varied = [*study.grid, *study.baselines.values()] if study.sampler.type == "grid" else []
    for row in study.paper.rows if study.paper and varied else []:
        assert row.set in varied


@pytest.mark.parametrize(
    ("search", "place", "remedy"),
    [
        ({"loss.gama": GAMMAS}, "search.loss.gama: ", "no such field; did you mean gamma?"),
        ({"los.gamma": GAMMAS}, "search.los: ", "no such field; did you mean loss?"),
        ({"batch_size.x": {**GAMMAS, "choices": [1]}}, "search.batch_size: ", "must be a valid integer"),
        ({"lr": GAMMAS}, "search.lr: ", "no such field; known are dataset, noise, "),
        (
            {"loss.gamma": {**GAMMAS, "choices": [-1]}},
            "search.loss.gamma: ",
            "must be a number greater than 0, or auto but got -1",
        ),
        ({"seed": {**GAMMAS, "choices": [0, 1]}}, "search.seed: ", "write them under seeds:"),
        ({"loss.gamma": {"type": "float", "low": 4, "high": 8}}, "search.loss.gamma: ", "a grid needs choices"),
        ({"loss.gamma": {"type": "grid"}}, "search.loss.gamma.type: ", "must be one of 'categorical', 'float', 'int'"),
    ],
)
def test_search_mistakes(search, place, remedy):
    (problem,) = problems(search=search)
    assert problem.startswith(place)
    assert remedy in problem


@pytest.mark.parametrize(
    ("low", "high", "log", "message"),
    [
        (8, 4, False, r"low must be below high \(4.0\) but got 8"),
        (4, 4, False, r"low must be below high \(4.0\) but got 4"),
        (0, 4, True, "low must be greater than 0 for a log range but got 0"),
    ],
)
def test_range_mistakes(low, high, log, message):
    with pytest.raises(ConfigError, match=message):
        spec(search={"loss.gamma": {"type": "float", "low": low, "high": high, "log": log}})


def problems_of_range(path: str, **range_: object) -> list[str]:
    return problems(search={path: range_}, sampler={"type": "tpe", "configurations": 3})


def test_a_range_must_fit_its_field_between_its_ends_too():
    spec(search={"batch_size": {"type": "int", "low": 1, "high": 4}}, sampler={"type": "tpe", "configurations": 3})
    (problem,) = problems_of_range("batch_size", type="int", low=1.9, high=4.5)
    assert problem == "search.batch_size: low and high must be whole numbers but got 1.9 and 4.5"
    (problem,) = problems_of_range("optimizer.lr", type="float", low=1, high=float("inf"))
    assert problem.startswith("search.optimizer.lr.high: must be a finite number")


def test_a_grid_is_checked_in_combination():
    def epochs(*pairs: tuple[int, int]) -> dict[str, dict[str, object]]:
        names = ("schedule.epochs", "schedule.stage1_epochs")
        return {
            n: {"type": "categorical", "choices": list(c)} for n, c in zip(names, zip(*pairs, strict=True), strict=True)
        }

    (problem,) = problems(search=epochs((8, 6), (12, 9)))
    assert problem == "search.schedule: stage1_epochs must be below epochs (8) but got 9"
    table5 = epochs((18, 6), (19, 15))
    spec(search=table5, base={"schedule": {"epochs": 12}})  # though 15 alone does not fit the base


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [([4.0, 4.0], "choices must differ but 4.0 stands twice"), ([[1]], "choices must be plain values but got [1]")],
)
def test_choices_are_plain_and_distinct(choices, complaint):
    (problem,) = problems(search={"loss.gamma": {"type": "categorical", "choices": choices}})
    assert problem.startswith(f"search.loss.gamma: {complaint}")


def test_an_unknown_key_of_a_parameter_names_the_near_one():
    (problem,) = problems(search={"loss.gamma": {"type": "categorical", "choicez": [1]}})[:1]
    assert problem in (
        "search.loss.gamma.choices: is required but missing",
        "search.loss.gamma.choicez: no such field; did you mean choices?",
    )


@pytest.mark.parametrize("bounds", [(0, 1), (-2, 0.5)])
def test_bounds_of_a_range_must_be_values_of_the_field(bounds):
    found = problems(
        search={"optimizer.lr": {"type": "float", "low": bounds[0], "high": bounds[1]}},
        sampler={"type": "tpe", "configurations": 3},
    )
    (problem,) = found
    assert problem.startswith("search.optimizer.lr: ")
    assert problem.endswith(f"must be greater than 0 but got {float(bounds[0])}")


def test_seeds_must_differ():
    assert problems(seeds=[0, 1, 0]) == ["seeds must differ but got [0, 1, 0]"]


@pytest.mark.parametrize("metric", TEST_METRICS)
def test_clean_test_figures_are_not_selected_on(metric):
    (problem,) = problems(objective={"metric": metric})
    assert problem.startswith(f"objective: metric must not be a test figure ({metric}): select on one of val/segm_AP, ")


def test_objective_must_be_reported():
    (problem,) = problems(objective={"metric": "val/AP"})
    assert problem.startswith("objective: metric must be one of val/segm_AP, ")
    assert "but got 'val/AP'" in problem


@pytest.mark.parametrize("metric", VAL_METRICS)
def test_noisy_validation_figures_may_be_selected_on(metric):
    assert spec(objective={"metric": metric}).objective.metric == metric


def test_baseline_must_be_a_config():
    found = problems(baselines={"ce": {"loss": {"type": "crossentropy"}}, "fine": {"loss.gamma": 5}})
    (problem,) = found
    assert problem.startswith("baselines.ce.loss.type: must be one of 'cross_entropy', 'label_smoothing', ")
    assert problem.endswith("'lncis' but got 'crossentropy'")


def test_base_seed_is_not_set():
    assert problems(base={"seed": 3}) == ["base.seed must not be set (got 3): write seeds: [3]"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"nam": "t"}, "nam: no such field; did you mean name?"),
        (
            {"base": {"dataset": {"type": "digits", "train_scene": 1}}},
            "base.dataset.train_scene: no such field; did you mean train_scenes?",
        ),
        ({"base": {"loss": {"type": "lncis", "gama": 1}}}, "base.loss.gama: no such field; did you mean gamma?"),
        (
            {"sampler": {"type": "grid", "seed": 1}},
            "sampler.seed: no such field with type grid, only with random or tpe or gp",
        ),
        (
            {"pruner": {"type": "none", "first_rung": 1}},
            "pruner.first_rung: no such field with type none, only with asha or median or hyperband",
        ),
        ({"objective": {"metrics": "x"}}, "objective.metrics: no such field; did you mean metric?"),
        ({"resources": {"num_worker": 2}}, "resources.num_worker: no such field; did you mean num_workers?"),
        (
            {"resources": {"max_concurrent_trials": 0}},
            "resources.max_concurrent_trials: must be a whole number from 1, or auto but got 0",
        ),
        (
            {"resources": {"max_concurrent_trials": "Auto"}},
            "resources.max_concurrent_trials: must be a whole number from 1, or auto but got 'Auto'",
        ),
        ({"paper": {"table": "6", "rows": [], "row": 1}}, "paper.row: no such field; did you mean rows?"),
    ],
)
def test_unknown_key_of_any_part_names_the_near_field(given, expected):
    assert problems(**given) == [expected]


@pytest.mark.parametrize("name", ["", "a b", "../up", "-x", "x" * 65])
def test_name_must_do_for_a_folder(name):
    (problem,) = problems(name=name)
    assert problem.startswith("name: ")


def test_several_mistakes_at_once():
    found = problems(search={"loss.gama": GAMMAS, "los.A": GAMMAS}, seeds=[1, 1], base={"seed": 2})
    assert len(found) == 4
    with pytest.raises(ConfigError) as caught:
        spec(search={"loss.gama": GAMMAS}, seeds=[1, 1])
    assert all(line.startswith("study.yaml: ") for line in str(caught.value).splitlines())


def test_sampler_must_say_how_many_configurations():
    assert problems(sampler={"type": "random"}) == ["sampler.configurations: is required but missing"]


def test_grid_is_every_combination_in_order():
    study = spec(search={"loss.gamma": GAMMAS, "loss.A": {"type": "categorical", "choices": [-4.0, -1.0, -2.0]}})
    assert study.grid == [
        {"loss.gamma": 4.0, "loss.A": -4.0},
        {"loss.gamma": 4.0, "loss.A": -1.0},
        {"loss.gamma": 4.0, "loss.A": -2.0},
        {"loss.gamma": 6.0, "loss.A": -4.0},
        {"loss.gamma": 6.0, "loss.A": -1.0},
        {"loss.gamma": 6.0, "loss.A": -2.0},
    ]
    assert study.configurations == 6
    assert spec(sampler={"type": "tpe", "configurations": 11}).configurations == 11


def test_trials_differ_in_their_seed_alone():
    study = spec(seeds=[3, 1])
    first, second = study.trials(4, {"loss.gamma": 5})
    assert (first.seed, first.config.seed) == (3, 3)
    assert (second.seed, second.config.seed) == (1, 1)
    assert first.config.loss == second.config.loss == LncisLoss(gamma=5.0)
    assert [first.name, second.name] == ["0004-seed3", "0004-seed1"]
    assert first.label == second.label == "gamma = 5"
    assert study.base == TrainConfig()


def test_labels():
    study = spec(baselines={"plain": {"loss": {"type": "cross_entropy"}}})
    (baseline,) = study.trials(0, study.baselines["plain"], baseline="plain")
    assert baseline.label == "plain"
    assert baseline.config.loss == CrossEntropyLoss()
    (trial,) = study.trials(1, {"loss.gamma": 4.0, "noise.type": "asymmetric", "optimizer.lr": 1e-5})
    assert trial.label == "gamma = 4, asymmetric, lr = 1e-05"


SEVERAL = {"type": "tpe", "configurations": 3}


def test_noise_draws_replicate_every_seed():
    study = spec(seeds=[3, 1], noise_seeds=[7, 8])
    assert study.replicates == [(3, 7, None), (1, 7, None), (3, 8, None), (1, 8, None)]
    trials = study.trials(2, {"loss.gamma": 4.0})
    assert [(t.config.seed, t.config.noise.seed, None) for t in trials] == study.replicates
    assert [t.name for t in trials] == [f"0002-seed{s}-noise{n}" for s, n, _ in study.replicates]
    assert [str(t.replicate) for t in trials] == ["3, noise 7", "1, noise 7", "3, noise 8", "1, noise 8"]
    assert study.total_trials == 8


def test_without_noise_draws_the_base_keeps_its_own():
    study = spec(seeds=[3], base={"noise": {"type": "asymmetric", "seed": 5}})
    (trial,) = study.trials(0, {"loss.gamma": 4.0})
    assert (trial.config.noise.seed, trial.name, str(trial.replicate)) == (5, "0000-seed3", "3")


def test_folds_replicate_every_seed_which_splits_the_images_its_own_way():
    study = spec(seeds=[3, 1], folds=2, baselines={"plain": {"loss.type": "cross_entropy"}})
    trials = study.trials(2, {"loss.gamma": 4.0})
    assert [(t.config.seed, t.config.fold) for t in trials] == [
        (seed, Fold(number=number, of=2, seed=seed)) for seed in (3, 1) for number in (0, 1)
    ]
    assert [t.name for t in trials] == [f"0002-seed{s}-fold{k}" for s in (3, 1) for k in (0, 1)]
    assert [str(t.replicate) for t in trials] == ["3, fold 0", "3, fold 1", "1, fold 0", "1, fold 1"]
    assert study.total_trials == (1 + study.configurations) * 4
    assert study.configure({}, seed=3).fold is None, "without one it is a training on everything"


def test_folds_stand_in_one_place():
    for folds in ({}, {"folds": 5}):
        (problem,) = problems(search={"fold.number": {"type": "categorical", "choices": [0, 1]}}, **folds)
        assert problem.startswith("search.fold.number: folds are not searched, as each has another val; write folds: 5")
    (problem,) = problems(folds=4, base={"fold": {"of": 5}})
    assert problem == (
        "base.fold must not be set beside folds: 4, which leaves out each part in turn; drop one of the two"
    )
    assert problems(folds=4, baselines={"b": {"fold.of": 4}}) == [
        "baselines.b: fold must not be set; baselines train with every fold of folds:"
    ]
    spec(base={"fold": {"of": 5, "number": 2}})
    for wrong in (1, 101, "all"):
        assert problems(folds=wrong), wrong


def test_without_noise_its_seeds_change_nothing():
    study = spec(noise_seeds=[7, 8], baselines={"clean": {"noise": {"type": "none"}}})
    for overrides in (study.baselines["clean"], {"noise.type": "none"}):
        first, second = study.trials(0, overrides)
        assert (first.noise_seed, second.noise_seed) == (7, 8)
        assert first.config == second.config
        assert first.config.noise == NoNoise()
    assert study.baselines == {"clean": {"noise": {"type": "none"}}}, "untouched"


def test_noise_seeds_must_differ_and_stand_in_one_place():
    assert problems(noise_seeds=[1, 1]) == ["noise_seeds must differ but got [1, 1]"]
    for draws in ([], [1, 2]):
        (problem,) = problems(search={"noise.seed": {"type": "categorical", "choices": [0, 1]}}, noise_seeds=draws)
        assert problem == "search.noise.seed: noise draws are not searched; write them under noise_seeds:"


@pytest.mark.parametrize(
    ("path", "choices"),
    [
        ("val_labels", ["noisy", "oracle"]),
        ("noise.rate", [0.2, 0.4]),
        ("noise.type", ["symmetric", "none"]),
        ("dataset.val_scenes", [10, 20]),
        ("dataset.seed", [0, 1]),
    ],
)
@pytest.mark.parametrize("sampler", [{"type": "grid"}, {"type": "random", "configurations": 2}])
def test_what_changes_val_is_not_searched(path, choices, sampler):
    """The least noisy, or the easiest, val would win."""
    (problem,) = problems(search={path: {"type": "categorical", "choices": choices}}, sampler=sampler)
    assert problem.startswith(f"search.{path}: must not be searched, as val changes with it")
    assert f"--set {path}=VALUE" in problem
    spec(baselines={"reference": {path: choices[0]}})  # never selected


def test_a_lower_bound_needs_two_replicates():
    (problem,) = problems(objective={"select": "lower_bound"})
    assert problem == "objective.select: lower_bound needs at least 2 seeds; add some to seeds: or use mean"
    spec(objective={"select": "lower_bound"}, seeds=[0, 1])
    spec(objective={"select": "lower_bound"}, noise_seeds=[0, 1])


def test_secondary_objectives_stand_beside_the_objective():
    study = spec(secondary_objectives=[{"metric": "val/bbox_AP"}, {"metric": "val/segm_AP50", "mode": "min"}])
    assert [(objective.metric, objective.mode) for objective in study.objectives] == [
        ("val/segm_AP", "max"),
        ("val/bbox_AP", "max"),
        ("val/segm_AP50", "min"),
    ]


@pytest.mark.parametrize(
    ("given", "start"),
    [
        (
            {"secondary_objectives": [{"metric": "val/segm_AP"}]},
            "secondary_objectives: must name other metrics than objective, each once",
        ),
        (
            {"secondary_objectives": [{"metric": "val/bbox_AP"}] * 2},
            "secondary_objectives: must name other metrics than objective",
        ),
        (
            {"secondary_objectives": [{"metric": "test/bbox_AP"}]},
            "secondary_objectives.0: metric must not be a test figure",
        ),
        (
            {"secondary_objectives": [{"metric": "val/bbox_AP"}], "pruner": {"type": "asha"}},
            "pruner.type: must be none where there are secondary_objectives",
        ),
    ],
)
def test_secondary_objective_mistakes(given, start):
    (problem,) = problems(**given)
    assert problem.startswith(start)


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ([{"loss.gamma": 4.0}] * 4, "sampler.first: must hold at most 3 points (sampler.configurations) but got 4"),
        ([{}, {"loss.A": -1.0}], "sampler.first.1.loss.A: is not searched; drop it"),
        ([{"loss.gamma": 5.0}], "sampler.first.0.loss.gamma: must be among the choices [4.0, 6.0] but got 5.0"),
        ([{"optimizer.lr": 1.0}], "sampler.first.0.optimizer.lr: must be a number from 0.0001 to 0.01 but got 1.0"),
        ([{"optimizer.lr": "x"}], "sampler.first.0.optimizer.lr: must be a number from 0.0001 to 0.01 but got 'x'"),
        ([{"batch_size": 1.5}], "sampler.first.0.batch_size: must be a whole number from 1 to 4 but got 1.5"),
        ([{"batch_size": None}], "sampler.first.0.batch_size: must be a whole number from 1 to 4 but got None"),
    ],
)
def test_points_to_try_first_are_points_of_the_space(first, expected):
    search = {
        "loss.gamma": GAMMAS,
        "optimizer.lr": {"type": "float", "low": 1e-4, "high": 1e-2},
        "batch_size": {"type": "int", "low": 1, "high": 4},
    }
    assert problems(search=search, sampler={**SEVERAL, "first": first}) == [expected]
    spec(search=search, sampler={**SEVERAL, "first": [{"loss.gamma": 6}, {"batch_size": 4, "optimizer.lr": 0.01}, {}]})


@pytest.mark.parametrize(
    ("pruner", "expected"),
    [
        ({"type": "asha", "first_rung": 0}, "pruner.first_rung: must be greater than or equal to 1 but got 0"),
        (
            {"type": "asha", "reduction_factor": 1},
            "pruner.reduction_factor: must be greater than or equal to 2 but got 1",
        ),
        ({"type": "asha", "every": 1}, "pruner.every: no such field with type asha, only with median"),
        ({"type": "median", "every": 0}, "pruner.every: must be greater than or equal to 1 but got 0"),
        (
            {"type": "median", "startup_configurations": 0},
            "pruner.startup_configurations: must be greater than or equal to 1 but got 0",
        ),
        ({"type": "halving"}, "pruner.type: must be one of 'none', 'asha', 'median', 'hyperband' but got 'halving'"),
        ({"kind": "asha"}, "pruner: needs type, one of 'none', 'asha', 'median', 'hyperband'; write type for kind"),
    ],
)
def test_pruner_mistakes(pruner, expected):
    assert problems(pruner=pruner) == [expected]


@pytest.mark.parametrize("path", ["schedule.stage1_epochs", "schedule.epochs", "batch_size", "model.max_size"])
def test_a_field_of_whole_numbers_is_searched_in_whole_numbers(path):
    (problem,) = problems_of_range(path, type="float", low=2, high=3)
    assert problem == f"search.{path}.type: must be int, as the field holds whole numbers, but got 'float'"


@pytest.mark.parametrize("choice", [3.4, 4.0, float("nan"), float("inf")])
@pytest.mark.parametrize("sampler", [{"type": "grid"}, {"type": "tpe", "configurations": 3}], ids=lambda s: s["type"])
def test_a_choice_for_a_field_of_whole_numbers_is_one(choice, sampler):
    search = {"schedule.stage1_epochs": {"type": "categorical", "choices": [None, 2, choice]}}
    (problem,) = problems(search=search, sampler=sampler)
    assert problem == (
        f"search.schedule.stage1_epochs.choices: must be whole numbers, such as 4 and not 4.0, but got {choice}"
    )


def test_a_field_of_whole_numbers_is_known_as_such_under_a_condition_too():
    search = {
        "loss.type": {"type": "categorical", "choices": ["cross_entropy", "lncis"]},
        "loss.gamma": {"type": "float", "low": 1, "high": 9, "when": {"loss.type": "lncis"}},
        "model.min_size": {"type": "float", "low": 64, "high": 96, "when": {"loss.type": "lncis"}},
    }
    found = problems(search=search, sampler={"type": "random", "configurations": 3})
    assert found == ["search.model.min_size.type: must be int, as the field holds whole numbers, but got 'float'"]


def test_another_type_keeps_what_both_inherit_and_begins_from_its_defaults_else():
    base = {
        "loss": {"type": "lncis", "gamma": 5.0, "A": -9.0},
        "optimizer": {"type": "sgd", "lr": 0.02, "momentum": 0.5},
    }
    study = spec(base=base)
    assert study.configure({"loss.type": "cross_entropy"}, seed=0).loss == CrossEntropyLoss()
    assert study.configure({"loss.type": "lncis"}, seed=0).loss == LncisLoss(gamma=5.0, A=-9.0)
    assert study.configure({"loss.gamma": 4.0, "loss.type": "lncis"}, seed=0).loss == LncisLoss(gamma=4.0, A=-9.0)
    rates = {"optimizer.lr": {"type": "categorical", "choices": [0.1, 0.2]}}
    plain = spec(base={"loss": {"type": "cross_entropy"}}, search=rates)
    for overrides in ({"loss.type": "lncis", "loss.A": -2.0}, {"loss.A": -2.0, "loss.type": "lncis"}):
        assert plain.configure(overrides, seed=0).loss == LncisLoss(A=-2.0), "in whatever order they stand"
    assert study.configure({"optimizer.type": "adamw"}, seed=0).optimizer == AdamWOptimizer(lr=0.02)
    assert study.configure({"optimizer.type": "sgd"}, seed=0).optimizer == SGDOptimizer(lr=0.02, momentum=0.5)
    assert study.configure({"noise.type": "none"}, seed=0).noise == NoNoise()
    noisy = spec(base={"noise": {"type": "symmetric", "rate": 0.2, "seed": 7}})
    assert noisy.configure({"noise.type": "asymmetric"}, seed=0).noise == AsymmetricNoise(rate=0.2, seed=7)
    large = spec(base={"model": {"type": "digits_rcnn", "min_size": 64, "max_size": 96}})
    model = large.configure({"model.type": "maskrcnn_resnet50_fpn"}, seed=0).model
    assert (model.min_size, model.max_size) == (64, 96)


EVERYTHING = {
    "name": "everything",
    "question": "does: all of it, survive?",
    "base": {"loss": {"type": "lncis", "gamma": float("inf")}, "schedule": {"epochs": 9, "lr_drops": [6, 8]}},
    "search": {
        "loss.type": {"type": "categorical", "choices": ["lncis", "cross_entropy"]},
        "loss.A": {"type": "float", "low": -8, "high": -1e-5, "when": {"loss.type": ["lncis"]}},
        "optimizer.lr": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
        "schedule.stage1_epochs": {"type": "int", "low": 2, "high": 6},
        "precision": {"type": "categorical", "choices": ["fp32", "bf16"]},
    },
    "baselines": {"no noise": {"noise": {"type": "none"}}, "plain": {"loss.type": "cross_entropy"}},
    "sampler": {
        "type": "tpe",
        "configurations": 7,
        "seed": 2,
        "first": [{"loss.type": "lncis", "loss.A": -4.0}, {}],
        "warm_start": "earlier-20260101-000000-abcd",
    },
    "pruner": {"type": "median", "first_rung": 2, "every": 3, "startup_configurations": 5},
    "seeds": [4, 5],
    "noise_seeds": [0, 9],
    "folds": 3,
    "objective": {"metric": "val/segm_AP50", "mode": "min", "select": "lower_bound"},
    "resources": {"num_workers": 2, "cpus_per_worker": 0.5, "gpus_per_worker": 2, "max_concurrent_trials": "auto"},
    "budget": {"epochs": 900, "hours": 8.5},
    "extends": {"study": "earlier-20260101-000000-abcd", "epochs": [6]},
    "sharing": False,
    "sensitivity_check": False,
    "keep_checkpoints": "best",
    "paper": {"table": "6", "rows": [{"set": {"loss.A": -4.0}, "AP": 1, "AP50": 2, "AP75": 3}]},
}


def test_a_study_with_everything_survives_yaml(tmp_path):
    study = documents.parse(StudySpec, EVERYTHING, source="study")
    assert set(EVERYTHING) == {f.name for f in fields(StudySpec)} - {"secondary_objectives"}, (
        "whatever is new stands here too"
    )
    (tmp_path / "spec.yaml").write_text(documents.to_yaml(study))
    assert load_spec(tmp_path / "spec.yaml") == study
    several = {
        **EVERYTHING,
        "pruner": {"type": "none"},
        "secondary_objectives": [{"metric": "val/bbox_AP", "mode": "min"}],
    }
    study = documents.parse(StudySpec, several, source="study")
    (tmp_path / "spec.yaml").write_text(documents.to_yaml(study))
    assert load_spec(tmp_path / "spec.yaml") == study


COLUMNS = [
    {"noise.type": "none"},
    *({"noise.type": "symmetric", "noise.rate": rate} for rate in (0.2, 0.4, 0.6, 0.8)),
    *({"noise.type": "asymmetric", "noise.rate": rate} for rate in (0.2, 0.4)),
]


@pytest.mark.parametrize("path", [path for path in STUDIES if path.stem in ("table1", "table2", "table3")], ids=name_of)
def test_each_column_of_the_papers_tables_has_its_figures(path):
    """METHOD's gains of LNCIS over CE: on VOC 4.3, 6.6, 6.7, 4.8 and 1.0, 0.6."""
    gains = []
    for column in COLUMNS:
        study = load_spec(path, column)
        mine = {
            row.set.get("loss.type", "cross_entropy"): row.AP
            for row in study.paper.rows
            if documents.with_overrides(documents.dump(study.base), row.given) == documents.dump(study.base)
        }
        assert set(mine) == {"cross_entropy", *study.search["loss.type"].choices}
        gains.append(round(mine["lncis"] - mine["cross_entropy"], 1))
    expected = {
        "table1": [0.4, 4.3, 6.6, 6.7, 4.8, 1.0, 0.6],
        "table2": [-0.5, 1.8, 2.0, 3.7, 4.9, 1.4, 1.7],
        "table3": [0.2, 4.8, 8.1, 5.8, 3.6, 1.1, 2.4],
    }
    assert gains == expected[path.stem]


RECIPE = "optimizer: {type: adamw, lr: 0.5, weight_decay: 0.0}\nnoise: {type: symmetric, rate: 0.1}\n"
STUDY = """
name: s
recipes: [recipe.yaml]
base: {optimizer: {lr: 0.25}}
search: {loss.gamma: {type: categorical, choices: [4.0]}}
"""
ALONE = STUDY.replace("recipes: [recipe.yaml]", "").replace("{lr:", "{type: adamw, lr:")


def test_recipes_lie_under_the_base_and_changes_over_it():
    Path("sub").mkdir()
    Path("sub/recipe.yaml").write_text(RECIPE)
    Path("sub/study.yaml").write_text(STUDY)
    Path("data.yaml").write_text("dataset: {type: digits, train_scenes: 7}\noptimizer: {weight_decay: 0.125}\n")
    base = load_spec(Path("sub/study.yaml")).base
    assert (base.optimizer.lr, base.optimizer.weight_decay, base.noise.rate) == (0.25, 0.0, 0.1)
    study = load_spec(Path("sub/study.yaml"), {"noise.rate": 0.2, "seeds": [3, 4]}, [Path("data.yaml")])
    assert (study.base.optimizer.weight_decay, study.base.dataset.train_scenes) == (0.125, 7)
    assert (study.base.noise.rate, study.seeds) == (0.2, [3, 4])


@pytest.mark.parametrize("changes", [{}, {"noise.rate": 0.3}, {"noise.type": "asymmetric", "dataset.train": "b.json"}])
def test_what_is_relative_in_a_study_stays_so_for_another_machine(changes, tmp_path, monkeypatch):
    Path("study.yaml").write_text(
        ALONE.replace("base: {", "base: {dataset: {type: coco, images: i, train: a, test: t}, ")
    )
    document = portable_spec_document(Path("study.yaml"), changes)
    assert document["base"]["dataset"]["images"] == "i"
    here = load_spec(Path("study.yaml"), changes)
    assert documents.parse(StudySpec, document, source="test") == here
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    there = documents.parse(StudySpec, document, source="test")
    assert there.base.dataset.train == tmp_path / "there" / changes.get("dataset.train", "a")
    assert there.base.noise == here.base.noise


@pytest.mark.parametrize(
    ("text", "changes", "problem"),
    [
        (STUDY, {}, "recipe.yaml: no such file"),
        (
            STUDY.replace("[recipe.yaml]", "recipe.yaml"),
            {},
            "recipes: must be a list of YAML files but got 'recipe.yaml'",
        ),
        (
            ALONE,
            {"nose.rate": 1},
            "nose.rate: names no field of a study or of a training",
        ),
        (ALONE, {"noise.rate": 2}, "base.noise.rate: must be less than or equal to 1"),
    ],
)
def test_a_wrong_recipe_or_change_is_named(text, changes, problem):
    Path("study.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_spec(Path("study.yaml"), changes)
    assert problem in str(caught.value)
