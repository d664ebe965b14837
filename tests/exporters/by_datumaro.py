"""datumaro 1.13.12: Dataset.export("coco_instances"), as its page on COCO shows it; masks where they were brushed,
then all as polygons, then all as masks."""

import tempfile
from pathlib import Path

from datumaro.components.annotation import Annotation, Bbox, Mask, Polygon
from datumaro.components.dataset import Dataset
from datumaro.components.dataset_base import DatasetItem
from datumaro.components.media import Image
from drawing import CLASSES, FILE_NAMES, IMAGES, Instance, instances_of, keep, require

require(datumaro="1.13.12")


def annotations(instance: Instance, group: int) -> list[Annotation]:
    of = {"label": CLASSES.index(instance.label), "group": group}
    if instance.iscrowd:
        of["attributes"] = {"is_crowd": True}
    if instance.box:
        return [Bbox(*instance.box, **of)]
    if instance.polygons:
        return [Polygon(polygon, **of) for polygon in instance.polygons]
    return [Mask(instance.brush, **of)]


items = [
    DatasetItem(
        id=Path(file_name).stem,
        media=Image.from_file(path=str(IMAGES / file_name)),
        annotations=[a for n, instance in enumerate(instances_of(file_name), 1) for a in annotations(instance, n)],
    )
    for file_name in FILE_NAMES
]
for mode, fixture in (("guess", "datumaro"), ("polygons", "datumaro_polygons"), ("mask", "datumaro_masks")):
    with tempfile.TemporaryDirectory() as folder:
        dataset = Dataset.from_iterable(items, categories=CLASSES)
        dataset.export(folder, "coco_instances", save_media=True, segmentation_mode=mode)
        keep(fixture, Path(folder) / "annotations" / "instances_default.json")
