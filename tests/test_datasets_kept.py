import torch
from torch.utils.data import Dataset

from lncis import datasets
from lncis.config import TrainConfig
from lncis.datasets import kept
from lncis.datasets.coco import Item
from lncis.detection import engine


class Counted(Dataset[Item]):
    """Says which items were decoded, in their order."""

    def __init__(self, dataset: Dataset[Item]) -> None:
        self.dataset, self.decoded = dataset, list[int]()

    def __getitem__(self, index: int) -> Item:
        self.decoded.append(index)
        return self.dataset[index]


def test_an_item_is_decoded_once(tiny: TrainConfig) -> None:
    scenes = Counted(datasets.load(tiny).train)
    items = kept.KeptItems(scenes)
    first, again = items[3], items[3]
    assert scenes.decoded == [3]
    assert torch.equal(first[0], scenes.dataset[3][0])
    assert again[1] is first[1]


def test_what_does_not_fit_is_decoded_each_time(tiny: TrainConfig, monkeypatch) -> None:
    scenes = Counted(datasets.load(tiny).train)
    image, target = scenes.dataset[0]
    tensors = [image, target["masks"].runs, *(value for value in target.values() if isinstance(value, torch.Tensor))]
    monkeypatch.setattr(kept, "MEMORY_BYTES", sum(tensor.numel() * tensor.element_size() for tensor in tensors))
    items = kept.KeptItems(scenes)
    for index in (0, 0, 1, 1):
        items[index]
    assert scenes.decoded == [0, 1, 1]


def test_a_training_writes_into_nothing_that_is_kept(tiny: TrainConfig, trained, tmp_path, monkeypatch) -> None:
    """It ends with the numbers of one that decodes every image in every epoch."""
    monkeypatch.setattr(kept, "MEMORY_BYTES", 0)
    decoding = engine.train(tiny, datasets.load(tiny), tmp_path)
    keeping = engine.train(tiny, datasets.load(tiny), trained)
    assert [{**record, "seconds": 0} for record in decoding] == [{**record, "seconds": 0} for record in keeping]
