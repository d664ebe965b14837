"""Images decoded once before anyone trains on them: a damaged one is met at the start, not after the last epoch."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from lncis import files
from lncis.coco import images
from lncis.errors import DataError

Entry = tuple[Path, int, int]
"""An image file with the width and height that its document says."""

OnProgress = Callable[[int, int], object]
"""Called with the images that are done, and all that there are."""


def faults(entries: Sequence[Entry], on_progress: OnProgress = lambda done, total: None) -> list[tuple[Entry, str]]:
    """Return the images that cannot be used, and why; they are decoded in a thread for each core."""
    found = []
    with ThreadPoolExecutor(os.cpu_count()) as decoders:  # Pillow decodes without holding Python's lock
        for done, (entry, fault) in enumerate(zip(entries, decoders.map(_fault, entries), strict=True), start=1):
            on_progress(done, len(entries))
            if fault:
                found.append((entry, fault))
    return found


def require(entries: Sequence[Entry], on_progress: OnProgress = lambda done, total: None) -> None:
    """Raise DataError with the first image that cannot be used; sound ones are not decoded again."""
    kept_in = files.cache_directory() / "decoded.json"
    stamps = {_key(entry): [*files.stamp(entry[0])] for entry in entries}
    known = _kept(kept_in)
    unknown = [entry for entry in dict.fromkeys(entries) if known.get(_key(entry)) != stamps[_key(entry)]]
    if not unknown:
        return
    damaged = faults(unknown, on_progress)
    bad = {_key(entry) for entry, _ in damaged}
    sound = {_key(entry): stamps[_key(entry)] for entry in unknown if _key(entry) not in bad}
    with suppress(OSError):  # a cache that cannot be written is none
        files.replace(kept_in, json.dumps(_kept(kept_in) | sound))
    if damaged:
        more = f" ({len(damaged)} images cannot be used)" if len(damaged) > 1 else ""
        raise DataError(f"{damaged[0][1]}{more}")


def _fault(entry: Entry) -> str | None:
    try:
        images.read(*entry)
    except DataError as error:
        return str(error)
    return None


def _key(entry: Entry) -> str:
    path, width, height = entry
    return sha256(f"{path}\0{width}\0{height}".encode(errors="surrogateescape")).hexdigest()[:24]


def _kept(path: Path) -> dict[str, list[int]]:
    try:
        kept = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
