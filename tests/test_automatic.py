"""Gamma and E1 that a training sets itself: the formula, the rule, and that all who go on set the same."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from scipy.special import softmax

from lncis import datasets, documents
from lncis.config import CrossEntropyLoss, LncisLoss, Schedule, TrainConfig
from lncis.detection import automatic, checkpoint, engine, probing
from lncis.detection.automatic import gamma_set_by, settled_config, stage1_ended
from lncis.detection.mask_rcnn.models import build_model
from lncis.detection.posteriors import Posteriors
from lncis.errors import ConfigError
from lncis.metrics import AUTO_METRICS, VAL_LOSS, Record

CLASSES = 10


def said(
    rate: float, labels: int = 2000, asymmetric: bool = False, calibrated: bool = False
) -> tuple[Posteriors, float]:
    """Return what a model says of labels that were flipped at a rate, and the share of wrong ones.

    It knows as much as can be known of the true class. Either it is less sure of that than it should be, or it is
    calibrated: then it gives each label the probability with which that comes, flips counted.
    """
    rng = np.random.default_rng(0)
    clean = softmax(rng.normal(0, 4, (labels, CLASSES)), axis=1)
    transitions = np.full((CLASSES, CLASSES), rate / (CLASSES - 1))
    if asymmetric:
        transitions = rate * np.roll(np.eye(CLASSES), 1, axis=1)
    np.fill_diagonal(transitions, 1 - rate)
    true = np.array([rng.choice(CLASSES, p=p) for p in clean])
    given = np.array([rng.choice(CLASSES, p=transitions[k]) for k in true])
    says = clean @ transitions if calibrated else softmax(0.4 * np.log(clean), axis=1)
    found = Posteriors(annotation_ids=np.arange(labels), given=given, probabilities=says, background=np.zeros(labels))
    return found, float((true != given).mean())


@pytest.mark.parametrize(("rate", "asymmetric"), [(0.2, False), (0.4, False), (0.6, False), (0.4, True)])
def test_gamma_is_two_nats_above_the_loss_of_a_label_that_is_certainly_wrong(rate, asymmetric):
    found, wrong = said(rate, asymmetric=asymmetric)
    gamma, noise_rate, _ = (gamma_set_by(found).get(metric, math.nan) for metric in AUTO_METRICS)
    assert noise_rate == pytest.approx(100 * wrong, abs=5)
    certainly_wrong = noise_rate / 100 / (CLASSES - 1)  # what a calibrated model gives such a label
    assert math.exp(-gamma) == pytest.approx(certainly_wrong / math.e**2)


@pytest.mark.parametrize(("rate", "asymmetric"), [(0.2, False), (0.4, False), (0.6, False), (0.4, True)])
def test_of_a_calibrated_model_gamma_sets_nothing_aside(rate, asymmetric):
    """It hides noise from the estimate, so gamma is rather too high; a calibrated loss is never as high as that."""
    found, wrong = said(rate, asymmetric=asymmetric, calibrated=True)
    record = gamma_set_by(found)
    assert record["auto/noise_rate"] < 100 * wrong + 1
    assert (found.cross_entropy > record["auto/gamma"]).mean() < 0.001


def test_without_noise_gamma_is_out_of_the_way():
    found, wrong = said(0.0)
    assert wrong == 0
    record = gamma_set_by(found)
    assert record["auto/noise_rate"] < 1
    assert record["auto/gamma"] > 8.5
    assert (found.cross_entropy > record["auto/gamma"]).mean() < 0.001


@pytest.mark.parametrize("classes", [1, 3])
def test_where_nothing_can_be_estimated_gamma_is_a_number(classes):
    for labels in (0, 4) if classes == 1 else (0,):
        nothing = Posteriors(
            annotation_ids=np.arange(labels),
            given=np.zeros(labels, dtype=np.int64),
            probabilities=np.ones((labels, classes)),
            background=np.zeros(labels),
        )
        record = gamma_set_by(nothing)
        assert record["auto/noise_rate"] == 0
        assert 2 <= record["auto/gamma"] < 10


@pytest.mark.parametrize(
    ("losses", "ended"),
    [
        ([], None),
        ([2.0, 1.5], None),
        ([2.0, 1.5, 1.2, 1.0], None),
        ([2.0, 1.5, 1.2, 1.4, 1.1, 1.4], 6),
        ([2.0, 1.5, 2.0, 1.0], 3),
        ([2.0, math.nan, math.nan], 3),
    ],
)
def test_stage_1_ends_where_the_loss_on_val_has_settled(losses, ended):
    assert stage1_ended(losses) == ended


def test_stage_1_ends_before_the_learning_rate_drops_and_within_half_of_the_epochs():
    auto = Schedule(epochs=16, stage1_epochs="auto")
    assert auto.switch_epoch == 8
    assert replace(auto, lr_drops=(5, 11)).switch_epoch == 5
    assert [replace(auto, epochs=epochs).switch_epoch for epochs in (1, 2, 3, 4)] == [0, 1, 1, 2]
    falling: list[Record] = [{VAL_LOSS: 0.5**epoch} for epoch in range(16)]
    config = TrainConfig(schedule=auto)
    assert settled_config(config, falling).schedule.stage1_epochs == 8
    assert settled_config(config, [*falling[:6], {VAL_LOSS: 1.0}, {}]).schedule.stage1_epochs == 7
    assert settled_config(TrainConfig(), falling) == TrainConfig()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"val_labels": "oracle"}, "loss.gamma must be a number where val_labels is oracle"),
        (
            {"loss": {"type": "lncis", "gamma": "auto", "stagewise": False}},
            "loss.gamma must be a number where there is",
        ),
        ({"schedule": {"stage1_epochs": 0}}, "loss.gamma must be a number where there is no stage 1"),
        ({"loss": {"type": "lncis", "gamma": "high"}}, "loss.gamma: must be a number greater than 0, or auto but got"),
        ({"loss": {"type": "lncis", "gamma": -1}}, "loss.gamma: must be a number greater than 0, or auto but got -1"),
        ({"schedule": {"stage1_epochs": "half"}}, "schedule.stage1_epochs: must be a whole number from 0, or auto but"),
    ],
)
def test_what_cannot_set_itself_is_one_mistake(changes, problem):
    with pytest.raises(ConfigError) as caught:
        documents.parse(TrainConfig, {"loss": {"type": "lncis", "gamma": "auto"}, **changes}, source="file")
    assert len(caught.value.problems) == 1
    assert problem in caught.value.problems[0]


def test_auto_is_read_and_written_as_a_word():
    config = TrainConfig(loss=LncisLoss(gamma="auto"), schedule=Schedule(stage1_epochs="auto"))
    assert documents.parse(TrainConfig, documents.dump(config), source="dump") == config
    with pytest.raises(ValueError, match="gamma is auto"):
        config.loss.nats  # noqa: B018


@pytest.fixture(scope="module")
def auto(tiny) -> TrainConfig:
    return replace(tiny, loss=LncisLoss(gamma="auto"), schedule=Schedule(epochs=4, stage1_epochs=2, evaluate_every=4))


@pytest.fixture(scope="module")
def undisturbed(auto, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("auto") / "undisturbed"
    engine.train(auto, datasets.load(auto), folder)
    return folder


def state(folder: Path | str):
    return checkpoint.load(Path(folder) / engine.CHECKPOINT)


def same_weights(one: Path | str, other: Path | str) -> bool:
    a, b = state(one).model, state(other).model
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def without_seconds(history: list[Record], *more: str) -> list[Record]:
    return [{key: value for key, value in record.items() if key not in ("seconds", *more)} for record in history]


def test_auto_trains_as_the_number_that_it_sets(auto, undisturbed):
    history = state(undisturbed).history
    gammas = [record.get("auto/gamma") for record in history]
    assert gammas[:2] == [None, None]
    assert gammas[2] == gammas[3] > 2
    number = replace(auto, loss=LncisLoss(gamma=gammas[2]))
    engine.train(number, datasets.load(number), Path("number"))
    assert same_weights("number", undisturbed)
    assert without_seconds(state("number").history) == without_seconds(history, *AUTO_METRICS)


def test_gamma_is_a_function_of_the_checkpoint_of_stage_1(auto, undisturbed):
    data = datasets.load(auto)
    engine.train(auto, data, Path("stage1"), until=2)
    model = build_model(auto.model, 10, pretrained=False)
    model.load_state_dict(state("stage1").model)
    found = automatic.set_gamma(model, data.val, engine.CPU)
    history = engine.train(auto, data, Path("forked"), fork_from=Path("stage1"))
    assert found.items() <= history[2].items()
    assert without_seconds(history) == without_seconds(state(undisturbed).history)
    assert same_weights("forked", undisturbed)


def test_a_resumed_training_keeps_its_gamma(auto, undisturbed, monkeypatch):
    data = datasets.load(auto)
    engine.train(auto, data, Path("resumed"), until=3)
    monkeypatch.setattr(automatic, "set_gamma", lambda *given: pytest.fail("it is set already"))
    engine.train(auto, data, Path("resumed"))
    assert same_weights("resumed", undisturbed)


def test_e1_auto_trains_as_the_epoch_that_it_ends_at(auto, monkeypatch):
    losses = iter([2.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(automatic, "val_loss", lambda *given: next(losses))
    itself = replace(auto, schedule=replace(auto.schedule, epochs=7, lr_drops=(6,), stage1_epochs="auto"))
    data = datasets.load(itself)
    for until in (2, 4, 7):  # stopped in stage 1, and just after its end
        engine.train(itself, data, Path("itself"), until=until)
    history = state("itself").history
    assert [record.get("auto/stage1_epochs") for record in history] == 3 * [None] + 4 * [3]
    assert [VAL_LOSS in record for record in history] == 3 * [True] + 4 * [False]
    number = replace(itself, schedule=replace(itself.schedule, stage1_epochs=3))
    engine.train(number, data, Path("number"))
    assert same_weights("itself", "number")


def test_the_loss_on_val_is_that_of_its_annotations(auto, undisturbed):
    data = datasets.load(auto)
    model = build_model(auto.model, 10, pretrained=False)
    model.load_state_dict(state(undisturbed).model)
    losses = []
    for image, target in (data.val[i] for i in range(len(data.val))):
        logits = automatic.posteriors.class_logits(model.eval(), image, target["boxes"])
        losses.append(torch.nn.functional.cross_entropy(logits, target["labels"], reduction="none").detach())
    assert automatic.val_loss(model, data.val, engine.CPU) == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)


def test_a_loss_without_stages_ends_nothing(auto):
    plain = replace(auto, loss=CrossEntropyLoss(), schedule=replace(auto.schedule, epochs=2, stage1_epochs="auto"))
    history = engine.train(plain, datasets.load(plain), Path("plain"))
    assert not any(VAL_LOSS in record or "auto/stage1_epochs" in record for record in history)


def test_the_check_of_parameters_tells_auto_from_numbers(auto):
    data = datasets.load(auto)
    one, other = (probing.probe(replace(auto, loss=LncisLoss(gamma=gamma)), data) for gamma in ("auto", 0.5))
    assert one["stage1/loss"] == other["stage1/loss"]
    assert one["stage2/loss"] != other["stage2/loss"]


def _rank_of_two(rank: int, config: TrainConfig) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{Path('rendezvous').absolute()}", rank=rank, world_size=2)
    engine.train(config, datasets.load(config), Path(f"rank{rank}"), fork_from=Path("stage1"), until=3)
    data = datasets.load(config)
    model = build_model(config.model, 10, pretrained=False)
    model.load_state_dict(state("stage1").model)
    torch.save(
        (automatic.set_gamma(model, data.val, engine.CPU), automatic.val_loss(model, data.val, engine.CPU)),
        f"{rank}.pt",
    )
    dist.destroy_process_group()


@pytest.mark.processes
def test_two_ranks_set_what_one_does(auto):
    data = datasets.load(auto)
    engine.train(auto, data, Path("stage1"), until=2)
    model = build_model(auto.model, 10, pretrained=False)
    model.load_state_dict(state("stage1").model)
    torch.multiprocessing.spawn(_rank_of_two, (auto,), nprocs=2)
    (gamma0, loss0), (gamma1, loss1) = (torch.load(f"{rank}.pt") for rank in (0, 1))
    assert gamma0 == gamma1 == pytest.approx(automatic.set_gamma(model, data.val, engine.CPU))
    assert loss0 == loss1 == pytest.approx(automatic.val_loss(model, data.val, engine.CPU))
    assert gamma0.items() <= state("rank0").history[2].items(), "it forked from the same checkpoint"
    shutil.rmtree("rank0")
