"""Tables that a spreadsheet opens: a name in a file of data is never a formula there."""

from typing import Any


def cell(value: Any) -> Any:
    """Return a cell of a CSV file; text that a spreadsheet would take for a formula begins with an apostrophe."""
    if not isinstance(value, str):
        return value
    text = "".join(character if character.isprintable() else "?" for character in value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
