"""What a page finds for its reader: trials sorted, filtered and drawn, studies by text, label and archive."""

import json
import os
import random
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import sqlalchemy as sa
from browser import Browser
from served import eventually as within
from served import filler, served
from sqlalchemy.engine import Connection

from lncis import documents
from lncis.client import Client
from lncis.documents import plain
from lncis.studies.spec import StudySpec
from service.store import tables
from service.store.database import Database
from service.ui import curves, importance, parallel


def get(url: str) -> str:
    answer = httpx2.get(url, trust_env=False, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.text


def eventually(look: Callable[[], Any]) -> None:
    within(look, seconds=30)


def numbers(page: str) -> list[int]:
    return [int(number) for number in re.findall(r'<tr id="trial-(\d+)"', page)]


@pytest.fixture
def filled(database: Database) -> Database:
    """With one study of 250 trials."""
    filler().fill(database, 1, 250)
    return database


def test_the_table_of_trials_is_sorted_as_its_values_are(tmp_path: Path, filled: Database) -> None:
    with served(tmp_path, filled) as url, Client(url) as client:
        (study,) = client.list()
        trials = dict(enumerate(client.trials(study.id), start=1))
        keys: dict[str, Any] = {
            "number": lambda n: n,
            "label": lambda n: trials[n].label,
            "seed": lambda n: trials[n].seed,
            "state": lambda n: trials[n].state,
            "epoch": lambda n: trials[n].epoch,
            "objective": lambda n: trials[n].objective,
            "test": lambda n: trials[n].metrics.get("test/segm_AP"),
            "started_at": lambda n: trials[n].started_at,
            "loss.gamma": lambda n: trials[n].overrides.get("loss.gamma"),
        }
        for name, key in keys.items():
            for order in ("asc", "desc"):
                there = [n for n in trials if key(n) is not None]
                wanted = sorted(there, key=key) if order == "asc" else sorted(there, key=key, reverse=True)
                wanted += [n for n in trials if key(n) is None]
                query = f"sort={name}&order={order}"
                pages = [get(f"{url}/ui/studies/{study.id}?{query}&page={page}") for page in (1, 2, 3)]
                found = [n for page in pages for n in numbers(page)]
                assert found == wanted, query  # equal values: by their numbers, as sorted is stable
        assert 'aria-sort="descending"' in get(f"{url}/ui/studies/{study.id}?sort=objective&order=desc")


def test_the_table_of_trials_is_filtered(tmp_path: Path, filled: Database) -> None:
    with served(tmp_path, filled) as url, Client(url) as client:
        (study,) = client.list()
        trials = dict(enumerate(client.trials(study.id), start=1))
        page = get(f"{url}/ui/studies/{study.id}?state=failed")
        assert numbers(page) == [n for n, trial in trials.items() if trial.state == "failed"][:100]
        page = get(f"{url}/ui/studies/{study.id}?text=GAMMA+%3D+3.45&sort=objective&order=desc")
        matching = [n for n, trial in trials.items() if "gamma = 3.45" in trial.label]
        assert sorted(numbers(page)) == matching
        assert "all trials" in page
        assert "No trial is like that" in get(f"{url}/ui/studies/{study.id}?text=100%25")  # no pattern
        for wrong in ("state=lost", "order=up", "curves=1,x", "page=0", f"curves={','.join(map(str, range(13)))}"):
            assert httpx2.get(f"{url}/ui/studies/{study.id}?{wrong}", trust_env=False).status_code == 422


def test_links_of_the_table_keep_what_was_asked_for(tmp_path: Path, filled: Database) -> None:
    with served(tmp_path, filled) as url, Client(url) as client:
        (study,) = client.list()
        page = get(f"{url}/ui/studies/{study.id}?sort=objective&order=desc&state=finished&curves=1,2&metric=lr")
        following = re.search(r'href="([^"]+)" rel="next"', page)
        assert following
        for part in ("sort=objective", "order=desc", "state=finished", "curves=1,2", "metric=lr", "page=2"):
            assert part in unescape(following[1])
        assert len(numbers(get(f"{url}{unescape(following[1]).split('#')[0]}"))) == 100


def test_the_curves_of_the_trials_that_are_picked_are_drawn(tmp_path: Path, filled: Database) -> None:
    with served(tmp_path, filled) as url, Client(url) as client:
        (study,) = client.list()
        page = get(f"{url}/ui/studies/{study.id}?curves=7,3&metric=val/segm_AP")
        (given,) = re.findall(r'data-plot="([^"]+)"', page)
        plot = json.loads(unescape(given))
        trials = list(client.trials(study.id))
        assert [line["label"] for line in plot["lines"]] == [
            f"{trials[n].label}, seed {trials[n].seed}" for n in (2, 6)
        ]
        for line, n in zip(plot["lines"], (2, 6), strict=True):
            assert line["y"][-1] == pytest.approx(trials[n].metrics["val/segm_AP"])
        assert page.count("checked>") == 2 + 1  # and the refresh


def test_curves_of_different_lengths_share_their_epochs() -> None:
    plot = json.loads(
        curves.plotted([("a", [(1.0, 5.0), (3.0, 6.0)]), ("b", [(2.0, float("nan")), (3.0, 7.0)]), ("c", [])])
    )
    assert plot == {"x": [1.0, 3.0], "lines": [{"label": "a", "y": [5.0, 6.0]}, {"label": "b", "y": [None, 7.0]}]}


def test_curves_are_picked_hovered_and_zoomed_in_a_browser(tmp_path: Path, filled: Database, browser: Browser) -> None:
    with served(tmp_path, filled) as url, Client(url) as client:
        (study,) = client.list()
        browser.look(1280)
        browser.open(f"{url}/ui/studies/{study.id}")
        legend = "[...document.querySelectorAll('#by-epoch .u-series')].length"
        before = browser.js(legend)
        assert before > 2
        unpicked = "document.querySelector('.pick input:not(:checked)')"
        picked = browser.js(f"{unpicked}.value")
        browser.js(f"{unpicked}.click()")
        eventually(lambda: browser.js(legend) == before + 1)
        assert picked in browser.js("new URL(location.href).searchParams.get('curves')").split(",")
        assert browser.js("getComputedStyle(document.querySelector('.pick')).display") == "table-cell"
        browser.js("plot.setScale('x', {min: 10, max: 15})")
        eventually(lambda: browser.js("plot.scales.x.min") == 10)
        browser.js(f"{unpicked}.click()")
        eventually(lambda: browser.js(legend) == before + 2)
        eventually(lambda: browser.js("plot.scales.x.max") == 15)  # the zoom stays
        browser.js("for (const box of document.querySelectorAll('.pick input:not(:checked)')) box.click()")
        eventually(lambda: "At most 12 curves" in browser.js("document.getElementById('trouble').textContent"))
        assert browser.complaints == []
        for width in (1280, 390):
            browser.look(width)
            browser.open(f"{url}/ui/studies/{study.id}")
            assert browser.js("document.documentElement.scrollWidth") <= width


def test_studies_are_found_on_the_page(tmp_path: Path, database: Database) -> None:
    filler().fill(database, 40, 40)
    with served(tmp_path, database) as url, Client(url) as client:
        studies = list(client.list())
        some = random.Random(0).sample([study for study in studies if study.over], 2)
        client.label(some[0].id, ["<b>paper</b>"])
        client.archive(some[1].id)

        def found(query: str) -> set[str]:
            return set(re.findall(r'<h3><a href="/ui/studies/([^"]+)"', get(f"{url}/?{query}")))

        assert found("label=%3Cb%3Epaper%3C/b%3E") == found("text=B%3Epap") == {some[0].id}
        assert "&lt;b&gt;paper&lt;/b&gt;</a>" in get(f"{url}/")
        assert found("archived=true") == {some[1].id}
        assert some[1].id not in found("")
        assert found(f"text={some[1].id}") == set()
        assert found(f"text={some[0].id}&state={some[0].state}") == {some[0].id}
        owners = {study.id for study in studies if study.owner == "anna"} - {some[1].id}
        assert found("text=anna") == owners
        waiting = next(study for study in reversed(studies) if study.state == "queued")
        position = r"number (\d+) in the queue"
        everything, alone = get(f"{url}/"), get(f"{url}/?text={waiting.id}")
        assert re.findall(position, alone) == [
            re.findall(position, card)[0] for card in everything.split('<li class="card">') if waiting.id in card
        ]  # its place among all


def test_two_studies_stand_side_by_side(tmp_path: Path, database: Database, browser: Browser) -> None:
    filler().fill(database, 2, 80)
    with served(tmp_path, database) as url, Client(url) as client:
        a, b = client.list()
        same = get(f"{url}/ui/compare?a={a.id}&b={b.id}")
        assert "In nothing: both have the same spec." in same
        spec = {**client.get(b.id).spec, "name": "other", "seeds": [7]}
        other = client.submit(spec)
        page = get(f"{url}/ui/compare?a={a.id}&b={other.id}")
        assert "<code>seeds.0</code>" in page or "<code>seeds</code>" in page
        assert f'<option value="{other.id}">' in get(f"{url}/ui/studies/{a.id}")
        for wrong, status in ((f"a={a.id}", 422), (f"a={a.id}&b=none", 404), ("a=..%2Fx&b=y", 422)):
            answer = httpx2.get(f"{url}/ui/compare?{wrong}", trust_env=False, timeout=60)
            assert answer.status_code == status
        for width in (1280, 390):
            browser.look(width)
            browser.open(f"{url}/ui/compare?a={a.id}&b={b.id}")
            assert browser.js("document.documentElement.scrollWidth") <= width
            assert browser.js("document.querySelectorAll('#by-epoch .u-series').length") == 1 + 6
            assert {label[:2] for label in browser.js("plot.series.slice(1).map(s => s.label)")} == {"A:", "B:"}
        assert browser.complaints == []


LR = {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}


def space(**fields: Any) -> StudySpec:
    document = {
        "name": "s",
        "search": {
            "loss.gamma": {"type": "categorical", "choices": [8.0, 4.0, 6.0]},
            "optimizer.lr": LR,
        },
        "sampler": {"type": "random", "configurations": 3},
        **fields,
    }
    return documents.parse(StudySpec, document, source="test")


def test_parallel_coordinates_stand_where_their_values_are() -> None:
    rows: list[parallel.Row] = [
        ("worst", {"loss.gamma": 4.0, "optimizer.lr": 1e-4}, 10.0, 1),
        ("best", {"loss.gamma": 8.0, "optimizer.lr": 1e-2}, 30.0, 2),
        ("middle", {"loss.gamma": 6.0, "optimizer.lr": 1e-3}, 20.0, 3),
        ("broken", {"optimizer.lr": 1e-3}, 20.0, 4),
        ("none", {"loss.gamma": 6.0, "optimizer.lr": 1e-3}, float("nan"), 5),
    ]
    drawing = parallel.parallel(rows, space())
    assert drawing
    assert [(axis.name, axis.top, axis.bottom) for axis in drawing.axes] == [
        ("gamma", "8", "4"),
        ("lr", "0.01", "0.0001"),
        ("val/segm_AP", "30.0", "10.0"),
    ]
    heights = {line.says.partition(":")[0]: re.findall(r"[ML][\d.]+ ([\d.]+)", line.path) for line in drawing.lines}
    assert list(heights) == ["worst", "middle", "broken", "best"], "the best is drawn last"
    assert heights == {"worst": ["94"] * 3, "best": ["6"] * 3, "middle": ["50"] * 3, "broken": ["50"] * 2}
    assert [line.fifth for line in drawing.lines] == [2, 3, 4, 5]  # the best is of the best fifth, also of four
    assert [line.heights for line in drawing.lines] == ["0,0,0", "0.5,0.5,0.5", ",0.5,0.5", "1,1,1"]
    assert [line.trial for line in drawing.lines] == [1, 3, 4, 2]
    least = parallel.parallel(rows, space(objective={"metric": "val/segm_AP", "mode": "min"}))
    assert least
    assert least.lines[-1].says.startswith("worst")
    assert parallel.parallel(rows[:1], space()) is None


def test_importance_is_the_share_of_the_variance_that_a_parameter_explains_alone() -> None:
    """By another formula: (SSB - (k - 1) MSW) / SST."""
    draw = np.random.default_rng(0)
    points = []
    for _ in range(40):
        gamma, lr = draw.choice([4.0, 6.0, 8.0]), 10 ** draw.uniform(-4, -2)
        points.append(({"loss.gamma": gamma, "optimizer.lr": lr}, 3 * gamma + draw.normal()))
    found = importance.importance(points, space())
    values = np.array([value for _, value in points])
    lr = np.array([overrides["optimizer.lr"] for overrides, _ in points])
    parts = {
        "loss.gamma": np.array([overrides["loss.gamma"] for overrides, _ in points]),
        "optimizer.lr": lr.argsort().argsort() * 4 // len(points),
    }
    for name, of in parts.items():
        groups = [values[of == one] for one in np.unique(of)]
        within = sum(((group - group.mean()) ** 2).sum() for group in groups) / (len(values) - len(groups))
        between = sum(len(group) * (group.mean() - values.mean()) ** 2 for group in groups)
        share = (between - (len(groups) - 1) * within) / ((values - values.mean()) ** 2).sum()
        assert found[name] == pytest.approx(max(0.0, share))
    assert list(found) == ["loss.gamma", "optimizer.lr"]
    assert found["loss.gamma"] > 0.9
    assert found["optimizer.lr"] < 0.3


def test_of_few_or_equal_configurations_no_importance_is_said() -> None:
    point = ({"loss.gamma": 4.0, "optimizer.lr": 1e-3}, 1.0)
    assert importance.importance([point] * 5, space()) == {}
    assert importance.importance([point] * 9, space()) == {}
    broken = ({"loss.gamma": 8.0}, float("nan"))
    assert importance.importance([point, broken] * 5, space()) == {}


@pytest.fixture
def searched(filled: Database) -> Database:
    """Its configurations are drawn from a range of gamma and one of the learning rate."""

    def change(connection: Connection) -> None:
        trials, studies = tables.trials, tables.studies
        rows = connection.execute(sa.select(trials.c.number, trials.c.configuration, trials.c.overrides)).all()
        for row in rows:
            rate = 10 ** random.Random(row.configuration).uniform(-4, -2)
            changed = {"overrides": {**row.overrides, "optimizer.lr": rate}}
            connection.execute(trials.update().where(trials.c.number == row.number).values(changed))
        wide = {"loss.gamma": {"type": "float", "low": 3.0, "high": 9.0}, "optimizer.lr": LR}
        spec = plain(documents.dump(space(search=wide)))
        connection.execute(studies.update().values(spec=spec))

    filled.write(change)
    return filled


def test_a_line_is_picked_and_a_range_is_kept_in_a_browser(
    tmp_path: Path, searched: Database, browser: Browser
) -> None:
    with served(tmp_path, searched) as url, Client(url) as client:
        (study,) = client.list()
        browser.look(1280)
        browser.open(f"{url}/ui/studies/{study.id}")
        browser.js("document.querySelector('#parallel svg').scrollIntoView({block: 'center'})")
        box = browser.js("JSON.parse(JSON.stringify(document.querySelector('#parallel svg').getBoundingClientRect()))")
        says = "document.getElementById('picked').textContent"
        lines = "[...document.querySelectorAll('#parallel .way')]"
        shown = f"{lines}.filter((way) => !way.classList.contains('out')).length"

        def mouse(kind: str, x: float, y: float) -> None:
            """At a place of the drawing, from 0 to 1."""
            place = {"x": box["left"] + x * box["width"], "y": box["top"] + y * box["height"]}
            browser.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, buttons=1, **place)

        best = f"{lines}.at(-1)"
        (x0, y0), (x1, y1), (x2, _) = [
            (float(x) / 300, float(y) / 100)
            for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", browser.js(f"{best}.getAttribute('d')"))
        ]
        for kind in ("mousePressed", "mouseReleased"):
            mouse(kind, x0 + 0.9 * (x1 - x0), y0 + 0.9 * (y1 - y0))
        assert browser.js(says).startswith(browser.js("document.querySelector('.way.here title').textContent"))
        number = browser.js("document.querySelector('.way.here').dataset.trial")
        assert f"trial {number}" in browser.js(says)
        assert browser.js("document.querySelector('#picked a').getAttribute('href')").endswith(f"#trial-{number}")
        browser.js("document.querySelector('#parallel svg').focus()")
        for key in ("ArrowUp", "ArrowDown", "ArrowUp"):
            browser.call("Input.dispatchKeyEvent", type="rawKeyDown", key=key, code=key)
        total = browser.js(f"{lines}.length")
        mouse("mousePressed", x2, 0.06)
        mouse("mouseMoved", x2, 0.3)
        mouse("mouseReleased", x2, 0.3)
        kept = browser.js(shown)
        assert 0 < kept < total
        assert f"{kept} of {total} configurations are in the ranges" in browser.js(says)
        browser.js("document.dispatchEvent(new CustomEvent('lncis:replaced', {detail: 'parallel'}))")
        assert browser.js(shown) == kept, "it stays when the page refreshes"
        browser.call("Input.dispatchKeyEvent", type="rawKeyDown", key="Escape", code="Escape")
        assert (browser.js(shown), browser.js(says)) == (total, "")
        rows = "[...document.querySelectorAll('.importance th')].map((cell) => cell.textContent)"
        assert sorted(browser.js(rows)) == ["loss.gamma", "optimizer.lr"]
        assert browser.complaints == []
        for width in (1280, 390):
            for dark in (False, True):
                browser.look(width, dark=dark)
                browser.open(f"{url}/ui/studies/{study.id}")
                assert browser.js("document.documentElement.scrollWidth") <= width
                if folder := os.environ.get("LNCIS_SCREENSHOTS"):
                    browser.js("document.querySelector('#parallel svg').focus()")
                    browser.call("Input.dispatchKeyEvent", type="rawKeyDown", key="ArrowUp", code="ArrowUp")
                    browser.screenshot(Path(folder) / f"parallel-{width}-{'dark' if dark else 'light'}.png")


def test_the_readers_own_time_stands_beside_utc(tmp_path: Path, filled: Database, browser: Browser) -> None:
    with served(tmp_path, filled) as url, Client(url) as client:
        (study,) = client.list()
        address = f"{url}/ui/studies/{study.id}"
        local = "[...document.querySelectorAll('.facts time')].map(time => time.dataset.local)"
        browser.open(address)
        assert browser.js("document.getElementById('here').hidden")  # of a reader in UTC
        browser.call("Emulation.setTimezoneOverride", timezoneId="Asia/Tokyo")
        try:
            browser.open(address)
            assert "Asia/Tokyo" in browser.js("document.querySelector('footer').innerText")
            shown = browser.js(local)
            hour = (study.created_at.hour + 9) % 24
            assert len(shown) >= 3
            assert f"{hour % 12 or 12}:{study.created_at.minute:02d}" in shown[0]
            browser.js("lncisRefresh()")
            assert browser.js(local) == shown
        finally:
            browser.call("Emulation.setTimezoneOverride", timezoneId="")
