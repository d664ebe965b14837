"""The recipes that come along say what METHOD and paper say, and load together."""

from pathlib import Path

import pytest
import torch
import yaml
from torchvision.models.detection import maskrcnn_resnet50_fpn

from lncis import documents
from lncis.config import MaskRCNNResNet50FPN, TrainConfig
from lncis.detection.engine import learning_rate
from lncis.detection.mask_rcnn.models import FrozenStatisticsBatchNorm2d, build_model
from lncis.detection.mask_rcnn.roi_heads import TORCHVISION_BETA

RECIPES = Path(__file__).parents[1] / "studies" / "recipes"
DATA_SETS, WAYS = ("voc", "cityscapes", "coco"), ("mmdet1", "torchvision")


def recipe(*names: str) -> TrainConfig:
    return documents.load_merged(TrainConfig, [RECIPES / f"{name}.yaml" for name in names])


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*")))
def test_every_recipe_loads_beneath_a_data_sets(name):
    config = recipe("voc", name)
    given = documents.read_mapping(RECIPES / f"{name}.yaml")
    assert (
        documents.parse(TrainConfig, documents.overlaid(documents.dump(config), given, TrainConfig), source="")
        == config
    )


def test_these_are_all():
    assert {path.stem for path in RECIPES.glob("*")} == {*DATA_SETS, *WAYS, "cpu", "release_loss"}


@pytest.mark.parametrize(
    ("data_set", "batch", "lr", "epochs", "drops", "stage1_epochs", "sizes"),
    [
        ("voc", 4, 0.005, 12, (9,), 6, (600, 1000)),
        ("cityscapes", 2, 0.0025, 64, (48,), 32, (1024, 2048)),
        ("coco", 16, 0.02, 12, (8, 11), 6, (800, 1333)),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_a_data_set_has_the_papers_schedule(way, data_set, batch, lr, epochs, drops, stage1_epochs, sizes):
    config = recipe(data_set, way)
    assert (config.batch_size, config.optimizer.lr) == (batch, lr)
    assert (config.optimizer.type, config.optimizer.momentum, config.optimizer.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (config.schedule.epochs, config.schedule.lr_drops) == (epochs, drops)
    assert config.schedule.switch_epoch == stage1_epochs
    assert (config.model.min_size, config.model.max_size) == sizes
    assert config.model.weights == "imagenet"
    assert config.flip == 0.5
    assert (config.loss.gamma, config.loss.A) == (6.0, -4.0)


def test_cityscapes_trains_at_800_to_1024_and_tests_at_1024():
    transform = build_model(recipe("cityscapes").model, 8, pretrained=False).transform
    assert (min(transform.min_size), max(transform.min_size), transform.min_size[-1]) == (800, 1024, 1024)


def test_mmdet1_is_mmdetections():
    config = recipe("voc", "mmdet1")
    torch.manual_seed(0)
    model = build_model(config.model, 20, pretrained=False)
    predictor, body = model.roi_heads.box_predictor, model.backbone.body
    assert model.roi_heads.box_beta == 1
    assert predictor.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert predictor.bbox_pred.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert isinstance(body.layer4[0].bn1, FrozenStatisticsBatchNorm2d)
    assert [any(p.requires_grad for p in part.parameters()) for part in body.children() if [*part.parameters()]] == [
        False, False, False, True, True, True
    ]  # fmt: skip
    assert config.optimizer.max_grad_norm == 35


@pytest.mark.parametrize(
    ("data_set", "shares"),
    [("voc", [1, 1, 1]), ("coco", [1 / 3, 2 / 3, 1]), ("cityscapes", [1 / 3, 2 / 3, 1])],
)
def test_warm_up_is_by_data_set_as_in_mmdetections_configs(data_set, shares):
    config = recipe(data_set, "mmdet1")
    rates = [learning_rate(config, 0, iteration, 1000) for iteration in (0, 250, 500)]
    assert rates == pytest.approx([share * config.optimizer.lr for share in shares])
    assert recipe(data_set, "torchvision").schedule.warmup_iterations == 1000


def test_torchvision_is_what_the_defaults_are():
    model = recipe("voc", "torchvision").model
    plain = MaskRCNNResNet50FPN(weights="imagenet", min_size=600, max_size=1000)
    with torch.device("meta"):  # without values
        spelt_out, by_default = (build_model(config, 20, pretrained=False) for config in (model, plain))
        stock = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=21)
    assert str(spelt_out) == str(by_default)
    assert spelt_out.roi_heads.box_beta == TORCHVISION_BETA
    assert [p.requires_grad for p in spelt_out.parameters()] == [p.requires_grad for p in by_default.parameters()]
    assert all(spelt_out.state_dict()[key].shape == stock.state_dict()[key].shape for key in spelt_out.state_dict())


@pytest.mark.parametrize("way", WAYS)
def test_ways_say_the_same_fields_and_none_of_a_data_sets(way):
    warm_up = {"schedule.warmup_iterations"}  # mmdetection's is by data set

    def fields(name: str) -> set[str]:
        document = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
        return {f"{part}.{field}" for part, inner in document.items() if isinstance(inner, dict) for field in inner}

    assert fields(way) - warm_up == fields("mmdet1")
    assert not (fields(way) - warm_up) & set().union(*map(fields, DATA_SETS))
    assert all(warm_up <= fields(data_set) for data_set in DATA_SETS)


def test_the_later_file_stands_and_a_mistake_names_the_files():
    Path("mine.yaml").write_text("batch_size: 8\nloss: {type: cross_entropy}\nmodel: {max_size: 900}")
    paths = [RECIPES / "voc.yaml", Path("mine.yaml")]
    config = documents.load_merged(TrainConfig, paths)
    assert (config.batch_size, config.loss.type, config.model.min_size, config.model.max_size) == (
        8, "cross_entropy", 600, 900
    )  # fmt: skip
    Path("mine.yaml").write_text("loss: {gamma: 5}")
    Path("wrong.yaml").write_text("model: {type: digits_rcnn, max_size: 5}")
    with pytest.raises(documents.ConfigError, match=r"mine\.yaml \+ wrong\.yaml: loss: needs type"):
        documents.load_merged(TrainConfig, [Path("mine.yaml"), Path("wrong.yaml")])


def test_a_mapping_of_another_tag_takes_the_others_place():
    Path("one.yaml").write_text("loss: {type: lncis, gamma: 5}")
    Path("other.yaml").write_text("loss: {type: cross_entropy}")
    paths = [Path("one.yaml"), Path("other.yaml")]
    assert documents.load_merged(TrainConfig, paths).loss.type == "cross_entropy"
    assert documents.load_merged(TrainConfig, paths[::-1]).loss.gamma == 5
