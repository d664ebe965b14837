"""Seconds that label noise takes on a file of COCO train2017's size, beside reading and writing it."""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from lncis.config import AsymmetricNoise, ReleaseCompatNoise, SymmetricNoise
from lncis.noise import Document, corrupt
from lncis.noise.names import SUPER_CLASSES

ANNOTATIONS = 860_000
IMAGES = 118_000
POINTS = 22
"""Of a polygon: with it the file has the size of instances_train2017.json, 450 MB."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=int, default=ANNOTATIONS, help="fewer for a quick look")
    annotations = parser.parse_args().annotations
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        path.write_text(json.dumps(synthetic(annotations)))
        print(f"{annotations:,} annotations, {path.stat().st_size / 1e6:.0f} MB")
        started = clocks()
        document = json.loads(path.read_bytes())
        print(f"reading: {since(started)}")
        for noise in (SymmetricNoise(), AsymmetricNoise(), ReleaseCompatNoise()):
            started = clocks()
            noisy, manifest = corrupt(document, noise, stream="train")
            print(f"{noise.type} noise: {since(started)}, {manifest['realised_rate']:.1%} flipped")
        started = clocks()
        path.write_text(json.dumps(noisy))
        print(f"writing: {since(started)}")


def clocks() -> tuple[float, float]:
    return time.monotonic(), time.process_time()


def since(started: tuple[float, float]) -> str:
    wall, cpu = (now - then for now, then in zip(clocks(), started, strict=True))
    return f"{wall:.1f} s, of them {cpu:.1f} s CPU"  # they differ where others use the machine


def synthetic(annotations: int) -> Document:
    """Return a document with COCO's categories, and annotations in no order of their ids, as COCO's are."""
    rng = np.random.default_rng(0)
    names = [(name, group) for group, members in SUPER_CLASSES.items() for name in members]
    labels, ids = rng.integers(1, 81, annotations).tolist(), (rng.permutation(annotations) + 1).tolist()
    points = rng.uniform(0, 640, (1000, 2 * POINTS)).round(2).tolist()
    return {
        "images": [
            {"id": n, "file_name": f"{n:012d}.jpg", "width": 640, "height": 480}
            for n in range(min(IMAGES, annotations))
        ],
        "annotations": [
            {
                "segmentation": [points[n % 1000]],
                "area": 702.1057499999998,
                "iscrowd": int(n % 85 == 0),
                "image_id": n % IMAGES,
                "bbox": points[n % 1000][:4],
                "category_id": labels[n],
                "id": ids[n],
            }
            for n in range(annotations)
        ],
        "categories": [{"supercategory": group, "id": n + 1, "name": name} for n, (name, group) in enumerate(names)],
    }


if __name__ == "__main__":
    main()
