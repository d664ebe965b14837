"""A picture of a gallery of suspects in headless Chromium, with a few decisions made: docs/gallery.png."""

import argparse
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import Browser

WIDTH, HEIGHT = 1120, 560
COLORS = 160
"""Of the picture's palette, which keeps it small."""
DECIDED = ("a", "a", "a", "a", "a", "s", "a")
"""Keys pressed, one a suspect."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gallery", type=Path, help="as `lncis suspects gallery` writes it")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    browser = Browser()
    try:
        browser.look(WIDTH)
        browser.call("Emulation.setScrollbarsHidden", hidden=True)
        browser.open(options.gallery.resolve().as_uri())
        for key in DECIDED:
            browser.js(f"document.body.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}', bubbles: true}})); 0")
        browser.screenshot(options.out)
    finally:
        browser.close()
    with Image.open(options.out) as picture:
        shown = picture.convert("RGB").crop((0, 0, WIDTH, HEIGHT))
    shown.quantize(COLORS).save(options.out, optimize=True)
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
