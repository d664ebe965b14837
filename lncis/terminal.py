"""What a command shows and prints, and how it ends: with its result, or with one clear line."""

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lncis.errors import LncisError, printable

PROGRESS_DELAY_SECONDS = 5.0
"""What takes longer shows a progress bar."""


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn our errors into a message and an exit code, an interrupt into 130; others keep their traceback.

    What stdout cannot encode is printed as its escape: it must not end a command that has done its work.
    """
    if sys.stdout is None:  # closed by the caller
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - to the end of the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr has it from the start
    try:
        yield
        sys.stdout.flush()
    except OSError:
        if (error := _unwritable(sys.stdout)) is None or isinstance(error, BrokenPipeError):
            raise
        print(
            f"error: the output cannot be written: {error.strerror}; make room, or send it elsewhere", file=sys.stderr
        )
        os._exit(1)  # Python would try to write it once more
    except LncisError as error:
        lines = map(printable, str(error).split("\n"))
        print("error: " + "\n".join(lines), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _unwritable(stream: TextIO) -> OSError | None:
    """Return why a stream cannot be written to; None if it can, or is none of a process."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return None
    try:
        os.write(descriptor, b"\n")
    except OSError as error:
        return error
    return None


@contextmanager
def progress(delay_seconds: float = 0.0) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows a progress bar for each name, after `delay_seconds`."""
    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    tasks, started = {}, time.monotonic()

    def show(name: str, done: int, total: int) -> None:
        if name not in tasks:
            tasks[name] = bars.add_task(name, total=total, completed=done)
        bars.update(tasks[name], completed=done)
        if not bars.live.is_started and time.monotonic() - started >= delay_seconds:
            bars.start()

    try:
        yield show
    finally:
        if bars.live.is_started:
            bars.stop()


def console_of_plain_text(width: int | None = None) -> Console:
    """Return a console that prints text as it is, `[x]` in the name of a folder, too; `width` where it is no terminal.

    It prints to stdout as that is now, whatever it is redirected to later.
    """
    file = sys.stdout
    return Console(file=file, width=None if file.isatty() else width, markup=False, emoji=False, highlight=False)
