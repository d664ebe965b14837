"""What exporters write that COCO does not: read as it is meant, with a note for each habit.

Numbers as text or as 1.0, null for missing, ids that begin anew in each image, segmentations as `{}` or as one flat
list, a category that is only the heading of the others. What is not understood stays, and `structure` names it.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from lncis.coco.findings import Finding, Tally, note

Entry = dict[str, Any]

ORIGINAL_ID = "lncis_original_id"
"""The id of an entry as its file has it, where ours is another; a key that no tool of others writes."""
HEADINGS = "categories are only the heading of the others, as Roboflow writes: no class of the model"
MOST_AREA = 1e10
"""Pixels; the protocol takes what is below 0 or above for no instance, and says nothing."""
_INT64 = 2**63


def read_as_meant(document: Any, *, masks: bool = True) -> list[Finding]:
    """Change a freshly parsed document to what COCO would write, and return a note for each habit.

    Where ids are not whole numbers of 64 bits, they are numbered from 1; ORIGINAL_ID keeps what the file says. With
    `masks=False` segmentations, boxes and areas stay as they are.
    """
    parts = {part: _entries(document, part) for part in ("images", "categories", "annotations")}
    for entry in chain.from_iterable(parts.values()):
        entry.pop(ORIGINAL_ID, None)  # of the file that this one was made from
    tally = Tally()
    new_ids = {part: _number(parts[part], part, tally) for part in ("images", "categories")}
    for entry in parts["images"]:
        for side in ("width", "height"):
            entry |= {side: _number_in(entry[side])} if isinstance(entry.get(side), str) else {}
        _as_whole(entry, ("width", "height"), "images", tally)
    for entry in parts["categories"]:
        if isinstance(entry.get("name"), int | float) and not isinstance(entry["name"], bool):
            tally.add("note", "categories have a number as name: read as text", entry, where(entry))
            entry["name"] = str(entry["name"])
    for entry in parts["annotations"]:
        _as_whole(entry, ("image_id", "category_id", "clean_category_id", "iscrowd"), "annotations", tally)
        for key, part in (("image_id", "images"), ("category_id", "categories"), ("clean_category_id", "categories")):
            if new_ids[part] and _is_key(entry.get(key)):
                # what is no id of the file must not meet a new number: as text it is none
                entry[key] = new_ids[part].get(entry[key], str(entry[key]))
        if entry.get("iscrowd", 0) is None:
            tally.add("note", "annotations have no value as iscrowd: read as 0", entry, where(entry))
            entry["iscrowd"] = 0
        if "clean_category_id" in entry and entry["clean_category_id"] is None:
            del entry["clean_category_id"]
        if masks:
            _read_shape(entry, tally)
    _number_annotations(parts["annotations"], tally)
    return tally.findings()


def take_headings(document: Any) -> tuple[list[Entry], list[Finding]]:
    """Take categories out that are only the heading of the others, and return them with the note that says so.

    A category with an annotation is none; another file of the same training may have one.
    """
    categories = _entries(document, "categories")
    headings = _headings(categories, _entries(document, "annotations"))
    if headings:
        document["categories"] = [entry for entry in categories if entry not in headings]
    return headings, notes_of_headings(headings)


def notes_of_headings(headings: Sequence[Entry]) -> list[Finding]:
    """Return the note that says which categories are headings, where there are any."""
    return [note(HEADINGS, [f"{entry['name']}, id {entry['id']}" for entry in headings])] if headings else []


def original_keys(document: Any) -> list[tuple[Any, Any]]:
    """Return the ids of each annotation's image and its own, both as the file has them.

    Of a document that was read and checked. Ids that begin anew in each image name no annotation alone.
    """
    images = {image["id"]: image.get(ORIGINAL_ID, image["id"]) for image in document["images"]}
    return [
        (images[annotation["image_id"]], annotation.get(ORIGINAL_ID, annotation["id"]))
        for annotation in document["annotations"]
    ]


def where(entry: Any) -> str:
    """Return how an entry is called to its owner: by the id that stands in the file."""
    given = entry.get(ORIGINAL_ID, entry.get("id")) if isinstance(entry, dict) else None
    return "an entry without id" if given is None else f"id {given!s:.40}"


def _entries(document: Any, part: str) -> list[Entry]:
    entries = document.get(part) if isinstance(document, dict) else None
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _is_key(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _whole(value: Any) -> Any:
    """Return the whole number that a value is meant as; any other value as it is."""
    if isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.removeprefix("-").isdecimal() and str(int(value[:400])) == value:
        return int(value)
    return value


def _as_whole(entry: Entry, keys: Iterable[str], kind: str, tally: Tally) -> None:
    for key in keys:
        given = entry.get(key)
        if type(given) is not int and given is not None:
            meant = int(given) if isinstance(given, bool) and key == "iscrowd" else _whole(given)
            if meant is not given:
                tally.add("note", _read_as_whole(kind, given), entry, where(entry))
                entry[key] = meant


def _read_as_whole(kind: str, given: object) -> str:
    form = {str: "text", float: "1.0", bool: "true or false"}[type(given)]
    return f"{kind} have numbers as {form}: read as whole numbers"


def _number(entries: list[Entry], part: str, tally: Tally) -> dict[Any, int]:
    """Give each image or category an id of 64 bits, and return the new ids by the old ones, where they are new."""
    for entry in entries:
        _rename(entry, _whole(entry.get("id")))
    ids = [entry.get("id") for entry in entries]
    if all(type(i) is int and -_INT64 <= i < _INT64 for i in ids):
        _note_renamed(entries, part, tally)
        return {}
    if not all(map(_is_key, ids)) or len(set(ids)) < len(ids):
        return {}  # `structure` says so
    new = {old: number for number, old in enumerate(sorted(ids, key=str), start=1)}
    for entry in entries:
        _rename(entry, new[entry["id"]])
    _note_renamed(entries, part, tally)
    return new


def _rename(entry: Entry, number: Any) -> None:
    if "id" in entry and number is not entry["id"]:
        entry.setdefault(ORIGINAL_ID, entry["id"])
        entry["id"] = number


def _note_renamed(entries: list[Entry], part: str, tally: Tally) -> None:
    for entry in entries:
        if ORIGINAL_ID in entry:
            given = entry[ORIGINAL_ID]
            if _whole(given) == entry["id"]:
                tally.add("note", _read_as_whole(part, given), entry, where(entry))
            else:
                what = f"{part} have an id that is no whole number of 64 bits: they are numbered from 1"
                tally.add("note", what, entry, where(entry))


def _number_annotations(entries: list[Entry], tally: Tally) -> None:
    """Give each annotation an id of its own, of 64 bits, where they lack one or begin anew in each image."""
    for entry in entries:
        _rename(entry, _whole(entry.get("id")))
        if entry.get("id", 0) is None:
            del entry["id"]
    ids = [entry.get("id") for entry in entries]
    whole = all(type(i) is int and -_INT64 <= i < _INT64 for i in ids)
    if whole and len(set(ids)) == len(ids):
        _note_renamed(entries, "annotations", tally)
        return
    order: Callable[[Entry], Any] = lambda entry: (str(entry.get("image_id")), str(entry["id"]))  # noqa: E731
    if lacking := [(position, entry) for position, entry in enumerate(entries, start=1) if "id" not in entry]:
        for position, entry in lacking:
            tally.add("note", "annotations lack an id: all are numbered from 1", entry, f"number {position}")
        ordered = entries
    elif all(map(_is_key, ids)) and len({order(entry) for entry in entries}) == len(entries):
        ordered = sorted(entries, key=order)
        again = whole or len(set(ids)) < len(ids)
        what = "have ids that begin anew in each image" if again else "have an id that is no whole number of 64 bits"
        for entry in entries:
            tally.add("note", f"annotations {what}: all are numbered from 1", entry, where(entry))
    else:
        return  # `structure` says so
    for number, entry in enumerate(ordered, start=1):
        if "id" in entry:
            _rename(entry, number)
        entry["id"] = number


def _headings(categories: list[Entry], annotations: list[Entry]) -> list[Entry]:
    """Return categories without an annotation that only name the group of others: their own group is none."""
    groups = {c.get("supercategory") for c in categories if isinstance(c.get("supercategory"), str)}
    named = [c for c in categories if isinstance(c.get("name"), str) and _is_key(c.get("id"))]
    candidates = [c for c in named if c.get("supercategory") in (None, "", "none") and c["name"] in groups]
    if not candidates:
        return []
    used = {a.get(key) for a in annotations for key in ("category_id", "clean_category_id") if _is_key(a.get(key))}
    return [c for c in candidates if c["id"] not in used]


def _read_shape(entry: Entry, tally: Tally) -> None:
    """Bring segmentation, box and area of an annotation into COCO's form; a box or area that says nothing goes."""
    shape, box, area = entry.get("segmentation"), entry.get("bbox"), entry.get("area")
    if not (type(shape) is list and shape and all(type(p) is np.ndarray and p.ndim == 1 and len(p) > 2 for p in shape)):
        entry["segmentation"] = _segmentation(entry, tally)
    if type(box) is list and len(box) == 4 and all(map(is_finite, box)) and box[2] > 0 and box[3] > 0:
        pass  # nearly all are so, and a file has a million
    elif "bbox" in entry:
        _read_box(entry, tally)
    if "area" in entry and not _is_area(area):
        if _is_area(area := _number_in(area)):
            entry["area"] = area
        else:
            what = "annotations have an area that is no number of pixels: it is measured on their masks"
            tally.add("note", what, entry, where(entry))
            del entry["area"]


def _segmentation(entry: Entry, tally: Tally) -> Any:
    shape = entry.get("segmentation")
    if shape is None or shape == {} or shape == "":
        shape = []
    if isinstance(shape, dict) and isinstance(shape.get("size"), list):
        counts = shape.get("counts")
        whole = {"counts": [_whole(run) for run in counts]} if isinstance(counts, list) else {}
        return {**shape, "size": [_whole(side) for side in shape["size"]], **whole}
    if not (isinstance(shape, list) and all(isinstance(part, np.ndarray) for part in shape)):
        return shape

    def say(what: str) -> None:
        tally.add("note", f"annotations have a {what}", entry, where(entry))

    if shape and all(part.ndim == 0 for part in shape):
        say("segmentation of one flat list: read as one polygon")
        return [np.array(shape, dtype=np.float64)]
    of_points = [part.ndim == 2 and part.shape[1] == 2 for part in shape]
    if any(of_points) or (len(shape) > 2 and all(part.shape == (2,) for part in shape)):
        say("polygon as a list of points: read as x, y, x, y, ...")
        if any(of_points):
            shape = [part.ravel() if is_so else part for part, is_so in zip(shape, of_points, strict=True)]
        else:
            shape = [np.concatenate(shape)]
    return [part for part in shape if part.size]


def _read_box(entry: Entry, tally: Tally) -> None:
    box = [_number_in(side) for side in entry["bbox"]] if isinstance(entry["bbox"], list) else entry["bbox"]
    if box is None or (isinstance(box, list) and (not box or any(side is None for side in box))):
        tally.add("note", "annotations have an empty bbox: it is measured on their masks", entry, where(entry))
        del entry["bbox"]
    elif isinstance(box, list) and len(box) == 4 and all(is_finite(side) for side in box) and min(box[2:]) <= 0:
        tally.add("note", "annotations have a bbox without extent: it is measured on their masks", entry, where(entry))
        del entry["bbox"]
    else:
        entry["bbox"] = box


def _number_in(value: Any) -> Any:
    """Return the number in text; any other value as it is."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _is_area(value: Any) -> bool:
    return is_finite(value) and 0 <= value <= MOST_AREA


def is_finite(value: object) -> bool:
    """Say whether a value is a number that a float can hold."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < _INT64
    return isinstance(value, float) and math.isfinite(value)
