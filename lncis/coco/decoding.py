"""Images decoded once before anyone trains on them: a damaged one is met at the start, not after the last epoch."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from lncis import files
from lncis.coco.images import UnusableImage, examine
from lncis.errors import DataError

Entry = tuple[Path, int, int]
"""An image file with the width and height that its document says."""

STAMP_AND_TURNED = 4
"""Numbers that are kept of an image: its stamp, and 1 where it is used as stored."""

OnProgress = Callable[[int, int], object]
"""Called with the images that are done, and all that there are."""


def look(entries: Sequence[Entry], on_progress: OnProgress = lambda done, total: None) -> list[UnusableImage | bool]:
    """Return of each image why it cannot be used, or whether USED_AS_STORED holds; a thread for each core decodes."""
    found = []
    with ThreadPoolExecutor(os.cpu_count()) as decoders:  # Pillow decodes without holding Python's lock
        for done, one in enumerate(decoders.map(_look, entries), start=1):
            on_progress(done, len(entries))
            found.append(one)
    return found


def require(entries: Sequence[Entry], on_progress: OnProgress = lambda done, total: None) -> list[Entry]:
    """Return the images for which USED_AS_STORED holds; DataError with the first one that cannot be used.

    What was sound before is not opened again.
    """
    kept_in = files.cache_directory() / "decoded.json"
    entries = list(dict.fromkeys(entries))
    stamps = {_key(entry): [*files.stamp(entry[0])] for entry in entries}
    known = {key: found for key, found in _kept(kept_in).items() if found[:-1] == stamps.get(key, found[:-1])}
    unknown = [entry for entry in entries if _key(entry) not in known]
    looked = dict(zip(unknown, look(unknown, on_progress), strict=True)) if unknown else {}
    damaged = [found for found in looked.values() if isinstance(found, UnusableImage)]
    known |= {_key(e): [*stamps[_key(e)], found] for e, found in looked.items() if not isinstance(found, UnusableImage)}
    if looked:
        with suppress(OSError):  # a cache that cannot be written is none
            files.replace(kept_in, json.dumps(known))
    if damaged:
        more = f" ({len(damaged)} images cannot be used)" if len(damaged) > 1 else ""
        raise DataError(f"{damaged[0]}{more}")
    return [entry for entry in entries if known[_key(entry)][-1]]


def _look(entry: Entry) -> UnusableImage | bool:
    try:
        return examine(*entry)[1]
    except UnusableImage as error:
        return error


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
