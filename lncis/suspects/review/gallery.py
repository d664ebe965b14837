"""The review of a list as one HTML file, which opens without a server and loads nothing.

What a reviewer decides stays in the browser (localStorage, by the digest of the list) until it is saved as a file,
which `lncis suspects apply` reads (`lncis.suspects.review.repair`). Only the cards of one page are in the document; the
pictures of all others are text, a line each.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lncis import pages
from lncis.suspects.review.crops import STEPS, Crop
from lncis.suspects.review.read_only import SCRIPT, script_digest
from lncis.suspects.review.repair import FORMAT
from lncis.suspects.suspect import Suspect
from lncis.suspects.tables import VERSION, SuspectList

HERE = Path(__file__).parent
TEMPLATE, STYLE = "gallery.html.j2", "gallery.css"
BUFFERED = 500
"""Pieces of the page that are joined before they are written."""


def gallery_texts(listed: SuspectList, pictures: Sequence[Crop | None]) -> Iterator[str]:
    """Return the page of the first suspects of a list, part by part; each has its picture, or None without one."""
    shown = listed.suspects[: len(pictures)]
    stream = pages.template(HERE / TEMPLATE).stream(
        listed=listed,
        shown=len(shown),
        style=(HERE / STYLE).read_text("utf-8"),
        script=SCRIPT.read_text("utf-8"),
        script_digest=script_digest(),
        data=_data(listed, shown),
        lines=(_line(picture) for picture in pictures),
    )
    stream.enable_buffering(BUFFERED)
    return iter(stream)


def _data(listed: SuspectList, shown: Sequence[Suspect]) -> str:
    """Return what the script knows of the list, as JSON that cannot end the element it stands in."""
    names = [*dict.fromkeys([*listed.classes, *(n for row in shown for n in (row.given, row.suggested))])]
    place = {name: number for number, name in enumerate(names)}
    data = {
        "format": FORMAT,
        "version": VERSION,
        "digest": listed.digest,
        "annotations": listed.annotations,
        "steps": STEPS,
        "names": names,
        "choices": len(listed.classes),
        "rows": [_row(row, place) for row in shown],
    }
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _row(row: Suspect, place: dict[str, int]) -> dict[str, Any]:
    known = {
        "scored by": row.scored_by,
        "probability of the given class": f"{row.given_probability:.1%}",
        "margin": f"{row.margin:+.2f}",
        "mean loss": None if row.loss_mean is None else f"{row.loss_mean:.2f}",
        "last loss": None if row.loss_last is None else f"{row.loss_last:.2f}",
        "set aside (PON)": None if row.isolated is None else f"{row.isolated:,} times",
        "true class": row.true,
    }
    return {
        # as text: JavaScript would round whole numbers beyond 2^53
        "image": json.dumps(row.image_id),
        "annotation": json.dumps(row.annotation_id),
        "file": row.file_name,
        "given": place[row.given],
        "suggested": place[row.suggested],
        "wrong": round(row.wrong_probability, 4),
        "known": {name: value for name, value in known.items() if value is not None},
    }


def _line(picture: Crop | None) -> str:
    """Return a picture as one line of text; an empty one where there is none."""
    return "" if picture is None else f"{picture.width}|{picture.height}|{picture.outline}|{picture.base64}"
