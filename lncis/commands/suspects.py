"""`lncis suspects`: which labels are probably wrong, and what becomes of them."""

import typer

app = typer.Typer(no_args_is_help=True, help="Which labels are probably wrong: their review, repair and exports.")
