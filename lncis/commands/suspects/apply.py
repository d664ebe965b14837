"""`lncis suspects apply`: a copy of a COCO file with the labels that a review put right."""

from pathlib import Path
from typing import Annotated

import typer

from lncis.commands.copies import a_field_a_line, check_target, counted, entries_of, write_together
from lncis.errors import ConfigError, printable
from lncis.files import digest
from lncis.terminal import PROGRESS_DELAY_SECONDS, clear_errors, console_of_plain_text, progress

PAIRS_SHOWN = 5


def apply(
    decisions: Annotated[
        Path,
        typer.Argument(metavar="DECISIONS.json", help="As the gallery saves it; with --accept-above suspects.json."),
    ],
    source: Annotated[Path, typer.Argument(metavar="IN.json", help="The COCO file that was scored; it is only read.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.json", help="The copy; its manifest becomes OUT.repair.json.")],
    accept_above: Annotated[
        str | None,
        typer.Option(
            metavar="0..1",
            help="No review: take the suggestion for each label that is wrong with more than this probability.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.json and its manifest if they exist.")] = False,
) -> None:
    """Write a copy of a COCO file with the labels of a review; each old label stays as noisy_category_id."""
    with clear_errors():
        above = None if accept_above is None else _probability(accept_above)
        manifest_path = out.with_name(f"{out.stem}.repair.json")
        for target in (out, manifest_path):
            check_target(target, inputs=[decisions, source], force=force)
        from lncis.coco import annotations  # slow to load: a mistake in the options comes first
        from lncis.suspects import tables
        from lncis.suspects.review import repair

        if above is None:
            review = repair.read_decisions(decisions)
        else:
            review = repair.accepted_above(tables.read_list(decisions), above)
        document, changed = repair.repaired(source, review)
        manifest = {
            "source": source.name,
            "source_sha256": digest(source),
            "decisions": decisions.name,
            "decisions_sha256": digest(decisions),
            "accept_above": above,
            **changed,
        }
        with progress(PROGRESS_DELAY_SECONDS) as show:
            parts = counted(annotations.texts(document), entries_of(document), show, "annotations")
            write_together({manifest_path: [a_field_a_line(manifest)], out: parts})
        console = console_of_plain_text()
        console.print(
            f"{changed['changed']:,} of {changed['annotations']:,} labels changed, {changed['kept']:,} found right"
        )
        for pair, number in [*changed["changed_by_class"].items()][:PAIRS_SHOWN]:
            console.print(f"  {printable(pair)}: {number:,}")
        console.print(f"labels: {out}\nmanifest: {manifest_path}", soft_wrap=True)


def _probability(text: str) -> float:
    """Return the number of the option; ConfigError where it is no probability."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ConfigError("--accept-above", [f"must be a number between 0 and 1 but got {text!r:.40}"])
    return value
