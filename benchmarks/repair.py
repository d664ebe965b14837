"""What reviewing suspects buys: train, list the suspects, review so many labels, train again; on digits, seeds paired.

An annotator is simulated: of a reviewed label it tells the true class with a given accuracy, else any class. Labels
are reviewed from the top of the list, or in random order as the floor; training on clean labels is the ceiling. Each
training is kept in the folder, so an interrupted run goes on.
"""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from lncis import datasets, documents
from lncis.config import CrossEntropyLoss, Fold, LncisLoss, TrainConfig
from lncis.datasets import Data
from lncis.datasets.coco import CocoInstances
from lncis.detection import checkpoint, engine
from lncis.detection.models import build_model
from lncis.detection.posteriors import Posteriors
from lncis.noise import noise_model
from lncis.suspects.judging import scoring
from lncis.suspects.report import assessment
from lncis.suspects.report.quality import PRECISION_AT

STUDY = Path(__file__).parents[1] / "studies/gamma_sweep.yaml"
FOLDS = 5
BUDGETS = (0.5, 1.1)
"""Reviews, as multiples of the number of wrong labels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for trainings and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22, 23, 24])
    parser.add_argument("--rate", type=float, default=0.4)
    parser.add_argument("--asymmetric", action="store_true")
    parser.add_argument("--loss", choices=["lncis", "cross_entropy"], default="lncis", help="of those who judge")
    parser.add_argument("--splits", type=int, default=1, help="into folds; each label has as many judges")
    parser.add_argument("--accuracy", type=float, default=1.0, help="of the annotator")
    parser.add_argument("--epochs", type=int, help="fewer for a quick look")
    parser.add_argument("--no-review", action="store_true", help="only how right the list is")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [seed_of(options, seed) for seed in options.seeds]
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f"{name:40} {interval(values)}")


def seed_of(options: argparse.Namespace, seed: int) -> dict[str, float]:
    """Return the figures of one seed, of noise and of training."""
    base = config_of(options, seed)
    name = f"{'asymmetric' if options.asymmetric else 'symmetric'}-{options.rate:g}-{seed}-{options.loss}"
    folder = options.folder / name
    data = datasets.load(base)
    found = out_of_fold(options, base, data, folder)
    noise = noise_model.estimate(found.probabilities, found.given)
    true_of = {a["id"]: a["clean_category_id"] - 1 for a in data.train.document["annotations"]}
    true = np.array([true_of[i] for i in found.annotation_ids.tolist()])
    area_of = {a["id"]: a["area"] for a in data.train.document["annotations"]}
    areas = np.array([area_of[i] for i in found.annotation_ids.tolist()], dtype=float)
    assessed = assessment.assess(found, noise, [str(k) for k in range(10)], true, areas)
    truth = assessed.truth
    assert truth
    row = {"errors, % of labels": 100 * truth.errors / len(found), "errors, % estimated": 100 * assessed.rate}
    for score, ranking in truth.rankings.items():
        row[f"AUROC {score}"] = 100 * ranking.auroc
    for score, ranking in truth.rankings.items():
        row[f"precision at the errors {score}"] = 100 * ranking.precision_at_errors
    row |= {
        f"precision of the first {n}": 100 * truth.rankings["lncis"].precision_at.get(n, math.nan)
        for n in PRECISION_AT[:2]
    }
    row |= {"calibration error": 100 * truth.calibration_error, "suggestion right": 100 * truth.suggestion_right}
    row["best other class right"] = 100 * truth.other_right
    if not options.no_review:
        row |= reviewed(options, base, data, found, noise.wrong(found.probabilities, found.given), folder)
    print(name, json.dumps({key: round(value, 2) for key, value in row.items()}), flush=True)
    return row


def reviewed(
    options: argparse.Namespace, base: TrainConfig, data: Data, found: Posteriors, wrong: Any, folder: Path
) -> dict[str, float]:
    """Return the clean test AP after reviews of several lengths and orders, and the share of the loss made good."""
    true_of = {a["id"]: a["clean_category_id"] for a in data.train.document["annotations"]}
    errors = sum(a["category_id"] != true_of[a["id"]] for a in data.train.document["annotations"])
    rng = np.random.default_rng([base.seed, 1])
    ids = found.annotation_ids
    orders = {"suspects": ids[np.argsort(-wrong, kind="stable")], "random": rng.permutation(ids)}
    noisy = test_AP(base, data, folder / "noisy")
    clean = test_AP(base, relabelled(data, true_of), folder / "clean")
    row = {"AP noisy": noisy, "AP clean": clean}
    for budget in BUDGETS:
        for order, ranked in orders.items():
            told = {
                int(i): true_of[int(i)] if rng.random() < options.accuracy else int(rng.integers(1, 11))
                for i in ranked[: round(budget * errors)]
            }
            place = folder / f"{order}-{budget:g}-{options.accuracy:g}"
            row[f"AP {order}, {budget:g} x errors"] = test_AP(base, relabelled(data, told), place)
    for budget in BUDGETS:
        row[f"gain over random, {budget:g} x errors"] = (
            row[f"AP suspects, {budget:g} x errors"] - row[f"AP random, {budget:g} x errors"]
        )
        row[f"made good, {budget:g} x errors, %"] = (
            100 * (row[f"AP suspects, {budget:g} x errors"] - noisy) / (clean - noisy)
        )
    return row


def config_of(options: argparse.Namespace, seed: int) -> TrainConfig:
    document = documents.read_mapping(STUDY)["base"]
    kind = "asymmetric" if options.asymmetric else "symmetric"
    document["noise"] = {"type": kind, "rate": options.rate, "seed": seed}
    config = documents.parse(TrainConfig, document, source=str(STUDY))
    epochs = options.epochs or config.schedule.epochs
    schedule = replace(config.schedule, epochs=epochs, stage1_epochs=None, evaluate_every=epochs)
    return replace(config, loss=CrossEntropyLoss(), schedule=schedule, seed=seed)


def out_of_fold(options: argparse.Namespace, base: TrainConfig, data: Data, folder: Path) -> Posteriors:
    """Return what trainings on the other folds say of each label."""
    loss = LncisLoss() if options.loss == "lncis" else CrossEntropyLoss()
    scorers = []
    for split in range(options.splits):
        for number in range(FOLDS):
            fold = Fold(number=number, of=FOLDS, seed=split)
            config = replace(base, loss=loss, fold=fold, seed=base.seed + 1000 * split)
            place = folder / f"split{split}-fold{number}"
            trained = datasets.load(config)
            # nobody asks for their AP: one image each is soon evaluated
            test_AP(config, replace(trained, val=first_image(trained.val), test=first_image(trained.test)), place)
            scorers.append(scoring.Scorer(name=place.name, config=config, model=loader(config, place)))
    return scoring.score(scorers, data.train, device=torch.device("cpu")).found


def first_image(split: CocoInstances) -> CocoInstances:
    return split.of_images({split.document["images"][0]["id"]})


def loader(config: TrainConfig, folder: Path) -> Any:
    def load() -> Any:
        state = checkpoint.load(folder / engine.CHECKPOINT)
        model = build_model(config.model, len(state.categories), pretrained=False)
        model.load_state_dict(state.model)
        return model

    return load


def test_AP(config: TrainConfig, data: Data, folder: Path) -> float:
    """Return the clean test AP of a training, trained in the folder if it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    return engine.train(config, data, folder)[-1]["test/segm_AP"]


def relabelled(data: Data, labels: dict[int, int]) -> Data:
    """Return the data with other labels of the training set, by annotation id."""
    document = data.train.document
    annotations = [{**a, "category_id": labels.get(a["id"], a["category_id"])} for a in document["annotations"]]
    return replace(data, train=CocoInstances(data.train.images, {**document, "annotations": annotations}))


def interval(values: list[float]) -> str:
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.1f}"
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return f"{mean:.1f} ± {half:.1f}"


if __name__ == "__main__":
    main()
