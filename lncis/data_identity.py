"""Which files a training reads, known again by their content: two trainings on other files are never taken for one.

To digest all images takes as long as reading them, so digests are kept from run to run, and a file is read again only
when its size or one of its times has changed.
"""

import hashlib
import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from lncis import files
from lncis.config import CocoData, DatasetConfig
from lncis.documents import read_json
from lncis.errors import DataError, printable

Identity = Mapping[str, str]
"""What a training reads, as people call it -> digest of its content. Empty where the config says all."""

READERS = 8
"""Files that are read at a time."""
MANY = 2000
"""Images from which on reading them takes seconds, and shows how far it is."""
SETTLED_SECONDS = 2.0
"""A file changed later than this ago may change again without another time: its digest is not kept."""


SPLITS = ("train", "val", "test")
ROOTS = "LNCIS_DATA_ROOTS"
"""The variable with the folders, separated by colons, below which images must lie; unset: anywhere. A service sets it
for its studies: it judges the paths that a study names, and an annotation file names more."""


def identify(config: DatasetConfig, splits: Collection[str] = SPLITS) -> Identity:
    """Return the digests of the annotation files and images of a data set; DataError where one cannot be read."""
    if not isinstance(config, CocoData):
        return {}
    found: dict[str, str] = {}
    for split, annotations, images in (
        ("train", config.train, config.images),
        ("val", config.val, config.val_images or config.images),
        ("test", config.test, config.test_images or config.images),
    ):
        if annotations is not None and split in splits:
            try:
                found[f"annotations of {split}"] = files.digest_once(annotations)
                names = _names(annotations, files.stamp(annotations))
                _require_inside(annotations, images, names)
                found[f"images of {split}"] = _digest_of_images(images, names)
            except OSError as error:
                raise DataError(f"{error.filename}: cannot be read: {error.strerror}; check the path") from error
    return found


def changed(earlier: Identity, now: Identity) -> list[str]:
    """Return what both have and is another, as people call it."""
    return [name for name, digest in earlier.items() if now.get(name, digest) != digest]


@cache
def _names(annotations: Path, stamp: files.Stamp) -> tuple[str, ...]:
    """Return the names of the images of an annotation file."""
    try:
        return tuple(sorted(str(image["file_name"]) for image in read_json(annotations)["images"]))
    except (TypeError, KeyError) as error:
        raise DataError(f"{annotations} is no COCO file ({error!r}); `lncis data check` lists what is wrong") from error


def _require_inside(annotations: Path, folder: Path, names: Sequence[str]) -> None:
    """Raise DataError for an image that lies elsewhere than a shared service allows, also by a link."""
    roots = [os.path.realpath(root) for root in os.environ.get(ROOTS, "").split(":") if root]
    if not roots:
        return
    below = tuple(f"{root.rstrip('/')}/" for root in roots)
    for name in names:
        if not os.path.realpath(files.find(folder, name)).startswith(below):
            raise DataError(
                f"{annotations}: the file_name {printable(name)} leads to no file below {', '.join(roots)}; name "
                f"images below {folder}, without links to other places"
            )


def _digest_of_images(folder: Path, names: Sequence[str]) -> str:
    """Return a digest of the names and contents of images."""
    kept_in = files.cache_directory() / "digests" / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}.json"
    paths = {name: files.find(folder, name) for name in names}
    stamps = {name: files.stamp(paths[name]) for name in names}
    known = {name: digest for name, (stamp, digest) in _kept(kept_in).items() if stamps.get(name) == stamp}
    unknown = [name for name in stamps if name not in known]
    with ThreadPoolExecutor(READERS) as readers:
        digests_read = readers.map(files.digest, [paths[name] for name in unknown])
        what = f"reading the images of {escape(str(folder))} to know them again"
        shown = track(digests_read, what, len(unknown), console=Console(stderr=True), disable=len(unknown) < MANY)
        read = dict(zip(unknown, shown, strict=True))
    if read:
        _keep(kept_in, stamps, read)
    digests = known | read
    listed = "".join(f"{name}\0{digests[name]}\n" for name in names)
    return hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()


def _kept(path: Path) -> dict[str, tuple[files.Stamp, str]]:
    """Return the digests that were kept; none where they are missing or damaged: they can be made again."""
    try:
        return {name: (tuple(stamp), digest) for name, (stamp, digest) in json.loads(path.read_text("utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _keep(path: Path, stamps: dict[str, files.Stamp], read: dict[str, str]) -> None:
    """Keep digests beside those of other images of the folder; a cache that cannot be written is none."""
    settled = time.time_ns() - SETTLED_SECONDS * 1e9
    added = {name: (stamps[name], digest) for name, digest in read.items() if max(stamps[name][1:]) < settled}
    with suppress(OSError):
        files.replace(path, json.dumps(_kept(path) | added))
