import math
from dataclasses import FrozenInstanceError, fields, is_dataclass
from typing import get_args

import pytest
from pydantic import ValidationError

from lncis import documents
from lncis.config import (
    ActivePassiveLoss,
    AdamWOptimizer,
    AsymmetricNoise,
    ClassLossConfig,
    CocoData,
    CrossEntropyLoss,
    DigitsData,
    DigitsRCNN,
    GeneralizedCrossEntropyLoss,
    JointOptimizationLoss,
    LabelSmoothingLoss,
    LncisLoss,
    MaskRCNNResNet50FPN,
    MatrixNoise,
    NoNoise,
    ReleaseCompatNoise,
    ReverseCrossEntropyLoss,
    Schedule,
    SGDOptimizer,
    SymmetricCrossEntropyLoss,
    SymmetricNoise,
    TrainConfig,
    Workers,
    loss_in_stage,
)
from lncis.errors import ConfigError

LOSSES = get_args(get_args(ClassLossConfig)[0])
NOISES = [NoNoise, SymmetricNoise, AsymmetricNoise, ReleaseCompatNoise]
MODELS, OPTIMIZERS = [DigitsRCNN, MaskRCNNResNet50FPN], [AdamWOptimizer, SGDOptimizer]
PARTS = [DigitsData, *NOISES, *MODELS, *LOSSES, Schedule, *OPTIMIZERS, TrainConfig, Workers]


@pytest.mark.parametrize("part", PARTS)
def test_every_field_has_a_default(part):
    part()


@pytest.mark.parametrize("part", PARTS)
def test_configs_are_frozen(part):
    with pytest.raises(FrozenInstanceError):
        setattr(part(), fields(part)[0].name, None)


@pytest.mark.parametrize("part", PARTS)
def test_configs_refuse_unknown_fields(part):
    with pytest.raises((ValidationError, TypeError), match="surprise"):
        part(surprise=1)


def test_all_parts_of_a_training_are_among_the_tested():
    config = TrainConfig()
    assert {type(v) for f in fields(config) if is_dataclass(v := getattr(config, f.name))} <= set(PARTS)


@pytest.mark.parametrize(
    ("part", "field", "refused", "accepted"),
    [
        (DigitsData, "train_scenes", 0, 1),
        (DigitsData, "val_scenes", 0, 1),
        (DigitsData, "test_scenes", 0, 1),
        (DigitsData, "seed", -1, 0),
        (SymmetricNoise, "rate", -0.01, 0),
        (SymmetricNoise, "rate", 1.01, 1),
        (SymmetricNoise, "rate", math.nan, 0.5),
        (SymmetricNoise, "seed", -1, 0),
        (AsymmetricNoise, "rate", 1.01, 1),
        (AsymmetricNoise, "seed", -1, 0),
        (ReleaseCompatNoise, "rate", -0.01, 0),
        (ReleaseCompatNoise, "seed", -1, 0),
        (DigitsRCNN, "min_size", 31, 32),
        (DigitsRCNN, "other_train_sizes", (31,), (32, 64)),
        (MaskRCNNResNet50FPN, "trainable_layers", -1, None),
        (MaskRCNNResNet50FPN, "trainable_layers", 6, None),
        (DigitsRCNN, "box_beta", 0, 1),
        (DigitsRCNN, "box_beta", math.inf, 1 / 9),
        (DigitsRCNN, "class_init_std", 0, 0.01),
        (DigitsRCNN, "box_init_std", math.inf, None),
        (LncisLoss, "gamma", 0, 1e-9),
        (LncisLoss, "gamma", -1, math.inf),
        (LncisLoss, "gamma", math.nan, 6),
        (LncisLoss, "A", 0, -1e-9),
        (LncisLoss, "A", 1, -4),
        (LncisLoss, "A", -math.inf, -1e9),
        (LncisLoss, "A", None, -0.5),
        (LncisLoss, "isolation", None, False),
        (LncisLoss, "clamped", None, True),
        (LabelSmoothingLoss, "epsilon", -0.1, 0),
        (LabelSmoothingLoss, "epsilon", 1, 0.9),
        (GeneralizedCrossEntropyLoss, "q", 0, 1e-3),
        (GeneralizedCrossEntropyLoss, "q", 1.1, 1),
        (ReverseCrossEntropyLoss, "A", 0, -1e-9),
        (SymmetricCrossEntropyLoss, "alpha", -1, 0),
        (SymmetricCrossEntropyLoss, "beta", math.inf, 0),
        (SymmetricCrossEntropyLoss, "A", 0, -1),
        (JointOptimizationLoss, "alpha", -1, 0),
        (JointOptimizationLoss, "beta", -1, 0),
        (ActivePassiveLoss, "alpha", math.nan, 0),
        (ActivePassiveLoss, "beta", -1, 0),
        (ActivePassiveLoss, "A", 0, -1),
        (Schedule, "epochs", 0, 1),
        (Schedule, "stage1_epochs", -1, 0),
        (Schedule, "lr_drops", (0,), (1,)),
        (Schedule, "warmup_iterations", -1, 0),
        (Schedule, "evaluate_every", 0, 1),
        (AdamWOptimizer, "lr", 0, 1e-9),
        (AdamWOptimizer, "lr", math.inf, 1),
        (AdamWOptimizer, "weight_decay", -1e-9, 0),
        (AdamWOptimizer, "max_grad_norm", 0, 35),
        (AdamWOptimizer, "max_grad_norm", math.inf, None),
        (SGDOptimizer, "momentum", 1, 0),
        (SGDOptimizer, "momentum", -0.1, 0.999),
        (TrainConfig, "batch_size", 0, 1),
        (TrainConfig, "seed", -1, 0),
        (TrainConfig, "flip", -0.1, 0.5),
        (TrainConfig, "flip", 1.1, 1),
        (TrainConfig, "val_labels", "clean", "oracle"),
        (Workers, "num_workers", 0, 1),
        (Workers, "cpus_per_worker", 0, 0.5),
        (Workers, "gpus_per_worker", -1, 0),
        (Workers, "gpus_per_worker", 1.5, 0.5),
        (Workers, "gpus_per_worker", math.inf, 2),
        (Workers, "loading_processes", -1, 0),
    ],
)
def test_bounds(part, field, refused, accepted):
    assert getattr(part(**{field: accepted}), field) == accepted
    with pytest.raises(ValidationError, match=field):
        part(**{field: refused})


def test_workers_of_one_training_share_no_gpu():
    assert Workers(num_workers=2, gpus_per_worker=1).gpus_per_worker == 1
    problem = r"gpus_per_worker must be a whole number where num_workers is above 1 \(it is 2\).*but got 0.25"
    with pytest.raises(ValidationError, match=problem):
        Workers(num_workers=2, gpus_per_worker=0.25)


@pytest.mark.parametrize(
    ("field", "refused", "accepted"),
    [("val_fraction", 0, 0.01), ("val_fraction", 1, 0.99), ("split_seed", -1, 0), ("surprise", 1, None)],
)
def test_coco_data_have_paths_and_bounds(field, refused, accepted):
    paths = {"images": "images", "train": "train.json", "test": "test.json"}
    assert CocoData(**paths).images.is_absolute()
    if accepted is not None:
        assert getattr(CocoData(**paths, **{field: accepted}), field) == accepted
    with pytest.raises((ValidationError, TypeError), match=field):
        CocoData(**paths, **{field: refused})


@pytest.mark.parametrize("stage1_epochs", [6, 7])
def test_stage_1_must_end_before_the_training(stage1_epochs):
    with pytest.raises(ValidationError, match=rf"stage1_epochs must be below epochs \(6\) but got {stage1_epochs}"):
        Schedule(epochs=6, stage1_epochs=stage1_epochs)


@pytest.mark.parametrize("drop", [6, 9])
def test_learning_rate_must_drop_before_the_end(drop):
    with pytest.raises(ValidationError, match=rf"lr_drops must be below epochs \(6\) but got {drop}"):
        Schedule(epochs=6, lr_drops=(2, drop))


def test_model_sizes_must_be_in_order():
    with pytest.raises(ValidationError, match=r"min_size must be at most max_size \(128\) but got 129"):
        DigitsRCNN(min_size=129)
    with pytest.raises(ValidationError, match=r"other_train_sizes must be at most max_size \(128\) but got 160"):
        DigitsRCNN(other_train_sizes=(96, 160))


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (DigitsRCNN, {}, "freeze must be empty with the weights none, which hold no FPN and no RPN, but got rpn"),
        (MaskRCNNResNet50FPN, {"weights": "imagenet"}, "freeze must be empty with the weights imagenet"),
        (
            MaskRCNNResNet50FPN,
            {"weights": "coco", "freeze": ["backbone"], "batch_norm": "trained"},
            "batch_norm must be frozen or frozen_statistics where freeze has backbone but got trained",
        ),
        (DigitsRCNN, {"weights": "letters", "freeze": ["roi_heads"]}, "backbone"),
    ],
)
def test_what_may_be_frozen(kind, fields, message):
    with pytest.raises(ValidationError, match=message):
        kind(**{"freeze": ["rpn"], **fields})
    assert DigitsRCNN(weights="letters", freeze=["backbone", "rpn"]).freeze == ("backbone", "rpn")


@pytest.mark.parametrize(
    ("kind", "other", "field", "value"),
    [
        (MaskRCNNResNet50FPN, DigitsRCNN, "trainable_layers", 3),
        (MaskRCNNResNet50FPN, DigitsRCNN, "batch_norm", "frozen"),
        (MaskRCNNResNet50FPN, DigitsRCNN, "weights", "coco"),
        (DigitsRCNN, MaskRCNNResNet50FPN, "weights", "letters"),
        (SGDOptimizer, AdamWOptimizer, "momentum", 0.5),
        *((AsymmetricNoise, noise, "map", {"a": "b"}) for noise in (NoNoise, SymmetricNoise, ReleaseCompatNoise)),
        *((noise, NoNoise, "rate", 0.2) for noise in (SymmetricNoise, AsymmetricNoise, ReleaseCompatNoise)),
    ],
)
def test_what_one_type_has_and_another_lacks(kind, other, field, value):
    assert getattr(kind(**{field: value}), field) == value
    with pytest.raises(ValidationError, match=field):
        other(**{field: value})


@pytest.mark.parametrize(
    ("part", "members"), [("noise", [*NOISES, MatrixNoise]), ("model", MODELS), ("optimizer", OPTIMIZERS)]
)
def test_types_tell_the_members_of_a_union_apart(part, members):
    needed = {MatrixNoise: {"classes": ["a"], "rows": [[1]]}}
    for member in members:
        config = TrainConfig(**{part: {"type": fields(member)[0].default, **needed.get(member, {})}})
        assert type(getattr(config, part)) is member


@pytest.mark.parametrize(
    ("epochs", "stage1_epochs", "switch"),
    [(16, None, 8), (12, None, 6), (7, None, 3), (1, None, 0), (12, 9, 9), (4, 0, 0)],
)
def test_switch_epoch_by_hand(epochs, stage1_epochs, switch):
    assert Schedule(epochs=epochs, stage1_epochs=stage1_epochs).switch_epoch == switch


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (Schedule(epochs=1), [1]),
        (Schedule(epochs=2), [1, 0.1]),
        (Schedule(epochs=3), [1, 1, 0.1]),
        (Schedule(epochs=4), [1, 1, 1, 0.1]),
        (Schedule(epochs=8), [1] * 6 + [0.1] * 2),
        (Schedule(epochs=10), [1] * 8 + [0.1] * 2),  # 7.5 epochs, rounded up
        (Schedule(epochs=5, lr_drops=()), [1] * 5),
        (Schedule(epochs=6, lr_drops=(2, 4)), [1, 1, 0.1, 0.1, 0.01, 0.01]),
        (Schedule(epochs=6, lr_drops=(4, 2)), [1, 1, 0.1, 0.1, 0.01, 0.01]),
    ],
)
def test_lr_factor_by_hand(schedule, factors):
    assert [schedule.lr_factor(epoch) for epoch in range(schedule.epochs)] == pytest.approx(factors)


def test_equal_configs_are_equal():
    assert TrainConfig(loss=LncisLoss(gamma=5)) == TrainConfig(loss=LncisLoss(gamma=5.0))
    assert TrainConfig() != TrainConfig(seed=1)


@pytest.mark.parametrize("loss", LOSSES)
def test_only_stagewise_lncis_begins_with_cross_entropy(loss):
    assert loss_in_stage(loss(), 2) == loss()
    assert loss_in_stage(loss(), 1) == (CrossEntropyLoss() if loss is LncisLoss else loss())
    assert loss_in_stage(LncisLoss(stagewise=False), 1) == LncisLoss(stagewise=False)


def test_types_of_the_losses_tell_them_apart():
    assert len({loss().type for loss in LOSSES}) == len(LOSSES) == 8
    for loss in LOSSES:
        assert TrainConfig(loss={"type": loss().type}).loss == loss()


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (
            {"dataset": {"type": "coco", "images": "~nobody-here/x", "train": "a", "test": "b"}},
            "there is no user of that",
        ),
        ({"dataset": {"type": "coco", "images": "a\0b", "train": "a", "test": "b"}}, "which holds a NUL character"),
        (
            {"dataset": {"type": "coco", "images": 2024, "train": "a", "test": "b"}},
            "must be the text of a path but got 2024; put",
        ),
        ({"noise": "none"}, "noise: must be a mapping with type, such as {type: none}, but got 'none'"),
    ],
)
def test_paths_and_kinds_that_are_none_are_said_with_the_remedy(document, said):
    with pytest.raises(ConfigError) as refused:
        documents.parse(TrainConfig, document, source="test")
    assert said in str(refused.value)
    assert len(refused.value.problems) == 1
