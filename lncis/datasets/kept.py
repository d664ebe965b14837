"""Images and targets that stay in memory once they are decoded, as far as there is room."""

from torch import Tensor
from torch.utils.data import Dataset

from lncis.datasets.coco import Item
from lncis.datasets.target_masks import TargetMasks

MEMORY_BYTES = 256 * 2**20
"""Of a process at most; a scene of digits takes 0.2 MB, a photo of COCO 4 MB. Later items are decoded each time."""


class KeptItems(Dataset[Item]):
    """A data set whose items are decoded once. Nobody may write into what it gives."""

    def __init__(self, dataset: Dataset[Item]) -> None:
        self.dataset = dataset
        self._kept: dict[int, Item] = {}
        self._room = MEMORY_BYTES

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Item:
        if index in self._kept:
            return self._kept[index]
        item = self.dataset[index]
        if (size := _bytes(item)) <= self._room:
            self._kept[index] = item
            self._room -= size
        return item


def _bytes(item: Item) -> int:
    image, target = item
    parts = (value.runs if isinstance(value, TargetMasks) else value for value in target.values())
    return image.nbytes + sum(part.nbytes for part in parts if isinstance(part, Tensor))
