"""Seconds and memory of what stands on a list of suspects, at 100,000 annotations: gallery, repair, exports, join.

Each command runs as a person runs it, in a process of its own; the gallery then opens in headless Chromium.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from files import write
from PIL import Image
from sklearn.datasets import load_sample_images

from lncis.noise.names import CLASSES
from lncis.suspects.suspect import Suspect
from lncis.suspects.tables import SuspectList, json_texts

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import browser

ON_THE_PAGE = 5000
SIZE = (640, 480)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3, help="of opening the page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        laying = multiprocessing.get_context("spawn").Process(target=lay_out, args=(folder, options.annotations))
        laying.start()  # a process of its own: commands would begin with the memory of this one
        laying.join()
        most = ["--most", str(ON_THE_PAGE)]
        commands = {
            f"gallery of {ON_THE_PAGE:,}": [*suspects("gallery"), "page.html", "--images", "images", *most],
            "apply --accept-above 0.5": [*suspects("apply"), "out.json", "--accept-above", "0.5"],
            "export --coco --csv": [*suspects("export"), "--coco", "c.json", "--csv", "t.csv"],
            f"export --label-studio of {ON_THE_PAGE:,}": [*suspects("export"), "--label-studio", "tasks.json", *most],
            "noise join by id": ["noise", "join", "noisy.json", "in.json", "joined.json"],
            "noise join --by-mask": ["noise", "join", "noisy.json", "in.json", "masks.json", "--by-mask"],
        }
        print("| | seconds | of a core | GiB at most |\n|---|---|---|---|")
        for what, arguments in commands.items():
            seconds, of_a_core, memory = run(arguments, folder)
            print(f"| {what} | {seconds:.1f} | {of_a_core:.1f} | {memory:.2f} |", flush=True)
        page = folder / "page.html"
        print(f"\nthe page: {page.stat().st_size / 1e6:.1f} MB; {opened(page, options.rounds)}")


def suspects(command: str) -> list[str]:
    """Return the beginning of a command about the list."""
    return ["suspects", command, "suspects.json", "in.json"]


def lay_out(folder: Path, annotations: int) -> None:
    """Write an annotated file, a noisy one, a list of all annotations, and the images of its first ones."""
    write(folder / "in.json", annotations)
    document = json.loads((folder / "in.json").read_text())
    rng = np.random.default_rng(0)
    names = list(CLASSES["coco"])
    wrong = np.sort(rng.beta(0.5, 2, annotations))[::-1]
    files = {image["id"]: image["file_name"] for image in document["images"]}
    rows = [
        Suspect(
            rank=rank,
            annotation_id=annotation["id"],
            image_id=annotation["image_id"],
            file_name=files[annotation["image_id"]],
            given=names[annotation["category_id"] - 1],
            suggested=names[int(rng.integers(len(names)))],
            wrong_probability=float(probability),
            given_probability=float(1 - probability),
            margin=float(2 * probability - 1),
            scored_by="out of fold: fold 2",
        )
        for rank, (annotation, probability) in enumerate(zip(document["annotations"], wrong, strict=True), start=1)
    ]
    with (folder / "suspects.json").open("w") as file:
        file.writelines(json_texts(SuspectList(annotations="in.json", classes=names, suspects=rows)))
    for annotation in document["annotations"]:
        if rng.random() < 0.4:
            annotation["category_id"] = int(rng.integers(1, 81))
    (folder / "noisy.json").write_text(json.dumps(document))
    photos = [Image.fromarray(photo).resize(SIZE) for photo in load_sample_images().images]
    (folder / "images").mkdir()
    for number, photo in enumerate(photos):
        photo.save(folder / f"photo{number}.jpg", quality=90)
    for name in {row.file_name for row in rows[:ON_THE_PAGE]}:
        os.link(folder / f"photo{int(name[:-4]) % len(photos)}.jpg", folder / "images" / name)


def run(arguments: list[str], folder: Path) -> tuple[float, float, float]:
    """Return seconds of wall time, seconds of a core and GiB of a command."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "lncis", *arguments], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def opened(page: Path, rounds: int) -> str:
    """Return the milliseconds in which Chromium opens the page, turns to the next one, and takes a decision."""
    figures: dict[str, list[float]] = {"opened": [], "page turned": [], "decided": []}
    for _ in range(rounds):
        tab = browser.Browser()
        try:
            tab.look(1280)
            tab.open(page.as_uri())
            assert tab.js("document.querySelectorAll('.card').length") == 100
            figures["opened"].append(tab.js("performance.getEntriesByType('navigation')[0].loadEventEnd"))
            for what, key in (("page turned", "n"), ("decided", "k")):
                figures[what].append(tab.js(seconds_of(key)))
            assert tab.complaints == []
        finally:
            tab.close()
    return ", ".join(f"{what} in {median(some):.0f} ms ({max(some):.0f} at most)" for what, some in figures.items())


def seconds_of(key: str) -> Any:
    """Return an expression for the milliseconds from a key to the next frame that shows what it did."""
    press = f"document.body.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}', bubbles: true}}))"
    frames = "requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - started)))"
    return f"new Promise((done) => {{ const started = performance.now(); {press}; {frames}; }})"


if __name__ == "__main__":
    main()
