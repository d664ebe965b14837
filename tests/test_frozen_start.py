"""What is kept of a frozen backbone and RPN against torchvision's Mask R-CNN, which keeps nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN

from lncis import datasets
from lncis.config import DigitsData, DigitsRCNN, TrainConfig
from lncis.datasets import Data
from lncis.detection import checkpoint, engine
from lncis.detection.mask_rcnn import frozen_start
from lncis.detection.mask_rcnn.frozen_start import FrozenStartMaskRCNN
from lncis.detection.mask_rcnn.models import build_model

FROZEN = DigitsRCNN(weights="letters", freeze=("backbone", "rpn"))
CONFIG = TrainConfig(dataset=DigitsData(train_scenes=12, val_scenes=2, test_scenes=2), model=FROZEN)

Scenes = tuple[list[Tensor], list[dict[str, Tensor]]]


@pytest.fixture(scope="module")
def data() -> Data:
    return datasets.load(CONFIG)


@pytest.fixture
def ours() -> FrozenStartMaskRCNN:
    torch.manual_seed(0)
    model = build_model(FROZEN, 10)
    assert type(model) is FrozenStartMaskRCNN
    return model.train()


def plain(model: MaskRCNN) -> MaskRCNN:
    """torchvision's forward around the same modules."""
    stock = MaskRCNN.__new__(MaskRCNN)
    stock.__dict__.update(vars(model))
    return stock


def scenes(data: Data, numbers: list[int], mirrored: bool = False) -> Scenes:
    images, targets = zip(*(data.train[number] for number in numbers), strict=True)
    if not mirrored:
        return list(images), list(targets)
    flipped = [image.flip(-1) for image in images]
    corners = [target["boxes"][:, [2, 1, 0, 3]] for target in targets]
    boxes = [torch.stack([128 - b[:, 0], b[:, 1], 128 - b[:, 2], b[:, 3]], dim=1) for b in corners]
    masks = [target["masks"].flipped() for target in targets]
    return flipped, [{**t, "boxes": b, "masks": m} for t, b, m in zip(targets, boxes, masks, strict=True)]


def results(model: MaskRCNN, given: Scenes) -> tuple[list[str], list[Tensor]]:
    """Return the losses, their gradients and what torch would draw next, by name."""
    torch.manual_seed(5)
    model.zero_grad(set_to_none=True)
    losses = model(*given)
    sum(losses.values()).backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert {name.partition(".")[0] for name in gradients} == {"roi_heads"}
    found = {**{name: loss.detach() for name, loss in losses.items()}, **gradients, "state": torch.get_rng_state()}
    return list(found), list(found.values())


def same(model: MaskRCNN, given: Scenes) -> bool:
    (names, found), (wanted, expected) = results(model, given), results(plain(model), given)
    return names == wanted and all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def computed(model: MaskRCNN, given: Scenes) -> int:
    """Return how many images the backbone was given in a training step."""
    seen = []
    hook = model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    model(*given)
    hook.remove()
    return sum(seen)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_gradients_and_draws_are_torchvisions_to_the_bit(ours, data, precision):
    """In batches of all sizes, with images that are new and that are known, in other company than before."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for numbers in ([0, 1, 2, 3, 4], [4, 0], [7, 2, 5], [8, 8, 1], [0], list(range(12)), [*range(12)] * 2):
            assert same(ours, scenes(data, numbers)), numbers


def test_images_without_instances_are_torchvisions(ours, data):
    images, targets = scenes(data, [0, 1, 2])
    targets[1] = {**targets[1], "boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}
    targets[1]["masks"] = torch.zeros(0, 128, 128, dtype=torch.uint8)
    for _ in range(2):
        assert same(ours, (images, targets))
    assert same(ours, scenes(data, [1, 2])), "the same pixels with boxes"


def test_an_image_is_computed_once(ours, data):
    assert computed(ours, scenes(data, [0, 1, 2, 3])) == 4
    assert computed(ours, scenes(data, [3, 1])) == 0
    assert computed(ours, scenes(data, [3, 4, 1])) == 2, "in a pair, as in a batch of one its bits are others"
    assert computed(ours, scenes(data, [0, 1], mirrored=True)) == 2
    assert same(ours, scenes(data, [0, 1], mirrored=True))
    assert len(ours.kept) == 7
    assert ours.kept_bytes == sum(start.bytes for start in ours.kept.values()) < 7 * 0.34e6


def test_labels_and_their_noise_are_no_part_of_what_is_kept(ours, data):
    images, targets = scenes(data, [0, 1])
    ours(images, targets)
    flipped = [{**target, "labels": target["labels"] % 10 + 1} for target in targets]
    assert computed(ours, (images, flipped)) == 0
    assert same(ours, (images, flipped))


def test_other_weights_make_it_forget(ours, data):
    given = scenes(data, [0, 1, 2])
    before = results(ours, given)
    state = {name: value * 1.01 for name, value in ours.state_dict().items()}
    ours.load_state_dict(state)
    assert same(ours, given)
    assert not torch.equal(results(ours, given)[1][0], before[1][0])


def test_without_room_all_is_computed_each_time_and_the_same(ours, data, monkeypatch):
    monkeypatch.setattr(frozen_start, "MEMORY_BYTES", 700_000)  # for two
    for _ in range(2):
        assert same(ours, scenes(data, [0, 1, 2, 3]))
    assert len(ours.kept) == 2
    assert computed(ours, scenes(data, [0, 1, 2, 3])) == 2


def test_evaluation_and_state_are_torchvisions(ours, data):
    ours(*scenes(data, [0, 1]))
    assert ours.state_dict().keys() == build_model(DigitsRCNN(), 10).state_dict().keys()
    with torch.no_grad():
        (found,), (expected,) = (model.eval()([data.val[0][0]]) for model in (ours, plain(ours)))
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("freeze", [(), ("backbone",), ("rpn",)])
def test_a_start_that_trains_is_not_kept(freeze):
    assert type(build_model(replace(FROZEN, freeze=freeze), 10)) is MaskRCNN


def test_a_resumed_training_equals_an_undisturbed_one_to_the_bit():
    """Which computes an image in another epoch, and so in another batch."""
    scenes = DigitsData(train_scenes=11, val_scenes=2, test_scenes=2)  # the last batch has three
    config = replace(CONFIG, dataset=scenes, batch_size=4, schedule=replace(CONFIG.schedule, epochs=4))
    data = datasets.load(config)
    for folder, stops in (("undisturbed", [4]), ("resumed", [1, 3, 4])):
        for until in stops:
            engine.train(config, data, Path(folder), until=until)
    one, other = (checkpoint.load(Path(folder) / engine.CHECKPOINT) for folder in ("undisturbed", "resumed"))
    assert all(torch.equal(value, other.model[name]) for name, value in one.model.items())
    without_seconds = [
        [{key: value for key, value in record.items() if key != "seconds"} for record in state.history]
        for state in (one, other)
    ]
    assert without_seconds[0] == without_seconds[1]
