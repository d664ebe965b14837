"""Pretrained weights: the files are made here, nothing is fetched."""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
from torch import Tensor
from torchvision.models import ResNet50_Weights, WeightsEnum, resnet50
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, maskrcnn_resnet50_fpn

from lncis.config import DigitsRCNN, MaskRCNNResNet50FPN
from lncis.detection.checkpoint import Checkpoint, save
from lncis.detection.mask_rcnn import weights
from lncis.detection.mask_rcnn.models import build_model
from lncis.errors import CheckpointError, ConfigError

State = dict[str, Tensor]


def r50(**fields) -> MaskRCNNResNet50FPN:
    return MaskRCNNResNet50FPN(min_size=64, max_size=64, **fields)


@pytest.fixture(scope="module")
def coco() -> State:
    torch.manual_seed(1)
    return maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91).state_dict()


@pytest.fixture(scope="module")
def imagenet() -> State:
    torch.manual_seed(2)
    return resnet50(weights=None).state_dict()


@pytest.fixture
def publish(monkeypatch, tmp_path):
    """Say that a state dict is what torchvision publishes under a name, and put its file into torch's hub folder."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(weights, "PUBLISHED", dict(weights.PUBLISHED))

    def publish(name: str, state: State) -> Path:
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        torch.save(state, folder / "made")
        digest = hashlib.sha256((folder / "made").read_bytes()).hexdigest()[:8]
        monkeypatch.setitem(weights.PUBLISHED, name, SimpleNamespace(url=f"https://nowhere.invalid/r50-{digest}.pth"))
        return (folder / "made").rename(folder / f"r50-{digest}.pth")

    return publish


def losses(model) -> dict[str, float]:
    mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
    mask[0, 8:40, 12:44] = 1
    target = {"boxes": torch.tensor([[12.0, 8.0, 44.0, 40.0]]), "labels": torch.tensor([2]), "masks": mask}
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(7)
    return {key: loss.item() for key, loss in model.train()([image], [target]).items()}


def test_a_model_from_coco_weights_is_torchvisions(publish, coco, monkeypatch):
    publish("coco", coco)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, *args, **options: coco)
    stock = maskrcnn_resnet50_fpn(weights=MaskRCNN_ResNet50_FPN_Weights.COCO_V1, min_size=64, max_size=64)
    ours = build_model(r50(weights="coco"), 90)
    assert losses(ours) == losses(stock)
    assert [p.requires_grad for p in ours.parameters()] == [p.requires_grad for p in stock.parameters()]
    assert sum(not p.requires_grad for p in ours.parameters()) == 11, "stem and layer1: convolutions alone"


def test_a_model_from_imagenet_weights_is_torchvisions(publish, imagenet, monkeypatch):
    publish("imagenet", imagenet)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, *args, **options: imagenet)
    torch.manual_seed(4)
    stock = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=ResNet50_Weights.IMAGENET1K_V1, num_classes=4, min_size=64, max_size=64
    )
    torch.manual_seed(4)
    ours = build_model(r50(weights="imagenet"), 3)
    assert losses(ours) == losses(stock)
    assert torch.equal(ours.state_dict()["backbone.body.layer4.2.conv3.weight"], imagenet["layer4.2.conv3.weight"])


def test_weights_of_other_classes_come_without_their_class_specific_layers(publish, coco, caplog):
    path = publish("coco", coco)
    torch.manual_seed(4)
    fresh = build_model(r50(weights="coco"), 3, pretrained=False).state_dict()
    torch.manual_seed(4)
    state = build_model(r50(weights="coco"), 3).state_dict()
    specific = {key for key in state if key.rpartition(".")[0] in weights.CLASS_SPECIFIC}
    assert len(specific) == 6
    assert all(torch.equal(state[key], fresh[key] if key in specific else coco[key]) for key in state)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path.name}: roi_heads.{layer} begins untrained, for {has} outputs where the file has {had}"
        for layer, has, had in (
            ("box_predictor.cls_score", 4, 91),
            ("box_predictor.bbox_pred", 16, 364),
            ("mask_predictor.mask_fcn_logits", 4, 91),
        )
    ]


def test_a_file_may_be_an_lncis_checkpoint_of_a_small_model():
    torch.manual_seed(1)
    state = build_model(DigitsRCNN(), 4).state_dict()
    save(Checkpoint(model=state, optimizer={}, history=[]), Path("earlier/checkpoint.pt"))
    found = build_model(DigitsRCNN(weights="earlier/checkpoint.pt"), 4).state_dict()
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_a_path_is_absolute_from_the_start():
    config = DigitsRCNN(weights="some/file.pth")
    assert config.weights == str(Path("some/file.pth").absolute())
    assert DigitsRCNN(weights=config.weights) == config


def test_a_missing_published_file_is_answered_with_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(ConfigError) as raised, torch.device("meta"):
        build_model(r50(weights="coco"), 3)
    published = MaskRCNN_ResNet50_FPN_Weights.COCO_V1
    path = tmp_path / "hub" / "checkpoints" / "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
    assert str(raised.value) == (
        f"model.weights: coco needs {path}, which is not there; `lncis weights coco` fetches it, "
        f"or copy it there from {published.url} (MaskRCNN_ResNet50_FPN_Weights.COCO_V1)"
    )
    assert not (tmp_path / "hub").exists(), "nothing was fetched"


def test_a_missing_file_is_answered_with_what_may_be_named():
    with pytest.raises(
        ConfigError, match=r"there is no file .*/imagnet; name a file, or one of none, letters, imagenet, coco"
    ):
        build_model(DigitsRCNN(weights="imagnet"), 3)


def test_a_damaged_published_file_is_refused(publish, imagenet):
    path = publish("imagenet", imagenet)
    path.write_bytes(path.read_bytes()[:-1000])
    complaint = rf"{path.name} is damaged: its SHA-256 begins with \w+, not \w+; delete"
    with pytest.raises(CheckpointError, match=complaint), torch.device("meta"):
        build_model(r50(weights="imagenet"), 3)


@pytest.mark.parametrize(
    "content",
    [b"", b"text", {"a": torch.ones(2), "b": 3}, [1, 2]],
    ids=["empty", "no archive", "not only tensors", "no mapping"],
)
def test_a_file_that_holds_no_weights_is_refused(content):
    path = Path("file.pth")
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"file\.pth is not a file of weights \(.*\); name another"):
        build_model(DigitsRCNN(weights="file.pth"), 3)


def test_weights_of_another_model_are_refused():
    torch.save({"stem.weight": torch.ones(3)}, "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth holds the weights of another model; .*Missing key"):
        build_model(DigitsRCNN(weights="other.pth"), 3)


def test_download_fetches_a_missing_file_once_and_checks_it(publish, imagenet, monkeypatch):
    path = publish("imagenet", imagenet)
    content, fetched = path.read_bytes(), []
    path.unlink()

    def fetch(url, dst, hash_prefix=None, progress=True):
        fetched.append((url, hash_prefix))
        Path(dst).write_bytes(content)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    assert weights.download("imagenet") == weights.download("imagenet") == path
    assert fetched == [(weights.PUBLISHED["imagenet"].url, path.stem.rpartition("-")[2])]


def test_download_without_a_network_says_what_to_copy_where(publish, imagenet, monkeypatch):
    path = publish("imagenet", imagenet)
    path.unlink()

    def fetch(url, dst, hash_prefix=None, progress=True):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(CheckpointError, match=rf"cannot be fetched: .*no route to host.*; copy it to {path}"):
        weights.download("imagenet")
    assert not path.exists()
