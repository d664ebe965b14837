"""Seconds and memory that a file of COCO train2017's size takes: to read, to check and to make noisy.

Each is measured in a process of its own, beside `json.load` of the same file; the medians of several rounds are shown.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.progress import track

from lncis.config import SymmetricNoise
from lncis.noise.names import SUPER_CLASS_OF

ANNOTATIONS = 860_001
IMAGES = 118_287
ANNOTATIONS_AT_A_TIME = 1000
CORNERS = (8, 48)
"""Of a polygon: with them the file has the size of instances_train2017.json, about 450 MB."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=int, default=ANNOTATIONS, help="fewer for a quick look")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        write(path, options.annotations)
        print(f"{options.annotations:,} annotations, {path.stat().st_size / 1e6:.0f} MB")
        sides = {"json.load": load, "read for training": read, "lncis data check": check, "lncis noise": noise}
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for _ in range(options.rounds):  # one after the other, so that all meet the same load
            for name, side in sides.items():
                figures[name].append(measured(side, path))
                print(f"{name}: {figures[name][-1][0]:.1f} s", file=sys.stderr)
        reference = median(seconds for seconds, _ in figures["json.load"])
        print("| | seconds | times json.load | GiB at most |\n|---|---|---|---|")
        for name, rounds in figures.items():
            seconds, memory = median(s for s, _ in rounds), max(m for _, m in rounds)
            print(f"| {name} | {seconds:.1f} | {seconds / reference:.2f} | {memory:.2f} |")


def load(path: Path) -> None:
    with path.open("rb") as file:
        json.load(file)


def read(path: Path) -> None:
    from lncis.coco import annotations

    assert annotations.read(path).errors == []


def check(path: Path) -> None:
    from lncis.coco import checking

    assert checking.check(path).errors == []


def noise(path: Path) -> None:
    from lncis.coco import annotations
    from lncis.noise import corrupt

    noisy, _ = corrupt(annotations.read_labels(path).document, SymmetricNoise(), stream="train")
    with path.with_name("noisy.json").open("w") as file:
        file.writelines(annotations.texts(noisy))  # as `lncis noise` writes


def measured(side: Callable[[Path], None], path: Path) -> tuple[float, float]:
    """Return seconds and GiB of a side, run in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue: Any = context.SimpleQueue()
    process = context.Process(target=_measure, args=(side, path, queue))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{side.__name__} failed")
    seconds, memory = queue.get()
    return float(seconds), float(memory)


def _measure(side: Callable[[Path], None], path: Path, queue: Any) -> None:
    import lncis.datasets  # whose import is no part of it

    assert lncis.datasets
    started = time.perf_counter()
    side(path)
    queue.put((time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def write(path: Path, annotations: int) -> None:
    """Write a document with COCO's categories, and annotations in no order of their ids, as COCO's are."""
    names = [
        {"supercategory": group, "id": n, "name": name} for n, (name, group) in enumerate(SUPER_CLASS_OF.items(), 1)
    ]
    images = [
        {
            "license": 3,
            "file_name": f"{number:012d}.jpg",
            "coco_url": f"http://images.cocodataset.org/train2017/{number:012d}.jpg",
            "height": 480,
            "width": 640,
            "date_captured": "2013-11-14 11:18:45",
            "id": number,
        }
        for number in range(1, IMAGES + 1)
    ]
    with path.open("w") as file:
        file.write(f'{{"categories": {json.dumps(names)}, "images": {json.dumps(images)}, "annotations": [')
        parts = (", ".join(map(json.dumps, some)) for some in instances(annotations))
        total = -(-annotations // ANNOTATIONS_AT_A_TIME)
        for number, part in enumerate(track(parts, "writing the file", total)):
            file.write(f"{', ' if number else ''}{part}")
        file.write("]}")


def instances(count: int) -> Iterator[list[dict[str, Any]]]:
    """Yield annotations with an outline around a point, some at a time."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(count) + 1
    for start in range(0, count, ANNOTATIONS_AT_A_TIME):
        yield [instance(rng, int(number)) for number in ids[start : start + ANNOTATIONS_AT_A_TIME]]


def instance(rng: np.random.Generator, number: int) -> dict[str, Any]:
    """Return an annotation whose box is that of its polygon."""
    angles = np.linspace(0, 2 * np.pi, int(rng.integers(*CORNERS)), endpoint=False)
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    outline = (rng.uniform(100, 380, 2) + rng.uniform(10, 90) * around).round(2)
    x, y = outline.min(axis=0)
    width, height = (outline.max(axis=0) - outline.min(axis=0)).round(2)
    return {
        "segmentation": [outline.ravel().tolist()],
        "area": float(0.75 * width * height),
        "iscrowd": 0,
        "image_id": int(rng.integers(IMAGES)) + 1,
        "bbox": [float(x), float(y), float(width), float(height)],
        "category_id": int(rng.integers(1, 81)),
        "id": number,
    }


if __name__ == "__main__":
    main()
