"""label-studio-sdk 2.1.2: Converter.convert_to_coco of a project's JSON export, as its README shows it.

Polygons, rectangles and brushes (Label Studio's own RLE, by its mask2rle); a thing in two parts is two polygons there.
The fixture label_studio_windows is the same file as Label Studio writes it on Windows where it has to download the
images: os.path.relpath gives `images\\NAME`.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from drawing import CLASSES, FILE_NAMES, HEIGHT, IMAGES, WIDTH, Instance, corners, instances_of, keep, require
from label_studio_sdk.converter import Converter
from label_studio_sdk.converter.brush import mask2rle

require(label_studio_sdk="2.1.2")
CONFIG = f"""<View>
  <Image name="image" value="$image"/>
  <PolygonLabels name="polygon" toName="image">{"".join(f'<Label value="{c}"/>' for c in CLASSES)}</PolygonLabels>
  <RectangleLabels name="box" toName="image">{"".join(f'<Label value="{c}"/>' for c in CLASSES)}</RectangleLabels>
  <BrushLabels name="brush" toName="image">{"".join(f'<Label value="{c}"/>' for c in CLASSES)}</BrushLabels>
</View>"""


def regions(instance: Instance) -> list[dict[str, Any]]:
    if instance.box:
        left, top, width, height = instance.box
        place = {"x": 100 * left / WIDTH, "y": 100 * top / HEIGHT}
        extent = {"width": 100 * width / WIDTH, "height": 100 * height / HEIGHT}
        drawn = [("box", "rectanglelabels", {**place, **extent, "rotation": 0})]
    elif instance.polygons:
        parts = [[[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in corners(polygon)] for polygon in instance.polygons]
        drawn = [("polygon", "polygonlabels", {"points": points, "closed": True}) for points in parts]
    else:
        drawn = [("brush", "brushlabels", {"format": "rle", "rle": mask2rle(255 * np.uint8(instance.brush))})]
    return [
        {
            "original_width": WIDTH,
            "original_height": HEIGHT,
            "image_rotation": 0,
            "value": {**value, kind: [instance.label]},
            "from_name": name,
            "to_name": "image",
            "type": kind,
        }
        for name, kind, value in drawn
    ]


with tempfile.TemporaryDirectory() as folder:
    uploads = Path(folder) / "media" / "upload" / "1"
    uploads.mkdir(parents=True)
    tasks = []
    for number, file_name in enumerate(FILE_NAMES, start=1):
        shutil.copy(IMAGES / file_name, uploads / file_name)
        result = [region for instance in instances_of(file_name) for region in regions(instance)]
        task = {"id": number, "data": {"image": f"/data/upload/1/{file_name}"}, "annotations": [{"result": result}]}
        tasks.append(task)
    exported = Path(folder) / "project-1.json"
    exported.write_text(json.dumps(tasks))
    written = Path(folder) / "written"
    converter = Converter(CONFIG, folder, upload_dir=str(uploads.parent))
    converter.convert_to_coco(str(exported), str(written), is_dir=False)
    keep("label_studio", written / "result.json", here=Path(folder))
    document = json.loads((written / "result.json").read_text())
    for image in document["images"]:
        image["file_name"] = f"images\\{Path(image['file_name']).name}"
    (written / "windows.json").write_text(json.dumps(document))
    keep("label_studio_windows", written / "windows.json", here=Path(folder))
