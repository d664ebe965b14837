"""supervision 0.31.2: DetectionDataset.as_coco, as https://supervision.roboflow.com/latest/datasets/core/ shows it."""

import tempfile
from pathlib import Path

import numpy as np
import supervision as sv
from drawing import CLASSES, FILE_NAMES, HEIGHT, IMAGES, WIDTH, instances_of, keep, require

require(supervision="0.31.2")
annotations = {}
for file_name in FILE_NAMES:
    instances = list(instances_of(file_name))
    boxes = np.array([instance.bbox for instance in instances], dtype=np.float32)
    boxes[:, 2:] += boxes[:, :2]
    nothing = np.zeros((HEIGHT, WIDTH), dtype=bool)  # its masks are one array: a box beside them has an empty one
    annotations[str(IMAGES / file_name)] = sv.Detections(
        xyxy=boxes,
        class_id=np.array([CLASSES.index(instance.label) for instance in instances]),
        mask=np.array([nothing if instance.mask is None else instance.mask for instance in instances]),
    )
dataset = sv.DetectionDataset(classes=CLASSES, images=list(annotations), annotations=annotations)
with tempfile.TemporaryDirectory() as folder:
    written = Path(folder) / "annotations.json"
    dataset.as_coco(annotations_path=str(written))
    keep("supervision", written)
