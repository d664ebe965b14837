import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

from lncis.coco.masks import from_array, instance, run_lengths, to_rle

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("density", [0.0, 0.001, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 96), (400, 300)])
def test_run_lengths_are_those_that_pycocotools_compressed(size, density):
    mask = (RNG.random(size) < density).astype(np.uint8)
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    expected = np.diff([0, *changes, flat.size]).tolist()
    expected = [0, *expected] if flat[0] else expected
    counts = rle.encode(np.asfortranarray(mask))["counts"].decode()
    assert run_lengths(counts).tolist() == expected
    assert rle.frPyObjects({"size": list(size), "counts": expected}, *size)["counts"].decode() == counts


@pytest.mark.parametrize("counts", ["", "o", "S86j1p", "ü", " ", "P", "_" + "o" * 20 + "0"])
def test_what_stands_for_no_run_lengths_is_refused(counts):
    with pytest.raises(ValueError, match="run"):
        run_lengths(counts)


def test_to_rle_is_pycocotools_ann_to_rle_in_every_form():
    mask = (RNG.random((40, 30)) < 0.3).astype(np.uint8)
    compressed = from_array(mask)
    forms = [
        [[3.2, 4, 20, 5.5, 12, 30], [1, 1, 9, 1, 9, 9, 1, 9]],
        compressed,
        {"size": [40, 30], "counts": run_lengths(compressed["counts"]).tolist()},
    ]
    coco = COCO()
    coco.imgs = {1: {"height": 40, "width": 30}}
    for segmentation in forms:
        expected = coco.annToMask({"image_id": 1, "segmentation": segmentation})
        assert np.array_equal(rle.decode(to_rle(segmentation, 40, 30)), expected)
    assert np.array_equal(rle.decode(to_rle(compressed, 40, 30)), mask)


@pytest.mark.parametrize("polygons", [[], [[1, 2]], [[2, 3, 9, 9]]])
def test_fewer_than_three_corners_are_no_mask(polygons):
    assert rle.area(to_rle(polygons, 40, 30)) == 0


def test_an_instance_is_measured_from_its_mask():
    mask = np.zeros((40, 30), dtype=bool)
    mask[5:9, 20:30] = True
    mask[7, 25] = False
    found = instance(4, mask, iscrowd=1)
    assert (found["bbox"], found["area"], found["iscrowd"], found["category_id"]) == ([20, 5, 10, 4], 39, 1, 4)
    assert np.array_equal(rle.decode(found["segmentation"]), mask)
