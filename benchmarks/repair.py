"""What reviewing suspects buys: train, list the suspects, review so many labels, train again; on digits, seeds paired.

An annotator is simulated: of a reviewed label it tells the true class with a given accuracy, else any class. Labels
are reviewed from the top of the list, or in random order as the floor; training on clean labels is the ceiling. Each
training is kept in the folder, so an interrupted run goes on.
"""

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from lncis import datasets, documents
from lncis.config import CrossEntropyLoss, Fold, LncisLoss, TrainConfig
from lncis.datasets import Data
from lncis.datasets.coco import CocoInstances
from lncis.detection import checkpoint, engine
from lncis.detection.mask_rcnn.models import build_model
from lncis.detection.posteriors import Posteriors, posteriors
from lncis.noise import noise_model
from lncis.suspects.judging import scoring
from lncis.suspects.report import assessment
from lncis.suspects.report.quality import PRECISION_AT

STUDY = Path(__file__).parents[1] / "studies/gamma_sweep.yaml"
FOLDS = 5
CERTAIN = 0.5
"""Probability of a class from which on the next round trains on it in place of the given one."""
CPU = torch.device("cpu")

Labels = dict[int, int]
"""Category ids by annotation id."""
Row = dict[str, float]
"""Figures of one seed, by name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for trainings and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22, 23, 24])
    parser.add_argument("--rate", type=float, default=0.4)
    parser.add_argument("--asymmetric", action="store_true")
    parser.add_argument("--loss", choices=["lncis", "cross_entropy"], default="lncis", help="of those who judge")
    parser.add_argument("--splits", type=int, default=1, help="into folds; each label has as many judges")
    parser.add_argument("--rounds", type=int, default=1, help="those after the first train on what the one before said")
    parser.add_argument("--judges-of-clean-labels", action="store_true", help="how right a list can be at most")
    parser.add_argument("--in-sample", action="store_true", help="also what a training on all labels says of them")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 1.1], help="reviews, in numbers of errors")
    parser.add_argument("--accuracy", type=float, default=1.0, help="of the annotator")
    parser.add_argument("--epochs", type=int, help="fewer for a quick look")
    parser.add_argument("--no-review", action="store_true", help="only how right the list is")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [seed_of(options, seed) for seed in options.seeds]
    for name in rows[0]:
        print(f"{name:40} {interval([row[name] for row in rows])}")
    if not options.no_review:
        print(table(rows, options.budgets))


def seed_of(options: argparse.Namespace, seed: int) -> Row:
    """Return the figures of one seed, of noise and of training."""
    base = config_of(options, seed)
    name = f"{'asymmetric' if options.asymmetric else 'symmetric'}-{options.rate:g}-{seed}-{options.loss}"
    experiment = Experiment(base=base, data=datasets.load(base), folder=options.folder / name)
    judge = replace(base, loss=LncisLoss() if options.loss == "lncis" else CrossEntropyLoss())
    labels = experiment.true if options.judges_of_clean_labels else {}
    found = out_of_fold(experiment, judge, options.splits, labels)
    for _ in range(options.rounds - 1):
        found = out_of_fold(experiment, judge, options.splits, believed(found))
    row = judged(experiment, found)
    if options.in_sample:
        row |= {f"{key}, in sample": value for key, value in judged(experiment, in_sample(experiment, judge)).items()}
    if not options.no_review:
        row |= reviewed(experiment, found, options.budgets, options.accuracy)
    print(name, json.dumps({key: round(value, 2) for key, value in row.items()}), flush=True)
    return row


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The noisy data of a seed, and the folder that keeps its trainings."""

    base: TrainConfig
    """What is trained on repaired labels."""
    data: Data
    folder: Path

    @property
    def true(self) -> Labels:
        """The true label of each annotation of the training set."""
        return {a["id"]: a["clean_category_id"] for a in self.data.train.document["annotations"]}

    def test_AP(self, labels: Labels, name: str) -> float:
        """Return the clean test AP of a training on these labels where they are not the noisy ones."""
        return trained(self.base, relabelled(self.data, labels), self.folder / name)


def judged(experiment: Experiment, found: Posteriors) -> Row:
    """Return how right a list is, in percent."""
    annotations = {a["id"]: a for a in experiment.data.train.document["annotations"]}
    listed = [annotations[i] for i in found.annotation_ids.tolist()]
    true = np.array([a["clean_category_id"] - 1 for a in listed])
    areas = np.array([a["area"] for a in listed], dtype=float)
    noise = noise_model.estimate(found.probabilities, found.given)
    assessed = assessment.assess(found, noise, [str(k) for k in range(10)], true, areas)
    truth = assessed.truth
    assert truth
    row = {"errors, % of labels": truth.errors / len(found), "errors, % estimated": assessed.rate}
    row |= {f"AUROC {score}": ranking.auroc for score, ranking in truth.rankings.items()}
    row |= {f"precision at the errors {score}": r.precision_at_errors for score, r in truth.rankings.items()}
    ours = truth.rankings[assessment.PROBABILITY]
    row |= {f"precision of the first {n}": ours.precision_at.get(n, math.nan) for n in PRECISION_AT[:2]}
    row |= {"calibration error": truth.calibration_error, "suggestion right": truth.suggestion_right}
    row["best other class right"] = truth.other_right
    return {name: 100 * value for name, value in row.items()}


def reviewed(experiment: Experiment, found: Posteriors, budgets: list[float], accuracy: float) -> Row:
    """Return the clean test AP after reviews of several lengths and orders, and the share of the loss made good."""
    true = experiment.true
    errors = sum(a["category_id"] != true[a["id"]] for a in experiment.data.train.document["annotations"])
    wrong = noise_model.estimate(found.probabilities, found.given).wrong(found.probabilities, found.given)
    rng = np.random.default_rng([experiment.base.seed, 1])
    ids = found.annotation_ids
    orders = {"suspects": ids[np.argsort(-wrong, kind="stable")], "random": rng.permutation(ids)}
    noisy, clean = experiment.test_AP({}, "noisy"), experiment.test_AP(true, "clean")
    row = {"AP noisy": noisy, "AP clean": clean}
    for budget in budgets:
        row[f"reviews, {budget:g} x errors"] = reviews = min(round(budget * errors), len(ids))
        for order, ranked in orders.items():
            told = annotated(ranked[:reviews], true, accuracy, rng)
            name = f"{order}-{budget:g}-{accuracy:g}-{digest(told)}"
            row[f"AP {order}, {budget:g} x errors"] = experiment.test_AP(told, name)
        above = row[f"AP suspects, {budget:g} x errors"]
        row[f"gain over random, {budget:g} x errors"] = above - row[f"AP random, {budget:g} x errors"]
        row[f"made good, {budget:g} x errors, %"] = 100 * (above - noisy) / (clean - noisy)
    return row


def annotated(ids: NDArray[np.int64], true: Labels, accuracy: float, rng: np.random.Generator) -> Labels:
    """Return what an annotator says of some annotations who is right with a probability, and else guesses."""
    return {i: true[i] if rng.random() < accuracy else int(rng.integers(1, 11)) for i in ids.tolist()}


def table(rows: list[Row], budgets: list[float]) -> str:
    """Return what reviews buy as a table of markdown: clean test AP, mean and 95 % interval over the seeds."""

    def over_seeds(name: str) -> str:
        return interval([row[name] for row in rows])

    lines = [
        "| reviews | from the top of the list | in random order (floor) | difference | of the loss made good, % |",
        "|---|---|---|---|---|",
        f"| none | {over_seeds('AP noisy')} | | | 0 |",
    ]
    for budget in budgets:
        of = f"{budget:g} x errors"
        mean = np.mean([row[f"reviews, {of}"] for row in rows])
        cells = [f"AP suspects, {of}", f"AP random, {of}", f"gain over random, {of}", f"made good, {of}, %"]
        lines.append(f"| {mean:.0f} ({of}) | {' | '.join(map(over_seeds, cells))} |")
    lines.append(f"| all: clean labels (ceiling) | {over_seeds('AP clean')} | | | 100 |")
    return "\n".join(lines)


def config_of(options: argparse.Namespace, seed: int) -> TrainConfig:
    document = documents.read_mapping(STUDY)["base"]
    kind = "asymmetric" if options.asymmetric else "symmetric"
    document["noise"] = {"type": kind, "rate": options.rate, "seed": seed}
    config = documents.parse(TrainConfig, document, source=str(STUDY))
    epochs = options.epochs or config.schedule.epochs
    schedule = replace(config.schedule, epochs=epochs, stage1_epochs=None, evaluate_every=epochs)
    return replace(config, loss=CrossEntropyLoss(), schedule=schedule, seed=seed)


def believed(found: Posteriors) -> Labels:
    """Return the labels that a list would change: where another class than the given one is likely enough."""
    true = noise_model.estimate(found.probabilities, found.given).true_class(found.probabilities, found.given)
    changed = (true.argmax(axis=1) != found.given) & (true.max(axis=1) >= CERTAIN)
    ids, classes = found.annotation_ids[changed], true.argmax(axis=1)[changed]
    return {i: k + 1 for i, k in zip(ids.tolist(), classes.tolist(), strict=True)}


def out_of_fold(experiment: Experiment, judge: TrainConfig, splits: int, labels: Labels) -> Posteriors:
    """Return what trainings on the other folds say of each noisy label; they have these labels where they differ."""
    scorers = []
    for split in range(splits):
        for number in range(FOLDS):
            # folds are dealt by the noisy labels, whatever is trained on
            config = replace(judge, fold=Fold(number=number, of=FOLDS, seed=split), seed=judge.seed + 1000 * split)
            data = datasets.load(config)
            place = experiment.folder / f"split{split}-fold{number}{f'-{digest(labels)}' if labels else ''}"
            trained(config, of_little_evaluation(relabelled(data, labels)), place)
            scorers.append(scoring.Scorer(name=place.name, config=config, model=loader(config, place)))
    return scoring.score(scorers, experiment.data.train, device=CPU).found


def in_sample(experiment: Experiment, judge: TrainConfig) -> Posteriors:
    """Return what a training on all noisy labels says of them."""
    place = experiment.folder / "in-sample"
    trained(judge, of_little_evaluation(experiment.data), place)
    return posteriors(loader(judge, place)(), experiment.data.train, CPU, flipped=judge.flip > 0)


def of_little_evaluation(data: Data) -> Data:
    """Return data of which nobody asks for the AP: one image each is soon evaluated."""
    return replace(data, val=first_image(data.val), test=first_image(data.test))


def first_image(split: CocoInstances) -> CocoInstances:
    return split.of_images({split.document["images"][0]["id"]})


def loader(config: TrainConfig, folder: Path) -> Any:
    def load() -> Any:
        state = checkpoint.load(folder / engine.CHECKPOINT)
        model = build_model(config.model, len(state.categories), pretrained=False)
        model.load_state_dict(state.model)
        return model

    return load


def trained(config: TrainConfig, data: Data, folder: Path) -> float:
    """Return the clean test AP of a training, trained in the folder if it is not there yet."""
    documents.claim(folder, config)
    return engine.train(config, data, folder)[-1]["test/segm_AP"]


def relabelled(data: Data, labels: Labels) -> Data:
    """Return the data with other labels of the training set, by annotation id."""
    document = data.train.document
    annotations = [{**a, "category_id": labels.get(a["id"], a["category_id"])} for a in document["annotations"]]
    return replace(data, train=CocoInstances(data.train.images, {**document, "annotations": annotations}))


def digest(labels: Mapping[int, int]) -> str:
    """Return a name for labels: a folder is of the same ones when it is found again."""
    return sha256(json.dumps(sorted(labels.items())).encode()).hexdigest()[:8]


def interval(values: list[float]) -> str:
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.1f}"
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return f"{mean:.1f} ± {half:.1f}"


if __name__ == "__main__":
    main()
