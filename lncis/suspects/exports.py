"""A list of suspects in the formats of other tools: one COCO file with attributes, and tasks of Label Studio.

COCO: what the list says of an annotation stands under its `attributes`, where CVAT and Datumaro have them; FiftyOne's
importer reads them too. Label Studio: a task an image, whose prediction holds the suspects' masks, each under the
suggested class.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from lncis.coco import annotations
from lncis.coco.masks import to_rle
from lncis.errors import DataError
from lncis.noise import Document
from lncis.suspects.annotated import read_labels
from lncis.suspects.suspect import Suspect
from lncis.suspects.tables import SuspectList

ATTRIBUTES = {
    "suspect_rank": "rank",
    "wrong_probability": "wrong_probability",
    "given_probability": "given_probability",
    "suggested_label": "suggested",
    "suspect_margin": "margin",
    "scored_by": "scored_by",
    "loss_mean": "loss_mean",
    "loss_last": "loss_last",
    "times_isolated": "isolated",
}
"""Name of each attribute, none of which COCO, CVAT or FiftyOne has a meaning for, and the field of `Suspect`."""

TAGS = ("suspect", "image")
"""Names of the controls in the labeling interface: the brush, and the image it draws on."""
MODEL_VERSION = "lncis suspects"

RUN_BITS = (3, 4, 8, 16)
VALUE_BITS = 8
CHANNELS = 4
"""Of Label Studio's masks: red, green, blue and opacity, all alike."""


def coco_with_attributes(path: Path, listed: SuspectList) -> Document:
    """Return the document of a COCO file with what a list says of its annotations as their `attributes`.

    All else stays as the file has it; attributes of other names, too. Raises DataError where the list does not fit.
    """
    labels = read_labels(path)
    found = {labels.position((row.image_id, row.annotation_id), row.given, "this list"): row for row in listed.suspects}
    document = annotations.read_as_written(path)
    for at, row in found.items():
        entry = document["annotations"][at]
        before = entry.get("attributes") or {}
        if not isinstance(before, dict):
            raise DataError(
                f"{path}: annotation {row.annotation_id!s:.40} has attributes that are no mapping from names to "
                "values; rename that key"
            )
        entry["attributes"] = before | attributes_of(row)
    return document


def attributes_of(row: Suspect) -> dict[str, Any]:
    """Return what is known of an annotation's label, under the names of ATTRIBUTES."""
    known = {name: getattr(row, field) for name, field in ATTRIBUTES.items()}
    return {name: value for name, value in known.items() if value is not None}


def label_studio_texts(
    document: Document, rows: Sequence[Suspect], positions: Sequence[int], image_url: str
) -> Iterator[str]:
    """Yield the JSON of Label Studio's tasks, one for each image with a suspect, part by part.

    `positions` say where the annotations of `rows` stand in a document of `annotations.read`; `image_url` stands before
    each file name. The images of the most probable suspects come first.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    by_image = defaultdict[int, list[int]](list)
    for number, position in enumerate(positions):
        by_image[document["annotations"][position]["image_id"]].append(number)
    separator = "[\n"
    for image_id, numbers in by_image.items():
        regions = [
            _region(rows[n], document["annotations"][positions[n]]["segmentation"], *sizes[image_id]) for n in numbers
        ]
        first = rows[numbers[0]]
        task = {
            "data": {TAGS[1]: image_url + quote(first.file_name.replace("\\", "/")), "file_name": first.file_name},
            "predictions": [
                {"model_version": MODEL_VERSION, "score": first.wrong_probability, "result": regions},
            ],
        }
        yield separator + json.dumps(task, ensure_ascii=False, allow_nan=False)
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"


def labeling_interface(classes: Sequence[str]) -> str:
    """Return the labeling interface of a project for such tasks, as XML."""
    brush, image = map(quoteattr, TAGS)
    labels = "\n".join(f"    <Label value={quoteattr(name)}/>" for name in classes)
    return (
        f'<View>\n  <Image name={image} value={quoteattr("$" + TAGS[1])} zoom="true"/>\n'
        f"  <BrushLabels name={brush} toName={image}>\n{labels}\n  </BrushLabels>\n</View>\n"
    )


def _region(row: Suspect, segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Return the mask of a suspect as a region of Label Studio, with the suggested class."""
    about = f"{row.given} is wrong with {row.wrong_probability:.1%}; rank {row.rank}, annotation {row.annotation_id}"
    return {
        "id": f"suspect-{row.rank}",
        "from_name": TAGS[0],
        "to_name": TAGS[1],
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": row.wrong_probability,
        "meta": {"text": [about]},
        "value": {
            "format": "rle",
            "rle": brush_rle(rle.decode(to_rle(segmentation, height, width))),
            "brushlabels": [row.suggested],
        },
    }


def brush_rle(mask: NDArray[np.uint8]) -> list[int]:
    """Return a mask `(H, W)` of zeros and ones as the bytes of Label Studio's RLE, holes and all.

    They are those of `label_studio_sdk.converter.brush.mask2rle(255 * mask)`; the format is thi.ng/rle-pack's, over the
    rows of the image, each pixel four channels long.
    """
    pixels = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(pixels)) + 1])
    lengths = CHANNELS * np.diff(starts, append=len(pixels))
    bits = [f"{CHANNELS * len(pixels):032b}{VALUE_BITS - 1:05b}", *(f"{size - 1:04b}" for size in RUN_BITS)]
    for length, value in zip(lengths.tolist(), pixels[starts].tolist(), strict=True):
        colour = f"{255 * value:08b}"
        while length:
            size = next((place for place, b in enumerate(RUN_BITS) if length <= 2**b), len(RUN_BITS) - 1)
            run = min(length, 2 ** RUN_BITS[size])
            bits.append(f"1{size:02b}{run - 1:0{RUN_BITS[size]}b}{colour}")
            length -= run
    text = "".join(bits)
    text += "0" * (8 - len(text) % 8)  # a whole byte where none is needed, as the SDK
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
