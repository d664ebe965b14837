"""Masks of other formats to a COCO file, image by image, so that a killed conversion goes on where it was.

What is done is kept beside the result, a line for an image, and becomes the COCO file when all images are there.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import Timeout
from numpy.typing import NDArray

from lncis import files
from lncis.coco.images import head_of
from lncis.coco.masks import instance
from lncis.errors import DataError

FORMAT = 1
"""Goes up when the same source converts to another file: what an older version left is converted again."""

OnProgress = Callable[[int, int], object]
"""Called with the images that are done and all there are."""

Masks = list[tuple[int, NDArray[np.bool_], bool]]
"""Category id, mask `(H, W)` and whether it is a crowd, of each annotation of an image."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What becomes one COCO file."""

    name: str
    """What it is, for the file's `info`; another name is another conversion."""
    target: Path
    images: Path
    """Folder of the images."""
    file_names: Sequence[str]
    """Images, relative to their folder, in the order of the file."""
    categories: dict[int, str]
    read: Callable[[str], Masks]
    """Return what is annotated in an image of `file_names`."""


def run(conversion: Conversion, on_progress: OnProgress = lambda done, total: None) -> None:
    """Write the COCO file of a conversion, whole or not at all; one that is there already is left as it is.

    Raises DataError where an image or its masks are missing or corrupt, or another conversion is in the way.
    """
    target, total = conversion.target, len(conversion.file_names)
    # two lists of one length are two conversions
    digest = hashlib.sha256("\n".join(conversion.file_names).encode()).hexdigest()
    info = {"description": conversion.name, "version": str(FORMAT), "images_sha256": digest}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            _require_same(target, info)
            on_progress(total, total)
            return
        progress_path, lock_path = target.with_name(f".{target.name}l"), target.with_name(f".{target.name}.lock")
        with files.lock(lock_path), _progress_file(progress_path, info) as (file, lines):
            on_progress(len(lines), total)
            for file_name in conversion.file_names[len(lines) :]:
                lines.append(json.dumps(_convert(conversion, file_name)))
                file.write(f"{lines[-1]}\n".encode())
                file.flush()
                on_progress(len(lines), total)
            files.replace(target, json.dumps(_assemble(conversion, info, [json.loads(line) for line in lines])))
            progress_path.unlink()
            lock_path.unlink()
    except Timeout as error:
        raise DataError(f"{target.parent} is being prepared by another process; wait for it") from error
    except OSError as error:
        raise DataError(
            f"{target} cannot be written: {error.strerror}; make room or name another folder, and run it again"
        ) from error


def _require_same(target: Path, info: dict[str, Any]) -> None:
    try:
        found = json.loads(target.read_text()).get("info")
    except (ValueError, AttributeError):
        found = None
    if found != info:
        raise DataError(f"{target}: is there already and is not of this conversion; name another folder or delete it")


@contextmanager
def _progress_file(path: Path, info: dict[str, Any]) -> Iterator[tuple[IO[bytes], list[str]]]:
    """Yield a file that lines are appended to, after those that an interrupted conversion left whole."""
    with path.open("a+b") as file:
        file.seek(0)
        whole = [line for line in file if line.endswith(b"\n")]
        head = f"{json.dumps(info)}\n".encode()
        if whole[:1] == [head]:
            file.truncate(sum(map(len, whole)))  # the last line may be torn
        else:
            whole = [head]
            file.truncate(0)
            file.write(head)
        yield file, [line.decode().rstrip("\n") for line in whole[1:]]


def _convert(conversion: Conversion, file_name: str) -> dict[str, Any]:
    path = conversion.images / file_name
    width, height, _, _ = head_of(path)
    masks = conversion.read(file_name)
    for _, mask, _ in masks:
        if mask.shape != (height, width):
            raise DataError(
                f"{path}: is {width} x {height} pixels, its masks are {mask.shape[1]} x {mask.shape[0]}; "
                "are both of the same release?"
            )
    return {
        "image": {"file_name": file_name, "width": width, "height": height},
        "annotations": [instance(number, mask, iscrowd=int(crowd)) for number, mask, crowd in masks],
    }


def _assemble(conversion: Conversion, info: dict[str, Any], converted: list[dict[str, Any]]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image_id, entry in enumerate(converted, start=1):
        for annotation in entry["annotations"]:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
    return {
        "info": info,
        "images": [{"id": number, **entry["image"]} for number, entry in enumerate(converted, start=1)],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in conversion.categories.items()],
    }


def listed(path: Path) -> list[str]:
    """Return the image names of a list file, one a line."""
    return [line.split()[0] for line in path.read_text().splitlines() if line.strip()]


def require_paths(paths: dict[Path, str]) -> None:
    """Raise DataError with every path that is missing, and the archive that it comes from."""
    missing = [f"{path} (from {archive})" for path, archive in paths.items() if not path.exists()]
    if missing:
        raise DataError(f"missing: {'; '.join(missing)}; unpack the archives there, nothing is downloaded")


def require_all(what: str, found: int, published: int, *, accept_subset: bool) -> None:
    """Raise DataError where a release is incomplete, unless a subset is accepted."""
    if found != published and not (accept_subset and found):
        raise DataError(
            f"{what}: there are {found:,} images where the release has {published:,}; "
            "unpack all of it, or convert what is there with --accept-subset"
        )


def read_indices(path: Path) -> NDArray[np.int32]:
    """Return the pixel values of an index image `(H, W)`: a palette's indices, not its colours."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "I", "I;16"):
                raise DataError(f"{path}: has the mode {image.mode}, not one number a pixel; unpack the original again")
            # masks are taken from it one by one, and encoded column by column
            return np.asfortranarray(image, dtype=np.int32)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file, though its image is listed; unpack the archive again") from error
    except DataError:
        raise
    except Exception as error:  # Pillow raises any type for a damaged file
        raise DataError(f"{path}: cannot be read as an image ({error}); unpack the archive again") from error
