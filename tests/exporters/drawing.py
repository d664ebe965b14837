"""One drawing that every tool exports: three images, three classes, seven instances, one class without any.

Needs numpy, Pillow and pycocotools alone, so that the scripts beside it run where the tools are installed.
"""

import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

HERE = Path(__file__).parent
IMAGES = HERE / "images"
WIDTH, HEIGHT = 64, 48
CLASSES = ["leaf", "shell", "stone"]
"""Nothing is labelled stone."""
FILE_NAMES = ["scene_1.png", "scene_2.png", "scene_3.png"]
COLOURS = {"leaf": (70, 150, 60), "shell": (230, 190, 150)}
GROUND = (90, 90, 110)

Mask = np.ndarray
"""Of pixels, `(HEIGHT, WIDTH)`, bool."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """What a person drew around one thing."""

    file_name: str
    label: str
    polygons: list[list[float]] = field(default_factory=list)
    """x, y, x, y, ... of each part; empty where a brush or a box was used."""
    brush: Mask | None = None
    box: tuple[float, float, float, float] | None = None
    """x, y, width, height, of an instance that has no mask."""
    iscrowd: bool = False

    @property
    def mask(self) -> Mask | None:
        """The pixels, as pycocotools draws polygons; None for a box."""
        if self.polygons:
            drawn: Mask = rle.decode(rle.merge(rle.frPyObjects(self.polygons, HEIGHT, WIDTH))).astype(bool)
            return drawn
        return self.brush

    @property
    def bbox(self) -> tuple[float, float, float, float]:
        """x, y, width, height."""
        if self.box:
            return self.box
        if self.polygons:
            corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in self.polygons])
            (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
            return left, top, right - left, bottom - top
        assert self.brush is not None
        left, top, width, height = rle.toBbox(rle.encode(np.asfortranarray(self.brush, dtype=np.uint8))).tolist()
        return left, top, width, height


def disc(x: float, y: float, radius: float) -> Mask:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    inside: Mask = np.hypot(columns - x, rows - y) <= radius
    return inside


INSTANCES = [
    Instance(
        file_name="scene_1.png",
        label="leaf",
        polygons=[[6.5, 12.0, 14.0, 4.0, 23.0, 8.5, 25.5, 17.0, 18.0, 24.0, 9.0, 21.0]],
    ),
    Instance(
        file_name="scene_1.png",
        label="shell",  # in two parts
        polygons=[[34, 6, 46, 6, 46, 16, 40, 18, 34, 16], [50, 8, 60, 10, 58, 22, 50, 20]],
    ),
    Instance(file_name="scene_1.png", label="leaf", box=(8, 30, 20, 12)),
    Instance(file_name="scene_2.png", label="shell", brush=disc(18, 18, 12) & ~disc(18, 18, 5)),  # with a hole
    Instance(file_name="scene_2.png", label="leaf", brush=disc(42, 34, 7) | disc(54, 40, 6), iscrowd=True),
    Instance(file_name="scene_2.png", label="leaf", polygons=[[44, 0, 64, 0, 64, 14, 54, 10]]),  # to the border
    Instance(
        file_name="scene_3.png",
        label="shell",  # concave
        polygons=[[10, 8, 50, 8, 50, 18, 24, 20, 24, 40, 10, 40]],
    ),
]


def instances_of(file_name: str) -> Iterator[Instance]:
    return (instance for instance in INSTANCES if instance.file_name == file_name)


def corners(polygon: list[float]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(polygon[::2], polygon[1::2], strict=True)]


def draw_images() -> None:
    """Write the three images."""
    IMAGES.mkdir(exist_ok=True)
    for file_name in FILE_NAMES:
        pixels = np.full((HEIGHT, WIDTH, 3), GROUND, dtype=np.uint8)
        for instance in instances_of(file_name):
            mask = instance.mask
            if mask is None:
                left, top, width, height = map(int, instance.bbox)
                mask = disc(left + width / 2, top + height / 2, height / 2)
            pixels[mask] = COLOURS[instance.label]
        Image.fromarray(pixels).save(IMAGES / file_name, optimize=True)


def require(**versions: str) -> None:
    """Stop unless these distributions (`_` for `-`) have these versions: of others the habits may be others."""
    found = {name: importlib.metadata.version(name.replace("_", "-")) for name in versions}
    if found != versions:
        raise SystemExit(f"needs {versions} but got {found}; make the environment that README.md names")


def keep(fixture: str, written: Path, here: Path | None = None) -> None:
    """Keep what a tool wrote; the folder of this machine that it was told becomes /home/user."""
    text = written.read_text()
    store(fixture, json.loads(text.replace(str(here), "/home/user") if here else text))


def store(fixture: str, document: dict[str, Any]) -> None:
    """Write a fixture, one entry a line."""
    folder = HERE / fixture
    folder.mkdir(exist_ok=True)
    lines = []
    for key, value in document.items():
        if isinstance(value, list) and value:
            entries = ",\n  ".join(json.dumps(entry) for entry in value)
            lines.append(f'"{key}": [\n  {entries}\n]')
        else:
            lines.append(f'"{key}": {json.dumps(value)}')
    (folder / "annotations.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(folder / "annotations.json")


if __name__ == "__main__":
    draw_images()
