"""Small pictures of suspects: what is around each annotation, as JPEG, and the outline of its mask as an SVG path."""

import base64
import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as rle

from lncis import files
from lncis.coco import images
from lncis.coco.annotations import Annotation
from lncis.coco.images import UnusableImage
from lncis.coco.masks import LEAST_COORDINATES, to_rle
from lncis.errors import DataError
from lncis.noise import Document

SIDE = 160
"""Most pixels of a picture's side."""
CONTEXT = 0.2
"""Of the longer side of the box, on each side of it."""
LEAST_CONTEXT = 8
"""Pixels."""
QUALITY = 72
"""Of JPEG."""
STEPS = 2
"""Steps of an outline's coordinates to a pixel of the picture."""

Points = NDArray[np.float64]
"""`(n, 2)` as x, y; the last one is joined to the first."""
OnProgress = Callable[[int, int], object]
"""Called with the images that are done, and all that there are."""


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A picture of one annotation."""

    jpeg: bytes
    width: int
    height: int
    outline: str
    """SVG path, in a view box of `STEPS` times the size."""

    @property
    def base64(self) -> str:
        """The JPEG as text."""
        return base64.b64encode(self.jpeg).decode()


def crops_of(
    document: Document, positions: Sequence[int], folder: Path, on_progress: OnProgress = lambda done, total: None
) -> tuple[list[Crop | None], list[UnusableImage]]:
    """Return a picture for each annotation, None where its image cannot be used, and why those images cannot.

    `positions` say where the annotations stand in a document of `annotations.read`; each image is read once. Raises
    DataError where no image can be used.
    """
    entries = {image["id"]: image for image in document["images"]}
    by_image = defaultdict[int, list[int]](list)
    for number, position in enumerate(positions):
        by_image[document["annotations"][position]["image_id"]].append(number)
    found: list[Crop | None] = [None] * len(positions)
    unusable = list[UnusableImage]()
    for done, (image_id, numbers) in enumerate(by_image.items(), start=1):
        entry = entries[image_id]
        try:
            pixels = images.read(files.find(folder, entry["file_name"]), entry["width"], entry["height"])
        except UnusableImage as error:
            unusable.append(error)
        else:
            for number in numbers:
                found[number] = crop(pixels, document["annotations"][positions[number]])
        on_progress(done, len(by_image))
    if by_image and len(unusable) == len(by_image):
        raise DataError(f"none of {len(by_image)} images can be used; is {folder} the right folder? {unusable[0]}")
    return found, unusable


def crop(pixels: NDArray[np.uint8], annotation: Annotation) -> Crop:
    """Return the picture of an annotation in its image `(H, W, 3)`: square where the image is large enough."""
    height, width = pixels.shape[:2]
    x, y, w, h = annotation["bbox"]
    longer = max(w, h)
    side = max(round(longer + 2 * max(CONTEXT * longer, LEAST_CONTEXT)), 1)
    (x0, x1), (y0, y1) = _around(x + w / 2, side, width), _around(y + h / 2, side, height)
    picture = Image.fromarray(pixels[y0:y1, x0:x1])
    picture.thumbnail((SIDE, SIDE))  # never enlarges: a browser does that as well
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=QUALITY)
    shapes = _outlines(annotation["segmentation"], (height, width), (x0, y0, x1, y1), picture.size)
    return Crop(
        jpeg=content.getvalue(),
        width=picture.width,
        height=picture.height,
        outline="".join(svg_path(points) for points in shapes),
    )


def _around(centre: float, side: int, length: int) -> tuple[int, int]:
    """Return where a stretch of `side` pixels begins and ends that lies in the image, its centre near `centre`."""
    side = min(side, length)
    start = min(max(round(centre - side / 2), 0), length - side)
    return start, start + side


def _outlines(
    segmentation: Any, image_size: tuple[int, int], region: tuple[int, int, int, int], size: tuple[int, int]
) -> list[Points]:
    """Return the outlines of a mask in pixels of the picture: polygons as they were drawn, others around their pixels.

    `image_size` is (height, width), `region` the part x0, y0, x1, y1 of the image, and `size` (width, height).
    """
    x0, y0, x1, y1 = region
    if isinstance(segmentation, list):
        scale = np.array(size) / (x1 - x0, y1 - y0)
        drawn = (np.reshape(p, (-1, 2)) for p in segmentation if len(p) >= LEAST_COORDINATES)
        return [(points - (x0, y0)) * scale for points in drawn]
    mask = rle.decode(to_rle(segmentation, *image_size))[y0:y1, x0:x1]
    return outlines(np.asarray(Image.fromarray(mask * 255).resize(size, Image.Resampling.BOX)))


def outlines(coverage: NDArray[np.uint8]) -> list[Points]:
    """Return the closed lines around what a mask `(H, W)` covers by half and more; 255 is a whole pixel."""
    padded = np.pad(coverage, 1)
    lines = contourpy.contour_generator(z=padded, line_type=contourpy.LineType.Separate).lines(127.5)
    return [np.asarray(line) - 0.5 for line in lines]  # from the centres of padded pixels to corners of pixels


def svg_path(points: Points) -> str:
    """Return a closed line as an SVG path of whole steps; points that say nothing are left out."""
    steps = [(int(x), int(y)) for x, y in np.rint(points * STEPS)]
    kept = steps[:1]
    for before, here in pairwise(steps):
        if here != before:
            kept.append(here)
    corners = kept[:2]
    for here in kept[2:]:
        (ax, ay), (bx, by) = corners[-2:]
        if (bx - ax) * (here[1] - by) == (by - ay) * (here[0] - bx):  # on one line
            corners[-1] = here
        else:
            corners.append(here)
    if not corners:
        return ""
    moves = "".join(f" {x - ax} {y - ay}" for (ax, ay), (x, y) in pairwise(corners))
    return f"M{corners[0][0]} {corners[0][1]}l{moves.strip() or '0 0'}z"
