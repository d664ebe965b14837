"""Detections in image files: pictures for people, COCO results for programs."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torchvision.models.detection import MaskRCNN

from lncis import files
from lncis.coco.annotations import read_images
from lncis.coco.exporters import ORIGINAL_ID
from lncis.coco.images import head_of, read
from lncis.detection.inference import overlays
from lncis.detection.inference.detections import detect
from lncis.detection.inference.evaluation import to_coco
from lncis.errors import ConfigError, DataError

RESULTS, IMAGES = "results.json", "images.json"

LONGEST_ID_BYTES, LONGEST_NAME_BYTES = 80, 255
"""Longer ids become their digests; files cannot have longer names."""
SHORT_STEM = 40
"""Characters of an image's name that its picture has where there is no room for all."""

NO_PHOTOGRAPH = {
    ".bufr", ".emf", ".eps", ".flc", ".fli", ".grib", ".h5", ".hdf", ".iim", ".mpeg", ".mpg", ".palm", ".pdf", ".ps",
    ".wmf",
}  # fmt: skip
"""Endings that Pillow knows, of films, drawings and measurements, most of which it cannot read."""

Category = dict[str, Any]


class Listed(NamedTuple):
    """What a COCO file says of an image."""

    id: Any
    """As the file has it."""
    size: tuple[int, int] | None
    """Width and height; None: as viewers show it."""


class Listing(NamedTuple):
    """What a COCO file says of images and of the model's categories."""

    images: list[Listed]
    category_ids: list[Any]
    """As the file has them, in the order of the model's categories."""


def found_in(given: Sequence[Path]) -> list[Path]:
    """Return image files: those that are given, and those in the folders that are, in the order of their names.

    In folders, files are passed over that are hidden, such as the `._photo.jpg` that a Mac puts beside each photo on
    other people's disks, or whose ending is of what is no photograph, such as PDF.
    """
    found, problems = list[Path](), list[str]()
    endings = Image.registered_extensions().keys() - NO_PHOTOGRAPH
    for path in given:
        inside = [path]
        if path.is_dir():
            inside = [
                file
                for file in sorted(path.rglob("*"))
                if file.suffix.lower() in endings and file.is_file() and not _is_hidden(file.relative_to(path))
            ]
            if not inside:
                problems.append(f"{path}: no image is in this folder; check the path")
        elif not path.is_file():
            problems.append(f"{path}: no such image; check the path")
        found += inside
    if problems:
        raise DataError("\n".join(problems))
    return [*dict.fromkeys(found)]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def listed_in(annotations: Path, images: Sequence[Path], categories: Sequence[Category]) -> Listing:
    """Return what a COCO file says of each image and of each category.

    An image is found by the end of its path: `a/b/1.png` is `b/1.png` where that is listed, else `1.png`.
    Raises DataError where the file is not COCO's, has other categories, or lacks an image.
    """
    entries, theirs = read_images(annotations)
    names = {category["id"]: category["name"] for category in theirs}
    if other := [c for c in categories if names.get(c["id"]) != c["name"]]:
        there = names.get(other[0]["id"], "missing")
        raise DataError(
            f"{annotations} has other categories than the model: {other[0]['id']} is {there} there and "
            f"{other[0]['name']} here; name the file of the data it was trained on"
        )
    by_name: dict[str, list[tuple[str, Listed]]] = {}
    for entry in entries:
        name = files.spelt(entry["file_name"])
        while name.startswith("../"):
            name = name.removeprefix("../")
        width, height = entry.get("width"), entry.get("height")
        size = (width, height) if isinstance(width, int) and isinstance(height, int) else None
        listed = Listed(_id_in_file(entry), size)
        by_name.setdefault(name.rpartition("/")[2], []).append((f"/{name.lstrip('/')}", listed))
    found, taken = list[Listed](), dict[Any, Path]()
    for path in images:
        wholes = [files.spelt(some.as_posix()) for some in (path.absolute(), path.resolve())]
        alike = by_name.get(files.spelt(path.name), [])
        fitting = [(end, listed) for end, listed in alike if any(whole.endswith(end) for whole in wholes)]
        longest = max((len(end) for end, _ in fitting), default=0)
        ending = [listed for end, listed in fitting if len(end) == longest]
        if len(ending) != 1:
            raise DataError(f"{annotations} has {len(ending)} images that {path} may be; one is needed")
        if (first := taken.setdefault(ending[0].id, path)) != path:
            raise DataError(
                f"{first} and {path} may both be the image {ending[0].id} of {annotations}; leave out the one that "
                "is not"
            )
        found += ending
    theirs_by_id = {category["id"]: category for category in theirs}
    return Listing(found, [_id_in_file(theirs_by_id[category["id"]]) for category in categories])


def _picture(image_id: Any, path: Path) -> str:
    """Return the name of an image's picture; no two ids become one, and what is too long is shortened."""
    name, stem = _as_name(image_id), path.stem
    whole = f"{name}-{stem}.png"
    return (
        whole
        if len(whole.encode(errors="surrogateescape")) <= LONGEST_NAME_BYTES
        else f"{name}-{stem[:SHORT_STEM]}.png"
    )


def _as_name(image_id: Any) -> str:
    name = str(image_id).replace("%", "%25").replace("/", "%2F").replace("\0", "%00")
    if len(name.encode(errors="surrogateescape")) > LONGEST_ID_BYTES:
        return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
    return name


def _id_in_file(entry: dict[str, Any]) -> Any:
    return entry.get(ORIGINAL_ID, entry["id"])


@torch.inference_mode()
def predict_files(
    model: MaskRCNN,
    categories: Sequence[Category],
    images: Sequence[Path],
    out: Path,
    *,
    listed: Listing | None,
    least_score: float,
    device: torch.device,
) -> int:
    """Write what `model` finds in image files into the new folder `out`, and return how many instances are drawn.

    The folder appears whole or not at all. `<image id>-<name>.png` shows the detections of at least `least_score`;
    results.json has all of them, as COCO results. Images are read as training reads them: turned as EXIF says where
    that gives the listed size. Without `listed` they have the size in which viewers show them, are numbered from 1 in
    their order, and images.json is a COCO document that says so, for
    `COCO("images.json").loadRes("results.json")`. Raises DataError for
    an unreadable image, ConfigError where `out` holds something already or cannot be written.
    """
    model.to(device).eval()
    names = [c["name"] for c in categories]
    category_ids = listed.category_ids if listed else [c["id"] for c in categories]
    detections, entries, drawn = list[dict[str, Any]](), list[dict[str, Any]](), 0
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(str(out), ["holds something already; name a new folder"])
    try:
        with files.appearing(out) as folder:
            for number, path in enumerate(images):
                what = listed.images[number] if listed else Listed(number + 1, None)
                width, height = what.size or head_of(path).upright
                image = torch.from_numpy(read(path, width, height)).permute(2, 0, 1).contiguous()
                (found,) = detect(model, [image.to(device).float().div(255)])
                detections += to_coco(found, what.id, category_ids)
                shown = found.of_score(least_score)
                overlays.draw(image, shown, names).save(folder / _picture(what.id, path))
                drawn += len(shown)
                entries.append({"id": what.id, "file_name": str(path), "height": height, "width": width})
            (folder / RESULTS).write_text(json.dumps(detections), encoding="utf-8")
            if listed is None:
                document = {"images": entries, "annotations": [], "categories": list(categories)}
                (folder / IMAGES).write_text(json.dumps(document), encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(out), [f"cannot be written: {error.strerror}; name another folder"]) from error
    return drawn
