"""How a command ends: with its result, or with one clear line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lncis.errors import LncisError


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn our errors into a message and an exit code, an interrupt into 130; others keep their traceback."""
    try:
        yield
    except LncisError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
