"""How long to wait between attempts."""

from collections.abc import Iterator, Sequence
from itertools import chain, repeat


def backoff(seconds: Sequence[float]) -> Iterator[float]:
    """Yield the pauses between attempts, in seconds; the last one comes again and again."""
    return chain(seconds, repeat(seconds[-1]))
