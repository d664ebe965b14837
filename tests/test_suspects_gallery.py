"""The gallery: what its pictures show, and a review from the first key to the repaired file, in a real browser."""

import io
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import browser as chromium
import numpy as np
import pytest
from click.testing import Result
from PIL import Image, ImageDraw
from pycocotools import mask as rle
from sklearn.datasets import load_sample_images
from suspect_documents import CLASSES, HEIGHT, WIDTH, document, lay_out, listed, ring
from typer.testing import CliRunner

from lncis.commands import app as cli
from lncis.suspects.review import crops
from lncis.suspects.review.crops import STEPS, crop, outlines, svg_path
from lncis.suspects.review.gallery import gallery_texts
from lncis.suspects.tables import SuspectList

PAGE = Path("page.html")
OPENS_SECONDS = 2.0
"""Of a core, so that others' load does not count."""
MOST_BYTES = 60 * 2**20

needs_browser = pytest.mark.skipif(
    chromium.BINARY is None, reason="no chromium, google-chrome or chromium-browser here"
)


def corners(path: str) -> list[np.ndarray]:
    """Return the closed lines of an SVG path, in pixels of its picture."""
    found = []
    for line in re.findall(r"M([^z]*)z", path):
        start, moves = ([int(n) for n in part.split()] for part in line.split("l"))
        found.append(np.cumsum(np.reshape([*start, *moves], (-1, 2)), axis=0) / STEPS)
    return found


def filled(lines: list[np.ndarray], width: int, height: int) -> np.ndarray:
    """Return the pixels inside of lines, those of holes left out (even-odd), drawn eight times as large."""
    inside = np.zeros((8 * height, 8 * width), dtype=bool)
    for line in lines:
        picture = Image.new("1", (8 * width, 8 * height))
        ImageDraw.Draw(picture).polygon([(8 * x, 8 * y) for x, y in line], fill=1)
        inside ^= np.asarray(picture)
    return inside.reshape(height, 8, width, 8).mean(axis=(1, 3)) > 0.5


def test_an_outline_holds_the_pixels_of_its_mask_and_no_others():
    mask = ring()
    lines = corners("".join(svg_path(points) for points in outlines(mask * 255)))
    assert len(lines) == 3  # the ring's two sides, and the part of its own
    # corners are cut off between the centres of pixels, so a line may pass half a pixel beside one at most
    assert (filled(lines, WIDTH, HEIGHT) != mask).sum() <= 0.01 * mask.sum()


@pytest.mark.parametrize("seed", range(5))
def test_outlines_of_any_mask_hold_its_pixels(seed):
    rng = np.random.default_rng(seed)
    mask = (np.asarray(Image.fromarray(rng.random((6, 8)).astype(np.float32)).resize((64, 48))) > 0.5).astype(np.uint8)
    lines = corners("".join(svg_path(points) for points in outlines(mask * 255)))
    assert (filled(lines, 64, 48) != mask).sum() <= 0.02 * mask.size


def test_polygons_are_drawn_as_they_are():
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    square = np.array([10.0, 10, 40, 10, 40, 40])
    made = crop(pixels, {"segmentation": [square], "bbox": [10, 10, 30, 30]})
    # 30 px and 8 px of context on either side: the part from (2, 2) to (48, 48)
    assert (made.width, made.height) == (46, 46)
    (line,) = corners(made.outline)
    assert line.tolist() == [[8, 8], [38, 8], [38, 38]]


def test_a_picture_shows_the_annotation_with_a_fifth_around_it():
    photo = load_sample_images().images[0]
    annotation = {"segmentation": [np.array([200.0, 100, 400, 100, 400, 300])], "bbox": [200, 100, 200, 200]}
    made = crop(photo, annotation)
    assert (made.width, made.height) == (crops.SIDE, crops.SIDE)
    shown = np.asarray(Image.open(io.BytesIO(made.jpeg)).convert("RGB"), dtype=float)
    expected = np.asarray(Image.fromarray(photo[60:340, 160:440]).resize((160, 160), Image.Resampling.BICUBIC))
    assert np.abs(shown - expected).mean() < 6  # of JPEG


@pytest.mark.parametrize("box", [[0, 0, 80, 60], [79, 59, 1, 1], [-20, -20, 25, 25], [0, 30, 80, 2], [75, 0, 300, 9]])
def test_boxes_at_the_edge_and_of_any_size_have_a_picture(box):
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    made = crop(pixels, {"segmentation": rle.encode(np.asfortranarray(ring())), "bbox": box})
    assert Image.open(io.BytesIO(made.jpeg)).size == (made.width, made.height)


def gallery(*arguments: str | Path) -> Result:
    given = ["suspects.json", "in.json", PAGE, "--images", "images", *arguments]
    return CliRunner().invoke(cli.app, ["suspects", "gallery", *map(str, given)])


def test_a_missing_image_costs_its_pictures_alone():
    lay_out()
    Path("images/a.png").unlink()
    ran = gallery()
    assert ran.exit_code == 0, ran.output
    assert "warning: 1 images cannot be used: their suspects have no picture (images/a.png" in ran.output
    assert [bool(line) for line in _pictures()] == [False, False, True, True]


def _pictures() -> list[str]:
    (text,) = re.findall(r'id="pictures">\n(.*?)\n</script>', PAGE.read_text("utf-8"), flags=re.DOTALL)
    return text.split("\n")


def test_mistakes_are_one_line_and_no_file():
    lay_out()
    arguments = ["suspects.json", "in.json", "page.html", "--images", "elsewhere"]
    ran = CliRunner().invoke(cli.app, ["suspects", "gallery", *arguments])
    assert ran.exit_code == 2
    assert ran.stderr.startswith("error: none of 2 images can be used; is elsewhere the right folder?")
    assert ran.stderr.count("\n") == 1
    other = document()
    other["annotations"] = other["annotations"][1:]
    Path("in.json").write_text(json.dumps(other))
    ran = gallery()
    assert "in.json: has no annotation 7 in an image 3; give the file that was scored" in ran.stderr
    assert not PAGE.exists()


def test_the_page_loads_nothing_and_runs_its_own_script_alone():
    lay_out()
    assert gallery().exit_code == 0
    text = PAGE.read_text("utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", text)
    assert text.count("<script") == text.count("</script>") == 3, "names end no element"


@pytest.fixture
def browser() -> Iterator[chromium.Browser]:
    opened = chromium.Browser()
    yield opened
    opened.close()


def press(browser: chromium.Browser, *keys: str) -> None:
    for key in keys:
        text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
        code = ord(key.upper()) if len(key) == 1 else {"Enter": 13, "ArrowDown": 40, "ArrowRight": 39}[key]
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)


def text_of(browser: chromium.Browser, element: str) -> str:
    return str(browser.js(f"document.querySelector({element!r}).innerText"))


def wait_for(there: Any) -> None:
    until = time.monotonic() + 30
    while not there():
        assert time.monotonic() < until
        time.sleep(0.05)


@needs_browser
@pytest.mark.processes
def test_a_review_by_keys_is_kept_saved_read_back_and_applied(browser):
    made = lay_out()
    assert gallery().exit_code == 0
    browser.look(1280)
    browser.open(PAGE.resolve().as_uri())
    press(browser, "a", "k")  # dog for cat; dog stays
    press(browser, "o", *"DOG", "Enter")  # another class for the third
    assert text_of(browser, "#progress") == "3 of 4 decided, 2 changed"
    press(browser, "a", "u", "s")  # the last one: undone again, and skipped
    assert text_of(browser, "#progress") == "3 of 4 decided, 2 changed"
    assert browser.js("document.title") == "in.json: 4 suspects"
    assert browser.js("document.querySelectorAll('.card script, .card b').length") == 4  # the names' own tags are text
    assert CLASSES[2] in text_of(browser, "#grid")
    assert browser.js("[...document.querySelectorAll('.tile img')].every((i) => i.naturalWidth > 20)")

    browser.open(PAGE.resolve().as_uri())  # again
    assert text_of(browser, "#progress") == "3 of 4 decided, 2 changed"

    Path("saved").mkdir()
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(Path("saved").resolve()))
    browser.js("document.getElementById('save').click()")
    saved = Path("saved/in.decisions.json")
    wait_for(saved.exists)
    file = json.loads(saved.read_text("utf-8"))
    assert file["list"] == made.digest
    assert [(d["rank"], d["image_id"], d["annotation_id"], d["label"]) for d in file["decisions"]] == [
        (1, 3, 7, "dog"),
        (2, 3, 8, "dog"),
        (3, 5, 9, "dog"),
    ]

    browser.js("localStorage.clear()")
    browser.open(PAGE.resolve().as_uri())
    assert text_of(browser, "#progress") == "0 of 4 decided, 0 changed"
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(saved.resolve())])
    wait_for(lambda: text_of(browser, "#progress") == "3 of 4 decided, 2 changed")
    assert text_of(browser, "#note") == "3 decisions read."

    ran = CliRunner().invoke(cli.app, ["suspects", "apply", str(saved), "in.json", "out.json"])
    assert ran.exit_code == 0, ran.output
    labels = {a["id"]: a["category_id"] for a in json.loads(Path("out.json").read_text())["annotations"]}
    assert labels == {7: 2, 8: 2, 9: 2, 11: 4, 12: 1}
    assert browser.complaints == []


@needs_browser
@pytest.mark.processes
def test_five_thousand_suspects_open_at_once_and_whole_ids_stay_whole(browser):
    photo = load_sample_images().images[1]
    rng = np.random.default_rng(0)
    pictures = []
    for side in rng.integers(20, 300, 50).tolist():
        x, y = int(rng.integers(0, 640 - side)), int(rng.integers(0, 427 - side))
        angles = np.linspace(0, 2 * np.pi, 60)
        points = [x + side / 2, y + side / 2] + side / 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        pictures.append(crop(photo, {"segmentation": [points.ravel()], "bbox": [x, y, side, side]}))
    row = listed().suspects[0]
    rows = [replace(row, rank=n, annotation_id=2**63 + n, image_id=f"{n}") for n in range(1, 5001)]
    made = SuspectList(annotations="in.json", classes=CLASSES, suspects=rows)
    PAGE.write_text("".join(gallery_texts(made, pictures * 100)), encoding="utf-8")
    assert PAGE.stat().st_size < MOST_BYTES
    browser.look(1280)
    browser.call("Performance.enable", timeDomain="threadTicks")
    browser.open(PAGE.resolve().as_uri())
    assert browser.js("document.querySelectorAll('.card').length") == 100
    metrics = {metric["name"]: metric["value"] for metric in browser.call("Performance.getMetrics")["metrics"]}
    assert 0.01 < metrics["TaskDuration"] < OPENS_SECONDS
    press(browser, "n")
    assert text_of(browser, "#page") == "101 to 200 of 5,000"
    press(browser, "a")
    (decision,) = re.findall(r'"annotation_id": (\d+)', browser.js("saved()"))
    assert int(decision) == 2**63 + 101
    assert browser.js("document.querySelectorAll('*').length") < 3000, "only one page is in the document"
    for width in (390, 1280):
        browser.look(width)
        assert browser.js("document.documentElement.scrollWidth") <= width, "nothing runs off the side"
    assert browser.complaints == []


@needs_browser
@pytest.mark.processes
def test_decisions_of_another_list_are_taken_where_they_fit(browser):
    made = lay_out()
    assert gallery().exit_code == 0
    browser.look(1280)
    browser.open(PAGE.resolve().as_uri())
    rows = [
        {"rank": 9, "image_id": 5, "annotation_id": 9, "given": made.suspects[2].given, "label": "cat"},
        {"rank": 1, "image_id": 3, "annotation_id": 7, "given": "dog", "label": "cat"},  # it was a dog there
        {"rank": 2, "image_id": 3, "annotation_id": 99, "given": "cat", "label": "dog"},
    ]
    file = {"lncis_decisions": 1, "list": "another", "annotations": "in.json", "decisions": rows}
    browser.js(f"readBack({json.dumps(json.dumps(file))})")
    assert text_of(browser, "#note") == "1 decisions read. 2 are about labels that are not on this page."
    assert re.findall(r'"label": "(\w+)"', browser.js("saved()")) == ["cat"]
    for wrong, answer in [("no", "This file is no JSON"), ("[]", "This is no file of decisions")]:
        browser.js(f"readBack({wrong!r})")
        assert answer in text_of(browser, "#note")
