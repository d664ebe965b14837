"""The images of a COCO document, read from their files when they are asked for."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from lncis import files
from lncis.errors import DataError, printable

MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
"""Pillow's modes of 8 bits a channel: others, such as 16-bit greys, it would cut off at 255."""

RESPELLED = "image names are written otherwise than their files are called (backslashes, letters in parts)"
"""Said of names that another system wrote otherwise."""

EXIF_ORIENTATION, BITS_PER_SAMPLE = 0x0112, 0x0102
TURNED_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What makes an upright image again what is stored, by its orientation."""

USED_AS_STORED = "image files are to be turned or mirrored by their EXIF, but are used as they are stored"
"""Said of files whose document has their size as it is stored, though EXIF says to turn or mirror them."""

# it is said where RGBA would be another picture, and RGB is what is asked for
warnings.filterwarnings("ignore", message="Palette images with Transparency", category=UserWarning)
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
                f"{folder}: {len(missing)} of {len(entries)} images are missing, such as {printable(missing[0])}; "
                f"file_name is relative to this folder, {_elsewhere(folder, missing[0]) or 'is it the right one?'}"
            )
        self.respelled = [name for name, (path, _, _) in zip(names, self.entries, strict=True) if path != folder / name]
        """Names that another system wrote otherwise than the files are called."""

    @property
    def paths(self) -> list[Path]:
        """The files, in the document's order."""
        return [path for path, _, _ in self.entries]

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
    return examine(path, width, height)[0]


def examine(path: Path, width: int, height: int) -> tuple[NDArray[np.uint8], bool]:
    """Return an image as `read` does, and whether USED_AS_STORED holds for it."""
    with _opened(path) as stored:
        head = _head(stored)
        if head.mode not in MODES:
            remedy = "save it with 8 bits a channel, scaled as you want it seen"
            raise UnusableImage.of(path, f"has the mode {head.mode}", remedy)
        turned = (width, height) != (head.width, head.height)
        if turned and (width, height) != head.upright:
            raise UnusableImage.of(
                path,
                "has another size than its entry says",
                "was it resized after it was annotated?",
                f"{head.width} x {head.height} pixels, the entry says {width} x {height}",
            )
        stored.load()
        as_stored = not turned and head.orientation != 1
        if stored.format == "TIFF":  # which Pillow turns by itself when it is loaded
            image = stored.transpose(TURNED_BACK[head.orientation]) if as_stored else stored
        else:
            image = ImageOps.exif_transpose(stored) if turned else stored
        return np.array(image.convert("RGB")), as_stored


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile]:
    """Yield an image file; what Pillow raises for a damaged one, of any type, becomes UnusableImage."""
    try:
        with Image.open(path) as image:
            yield image
    except UnusableImage:
        raise
    except Exception as error:
        what, remedy = "cannot be read as an image", "replace it, or leave it out"
        raise UnusableImage.of(path, what, remedy, printable(str(error))) from error


def _head(image: ImageFile) -> Head:
    """Return what the head says of an image that is not loaded yet."""
    mode = _mode_of(image)  # first: to look for EXIF loads a PNG
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    if not (isinstance(orientation, int) and 1 <= orientation <= 8):
        orientation = 1
    size = image.size
    if image.format == "TIFF" and orientation >= 5:  # Pillow has the size that it will have
        size = size[::-1]
    return Head(*size, orientation, mode)


def _mode_of(image: ImageFile) -> str:
    """Return the mode of an image; RGB;16 and the like where Pillow would take the upper 8 of more bits."""
    if image.mode not in MODES or not image.tile:
        return image.mode
    decoder, _, _, args = image.tile[0]
    arguments = args if isinstance(args, tuple) else (args,)
    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, 8)
    if any(isinstance(argument, str) and ";16" in argument for argument in arguments) or decoder == "SGI16":
        deepest = 16
    elif decoder in ("ppm", "ppm_plain"):
        deepest = int(arguments[-1]).bit_length() if isinstance(arguments[-1], int) else 8
    else:
        deepest = max(bits) if isinstance(bits, tuple) else bits
    return f"{image.mode};{deepest}" if deepest > 8 else image.mode


def head_of(path: Path) -> Head:
    """Return what the head of an image file says; UnusableImage where it has none."""
    with _opened(path) as image:
        return _head(image)
