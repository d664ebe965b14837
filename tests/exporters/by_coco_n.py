"""COCO-N's noise_annotations.py (github.com/mkimhi/noisy_labels, commit 11dc809) on a drawing: its `easy` noise.

    git clone https://github.com/mkimhi/noisy_labels && git -C noisy_labels checkout 11dc809
    PYTHONPATH=noisy_labels python tests/exporters/by_coco_n.py

Its function for a file is called by itself: with --benchmark its main stops, as it takes a name for the settings.
"""

import copy
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import noise_annotations
import numpy as np
from pycocotools.coco import COCO

HERE = Path(__file__).parent / "coco_n"
EASY = {"approximation": [0.2, 5], "localization": [0.2, 2], "rand": [0.2, 3], "flip_class": 0.2}
CLASSES = ["person", "bicycle", "car", "motorcycle", "airplane"]


def drawing() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 96, "height": 72} for i in (9, 25, 30, 34)]
    annotations = []
    for image in images:
        for place in range(12):
            x, y = 24 * (place % 4) + 4, 24 * (place // 4) + 4
            w, h = rng.integers(8, 18, 2).tolist()
            corners = [x, y, x + w, y, x + w, y + h, x + w // 2, y + h // 2, x, y + h]
            annotations.append(
                {
                    "id": 1000 + 7 * len(annotations),
                    "image_id": image["id"],
                    "category_id": 1 + int(rng.integers(len(CLASSES))),
                    "segmentation": [[float(c) for c in corners]],
                    "bbox": [x, y, w, h],
                    "area": float(w * h * 3 / 4),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": k, "name": name, "supercategory": "thing"} for k, name in enumerate(CLASSES, start=1)]
    return {"images": images, "categories": categories, "annotations": annotations}


def main() -> None:
    clean = drawing()
    noisy = copy.deepcopy(clean)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(clean, file)
        file.flush()
        coco = COCO(file.name)
    random.seed(1)
    noise_annotations.change_boundaries_for_file(noisy, coco, EASY, seed=1)
    HERE.mkdir(exist_ok=True)
    for name, document in (("clean", clean), ("noisy", noisy)):
        (HERE / f"{name}.json").write_text(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
