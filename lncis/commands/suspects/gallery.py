"""`lncis suspects gallery`: the review of a list as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer

from lncis.commands.copies import check_target, write_together
from lncis.terminal import PROGRESS_DELAY_SECONDS, clear_errors, console_of_plain_text, progress

MOST = 5000
"""Suspects on a page if nothing else is asked for."""


def gallery(
    listed: Annotated[Path, typer.Argument(metavar="SUSPECTS.json", help="As `lncis suspects` writes it.")],
    source: Annotated[Path, typer.Argument(metavar="IN.json", help="The COCO file that was scored.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.html", help="The page: one file, for any browser.")],
    images: Annotated[Path, typer.Option(help="Folder of the images.", show_default=False)],
    most: Annotated[int, typer.Option(min=1, help="Suspects on the page, the most probable ones.")] = MOST,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.html if it exists.")] = False,
) -> None:
    """Write a page for the review of a list: pictures, given and suggested class, keys to decide."""
    with clear_errors():
        check_target(out, inputs=[listed, source], force=force)
        from lncis.coco import annotations  # slow to load: a mistake in the options comes first
        from lncis.suspects import annotated, tables
        from lncis.suspects.review import crops
        from lncis.suspects.review import gallery as page

        found = tables.read_list(listed)
        document = annotations.read(source).document
        labels = annotated.labels_of(document, source)
        shown = found.suspects[:most]
        places = [labels.position((row.image_id, row.annotation_id), row.given, str(listed)) for row in shown]
        with progress(PROGRESS_DELAY_SECONDS) as show:
            pictures, unusable = crops.crops_of(
                document, places, images, lambda done, total: show("images", done, total)
            )
        write_together({out: page.gallery_texts(found, pictures)})
        console = console_of_plain_text()
        if unusable:
            console.print(
                f"warning: {len(unusable):,} images cannot be used: their suspects have no picture ({unusable[0]})",
                soft_wrap=True,
            )
        console.print(f"{len(shown):,} of {len(found.suspects):,} suspects: {out}", soft_wrap=True)
