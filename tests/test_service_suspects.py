"""The gallery of a study's suspects at the service: to look at, by whom it may, in a real browser."""

from pathlib import Path

import browser as chromium
import pytest
from served import served
from suspect_documents import lay_out
from test_service_page import TOKENS, create, get
from test_suspects_gallery import press
from typer.testing import CliRunner

from lncis.commands import app as cli
from service.ui import suspects_page

needs_browser = pytest.mark.skipif(
    chromium.BINARY is None, reason="no chromium, google-chrome or chromium-browser here"
)


def with_gallery(folder: Path, study: str) -> Path:
    """Write the gallery of a small list into a study's folder, and return its path."""
    lay_out()
    page = folder / "runs" / study / suspects_page.GALLERY
    page.parent.mkdir(parents=True)
    ran = CliRunner().invoke(
        cli.app, ["suspects", "gallery", "suspects.json", "in.json", str(page), "--images", "images"]
    )
    assert ran.exit_code == 0, ran.output
    return page


@needs_browser
def test_a_served_gallery_shows_all_and_decides_nothing(tmp_path, database, browser):
    study = create(database)
    with_gallery(tmp_path, study)
    with served(tmp_path, database) as url:
        assert f'href="/ui/studies/{study}/suspects"' in get(f"{url}/ui/studies/{study}").text
        browser.look(1280)
        browser.open(f"{url}/ui/studies/{study}/suspects")
        assert browser.js("document.querySelectorAll('.card').length") == 4
        assert browser.js("document.querySelectorAll('.card img').length") == 4, "each with its picture"
        assert browser.js("document.title") == "in.json: 4 suspects", "names of classes do nothing"
        for key in "akou":
            press(browser, key)
        assert browser.js("decisions.size") == 0
        assert browser.js("document.querySelector('#dialog').open") is False
        assert browser.js("localStorage.length") == 0
        for place in ("#save", "#open", "#accept", "#keep"):
            assert browser.js(f"document.querySelector('{place}').checkVisibility()") is False, place
        press(browser, "ArrowRight")
        assert browser.js("current") == 1
        assert browser.complaints == []
        for width in (390, 1280):
            browser.look(width)
            assert browser.js("document.documentElement.scrollWidth") <= width


def test_who_may_read_a_study_sees_its_gallery_whose_script_alone_may_run(tmp_path, database):
    study, other = create(database), create(database)
    page = with_gallery(tmp_path, study)
    with served(tmp_path, database, tokens=TOKENS) as url:
        address = f"{url}/ui/studies/{study}/suspects"
        assert get(address).status_code == 401
        bilal = {"Authorization": "Bearer secret-of-bilal"}
        answer = get(address, headers=bilal)
        assert answer.status_code == 200
        assert answer.text == page.read_text().replace('<html lang="en">', '<html lang="en" data-read-only>', 1)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-")
        assert "connect-src" not in policy
        missing = get(f"{url}/ui/studies/{other}/suspects", headers=bilal)
        assert missing.status_code == 404
        assert "has no gallery of suspects" in missing.text
        assert get(f"{url}/ui/studies/never/suspects", headers=bilal).status_code == 404

        page.write_text("<html lang=\"en\"><script>alert('mine')</script>")
        answer = get(address, headers=bilal)
        assert answer.status_code == 404
        assert "is no gallery of this version" in answer.text
        page.unlink()
        page.symlink_to("/etc/passwd")
        assert get(address, headers=bilal).status_code == 404
