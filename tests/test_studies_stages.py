import ast
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import lncis
from lncis import documents
from lncis.config import (
    AdamWOptimizer,
    AsymmetricNoise,
    CrossEntropyLoss,
    DigitsData,
    DigitsRCNN,
    GeneralizedCrossEntropyLoss,
    LncisLoss,
    Schedule,
    SGDOptimizer,
    SymmetricNoise,
    TrainConfig,
    Workers,
)
from lncis.errors import ConfigError
from lncis.studies.plan import plan
from lncis.studies.spec import StudySpec, Trial
from lncis.studies.stages import tree
from lncis.studies.stages.tree import COMPUTING, Sharing, StageTree, chain, code_digest, sharing

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


def test_plain_cross_entropy_is_stage_1_to_its_end():
    plain = replace(BASE, loss=CrossEntropyLoss())
    later = replace(plain, schedule=replace(SCHEDULE, stage1_epochs=9))
    assert keys(plain) == keys(later)
    trials = [Trial(configuration=0, overrides={}, seed=0, config=c) for c in (BASE, plain, later)]
    forked, *alike = ([t.key for t in chain(trial, Workers(), Path(), switches={6, 9})] for trial in trials)
    assert alike[0] == alike[1]
    assert len(alike[0]) == 3
    assert forked[0] == alike[0][0]


def test_a_stage_that_ends_at_a_rung_is_not_one_that_ends_a_trial():
    """After its last epoch a trial is evaluated on `test`, too."""
    schedule = Schedule(epochs=12, stage1_epochs=3, lr_drops=())
    long, short = (replace(BASE, schedule=replace(schedule, epochs=epochs)) for epochs in (12, 6))
    trials = [Trial(configuration=0, overrides={}, seed=0, config=config) for config in (long, short)]
    one, other = (chain(trial, Workers(), Path(), rungs=[6]) for trial in trials)
    assert one[0].key == other[0].key
    assert one[1].until == other[1].until == 6
    assert one[1].key != other[1].key


def test_same_trial_has_the_same_keys():
    assert keys(BASE) == keys(TrainConfig(schedule=replace(SCHEDULE)))


@pytest.mark.parametrize(
    "loss",
    [
        LncisLoss(gamma=4.0),
        LncisLoss(A=-1.0),
        LncisLoss(clamped=True),
        LncisLoss(negatives=False),
        LncisLoss(pseudo_negatives=False),
        LncisLoss(isolation=False),
    ],
)
def test_loss_of_stage_2_leaves_stage_1_alone(loss):
    (first, second), (changed_first, changed_second) = keys(BASE), keys(replace(BASE, loss=loss))
    assert changed_first == first
    assert changed_second != second


@pytest.mark.parametrize("loss", [GeneralizedCrossEntropyLoss(), LncisLoss(stagewise=False)])
def test_a_loss_that_is_there_from_the_first_epoch_shares_with_none_and_knows_no_switch(loss):
    config = replace(BASE, loss=loss)
    later = replace(config, schedule=replace(SCHEDULE, stage1_epochs=9))
    assert len(keys(config)) == 1
    assert keys(config) == keys(later)
    trials = [
        Trial(configuration=0, overrides={}, seed=0, config=c)
        for c in (BASE, replace(BASE, loss=CrossEntropyLoss()), config, later)
    ]
    cut = [[t.key for t in chain(trial, Workers(), Path(), switches={6, 9}, rungs=[10])] for trial in trials]
    assert cut[2] == cut[3]
    assert len(cut[2]) == 4, "at E1 = 6 and 9 of others and at the rung, then the rest"
    assert not set(cut[2]) & {*cut[0], *cut[1]}


def test_constants_of_a_loss_change_all_of_a_training_that_has_it_from_the_first_epoch():
    a, b = (keys(replace(BASE, loss=GeneralizedCrossEntropyLoss(q=q))) for q in (0.3, 0.7))
    assert not set(a) & set(b)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (LncisLoss(), LncisLoss(A=-4, isolation=True)),
        (LncisLoss(A=math.log(1e-4)), LncisLoss(A=-9.210340371976182, clamped=False)),
    ],
)
def test_to_write_out_a_default_changes_nothing(short, long):
    assert keys(replace(BASE, loss=short)) == keys(replace(BASE, loss=long))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"noise": SymmetricNoise(rate=0.2)},
        {"noise": SymmetricNoise(seed=1)},
        {"noise": AsymmetricNoise()},
        {"optimizer": AdamWOptimizer(lr=2e-3)},
        {"optimizer": SGDOptimizer()},
        {"optimizer": AdamWOptimizer(weight_decay=0)},
        {"batch_size": 8},
        {"precision": "bf16"},
        {"dataset": DigitsData(train_scenes=201)},
        {"dataset": DigitsData(seed=1)},
        {"model": DigitsRCNN(max_size=160)},
        {"schedule": replace(SCHEDULE, stage1_epochs=5)},
        {"schedule": replace(SCHEDULE, lr_drops=(3, 9))},
        {"schedule": replace(SCHEDULE, warmup_iterations=10)},
        {"schedule": replace(SCHEDULE, evaluate_every=2)},
    ],
    ids=str,
)
def test_what_enters_stage_1_changes_both_keys(change):
    assert not set(keys(BASE)) & set(keys(replace(BASE, **change)))


def test_weights_count_by_their_content_and_not_by_their_path():
    def starting_from(name: str, content: str) -> list[str]:
        Path(name).write_text(content)
        return keys(replace(BASE, model=DigitsRCNN(weights=name)))

    first = starting_from("a.pth", "weights")
    assert starting_from("b.pth", "weights") == first
    assert not set(starting_from("a.pth", "others!!")) & {*first, *keys(BASE)}
    Path("a.pth").unlink()
    with pytest.raises(ConfigError, match=r"model\.weights: .*a\.pth cannot be read: No such file"):
        keys(replace(BASE, model=DigitsRCNN(weights="a.pth")))


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


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package's source, where it may be changed."""
    package = Path(shutil.copytree(Path(lncis.__file__).parent, tmp_path / "lncis"))
    monkeypatch.setattr(lncis, "__file__", str(package / "__init__.py"))
    code_digest.cache_clear()
    yield package
    code_digest.cache_clear()


@pytest.mark.parametrize(
    "module",
    [
        "detection/engine",
        "detection/diagnostics",
        "detection/histograms",
        "detection/losses",
        "detection/mask_rcnn/roi_heads",
        "detection/mask_rcnn/models",
        "noise",
        "detection/inference/detections",
        "detection/inference/evaluation",
        "detection/inference/coco_eval",
        "datasets/digits",
        "datasets/coco",
    ],
)
def test_other_code_that_computes_changes_the_keys(copied, module):
    before = keys(BASE)
    with (copied / f"{module}.py").open("a") as file:
        file.write("# changed\n")
    code_digest.cache_clear()
    assert not set(before) & set(keys(BASE))


@pytest.mark.parametrize(
    "module", ["commands/app", "studies/report/files", "tracking", "config/loss", "detection/checkpoint"]
)
def test_other_code_that_computes_nothing_leaves_the_keys(copied, module):
    before = keys(BASE)
    with (copied / f"{module}.py").open("a") as file:
        file.write("# changed\n")
    code_digest.cache_clear()
    assert keys(BASE) == before


@pytest.mark.processes
def test_every_module_that_a_training_loads_is_known_to_compute_or_not_to():
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, lncis.detection.engine; print([m for m in sys.modules if m.startswith('lncis.')])",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    paths = {name.removeprefix("lncis.").replace(".", "/") for name in ast.literal_eval(loaded)}
    others = {path for path in paths if not {path, *map(str, Path(path).parents)} & set(COMPUTING)}
    assert {path.removeprefix("config/") for path in others if not path.startswith("config/")} == {
        *("config", "data_identity", "detection", "detection/checkpoint", "detection/inference", "document_text"),
        *("documents", "errors", "files", "metrics", "yaml_text"),
    }


def test_other_versions_of_packages_that_compute_change_the_keys(monkeypatch):
    before = keys(BASE)
    monkeypatch.setattr(tree, "version", lambda name: "999")
    code_digest.cache_clear()
    assert not set(before) & set(keys(BASE))
    code_digest.cache_clear()


def study_chains(*, gammas: list[float], seeds: list[int], schedule: Schedule):
    spec = StudySpec(
        name="s",
        base=TrainConfig(schedule=schedule),
        search={"loss.gamma": {"type": "categorical", "choices": gammas}},
        baselines={"ce": {"loss": {"type": "cross_entropy"}}},
        seeds=seeds,
    )
    configurations = [*spec.baselines.values(), *spec.grid]
    trials = [trial for i, overrides in enumerate(configurations) for trial in spec.trials(i, overrides)]
    return [chain(trial, spec.resources, Path("stages"), switches=StageTree(spec, Path()).switches) for trial in trials]


def test_sharing_of_the_gamma_sweep():
    chains = study_chains(gammas=[4, 5, 6, 7, 8], seeds=[0, 1], schedule=SCHEDULE)
    assert len(chains) == 12
    # 12 trials of 12 epochs; 6 epochs of stage 1 for each of 2 seeds, then 6 of stage 2 for each of 12 trials
    assert sharing(chains) == tree.Sharing(requested=144, trained=84)


def test_sharing_of_one_trial_and_of_none():
    assert sharing([tasks(BASE)]) == tree.Sharing(requested=12, trained=12)
    assert sharing([]) == tree.Sharing(requested=0, trained=0)


def test_without_stage_1_nothing_is_shared():
    chains = study_chains(gammas=[4, 5], seeds=[0], schedule=Schedule(epochs=4, stage1_epochs=0))
    assert sharing(chains) == tree.Sharing(requested=12, trained=12)


GAMMAS = {"type": "categorical", "choices": [4.0, 6.0]}


def spec(search: dict, sampler: dict | None = None, e1: int | None = None, evaluate_every: int = 1, **fields):
    schedule = {"epochs": 12, "lr_drops": [9], "stage1_epochs": e1, "evaluate_every": evaluate_every}
    document = {"name": "t", "base": {"schedule": schedule}, "search": search, **fields}
    return documents.parse(StudySpec, {**document, "sampler": sampler or {"type": "grid"}}, source="test")


def test_trials_that_leave_stage_1_at_different_epochs_share_what_they_can():
    """Table 5 at E = 12: nine epochs of stage 1 serve E1 = 3, 6 and 9."""
    table5 = spec({"schedule.stage1_epochs": {"type": "categorical", "choices": [3, 6, 9]}})
    cuts = StageTree(table5, Path()).switches
    assert cuts == {3, 6, 9}
    chains = [chain(trial, Workers(), Path(), cuts) for g in table5.grid for trial in table5.trials(0, g)]
    assert [[task.until for task in tasks] for tasks in chains] == [[3, 12], [3, 6, 12], [3, 6, 9, 12]]
    assert len({tasks[0].key for tasks in chains}) == 1
    assert chains[1][1].key == chains[2][1].key
    assert len({tasks[-1].key for tasks in chains}) == 3
    assert sharing(chains) == Sharing(requested=36, trained=9 + 9 + 6 + 3)
    assert plan(table5).sharing == Sharing(requested=36, trained=27)


@pytest.mark.parametrize(
    ("parameter", "base", "expected"),
    [
        ({"type": "int", "low": 4, "high": 7}, None, {4, 5, 6, 7}),
        ({"type": "categorical", "choices": [3, 8]}, 5, {3, 8}),
        ({"type": "categorical", "choices": [8, None]}, 5, {6, 8}),  # null is half of E, whatever the base says
        ({"type": "categorical", "choices": [4]}, None, {4}),
        ({"type": "int", "low": 2, "high": 3, "when": {"precision": "bf16"}}, 5, {2, 3, 5}),
    ],
)
def test_where_a_sampler_decides_stage_1_is_cut_wherever_it_may_end(parameter, base, expected):
    precision = {"type": "categorical", "choices": ["fp32", "bf16"]}
    drawn = spec(
        {"precision": precision, "schedule.stage1_epochs": parameter}, {"type": "tpe", "configurations": 3}, e1=base
    )
    assert StageTree(drawn, Path()).switches == expected


def test_baselines_leave_stage_1_too():
    study = spec({"loss.gamma": GAMMAS}, baselines={"late": {"schedule.stage1_epochs": 9}})
    assert StageTree(study, Path()).switches == {6, 9}


def test_one_e1_for_all_cuts_stage_1_nowhere_else():
    assert StageTree(spec({"loss.gamma": GAMMAS}), Path()).switches == {6}


@pytest.mark.parametrize(
    ("pruner", "every", "expected"),
    [
        ({"type": "none"}, 1, ()),
        ({"type": "asha"}, 1, (7, 8, 10)),
        ({"type": "asha", "first_rung": 2, "reduction_factor": 3}, 1, (8,)),
        ({"type": "asha", "first_rung": 6}, 1, ()),
        ({"type": "median"}, 1, (7, 8, 9, 10, 11)),
        ({"type": "median", "first_rung": 2, "every": 3}, 1, (8, 11)),
        ({"type": "asha"}, 2, (8, 10)),
        ({"type": "median"}, 4, (8,)),
        ({"type": "asha"}, 5, (10,)),
        ({"type": "median"}, 12, ()),
    ],
)
def test_rungs_lie_behind_stage_1_at_epochs_that_are_evaluated(pruner, every, expected):
    study = spec({"loss.gamma": GAMMAS}, pruner=pruner, evaluate_every=every)
    assert StageTree(study, Path()).rungs == expected


def test_stage_2_is_cut_at_rungs_and_stage_1_never():
    study = spec(
        {"schedule.stage1_epochs": {"type": "int", "low": 3, "high": 8}},
        {"type": "random", "configurations": 3},
        pruner={"type": "median", "every": 2},
        baselines={"plain": {"loss": {"type": "cross_entropy"}, "schedule.stage1_epochs": 5}},
    )
    assert StageTree(study, Path()).rungs == (4, 6, 8, 10)
    cut = StageTree(study, Path("stages")).chain
    (late,) = study.trials(1, {"schedule.stage1_epochs": 7})
    assert [task.until for task in cut(late)] == [3, 4, 5, 6, 7, 8, 10, 12]
    assert [task.after and task.after.until for task in cut(late)] == [None, 3, 4, 5, 6, 7, 8, 10]
    (baseline,) = study.trials(0, study.baselines["plain"], baseline="plain")
    assert [task.until for task in cut(baseline)] == [3, 4, 5, 6, 7, 8, 12], "a baseline is never pruned"


def test_a_cut_does_not_change_the_stages_that_both_have():
    study = spec({"loss.gamma": GAMMAS})
    (trial,) = study.trials(0, study.grid[0])
    whole, cut = (chain(trial, Workers(), Path(), rungs=r) for r in ((), (8, 10)))
    assert [t.key for t in (cut[0], cut[-1])] == [t.key for t in whole]
    assert len({t.key for t in cut}) == 4


def test_trials_alone_share_nothing():
    study = spec({"loss.gamma": GAMMAS}, seeds=[0, 1], sharing=False)
    cut = StageTree(study, Path("stages")).chain
    tasks = [cut(trial) for number, o in enumerate(study.grid) for trial in study.trials(number, o)]
    assert all(len(chain) == 1 and chain[0].until == 12 and chain[0].after is None for chain in tasks)
    assert len({chain[0].key for chain in tasks}) == 4
    assert sharing(tasks) == Sharing(requested=48, trained=48)
    twins = [cut(trial)[0].key for number in (0, 1) for trial in study.trials(number, study.grid[0])]
    assert len(set(twins)) == 4, "not even with a configuration like itself"


def test_a_spec_read_back_from_yaml_has_the_same_keys():
    """A default of 1 where a float is meant comes back as 1.0; a resumed study must find its stages all the same."""
    given = StudySpec(name="s", search={"loss.gamma": {"type": "categorical", "choices": [4, 6]}})
    back = documents.parse(StudySpec, yaml.safe_load(documents.to_yaml(given)), source="back")
    for one, other in zip(given.trials(0, {"loss.gamma": 4}), back.trials(0, {"loss.gamma": 4.0}), strict=True):
        assert [t.key for t in StageTree(given, Path()).chain(one)] == [
            t.key for t in StageTree(back, Path()).chain(other)
        ]


def test_a_gamma_that_sets_itself_shares_stage_1_with_numbers():
    auto, number = (keys(replace(BASE, loss=LncisLoss(gamma=gamma))) for gamma in ("auto", 6.0))
    assert auto[0] == number[0]
    assert auto[1] != number[1]


def test_a_stage_1_that_ends_when_it_will_is_part_of_one_task():
    itself = replace(BASE, schedule=replace(SCHEDULE, stage1_epochs="auto"))
    (only,) = tasks(itself)
    assert (only.until, only.after) == (12, None)
    latest = replace(BASE, schedule=replace(SCHEDULE, stage1_epochs=itself.schedule.switch_epoch))
    assert only.key not in keys(latest)
    assert keys(replace(itself, loss=CrossEntropyLoss())) == keys(replace(BASE, loss=CrossEntropyLoss()))


def test_numbers_are_shared_beside_a_stage_1_that_ends_when_it_will():
    study = spec({"schedule.stage1_epochs": {"type": "categorical", "choices": ["auto", 3, 6]}})
    assert StageTree(study, Path()).switches == {3, 6}
    assert plan(study).sharing == Sharing(requested=36, trained=12 + 6 + 9 + 6)


@pytest.mark.parametrize("search", [{"loss.gamma": GAMMAS}, {"schedule.stage1_epochs": {"choices": [3, "auto"]}}])
def test_rungs_need_an_end_of_stage_1_that_is_known(search):
    base = {"schedule": {"epochs": 12, "stage1_epochs": "auto" if "loss.gamma" in search else 6}}
    search = {path: {"type": "categorical", **parameter} for path, parameter in search.items()}
    document = {"name": "t", "base": base, "search": search, "pruner": {"type": "asha"}}
    study = documents.parse(StudySpec, document, source="test")
    with pytest.raises(ConfigError, match=r"pruner.type: must be none where schedule.stage1_epochs is auto"):
        plan(study)
