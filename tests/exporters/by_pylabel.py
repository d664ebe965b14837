"""pylabel 0.1.55: ImportVOC and ImportYoloV5, then ExportToCoco, as its README shows them; both formats hold boxes."""

import shutil
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from drawing import CLASSES, FILE_NAMES, HEIGHT, IMAGES, WIDTH, instances_of, keep, require
from pylabel import importer

require(pylabel="0.1.55")


def voc(file_name: str) -> str:
    objects = "".join(
        f"<object><name>{instance.label}</name><pose>Unspecified</pose><truncated>0</truncated>"
        f"<difficult>0</difficult><bndbox><xmin>{left:g}</xmin><ymin>{top:g}</ymin>"
        f"<xmax>{left + width:g}</xmax><ymax>{top + height:g}</ymax></bndbox></object>"
        for instance in instances_of(file_name)
        for left, top, width, height in [instance.bbox]
    )
    text = (
        f"<annotation><folder>images</folder><filename>{file_name}</filename><size><width>{WIDTH}</width>"
        f"<height>{HEIGHT}</height><depth>3</depth></size><segmented>0</segmented>{objects}</annotation>"
    )
    ElementTree.fromstring(text)
    return text


def yolo(file_name: str) -> str:
    return "".join(
        f"{CLASSES.index(instance.label)} {(left + width / 2) / WIDTH} {(top + height / 2) / HEIGHT} "
        f"{width / WIDTH} {height / HEIGHT}\n"
        for instance in instances_of(file_name)
        for left, top, width, height in [instance.bbox]
    )


for name, suffix, text_of in (("voc", ".xml", voc), ("yolo", ".txt", yolo)):
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(IMAGES, Path(folder) / "images")
        labels = Path(folder) / "labels"
        labels.mkdir()
        for file_name in FILE_NAMES:
            (labels / file_name).with_suffix(suffix).write_text(text_of(file_name))
        if name == "voc":
            dataset = importer.ImportVOC(path=str(labels), path_to_images="../images")
        else:
            dataset = importer.ImportYoloV5(path=str(labels), path_to_images="../images", cat_names=CLASSES)
        written = Path(folder) / "annotations.json"
        dataset.export.ExportToCoco(output_path=str(written))
        keep(f"pylabel_{name}", written, here=Path(folder))
