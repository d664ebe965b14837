"""What a command prints, and how it ends: with its result, or with one clear line."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from lncis.errors import LncisError


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn our errors into a message and an exit code, an interrupt into 130; others keep their traceback.

    What stdout cannot encode is printed as its escape: it must not end a command that has done its work.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr has it from the start
    try:
        yield
    except LncisError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def console_of_plain_text(width: int | None = None) -> Console:
    """Return a console that prints text as it is, `[x]` in the name of a folder, too; `width` where it is no terminal.

    It prints to stdout as that is now, whatever it is redirected to later.
    """
    file = sys.stdout
    return Console(file=file, width=None if file.isatty() else width, markup=False, emoji=False, highlight=False)
