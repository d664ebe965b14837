"""Splits that share image files: what is trained or selected on must not be tested on, whatever it is called."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

from lncis import files
from lncis.coco import images as image_files
from lncis.errors import DataError

FEW = 0.01
"""Of a split's images: so many may be copies of another's, with a remark."""

READERS = 8
"""Files that are read at a time."""

Images = Mapping[str, Sequence[Path]]
"""The image files of each split, by its name."""


def refuse_same_files(images: Images) -> None:
    """Raise DataError where two splits have image files of the same path."""
    for one, other in combinations(images, 2):
        if shared := {*images[one]} & {*images[other]}:
            raise _refusal(one, other, len(shared), len({*images[other]}), f"{min(shared)}")


def refuse_same_content(images: Images) -> list[str]:
    """Raise DataError where two splits have image files of the same content, such as copies and links.

    Returns a remark in its place for copies within train and val, and for up to FEW of the test's images: published
    data sets have such. Images of one colour tell nothing and do not count: the empty tiles of a large image are alike.
    Only files whose size another split has too are read. UnusableImage where one of those alike is no image.
    """
    sizes = {path: path.stat().st_size for paths in images.values() for path in paths}
    by_split = {split: {sizes[path] for path in paths} for split, paths in images.items()}
    suspected = [
        path
        for split, paths in images.items()
        for path in paths
        if any(sizes[path] in by_split[other] for other in images if other != split)
    ]
    with ThreadPoolExecutor(READERS) as readers:
        digests = dict(zip(suspected, readers.map(files.digest, suspected), strict=True))
    remarks = []
    for one, other in combinations(images, 2):
        first = {digests[path]: path for path in images[one] if path in digests}
        same_content = ((path, first[digests[path]]) for path in images[other] if digests.get(path) in first)
        if shared := sorted((path, same) for path, same in same_content if not _is_of_one_colour(path)):
            path, same = shared[0]
            refusal = _refusal(one, other, len(shared), len(images[other]), f"{path}, which is {same}")
            if other == "test" and len(shared) > FEW * len(images[other]):
                raise refusal
            remarks.append(str(refusal))
    return remarks


def _is_of_one_colour(path: Path) -> bool:
    head = image_files.head_of(path)
    pixels = image_files.read(path, head.width, head.height)
    return bool((pixels == pixels[0, 0]).all())


def _refusal(one: str, other: str, shared: int, images: int, example: str) -> DataError:
    return DataError(
        f"{other} shares images with {one}: {shared} of its {images}, such as {example}; what is trained or selected "
        f"on must not be tested on, so leave them out of {one} or of {other}"
    )
