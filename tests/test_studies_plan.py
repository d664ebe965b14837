import io
import random
from itertools import permutations
from pathlib import Path

import pytest
from rich.console import Console

from lncis import datasets, documents
from lncis.config import AdamWOptimizer, Schedule, SGDOptimizer, TrainConfig
from lncis.detection import checkpoint, engine
from lncis.execution.tasks import Task
from lncis.studies import estimate
from lncis.studies.plan import makespan, plan
from lncis.studies.record.journal import EpochFinished, Journal, TrialStarted
from lncis.studies.spec import StudySpec
from lncis.studies.stages.tree import Sharing

CONFIG = TrainConfig(schedule=Schedule(epochs=12))


def spec(search: dict, **fields) -> StudySpec:
    base = {"schedule": {"epochs": 12, "stage1_epochs": 6}}
    return documents.parse(StudySpec, {"name": "s", "base": base, "search": search, **fields}, source="study")


def choices(*values) -> dict:
    return {"type": "categorical", "choices": list(values)}


def text(view) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(view)
    return console.file.getvalue()


def test_table_6_trains_36_epochs_for_60():
    assert plan(spec({"loss.gamma": choices(4, 5, 6, 7, 8)})).sharing == Sharing(requested=60, trained=36)


def test_table_5_trains_each_epoch_of_stage_1_once():
    """E1 = 3, 6, 9 of 12 on one stage 1 of 9; E = 18 drops its rate later, so that it shares nothing with E = 12."""
    e1 = spec({"schedule.stage1_epochs": choices(3, 6, 9)})
    assert plan(e1).sharing == Sharing(requested=36, trained=9 + 9 + 6 + 3)
    longer = spec({"schedule.stage1_epochs": choices(6, 9, 12, 15)}, base={"schedule": {"epochs": 18}})
    assert plan(longer).sharing == Sharing(requested=72, trained=15 + 12 + 9 + 6 + 3)


def test_without_sharing_each_trial_is_trained_whole():
    assert plan(spec({"loss.gamma": choices(4, 5)}, sharing=False)).sharing == Sharing(requested=24, trained=24)


def test_a_plan_of_random_draws_is_what_the_study_will_do():
    from lncis.studies.search import Suggester

    drawn = spec(
        {"loss.gamma": {"type": "float", "low": 1, "high": 9}}, sampler={"type": "random", "configurations": 4}
    )
    planned = plan(drawn)
    assert planned.exact
    assert [trial.overrides for trial, _ in planned.trials] == [o for _, o in iter(Suggester(drawn).ask, None)]
    guided = spec(drawn.search, sampler={"type": "tpe", "configurations": 4, "warm_start": "nobody"})
    assert not plan(guided).exact
    assert "TPE decides from results" in text(plan(guided).view())


def test_a_plan_says_what_e1_drawn_from_a_range_saves():
    drawn = spec(
        {"schedule.stage1_epochs": {"type": "int", "low": 3, "high": 9}, "loss.gamma": choices(4.0, 6.0)},
        sampler={"type": "random", "configurations": 8},
    )
    planned = plan(drawn)
    ends = [trial.config.schedule.switch_epoch for trial, _ in planned.trials]
    leaves = {(trial.config.schedule.switch_epoch, trial.config.loss.gamma) for trial, _ in planned.trials}
    trained = max(ends) + sum(12 - end for end, _ in leaves)
    assert planned.sharing == Sharing(requested=96, trained=trained)
    shown = text(planned.view())
    assert f"E1 is drawn from 3 to 9: {len(set(ends))} different values share one stage 1 for each seed" in shown
    assert f"which saves {96 - trained} epochs" in shown


@pytest.mark.parametrize(
    ("noise", "draws", "warned"),
    [("symmetric", [1, 2], True), ("symmetric", [1, 2, 3], False), ("symmetric", [], False), ("none", [1, 2], False)],
)
def test_a_plan_warns_of_two_noise_draws(noise, draws, warned):
    study = spec({"loss.gamma": choices(4, 5)}, base={"noise": {"type": noise}}, noise_seeds=draws)
    assert ("two noise draws say little" in text(plan(study).view())) == warned


def test_a_plan_names_the_rungs():
    shown = text(plan(spec({"loss.gamma": choices(4, 5)}, pruner={"type": "asha"})).view())
    assert "asha decides after epochs 7, 8, 10" in shown


# how long it takes


def task(key: str, start: int, until: int, after: Task | None = None) -> Task:
    assert start == (after.until if after else 0)
    return Task(key=key, config=CONFIG, until=until, directory=Path(), after=after)


SHARED = task("shared", 0, 6)
FORKS = [[SHARED, task(key, 6, 12, SHARED)] for key in "abc"]
ALONE = [[task(key, 0, 12)] for key in "xyz"]


@pytest.mark.parametrize(
    ("chains", "worker_groups", "expected"),
    [
        ([], 2, 0),
        (ALONE, 1, 36),
        (ALONE, 2, 24),
        (ALONE, 3, 12),
        (ALONE, 9, 12),
        (FORKS, 1, 6 + 18),
        (FORKS, 2, 6 + 12),  # the stage on one worker group, then a and b, then c
        (FORKS, 3, 6 + 6),
        ([*FORKS[:1], *ALONE[:1]], 2, 12),
        ([FORKS[0], FORKS[0], ALONE[0]], 1, 24),  # twins
    ],
)
def test_makespan_by_hand(chains, worker_groups, expected):
    assert makespan(chains, worker_groups, 1.0) == expected
    assert makespan(chains, worker_groups, 2.5) == 2.5 * expected


@pytest.mark.parametrize("seed", range(20))
def test_makespan_lies_between_what_any_schedule_needs_and_one_lane(seed):
    draw = random.Random(seed)
    chains = []
    for number in range(draw.randint(1, 5)):
        first = draw.choice([SHARED, task(f"own {number}", 0, draw.randint(1, 11))])
        chains.append([first, task(f"{number}", first.until, 12, first)])
    total = sum({t.key: t.until - (t.after.until if t.after else 0) for chain in chains for t in chain}.values())
    assert makespan(chains, 1, 1.0) == total
    for worker_groups in (2, 3):
        found = makespan(chains, worker_groups, 1.0)
        assert max(12, total / worker_groups) <= found <= total
        if all(len({t.key for t in c} & {t.key for d in chains if d is not c for t in d}) == 0 for c in chains):
            assert found in {_listed(order, worker_groups) for order in permutations([12] * len(chains))}


def _listed(durations, worker_groups: int) -> int:
    free = [0] * worker_groups
    for duration in durations:
        free[free.index(min(free))] += duration
    return max(free)


# what it needs


@pytest.mark.parametrize("optimizer", [AdamWOptimizer(lr=1e-5), SGDOptimizer(lr=1e-5)], ids=lambda o: o.type)
def test_the_size_of_a_checkpoint_is_what_is_written(tiny, optimizer):
    config = TrainConfig(dataset=tiny.dataset, schedule=tiny.schedule, optimizer=optimizer)
    data = datasets.load(config)
    model = engine.build_model(config.model, data.num_foreground_classes)
    trained = engine.build_optimizer(model, config.optimizer)
    for parameter in model.parameters():
        parameter.grad = parameter.detach().clone()
    trained.step()
    checkpoint.save(
        checkpoint.Checkpoint(model=model.state_dict(), optimizer=trained.state_dict(), history=[]), Path("c.pt")
    )
    expected = estimate.checkpoint_bytes(config, data.num_foreground_classes)
    assert Path("c.pt").stat().st_size == pytest.approx(expected, rel=0.05)


def earlier(name: str, study: StudySpec, seconds: list[float], reused: bool = False) -> None:
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(documents.to_yaml(study))
    journal = Journal(folder)
    started = TrialStarted(
        configuration=0,
        overrides={"loss.gamma": 4.0},
        seed=0,
        noise_seed=None,
        baseline=None,
        stages={"s": 12},
        reused=["s"] if reused else [],
    )
    journal.append(started)
    for number, value in enumerate(seconds, start=1):
        journal.append(
            EpochFinished(trial=started.trial, record={"epoch": float(number), "seconds": value}, reused=False)
        )
    journal.close()


def test_the_pace_is_that_of_an_earlier_study_like_it():
    study = spec({"loss.gamma": choices(4.0, 5.0)})
    earlier("like it", study, [2.0, 4.0])
    earlier("larger", spec(study.search, base={"dataset": {"type": "digits", "train_scenes": 999}}), [50.0])
    earlier("on other workers", spec(study.search, resources={"num_workers": 2}), [60.0])
    earlier("reused", study, [70.0], reused=True)
    earlier("empty", study, [])
    (Path("runs") / "broken").mkdir()
    (Path("runs") / "broken" / "journal.jsonl").write_text("nonsense\n")
    assert estimate.pace_of(study, Path("runs")) == estimate.Pace(seconds=3.0, source="as in like it")


def test_on_gpus_that_were_never_tried_the_pace_is_not_known():
    study = spec({"loss.gamma": choices(4.0)}, resources={"gpus_per_worker": 1})
    assert estimate.pace_of(study, Path("runs")) is None
    shown = text(estimate.estimate_text(plan(study), Path("runs")))
    assert "wall time: unknown until a first study" in shown
    assert " a checkpoint, at most " in shown


def test_the_wall_time_is_that_of_the_lanes(tiny):
    study = spec({"loss.gamma": choices(4.0, 5.0, 6.0)}, resources={"max_concurrent_trials": 1})
    earlier("like it", study, [60.0])
    shown = text(estimate.estimate_text(plan(study), Path("runs")))
    assert f"wall time: about {24 + 40 / 60:.1f} min, {36 + 40 / 60:.1f} min without sharing" in shown


def test_with_auto_the_wall_time_is_that_with_room_for_all():
    study = spec({"loss.gamma": choices(4.0, 5.0, 6.0)}, resources={"max_concurrent_trials": "auto"})
    earlier("like it", study, [60.0])
    shown = text(estimate.estimate_text(plan(study), Path("runs")))
    assert f"wall time: about {12 + 40 / 60:.1f} min, {12 + 40 / 60:.1f} min without sharing" in shown
    assert "with room for 3 trials at a time)" in shown
    assert "3 trials, as many at a time as there is room for; " in text(plan(study).view())
