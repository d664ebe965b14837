"""A command with arguments of its own, beside which others stand by their first argument: `lncis noise join`.

A typer group cannot be that: it would take the arguments of the command for names of commands.
"""

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand


def with_beside(**others: Callable[..., None]) -> type[TyperCommand]:
    """Return the class of a command whose first argument may be the name of another one.

    A file of such a name is meant by a path: `./join`.
    """
    commands = {name: _command(function) for name, function in others.items()}

    class WithBeside(TyperCommand):
        def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
            """Return the context of the command that the arguments mean; who calls it invokes that command."""
            if args and (other := commands.get(args[0])):
                return other.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
            return super().make_context(info_name, args, parent, **extra)

    return WithBeside


def _command(function: Callable[..., None]) -> Any:
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(function)
    return typer.main.get_command(app)
