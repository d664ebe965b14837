"""Images decoded once before anyone trains on them: a damaged one is met at the start, not after the last epoch."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from lncis import files
from lncis.coco.images import UnusableImage, is_used_as_stored, read
from lncis.errors import DataError

Entry = tuple[Path, int, int]
"""An image file with the width and height that its document says."""

STAMP_AND_TURNED = 4
"""Numbers that are kept of an image: its stamp, and 1 where it is used as stored."""

OnProgress = Callable[[int, int], object]
"""Called with the images that are done, and all that there are."""


def faults(entries: Sequence[Entry], on_progress: OnProgress = lambda done, total: None) -> list[UnusableImage]:
    """Return why images cannot be used, for each that cannot; they are decoded in a thread for each core."""
    found = []
    with ThreadPoolExecutor(os.cpu_count()) as decoders:  # Pillow decodes without holding Python's lock
        for done, fault in enumerate(decoders.map(_fault, entries), start=1):
            on_progress(done, len(entries))
            if fault:
                found.append(fault)
    return found


def require(entries: Sequence[Entry], on_progress: OnProgress = lambda done, total: None) -> list[Entry]:
    """Return the images that are used as they are stored, though their EXIF says to turn or mirror them.

    Raises DataError with the first image that cannot be used. What was sound before is not opened again.
    """
    kept_in = files.cache_directory() / "decoded.json"
    entries = list(dict.fromkeys(entries))
    stamps = {_key(entry): [*files.stamp(entry[0])] for entry in entries}
    known = {key: found for key, found in _kept(kept_in).items() if found[:-1] == stamps.get(key, found[:-1])}
    unknown = [entry for entry in entries if _key(entry) not in known]
    damaged = faults(unknown, on_progress) if unknown else []
    bad = {fault.path for fault in damaged}
    sound = {_key(entry): [*stamps[_key(entry)], is_used_as_stored(*entry)] for entry in unknown if entry[0] not in bad}
    if sound:
        with suppress(OSError):  # a cache that cannot be written is none
            files.replace(kept_in, json.dumps(known | sound))
    if damaged:
        more = f" ({len(damaged)} images cannot be used)" if len(damaged) > 1 else ""
        raise DataError(f"{damaged[0]}{more}")
    return [entry for entry in entries if (known | sound)[_key(entry)][-1]]


def _fault(entry: Entry) -> UnusableImage | None:
    try:
        read(*entry)
    except UnusableImage as error:
        return error
    return None


def _key(entry: Entry) -> str:
    path, width, height = entry
    return sha256(f"{path}\0{width}\0{height}".encode(errors="surrogateescape")).hexdigest()[:24]


def _kept(path: Path) -> dict[str, list[int]]:
    """Return the stamp of each image that was sound, and whether it is used as stored."""
    try:
        kept = json.loads(path.read_text("utf-8"))
        return {key: [*map(int, found)] for key, found in kept.items() if len(found) == STAMP_AND_TURNED}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
