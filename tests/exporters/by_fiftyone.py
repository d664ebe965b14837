"""fiftyone 1.22.1: COCODetectionDatasetExporter, what Dataset.export(dataset_type=COCODetectionDataset) calls.

Called by itself, because a Dataset needs MongoDB.
"""

import tempfile
from pathlib import Path

import fiftyone as fo
import fiftyone.utils.coco as fouc
from drawing import CLASSES, FILE_NAMES, HEIGHT, IMAGES, WIDTH, Instance, instances_of, keep, require

require(fiftyone="1.22.1")


def detection(instance: Instance) -> fo.Detection:
    mask = instance.mask
    if mask is None:
        left, top, width, height = instance.bbox
        return fo.Detection(
            label=instance.label, bounding_box=[left / WIDTH, top / HEIGHT, width / WIDTH, height / HEIGHT]
        )
    made = fo.Detection.from_mask(mask, label=instance.label)
    if instance.iscrowd:
        made["iscrowd"] = 1
    return made


with tempfile.TemporaryDirectory() as folder:
    exporter = fouc.COCODetectionDatasetExporter(export_dir=folder, classes=CLASSES)
    with exporter:
        for file_name in FILE_NAMES:
            found = fo.Detections(detections=[detection(instance) for instance in instances_of(file_name)])
            exporter.export_sample(str(IMAGES / file_name), found)
    keep("fiftyone", Path(folder) / "labels.json")
