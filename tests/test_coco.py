import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from lncis.config import DigitsData
from lncis.datasets import digits
from lncis.datasets.coco import CocoInstances

HEIGHT, WIDTH = 24, 32


def annotation(number: int, image_id: int, category_id: int, box: tuple[int, int, int, int], iscrowd: int = 0) -> dict:
    x, y, w, h = box
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    encoded = rle.encode(mask)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [float(v) for v in box],
        "area": w * h,
        "iscrowd": iscrowd,
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()},
    }


@pytest.fixture
def dataset() -> CocoInstances:
    images = np.random.default_rng(0).integers(0, 256, size=(3, HEIGHT, WIDTH, 3), dtype=np.uint8)
    document = {
        "images": [{"id": i, "width": WIDTH, "height": HEIGHT} for i in (40, 7, 12)],
        "categories": [{"id": i, "name": str(i)} for i in (90, 3, 17)],
        "annotations": [
            annotation(105, 12, 90, (1, 2, 5, 6)),
            annotation(101, 40, 17, (0, 0, 32, 24)),
            annotation(102, 40, 3, (10, 4, 8, 3)),
            annotation(103, 40, 3, (2, 2, 20, 20), iscrowd=1),
            annotation(104, 12, 17, (20, 10, 12, 14)),
        ],
    }
    return CocoInstances(images, document)


def test_boxes_are_the_corners_of_the_masks(dataset):
    for _, target in dataset:
        for (left, top, right, bottom), mask in zip(target["boxes"].tolist(), target["masks"].full_size(), strict=True):
            ys, xs = mask.nonzero(as_tuple=True)
            assert [left, top, right, bottom] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_labels_are_contiguous_from_1_whatever_the_category_ids(dataset):
    assert dataset.category_ids == [3, 17, 90]
    assert [dataset[i][1]["labels"].tolist() for i in range(3)] == [[2, 1], [], [3, 2]]


def test_annotations_go_to_their_image_by_id(dataset):
    assert len(dataset) == 3
    assert [int(dataset[i][1]["image_id"]) for i in range(3)] == [40, 7, 12]
    assert [dataset[i][1]["annotation_ids"].tolist() for i in range(3)] == [[101, 102], [], [105, 104]]


def test_crowds_are_left_out_of_targets_and_kept_in_the_document(dataset):
    assert 103 not in dataset[0][1]["annotation_ids"]
    assert [a["id"] for a in dataset.document["annotations"] if a["iscrowd"]] == [103]


def test_types_and_shapes(dataset):
    for index, n in enumerate((2, 0, 2)):
        image, target = dataset[index]
        assert (image.shape, image.dtype) == ((3, HEIGHT, WIDTH), torch.float32)
        assert (target["boxes"].shape, target["boxes"].dtype) == ((n, 4), torch.float32)
        assert (target["labels"].shape, target["labels"].dtype) == ((n,), torch.int64)
        masks = target["masks"].full_size()
        assert (len(target["masks"]), masks.shape, masks.dtype) == (n, (n, HEIGHT, WIDTH), torch.uint8)
        assert (target["annotation_ids"].shape, target["annotation_ids"].dtype) == ((n,), torch.int64)


def test_image_is_scaled_to_the_unit_interval_channels_first(dataset):
    image, _ = dataset[1]
    for y, x, channel in ((0, 0, 0), (23, 31, 2), (5, 9, 1)):
        assert image[channel, y, x].item() == pytest.approx(dataset.images[1, y, x, channel] / 255)
    image.zero_()
    assert dataset.images[1].any()  # an item is a copy


def test_digits_become_targets(tmp_path):
    folder = digits.prepare(DigitsData(train_scenes=6, val_scenes=3, test_scenes=3), tmp_path)
    images, document = digits.read(folder, "train")
    dataset = CocoInstances(images, document)
    assert sum(len(target["labels"]) for _, target in dataset) == len(document["annotations"])
    name = {category["id"]: category["name"] for category in document["categories"]}
    by_id = {a["id"]: a for a in document["annotations"]}
    for _, target in dataset:
        for number, label, mask in zip(
            target["annotation_ids"].tolist(), target["labels"].tolist(), target["masks"].full_size(), strict=True
        ):
            assert str(label - 1) == name[by_id[number]["category_id"]]
            assert mask.sum() == by_id[number]["area"]


def test_clean_labels_are_there_where_every_annotation_has_one(dataset):
    assert all("clean_labels" not in target for _, target in dataset)
    document = dataset.document
    clean = {101: 17, 102: 90, 103: 3, 104: 17, 105: 3}
    annotations = [{**a, "clean_category_id": clean[a["id"]]} for a in document["annotations"]]
    known = CocoInstances(dataset.images, {**document, "annotations": annotations})
    assert [known[i][1]["clean_labels"].tolist() for i in range(3)] == [[2, 3], [], [1, 2]]
    assert [known[i][1]["labels"].tolist() for i in range(3)] == [[2, 1], [], [3, 2]]
