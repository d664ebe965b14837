"""Table 6 of the paper on digits, with stage 1 shared and with every trial trained alone: epochs and wall time."""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from lncis.config import DigitsData, Schedule, TrainConfig
from lncis.studies.report.result import StudyResult
from lncis.studies.run import run_study
from lncis.studies.spec import StudySpec
from lncis.studies.spec.space import Categorical

TABLE_6 = StudySpec(
    name="table6",
    base=TrainConfig(
        dataset=DigitsData(train_scenes=300, val_scenes=32, test_scenes=64),
        schedule=Schedule(epochs=12, stage1_epochs=6, evaluate_every=3),
    ),
    search={"loss.gamma": Categorical(choices=[4.0, 5.0, 6.0, 7.0, 8.0])},
    seeds=[0, 1],
    sensitivity_check=False,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=300, help="training scenes; fewer for a quick look")
    scenes = parser.parse_args().scenes
    spec = replace(TABLE_6, base=replace(TABLE_6.base, dataset=replace(TABLE_6.base.dataset, train_scenes=scenes)))
    with tempfile.TemporaryDirectory() as runs:
        shared = run_study(spec, runs=Path(runs) / "shared")
        alone = run_study(replace(spec, sharing=False), runs=Path(runs) / "alone")
        show("shared", shared)
        show("alone", alone)
        epochs, wall = ratio(shared, alone, "trained"), ratio(shared, alone, "seconds")
        print(f"shared / alone: epochs {epochs:.2f}, wall time {wall:.2f}, start-up included")
        print("the same figures:", figures(shared) == figures(alone))


def ratio(one: StudyResult, other: StudyResult, part: str) -> float:
    return float(getattr(one.cost, part) / getattr(other.cost, part))


def show(name: str, result: StudyResult) -> None:
    cost = result.cost
    print(
        f"{name}: {cost.trained} epochs, {cost.seconds:.0f} s, {cost.training_seconds:.0f} worker seconds of training"
    )


def figures(result: StudyResult) -> list[list[dict[str, float]]]:
    return [[{k: v for k, v in r.items() if k != "seconds"} for r in t.records] for t in result.trials]


if __name__ == "__main__":
    main()
