"""A small annotated data set with a list of suspects, for the tests of what stands on such a list."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from lncis.coco.masks import to_rle
from lncis.suspects.suspect import Suspect
from lncis.suspects.tables import SuspectList, json_texts

WIDTH, HEIGHT = 80, 60
CLASSES = ["cat", "dog", "</script><script>document.title = 'taken'</script>", 'ä & "b"']


def ring() -> np.ndarray:
    """Return a mask with a hole and a part of its own."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(x - 40, y - 30)
    mask = (distance < 20) & (distance > 8)
    mask[2:8, 2:8] = True
    return mask.astype(np.uint8)


def document() -> dict[str, Any]:
    """Return two images with five annotations: polygons, one of two parts, a ring as RLE, a crowd."""
    encoded = rle.encode(np.asfortranarray(ring()))
    encoded = {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}
    square = [[10, 10, 40, 10, 40, 40, 10, 40.5]]
    parts = [[10, 10, 20, 10, 20, 20], [50, 30, 70, 30, 70, 50, 50, 50]]
    shapes = [(7, 3, 1, square, 0), (8, 3, 2, parts, 0), (9, 5, 3, encoded, 0), (11, 5, 4, square, 0)]
    shapes.append((12, 5, 1, {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}, 1))
    return {
        "info": {"x-own": ["é", None]},
        "images": [
            {"id": i, "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT, "license": None}
            for i, name in ((3, "a"), (5, "ö & <b>"))
        ],
        "categories": [{"id": k, "name": name, "colour": "#fff"} for k, name in enumerate(CLASSES, start=1)],
        "annotations": [
            {
                "id": i,
                "image_id": image,
                "category_id": c,
                "segmentation": s,
                "bbox": box,
                "area": area,
                "iscrowd": crowd,
                "track": {"n": i},
            }
            for (i, image, c, s, crowd), (box, area) in zip(shapes, map(_measured, shapes), strict=True)
        ],
    }


def _measured(shape: tuple[Any, ...]) -> tuple[list[float], int]:
    """Return box and area of a mask: Datumaro and FiftyOne read no annotation without."""
    mask = shape[3] if isinstance(shape[3], dict) else [np.array(p, dtype=float) for p in shape[3]]
    mask = to_rle(mask, HEIGHT, WIDTH)
    return rle.toBbox(mask).tolist(), int(rle.area(mask))


def listed(annotated: dict[str, Any] | None = None) -> SuspectList:
    """Return a list of all annotations of `document` but the crowd; each is suggested to be the class after its own."""
    annotated = annotated or document()
    names = {c["id"]: str(c["name"]) for c in annotated["categories"]}
    files = {i["id"]: i["file_name"] for i in annotated["images"]}
    entries = [a for a in annotated["annotations"] if not a.get("iscrowd")]
    suspects = [
        Suspect(
            rank=rank,
            annotation_id=a["id"],
            image_id=a["image_id"],
            file_name=files[a["image_id"]],
            given=names[a["category_id"]],
            suggested=CLASSES[rank % len(CLASSES)],
            wrong_probability=1 - rank / (len(entries) + 1),
            given_probability=0.125,
            margin=0.5,
            scored_by="out of fold: fold 2",
            loss_mean=None if rank == 2 else 1.5,
            isolated=rank,
        )
        for rank, a in enumerate(entries, start=1)
    ]
    return SuspectList(annotations="in.json", classes=CLASSES, suspects=suspects)


def lay_out(folder: Path = Path()) -> SuspectList:
    """Write in.json, suspects.json and images/ into a folder, and return the list."""
    annotated = document()
    (folder / "in.json").write_text(json.dumps(annotated))
    made = listed(annotated)
    (folder / "suspects.json").write_text("".join(json_texts(made)))
    (folder / "images").mkdir()
    for n, image in enumerate(annotated["images"]):
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        pixels = np.stack([x * 3, y * 4, np.full_like(x, 90 * n)], axis=2).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / image["file_name"])
    return made
