"""What a worker logs of a task: sent line by line to the queue, from which the driver writes it to the study's folder.

So it is there when the worker's node is gone, and needs no folder that all see.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lncis.metrics import Record

SHOWN = ("train/loss", "val/segm_AP", "test/segm_AP")
"""What the line of an epoch shows of its figures; all are in the journal."""

log = logging.getLogger("lncis.worker")


@contextmanager
def task_log(send: Callable[[str], object], rank: int, world: int) -> Iterator[None]:
    """Within the block what our code logs, and warnings, are sent as text with the time; errors with their traceback.

    `send` must not raise: a queue that is gone costs the lines and nothing else.
    """
    handler = _Sender(send)
    of_rank = f"rank {rank}: " if world > 1 else ""
    formatter = logging.Formatter(f"%(asctime)s {of_rank}%(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    ours, warnings = logging.getLogger("lncis"), logging.getLogger("py.warnings")
    level = ours.level
    ours.setLevel(logging.INFO)
    logging.captureWarnings(True)
    for logger in (ours, warnings):
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in (ours, warnings):
            logger.removeHandler(handler)
        logging.captureWarnings(False)
        ours.setLevel(level)


def shown_record(record: Record) -> str:
    """Return an epoch as a line: `epoch 3: train/loss 1.2345, val/segm_AP 12.3, 4.5 s`."""
    figures = [f"{key} {record[key]:.{4 if key == 'train/loss' else 1}f}" for key in SHOWN if key in record]
    seconds = [f"{record['seconds']:.1f} s"] if "seconds" in record else []
    return f"epoch {record['epoch']:.0f}: {', '.join([*figures, *seconds])}"


class _Sender(logging.Handler):
    def __init__(self, send: Callable[[str], object]) -> None:
        super().__init__(logging.INFO)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(self.format(record))
