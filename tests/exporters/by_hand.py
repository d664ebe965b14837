"""Files as tools write them that are no Python packages, after their own sources and documentation.

Roboflow's "COCO segmentation", CVAT's "COCO 1.0", VIA 2 as it is (its export_project_to_coco_format) and as it was
before (image_id as text, a flat list of coordinates), and MakeSense (its COCOExporter.ts).
"""

from typing import Any

import numpy as np
from drawing import CLASSES, FILE_NAMES, HEIGHT, INSTANCES, WIDTH, Instance, Mask, corners, store
from pycocotools import mask as rle

Entry = dict[str, Any]


def outlines(instance: Instance) -> list[list[float]]:
    """Return polygons of an instance, those of a brush along its outer border."""
    if instance.brush is None:
        return instance.polygons
    columns = np.flatnonzero(instance.brush.any(axis=0))
    rows = [np.flatnonzero(instance.brush[:, column]) for column in columns]
    top = [(float(column) + 0.5, float(row[0])) for column, row in zip(columns, rows, strict=True)]
    bottom = [(float(column) + 0.5, float(row[-1]) + 1) for column, row in zip(columns, rows, strict=True)]
    return [[coordinate for corner in top + bottom[::-1] for coordinate in corner]]


def uncompressed(mask: Mask) -> Entry:
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat, prepend=False))
    return {"counts": np.diff(ends, prepend=0, append=flat.size).tolist(), "size": [HEIGHT, WIDTH]}


def shoelace(polygon: list[float]) -> float:
    x, y = np.array(corners(polygon)).T
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)


def images(first: int, **more: Any) -> list[Entry]:
    return [
        {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH, **more}
        for number, name in enumerate(FILE_NAMES, start=first)
    ]


def roboflow() -> Entry:
    """All ids from 0; category 0 is a heading, named as the project; what was brushed comes as polygons."""
    entries = [
        {
            "id": number,
            "image_id": FILE_NAMES.index(instance.file_name),
            "category_id": 1 + CLASSES.index(instance.label),
            "bbox": list(instance.bbox),
            "area": instance.bbox[2] * instance.bbox[3],
            "segmentation": outlines(instance),
            "iscrowd": 0,
        }
        for number, instance in enumerate(INSTANCES)
    ]
    heading = {"id": 0, "name": "beach-finds", "supercategory": "none"}
    return {
        "info": {
            "year": "2026",
            "version": "1",
            "description": "Exported from roboflow.com",
            "contributor": "",
            "url": "https://public.roboflow.com/object-detection/undefined",
            "date_created": "2026-11-26T12:00:00+00:00",
        },
        "licenses": [{"id": 1, "url": "https://creativecommons.org/licenses/by/4.0/", "name": "CC BY 4.0"}],
        "categories": [
            heading,
            *({"id": n, "name": c, "supercategory": "beach-finds"} for n, c in enumerate(CLASSES, 1)),
        ],
        "images": images(0, license=1, date_captured="2026-11-26T12:00:00+00:00"),
        "annotations": entries,
    }


def cvat() -> Entry:
    """Masks of the brush are RLEs of numbers with iscrowd 1; each part of a thing is a polygon of its own."""
    annotations: list[Entry] = []

    def add(instance: Instance, segmentation: Any, area: float, box: list[float], **attributes: Any) -> None:
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": 1 + FILE_NAMES.index(instance.file_name),
                "category_id": 1 + CLASSES.index(instance.label),
                "segmentation": segmentation,
                "area": area,
                "bbox": box,
                "iscrowd": int(isinstance(segmentation, dict)),
                "attributes": {"occluded": False, **attributes},
            }
        )

    for instance in INSTANCES:
        if instance.box:
            add(instance, [], instance.box[2] * instance.box[3], list(instance.box), rotation=0.0)
        elif instance.brush is not None:
            add(instance, uncompressed(instance.brush), float(instance.brush.sum()), list(instance.bbox))
        for polygon in instance.polygons:
            part = Instance(file_name=instance.file_name, label=instance.label, polygons=[polygon])
            area = float(rle.area(rle.merge(rle.frPyObjects([polygon], HEIGHT, WIDTH))))
            add(instance, [list(map(float, polygon))], area, [float(side) for side in part.bbox])
    return {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": dict.fromkeys(("contributor", "date_created", "description", "url", "version", "year"), ""),
        "categories": [{"id": n, "name": name, "supercategory": ""} for n, name in enumerate(CLASSES, start=1)],
        "images": images(1, license=0, flickr_url="", coco_url="", date_captured=0),
        "annotations": annotations,
    }


def via(*, before: bool) -> Entry:
    """One polygon a region, no mask; a box comes as one, and the area is the box's."""
    regions = [
        (instance, polygon)
        for instance in INSTANCES
        for polygon in ([rectangle(instance)] if instance.box else outlines(instance))
    ]
    annotations = []
    for number, (instance, polygon) in enumerate(regions, start=1):
        x, y = np.array(corners(polygon)).T
        box = [float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))]
        image_id = FILE_NAMES.index(instance.file_name) + (0 if before else 1)
        annotations.append(
            {
                "segmentation": polygon if before else [polygon],
                "area": box[2] * box[3],
                "bbox": box,
                "iscrowd": 0,
                "id": number - 1 if before else number,
                "image_id": str(image_id) if before else image_id,
                "category_id": 1 + CLASSES.index(instance.label),
            }
        )
    about = "http://www.robots.ox.ac.uk/~vgg/software/via/"
    return {
        "info": {
            "year": 2026,
            "version": "1.0",
            "description": f"VIA project exported to COCO format using VGG Image Annotator ({about})",
            "contributor": "",
            "url": about,
            "date_created": "Thu Nov 26 2026 12:00:00 GMT+0000 (Coordinated Universal Time)",
        },
        "images": images(0 if before else 1, license=0, flickr_url="", coco_url="", date_captured=""),
        "annotations": annotations,
        "licenses": [{"id": 0, "name": "Unknown License", "url": ""}],
        "categories": [{"supercategory": "type", "id": n, "name": name} for n, name in enumerate(CLASSES, start=1)],
    }


def rectangle(instance: Instance) -> list[float]:
    left, top, width, height = instance.bbox
    return [left, top, left + width, top, left + width, top + height, left, top + height]


def makesense() -> Entry:
    """Polygons alone, one a label; annotation ids from 0, the others from 1; no supercategory."""
    drawn = [(instance, polygon) for instance in INSTANCES for polygon in outlines(instance)]
    annotations = []
    for number, (instance, polygon) in enumerate(drawn):
        part = Instance(file_name=instance.file_name, label=instance.label, polygons=[polygon])
        annotations.append(
            {
                "id": number,
                "iscrowd": 0,
                "image_id": 1 + FILE_NAMES.index(instance.file_name),
                "category_id": 1 + CLASSES.index(instance.label),
                "segmentation": [polygon],
                "bbox": list(part.bbox),
                "area": shoelace(polygon),
            }
        )
    return {
        "info": {"description": "my-project-name"},
        "images": images(1),
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)],
    }


store("roboflow", roboflow())
store("cvat", cvat())
store("via", via(before=False))
store("via_before", via(before=True))
store("makesense", makesense())
