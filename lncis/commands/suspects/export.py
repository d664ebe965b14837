"""`lncis suspects export`: a list in the formats of other tools."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from lncis.commands.copies import check_target, counted, entries_of, write_together
from lncis.errors import ConfigError
from lncis.terminal import PROGRESS_DELAY_SECONDS, clear_errors, console_of_plain_text, progress

COMMAND = "lncis suspects export"
LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves the files of its local storage."""


def _target(help: str) -> Any:
    return typer.Option(metavar="FILE", help=help, show_default=False)


def export(
    listed: Annotated[Path, typer.Argument(metavar="SUSPECTS.json", help="As `lncis suspects` writes it.")],
    source: Annotated[Path, typer.Argument(metavar="IN.json", help="The COCO file that was scored.")],
    coco: Annotated[Path | None, _target("COCO, what is known as attributes: for CVAT, Datumaro, FiftyOne.")] = None,
    label_studio: Annotated[
        Path | None, _target("Tasks for Label Studio; the labeling interface becomes FILE with .xml.")
    ] = None,
    csv: Annotated[Path | None, _target("A table.")] = None,
    image_url: Annotated[str, typer.Option(help="Label Studio: what stands before each file name.")] = LOCAL_FILES,
    most: Annotated[
        int | None, typer.Option(min=1, help="Label Studio: suspects to take, if not all.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
) -> None:
    """Write a list of suspects in formats that other tools import."""
    with clear_errors():
        interface = label_studio and label_studio.with_suffix(".xml")
        targets = [path for path in (coco, label_studio, interface, csv) if path]
        if not targets:
            raise ConfigError(COMMAND, ["needs --coco, --label-studio or --csv, each with a file to write"])
        if len({path.absolute() for path in targets}) < len(targets):
            raise ConfigError(COMMAND, [f"writes {', '.join(map(str, targets))}: give each its own name"])
        for target in targets:
            check_target(target, inputs=[listed, source], force=force)
        from lncis.coco import annotations  # slow to load: a mistake in the options comes first
        from lncis.suspects import annotated, exports, tables

        found = tables.read_list(listed)
        texts = dict[Path, Iterable[str]]()
        with progress(PROGRESS_DELAY_SECONDS) as show:
            if csv:
                texts[csv] = counted(tables.csv_texts(found), len(found.suspects), show, "rows")
            if coco:
                enriched = exports.coco_with_attributes(source, found)
                texts[coco] = counted(annotations.texts(enriched), entries_of(enriched), show, "annotations")
            if label_studio and interface:
                rows = found.suspects[:most]
                document = annotations.read(source).document
                labels = annotated.labels_of(document, source)
                places = [labels.position((row.image_id, row.annotation_id), row.given, str(listed)) for row in rows]
                names = [*dict.fromkeys([*found.classes, *(row.suggested for row in rows)])]
                texts[interface] = [exports.labeling_interface(names)]
                tasks = exports.label_studio_texts(document, rows, places, image_url)
                texts[label_studio] = counted(tasks, len({row.image_id for row in rows}), show, "tasks")
            write_together(texts)
        console_of_plain_text().print(f"{len(found.suspects):,} suspects: {', '.join(map(str, texts))}", soft_wrap=True)
