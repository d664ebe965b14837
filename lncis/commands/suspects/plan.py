"""`lncis suspects plan`: what is left to find after a part of a review."""

from pathlib import Path
from typing import Annotated

import typer

from lncis.commands.copies import check_target, write_together
from lncis.terminal import clear_errors, console_of_plain_text


def plan(
    listed: Annotated[Path, typer.Argument(metavar="SUSPECTS.json", help="As `lncis suspects` writes it.")],
    decisions: Annotated[Path, typer.Argument(metavar="DECISIONS.json", help="As the gallery saves it.")],
    out: Annotated[
        Path | None, typer.Option(help="A page with the curve: what was found, what is left.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the page if it exists.")] = False,
) -> None:
    """Say what a review found so far beside what was expected, and what it will find in the rest of the list."""
    with clear_errors():
        if out is not None:
            check_target(out, inputs=[listed, decisions], force=force)
        from lncis.suspects import tables
        from lncis.suspects.report import plan_page
        from lncis.suspects.report.progress import progress_of
        from lncis.suspects.review import repair

        found = tables.read_list(listed)
        review = repair.read_decisions(decisions)
        so_far = progress_of(found, review, str(decisions), str(listed))
        console = console_of_plain_text()
        if review.list != found.digest:
            console.print(f"note: {decisions} is about another list; what it says of these labels counts all the same")
        console.print(str(so_far))
        if out is not None:
            write_together({out: [plan_page.plan_html(listed.name, so_far)]})
            console.print(f"page: {out}", soft_wrap=True)
