"""labelme2coco 0.2.6: convert() of labelme's JSON files, as its README shows it.

It stops at labelme's shape_type mask ("not supported"), so what was brushed is left out. A thing in two parts is, in
labelme, two polygons with one group_id.
"""

import json
import shutil
import tempfile
from pathlib import Path

import labelme2coco
from drawing import FILE_NAMES, HEIGHT, IMAGES, WIDTH, Instance, corners, instances_of, keep, require

require(labelme2coco="0.2.6", sahi="0.12.8")


def shapes(instance: Instance, group: int) -> list[dict[str, object]]:
    left, top, width, height = instance.bbox
    if instance.box:
        drawn = [("rectangle", [(left, top), (left + width, top + height)])]
    else:
        drawn = [("polygon", corners(polygon)) for polygon in instance.polygons]
    return [
        {
            "label": instance.label,
            "points": points,
            "group_id": group if len(drawn) > 1 else None,
            "description": "",
            "shape_type": shape_type,
            "flags": {},
            "mask": None,
        }
        for shape_type, points in drawn
    ]


with tempfile.TemporaryDirectory() as folder:
    labelled = Path(folder) / "scenes"
    labelled.mkdir()
    for file_name in FILE_NAMES:
        shutil.copy(IMAGES / file_name, labelled)
        document = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [s for n, instance in enumerate(instances_of(file_name), 1) for s in shapes(instance, n)],
            "imagePath": file_name,
            "imageData": None,
            "imageHeight": HEIGHT,
            "imageWidth": WIDTH,
        }
        (labelled / file_name).with_suffix(".json").write_text(json.dumps(document))
    labelme2coco.convert(str(labelled), folder)
    keep("labelme2coco", Path(folder) / "dataset.json", here=Path(folder))
