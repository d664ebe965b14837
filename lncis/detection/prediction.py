"""Detections in image files: pictures for people, COCO results for programs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.models.detection import MaskRCNN

from lncis import documents, files
from lncis.detection import overlays
from lncis.detection.detections import detect
from lncis.detection.evaluation import to_coco
from lncis.errors import ConfigError, DataError

RESULTS, IMAGES = "results.json", "images.json"

Category = dict[str, Any]


def image_ids(images: Sequence[Path], annotations: Path, categories: Sequence[Category]) -> list[int]:
    """Return the id that a COCO file gives to each image, by the end of its path.

    Raises DataError where the file is not COCO's, has other categories, or lacks an image.
    """
    document = documents.read_json(annotations)
    try:
        known = [(image["file_name"], int(image["id"])) for image in document["images"]]
        theirs = {category["id"]: category["name"] for category in document["categories"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{annotations} is not a COCO file of annotations ({error!r}); name another") from error
    if other := [c for c in categories if theirs.get(c["id"]) != c["name"]]:
        there = theirs.get(other[0]["id"], "missing")
        raise DataError(
            f"{annotations} has other categories than the model: {other[0]['id']} is {there} there and "
            f"{other[0]['name']} here; name the file of the data it was trained on"
        )
    by_name: dict[str, list[tuple[str, int]]] = {}
    for file_name, number in known:
        by_name.setdefault(Path(file_name).name, []).append((f"/{file_name}", number))
    found = []
    for path in images:
        ending = [n for end, n in by_name.get(path.name, []) if path.absolute().as_posix().endswith(end)]
        if len(ending) != 1:
            raise DataError(f"{annotations} has {len(ending)} images that {path} may be; one is needed")
        found += ending
    return found


@torch.inference_mode()
def predict_files(
    model: MaskRCNN,
    categories: Sequence[Category],
    images: Sequence[Path],
    out: Path,
    *,
    ids: Sequence[int] | None,
    least_score: float,
    device: torch.device,
) -> int:
    """Write what `model` finds in image files into the new folder `out`, and return how many instances are drawn.

    The folder appears whole or not at all. `<image id>-<name>.png` shows the detections of at least `least_score`;
    results.json has all of them, as COCO results. Without `ids` the images are numbered from 1 in their order, and
    images.json is a COCO document that says so, for `COCO("images.json").loadRes("results.json")`. Raises DataError for
    a missing or unreadable image, ConfigError where `out` holds something already or cannot be written.
    """
    if missing := [path for path in images if not path.is_file()]:
        raise DataError("\n".join(f"{path}: no such image; check the path" for path in missing))
    model.to(device).eval()
    names, category_ids = [c["name"] for c in categories], [c["id"] for c in categories]
    detections, entries, drawn = list[dict[str, Any]](), list[dict[str, Any]](), 0
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(str(out), ["holds something already; name a new folder"])
    try:
        with files.appearing(out) as folder:
            for number, path in zip(ids or range(1, len(images) + 1), images, strict=True):
                image = _read(path)
                (found,) = detect(model, [image.to(device).float().div(255)])
                detections += to_coco(found, number, category_ids)
                shown = found.of_score(least_score)
                overlays.draw(image, shown, names).save(folder / f"{number}-{path.stem}.png")
                drawn += len(shown)
                height, width = image.shape[1:]
                entries.append({"id": number, "file_name": str(path), "height": height, "width": width})
            (folder / RESULTS).write_text(json.dumps(detections))
            if ids is None:
                document = {"images": entries, "annotations": [], "categories": list(categories)}
                (folder / IMAGES).write_text(json.dumps(document))
    except OSError as error:
        raise ConfigError(str(out), [f"cannot be written: {error.strerror}; name another folder"]) from error
    return drawn


def _read(path: Path) -> Tensor:
    """Return the pixels `(3, H, W)` uint8 as they are stored; a camera's rotation mark is not applied."""
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except Exception as error:  # Pillow raises a different type for each way a file can be damaged
        raise DataError(f"{path}: is not a readable image ({type(error).__name__}); leave it out") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
