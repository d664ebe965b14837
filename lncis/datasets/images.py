"""The images of a COCO document, read from their files when they are asked for."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lncis.errors import DataError

MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
"""Pillow's modes of 8 bits a channel: others, such as 16-bit greys, it would cut off at 255."""

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for damaged files."""

EXIF_ORIENTATION = 0x0112


class Images(Protocol):
    """Image `i` as `(H, W, 3)` uint8: an array of all, or ImageFiles."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> NDArray[np.uint8]: ...


class ImageFiles:
    """The images of a folder that a COCO document lists, in its order; each is read when it is asked for.

    A photograph whose EXIF says that the camera was held upright is turned only where that gives the width and height
    of the document: some tools annotate the turned image, others the stored one. Half turns and mirrorings, which leave
    the size as it is, are not applied, as torchvision does not. Raises DataError where files are missing.
    """

    def __init__(self, folder: Path, entries: list[dict[str, Any]]) -> None:
        self.folder = folder
        self.entries = [(entry["file_name"], entry["width"], entry["height"]) for entry in entries]
        missing = [name for name, _, _ in self.entries if not (folder / name).is_file()]
        if missing:
            raise DataError(
                f"{folder}: {len(missing)} of {len(entries)} images are missing, such as {missing[0]}; file_name is "
                "relative to this folder, is it the right one?"
            )

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        name, width, height = self.entries[index]
        return read(self.folder / name, width, height)


def read(path: Path, width: int, height: int) -> NDArray[np.uint8]:
    """Return an image file as RGB `(height, width, 3)`; DataError where it cannot be read or has another size."""
    try:
        with Image.open(path) as stored:
            if stored.mode not in MODES:
                raise DataError(f"{path}: has the mode {stored.mode}; save it with 8 bits a channel")
            image = stored if stored.size == (width, height) else ImageOps.exif_transpose(stored)
            if image.size != (width, height):
                raise DataError(
                    f"{path}: is {image.size[0]} x {image.size[1]} pixels, the annotations say {width} x {height}; "
                    "was it resized after it was annotated?"
                )
            return np.array(image.convert("RGB"))
    except UNREADABLE as error:
        raise DataError(
            f"{path}: cannot be read as an image ({error}); replace it, or drop it from the file"
        ) from error


def size_of(path: Path) -> tuple[int, int, int]:
    """Return width, height and EXIF orientation (1: none) as stored, from the head of the file."""
    try:
        with Image.open(path) as image:
            return (*image.size, int(image.getexif().get(EXIF_ORIENTATION, 1)))
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from error
