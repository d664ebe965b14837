import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, Mask

from lncis.config import DigitsData
from lncis.datasets import digits
from lncis.datasets.augmentation import Flipped, flip
from lncis.datasets.coco import CocoInstances
from lncis.datasets.target_masks import TargetMasks


def scenes(tmp_path) -> CocoInstances:
    folder = digits.prepare(DigitsData(train_scenes=8, val_scenes=1, test_scenes=1), tmp_path)
    return CocoInstances(*digits.read(folder, "train"))


def test_a_flip_is_torchvisions(tmp_path):
    for image, target in scenes(tmp_path):
        boxes = BoundingBoxes(target["boxes"], format="XYXY", canvas_size=tuple(image.shape[1:]))
        expected = v2.functional.horizontal_flip
        flipped, found = flip(image, target)
        assert torch.equal(flipped, expected(image))
        assert torch.equal(found["boxes"], expected(boxes))
        assert torch.equal(found["masks"].full_size(), expected(Mask(target["masks"].full_size())))
        assert torch.equal(found["labels"], target["labels"])


def test_a_flip_twice_is_none(tmp_path):
    image, target = scenes(tmp_path)[0]
    again, found = flip(*flip(image, target))
    assert torch.equal(again, image)
    assert torch.equal(found.pop("masks").full_size(), target["masks"].full_size())
    assert all(torch.equal(found[key], target[key]) for key in found)


def test_an_image_without_instances_flips(tmp_path):
    image, _ = scenes(tmp_path)[0]
    _, found = flip(image, {"boxes": torch.zeros(0, 4), "masks": TargetMasks.of([], 128, 128)})
    assert (found["boxes"].shape, found["masks"].full_size().shape) == ((0, 4), (0, 128, 128))


class Stripes(Dataset):
    """Images whose left half is dark: a flip shows."""

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        image = torch.zeros(3, 2, 2)
        image[..., 1] = 1
        return image, {"boxes": torch.zeros(0, 4), "masks": TargetMasks.of([], 2, 2)}


def drawn(probability, seed, epoch):
    flipped = Flipped(Stripes(), probability, seed, epoch)
    return np.array([bool(flipped[i][0][0, 0, 0]) for i in range(len(flipped))])


def test_what_is_flipped_depends_on_seed_epoch_and_sample_alone():
    first = drawn(0.5, 0, 0)
    torch.manual_seed(1)
    np.random.seed(1)
    assert (drawn(0.5, 0, 0) == first).all()
    assert (drawn(0.5, 0, 1) != first).any()
    assert (drawn(0.5, 1, 0) != first).any()


def test_the_share_that_is_flipped_is_the_probability():
    assert not drawn(0.0, 0, 0).any()
    assert drawn(1.0, 0, 0).all()
    assert abs(drawn(0.3, 0, 0).mean() - 0.3) < 4 * (0.3 * 0.7 / 1000) ** 0.5
