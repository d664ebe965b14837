"""sahi 0.12.8: Coco, CocoImage and CocoAnnotation, as https://obss.github.io/sahi/coco/ shows them."""

import tempfile
from pathlib import Path

from drawing import CLASSES, FILE_NAMES, HEIGHT, WIDTH, instances_of, keep, require
from sahi.utils.coco import Coco, CocoAnnotation, CocoCategory, CocoImage
from sahi.utils.cv import get_coco_segmentation_from_bool_mask
from sahi.utils.file import save_json

require(sahi="0.12.8")
coco = Coco()
for number, name in enumerate(CLASSES):
    coco.add_category(CocoCategory(id=number, name=name))
for file_name in FILE_NAMES:
    image = CocoImage(file_name=file_name, height=HEIGHT, width=WIDTH)
    for instance in instances_of(file_name):
        outlined = instance.polygons or (
            None if instance.brush is None else get_coco_segmentation_from_bool_mask(instance.brush)
        )
        image.add_annotation(
            CocoAnnotation(
                segmentation=outlined,
                bbox=None if outlined else list(instance.bbox),
                category_id=CLASSES.index(instance.label),
                category_name=instance.label,
                iscrowd=int(instance.iscrowd),
            )
        )
    coco.add_image(image)
with tempfile.TemporaryDirectory() as folder:
    written = Path(folder) / "annotations.json"
    save_json(data=coco.json, save_path=str(written))
    keep("sahi", written)
