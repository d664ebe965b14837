"""The images of a COCO document, read from their files when they are asked for."""

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lncis import files
from lncis.errors import DataError

MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
"""Pillow's modes of 8 bits a channel: others, such as 16-bit greys, it would cut off at 255."""

RESPELLED = "image names are written otherwise than their files are called (backslashes, letters in parts)"
"""Said of names that another system wrote otherwise."""

UNREADABLE = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)
"""What Pillow raises for damaged files; RuntimeError for AVIF."""

EXIF_ORIENTATION = 0x0112

USED_AS_STORED = "image files are to be turned or mirrored by their EXIF, but are used as they are stored"
"""Said of files for which `is_used_as_stored` is true."""

Image.MAX_IMAGE_PIXELS = None  # a document says how large an image is, and another size is refused before it is decoded


class UnusableImage(DataError):
    """An image file that cannot be used."""

    path: Path
    what: str
    """The kind of fault, the same for all files that have it."""

    @classmethod
    def of(cls, path: Path, what: str, remedy: str, detail: str = "") -> Self:
        """Return the error of a file, made of its one line alone: another process can make it again."""
        error = cls(f"{path}: {what}{detail and f' ({detail})'}; {remedy}")
        error.path, error.what = path, what
        return error


class Head(NamedTuple):
    """What the head of an image file says."""

    width: int
    """As stored."""
    height: int
    orientation: int
    """As in EXIF, 1 to 8; 1 also where it is none of these."""
    mode: str
    """Pillow's."""

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height as viewers show it."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


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
        self.entries = [(files.find(folder, e["file_name"]), e["width"], e["height"]) for e in entries]
        names = [entry["file_name"] for entry in entries]
        missing = [name for name, (path, _, _) in zip(names, self.entries, strict=True) if not _is_file(path)]
        if missing:
            raise DataError(
                f"{folder}: {len(missing)} of {len(entries)} images are missing, such as {missing[0]}; "
                f"file_name is relative to this folder, {_elsewhere(folder, missing[0]) or 'is it the right one?'}"
            )
        self.respelled = [name for name, (path, _, _) in zip(names, self.entries, strict=True) if path != folder / name]
        """Names that another system wrote otherwise than the files are called."""

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return read(*self.entries[index])

    def chosen(self, positions: list[int]) -> "ImageFiles":
        """Return the images at some positions."""
        some = ImageFiles.__new__(ImageFiles)
        some.folder, some.respelled = self.folder, self.respelled
        some.entries = [self.entries[position] for position in positions]
        return some


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, for one
        return False


def _elsewhere(folder: Path, name: str) -> str:
    """Return a hint where a file has the name in other capitals, or the last part of it; backslashes are slashes."""
    above, _, last = name.replace("\\", "/").rpartition("/")
    with suppress(OSError):
        beside = (folder / above).iterdir()
        alike = (path.name for path in beside if path.name.lower() == last.lower() and path.name != last)
        if like := next(alike, None):
            return f"and {like} is there, in other capitals: write file_name as the file is called"
    if not above or not _is_file(folder / last):
        return ""
    return f"and {last} is there: take {name[: len(above) + 1]} out of file_name, or name the folder above"


def read(path: Path, width: int, height: int) -> NDArray[np.uint8]:
    """Return an image file as RGB `(height, width, 3)`; UnusableImage where it cannot be read or has another size."""
    try:
        with Image.open(path) as stored:
            if (mode := _mode_of(stored)) not in MODES:
                remedy = "save it with 8 bits a channel, scaled as you want it seen"
                raise UnusableImage.of(path, f"has the mode {mode}", remedy)
            turned = stored.size != (width, height)
            if turned and not (stored.size == (height, width) and _is_turned(stored)):
                raise UnusableImage.of(
                    path,
                    "has another size than its entry says",
                    "was it resized after it was annotated?",
                    f"{stored.size[0]} x {stored.size[1]} pixels, the entry says {width} x {height}",
                )
            image = ImageOps.exif_transpose(stored) if turned else stored
            return np.array(image.convert("RGB"))
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _mode_of(image: Image.Image) -> str:
    """Return the mode of an image; RGB;16B and the like where Pillow would take the upper 8 of 16 bits for RGB."""
    tile = getattr(image, "tile", None)  # of a file: decoder, extents, offset, arguments, the first of them its mode
    args = tile[0][3] if tile else None
    stored = args[0] if isinstance(args, tuple) and args else args
    return stored if image.mode in MODES and isinstance(stored, str) and ";16" in stored else image.mode


def _is_turned(image: Image.Image) -> bool:
    return image.getexif().get(EXIF_ORIENTATION) in (5, 6, 7, 8)


def head_of(path: Path) -> Head:
    """Return what the head of an image file says; UnusableImage where it has none."""
    try:
        with Image.open(path) as image:
            orientation = image.getexif().get(EXIF_ORIENTATION, 1)
            known = isinstance(orientation, int) and 1 <= orientation <= 8
            return Head(*image.size, orientation if known else 1, image.mode)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def is_used_as_stored(path: Path, width: int, height: int) -> bool:
    """Say whether an image's EXIF says to turn or mirror it, and its document has the size as it is stored."""
    head = head_of(path)
    return head.orientation != 1 and (width, height) == (head.width, head.height)


def _unreadable(path: Path, error: Exception) -> UnusableImage:
    return UnusableImage.of(path, "cannot be read as an image", "replace it, or leave it out", str(error))
