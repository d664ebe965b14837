"""`lncis study extend`."""

from pathlib import Path
from typing import Annotated

import typer

from lncis.commands.study import Runs, Set, Storage, StoreGB, Verbose, changes_of, run_and_print
from lncis.terminal import clear_errors, console_of_plain_text


def extend(
    study_id: Annotated[str, typer.Argument(help="Id of the finished study.")],
    set_: Set = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, what differs and what is taken over; train nothing.")
    ] = False,
    runs: Runs = Path("runs"),
    store_gb: StoreGB = 20.0,
    storage: Storage = None,
    verbose: Verbose = False,
) -> None:
    """Extend a finished study: more configurations, seeds, epochs or baselines, or a wider space, as a new study.

    What it has trained is taken over; its own folder stays as it is.
    """
    with clear_errors():
        from lncis.studies import extension

        extended = extension.extend(study_id, runs, changes_of(set_ or []))
        console = console_of_plain_text(width=120)
        if dry_run:
            console.print(extended.planned.view())
        for line in extended.lines():
            console.print(line, soft_wrap=True)
        if not dry_run:
            run_and_print(extended.planned, runs, console, store_gb=store_gb, storage=storage, verbose=verbose)
