"""The page as people meet it: what it says, to whom, and how it looks in a real browser."""

import re
import time
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html import unescape
from typing import Any

import browser as chromium
import httpx2
import pytest
import yaml
from served import ROOT, filler, served

from lncis import documents
from lncis.api import State
from lncis.client import Client
from lncis.config import TrainConfig
from lncis.documents import plain
from lncis.studies.spec.files import load_spec
from service import auth
from service.api import attempts
from service.auth import PASS_COOKIE, caller_of_pass, new_pass, parse_tokens
from service.store import findings, tables
from service.store import studies as store
from service.store.database import Database
from service.ui import curves, page, rendering, views

TOKENS = parse_tokens("anna:write:secret-of-anna,bilal:read:secret-of-bilal")
EVIL = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">'\"&{{ 7 * 7 }}"

needs_browser = pytest.mark.skipif(
    chromium.BINARY is None, reason="no chromium, google-chrome or chromium-browser here"
)


def create(
    database: Database,
    name: str = "study",
    state: State = State.QUEUED,
    reason: str = "",
    trial: dict[str, Any] | None = None,
) -> str:
    """Return the id of a study, with one trial if any, whatever they say."""
    spec = load_spec(ROOT / "studies" / "gamma_sweep.yaml")
    document = {**plain(documents.dump(spec)), "question": EVIL}
    new = {"name": name, "owner": "anna", "spec": document, "priority": 0, "max_concurrent_trials": 2}
    new |= {"trials_total": 1, "epochs_total": 4, "key": None, "request": None}

    def write(connection: Any) -> str:
        study, _ = store.create_study(connection, store.NewStudy(**new))
        if trial:
            row = {"study": study.number, "number": 1, "name": "0001-seed0", "configuration": 0, "label": "gamma = 4"}
            row |= {"overrides": {"loss.gamma": 4.0}, "baseline": None, "seed": 0, "noise_seed": None, "reason": ""}
            row |= {"state": "running", "started_at": 1e9, "ended_at": None, "stages": [], "epochs": 4, "epoch": 1}
            connection.execute(tables.trials.insert(), row | {"metrics": {}, "objective": None} | trial)
            failed = int(trial.get("state") == "failed")
            study = store.update_study(connection, study, trials_started=1, trials_failed=failed)
        if (state, reason) != (State.QUEUED, ""):
            study = store.update_study(connection, study, state=state, reason=reason)
        return study.id

    return database.write(write)


def get(url: str, **more: Any) -> httpx2.Response:
    return httpx2.get(url, trust_env=False, timeout=60, **more)


def test_it_says_what_waits_and_why_and_what_is_best(tmp_path, database):
    waiting = create(database, "first_come")
    create(database, "second_come")
    filler().fill(database, 3, 12)
    with served(tmp_path, database) as url:
        text = get(url).text
        assert text.index("first_come") < text.index("second_come")
        assert "number 1 in the queue" in text
        assert "number 2 in the queue" in text
        assert text.count("Ray is away: RAY_ADDRESS is not set") == 2
        assert '<span class="badge off">off</span> <span><b>MLflow</b> is not set' in text  # nothing is broken
        study = get(f"{url}/ui/studies/{waiting}").text
        assert "Ray is away" in study
        assert f"lncis study cancel {waiting}" in study
        known = get(f"{url}/studies?limit=1").json()["studies"][0]
        best = known["best"]
        run = {"experiment_id": "1", "run_id": "abc"}
        database.write(lambda c: c.execute(tables.studies.update().values(mlflow_run=run)))
        assert f"<strong>{best['objective']['mean']:.1f}</strong>" in text
        one = get(f"{url}/ui/studies/{known['id']}").text
        shown = re.search(r"<pre tabindex=\"0\"># (Number 1.*?)</pre>", one, flags=re.DOTALL)
        assert shown
        assert isinstance(documents.parse(TrainConfig, yaml.safe_load("#" + shown[1]), source="page"), TrainConfig)
        assert get(f"{url}/ui/studies/never").status_code == 404
        assert "there is no study never" in get(f"{url}/ui/studies/never").text


def test_every_trial_is_on_one_page_and_a_study_of_ten_thousand_is_a_page_like_any(tmp_path, database):
    filler().fill(database, 1, 250, 10_000)
    with served(tmp_path, database) as url:
        large, small = (study["id"] for study in get(f"{url}/studies").json()["studies"])
        pages = [get(f"{url}/ui/studies/{small}?page={number}").text for number in (1, 2, 3)]
        rows = [int(n) for text in pages for n in re.findall(r'<tr id="trial-(\d+)"', text)]
        assert rows == list(range(1, 251))
        assert get(f"{url}/ui/studies/{small}?page=4").text == pages[2]
        times = []
        for number in (1, 50, 100):
            begun = time.perf_counter()
            answer = get(f"{url}/ui/studies/{large}?page={number}")
            times.append(time.perf_counter() - begun)
            assert len(answer.content) < 300_000
        assert len(get(url).content) < 300_000
        assert min(times) < 3  # 0.1 s where nothing else runs


def test_every_best_configuration_has_its_yaml_finished_or_not(tmp_path, database):
    study_id = create(database, state=State.RUNNING)
    trial = {"label": "gamma", "overrides": {"loss.gamma": 4.0}, "baseline": None, "seed": 0, "noise_seed": None}
    trial |= {"reason": "", "started_at": 1e9, "ended_at": None, "stages": [], "epochs": 4, "epoch": 1, "metrics": {}}

    def write(connection: Any) -> None:
        study = store.load_study(connection, study_id)
        spec = {**store.load_spec(connection, study), "seeds": [0]}
        store.update_study(connection, study, spec=spec)
        rows = []
        for number in range(1, 11):  # seven finished configurations, and three that run
            state = "finished" if number <= 7 else "running"
            found = {"number": number, "configuration": number, "name": f"t{number}", "objective": 50.0 - number}
            rows.append({"study": study.number, **trial, "state": state, **found})
        connection.execute(tables.trials.insert(), rows)

    database.write(write)
    with served(tmp_path, database) as url:
        text = get(f"{url}/ui/studies/{study_id}").text
        links = [unescape(link) for link in re.findall(r'href="([^"]*format=yaml[^"]*)"', text)]
        ranks = [int(link.partition("rank=")[2]) for link in links]
        assert ranks == [1, 2, 3, 4, 5, 8, 9, 10]
        for rank, link in zip(ranks, links, strict=True):
            assert get(url + link).text.startswith(f"# Number {rank} of study {study_id}: gamma")


@pytest.fixture
def evil(database: Database) -> str:
    """The id of a study all whose texts are malicious, and of which no endpoint let the name pass."""
    study = create(database, state=State.RUNNING, reason=EVIL, trial={"label": EVIL, "state": "failed", "reason": EVIL})
    mine = tables.studies.c.id == study
    database.write(lambda connection: connection.execute(tables.studies.update().where(mine).values(name=EVIL)))
    return study


def test_what_people_write_is_text(tmp_path, database, evil):
    with served(tmp_path, database) as url:
        for path, times in (("/", 2), (f"/ui/studies/{evil}", 5)):
            text = get(url + path).text
            assert "<img" not in text
            own = re.findall(r'<script src="/ui/[a-z]+\.js" defer></script>', text)
            assert text.count("<script") == len(own), "its own, and none in the page"
            assert text.count("&lt;script&gt;document.title = &#39;taken&#39;") >= times


@needs_browser
def test_what_people_write_does_nothing_in_a_browser(tmp_path, database, evil, browser):
    with served(tmp_path, database) as url:
        browser.open(url)
        assert browser.js("document.title").startswith("Studies")
        assert browser.js("document.querySelector('.card a').textContent") == EVIL
        assert browser.js("document.querySelector('.why').textContent") == EVIL
        browser.open(f"{url}/ui/studies/{evil}")
        for place in ("h1", ".question", "#now .why", "#trial-1 .label", "#trial-1 .long"):
            assert browser.js(f"document.querySelector('{place}').textContent") == EVIL, place
        assert browser.js("document.querySelectorAll('img').length") == 0
        assert browser.js("[...document.scripts].map(s => s.getAttribute('src')).join()") == (
            "/ui/live.js,/ui/uplot.js,/ui/plot.js,/ui/parallel.js"
        )
        assert browser.complaints == []


CONTRASTS = """
[...document.querySelectorAll('main *, footer, footer *, .bar *')].filter(e => e.checkVisibility() &&
  [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())).map(e => {
    const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => v / 255).map(
      v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    let under = e;
    while (getComputedStyle(under).backgroundColor === 'rgba(0, 0, 0, 0)') under = under.parentElement;
    const [a, b] = [getComputedStyle(e).color, getComputedStyle(under).backgroundColor].map(light);
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 80)];
  }).filter(([ratio]) => ratio < 4.5)
"""
"""Text that is hard to read: WCAG 2.1, 1.4.3."""


@needs_browser
def test_it_is_readable_on_a_phone_and_in_the_dark(tmp_path, database, browser):
    filler().fill(database, 12, 80)
    create(database, "a_study_with_quite_a_long_name_as_people_give_them_0123456789ab", State.PAUSED)
    with served(tmp_path, database) as url:
        largest = get(f"{url}/studies").json()["studies"][1]["id"]
        for path in ("/", f"/ui/studies/{largest}"):
            for width, dark in ((1200, False), (400, True), (400, False), (1200, True)):
                browser.look(width, dark=dark)
                browser.open(url + path)
                assert browser.js("document.documentElement.scrollWidth") <= width, path
                assert (browser.js("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 30)") is dark
                assert browser.js(CONTRASTS) == [], (path, dark)
        assert browser.complaints == [], "nothing that the page asks for was refused"


@needs_browser
def test_it_can_be_walked_with_the_keyboard(tmp_path, database, browser):
    filler().fill(database, 2, 8)
    create(database)
    with served(tmp_path, database) as url:
        browser.open(url)
        browser.press("Tab")
        assert browser.js("document.activeElement.className") == "skip"
        browser.press("Enter")
        assert browser.js("location.hash") == "#main"
        browser.press("Tab")
        assert browser.js("document.activeElement.closest('main') !== null")
        for _ in range(5):  # over the search
            if not browser.js("document.activeElement.matches('.card a')"):
                browser.press("Tab")
        browser.after_load(lambda: browser.press("Enter"))
        assert "/ui/studies/" in browser.js("location.pathname")
        named = "a, button, input:not([type=hidden]), [role=region], svg[role=img]"
        unnamed = f"[...document.querySelectorAll('{named}')].filter(e => "
        unnamed += "!(e.textContent.trim() || e.ariaLabel || e.getAttribute('aria-labelledby') || e.labels?.length))"
        assert browser.js(f"{unnamed}.map(e => e.outerHTML)") == []


@needs_browser
def test_it_follows_without_losing_the_readers_place(tmp_path, database, browser):
    filler().fill(database, 1, 40)
    create(database, "the_newest")
    with served(tmp_path, database) as url:
        study = get(f"{url}/studies").json()["studies"][1]["id"]
        browser.look(1200)
        browser.open(f"{url}/ui/studies/{study}")
        browser.js("window.here = true; document.querySelector('#best-yaml').open = true; 0")
        browser.js("document.querySelector('#best a').focus(); 0")
        row = (tables.trials.c.number == 1, tables.studies.c.id == study)
        database.write(lambda c: c.execute(tables.trials.update().where(row[0]).values(label="now another")))
        database.write(lambda c: c.execute(tables.studies.update().where(row[1]).values(reason="now another")))
        until = time.monotonic() + 60
        while browser.js("document.querySelector('#trial-1 .label').textContent") != "now another":
            assert time.monotonic() < until
            time.sleep(0.2)
        assert browser.js("document.querySelector('#now .why').textContent") == "now another"
        assert browser.js("here && document.querySelector('#best-yaml').open")
        assert browser.js("document.activeElement.closest('#best') !== null")
        assert browser.js("document.getElementById('trouble').textContent") == ""
    until = time.monotonic() + 60
    while not browser.js("document.getElementById('trouble').textContent"):  # the service is gone now
        assert time.monotonic() < until
        time.sleep(0.2)
    assert "does not answer" in browser.js("document.getElementById('trouble').textContent")


@needs_browser
def test_a_browser_signs_in_by_a_form_and_may_only_read(tmp_path, database, browser):
    study = create(database, "secret_plan")
    with served(tmp_path, database, tokens=TOKENS) as url:
        browser.open(f"{url}/ui/studies/{study}?page=1")
        assert "secret_plan" not in browser.js("document.querySelector('main').textContent")

        def sign_in(secret: str) -> None:
            browser.js(f"document.getElementById('token').value = {secret!r}; 0")
            browser.after_load(lambda: browser.js("document.querySelector('.signin button').click(); 0"))

        sign_in("wrong-secret")
        assert browser.js("document.querySelector('[role=alert]').textContent").startswith("This is not a token")
        sign_in("secret-of-anna")
        assert browser.js("location.pathname + location.search") == f"/ui/studies/{study}?page=1"
        assert browser.js("document.querySelector('h1').textContent") == "secret_plan"
        assert browser.js("document.cookie") == "", "no script reads it"
        assert browser.js(f"fetch('/studies/{study}').then(a => a.status)") == 200
        assert browser.js(f"fetch('/studies/{study}/cancel', {{method: 'POST'}}).then(a => a.status)") == 403
        assert (
            get(f"{url}/studies/{study}", headers={"Authorization": "Bearer secret-of-anna"}).json()["state"]
            == "queued"
        )
        browser.after_load(lambda: browser.js("document.querySelector('.bar button').click(); 0"))
        assert browser.js("document.querySelector('h1').textContent") == "Sign in"


def test_who_has_no_pass_sees_nothing(tmp_path, database):
    study = create(database, "secret_plan", State.PAUSED, "for a reason")
    with served(tmp_path, database, tokens=TOKENS) as url:
        for path in ("/", f"/ui/studies/{study}", f"/ui/studies/{study}/report.html"):
            answer = get(url + path)
            assert (answer.status_code, "reason" in answer.text) == (401, False)
        form = {"token": "secret-of-bilal", "then": "//elsewhere.example/"}
        answer = httpx2.post(f"{url}/ui/signin", data=form, trust_env=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
        assert "secret" not in cookie
        shown = get(url, headers={"Cookie": cookie.partition(";")[0]})
        assert (shown.status_code, "secret_plan" in shown.text, "bilal" in shown.text) == (200, True, True)
        foreign = httpx2.post(f"{url}/ui/signin", data=form, headers={"Origin": "http://evil.example"}, trust_env=False)
        assert foreign.status_code == 403


def test_a_pass_ends_when_its_browser_signs_out_also_for_who_has_copied_it(tmp_path, database):
    with served(tmp_path, database, tokens=TOKENS) as url:

        def signed_in() -> dict[str, str]:
            answer = httpx2.post(f"{url}/ui/signin", data={"token": "secret-of-bilal"}, trust_env=False)
            return {"Cookie": answer.headers["set-cookie"].partition(";")[0]}

        first, other = signed_in(), signed_in()
        assert get(url, headers=first).status_code == get(f"{url}/studies", headers=first).status_code == 200
        assert httpx2.post(f"{url}/ui/signout", headers=first, trust_env=False).status_code == 303
        assert get(url, headers=first).status_code == get(f"{url}/studies", headers=first).status_code == 401
        assert get(url, headers=other).status_code == 200, "another browser of the same user"
    with served(tmp_path, database, tokens=TOKENS) as url:
        assert get(url, headers=first).status_code == 401, "also after a restart"


def test_wrong_tokens_cannot_be_tried_one_after_the_other(tmp_path, database, monkeypatch):
    with served(tmp_path, database, tokens=TOKENS) as url:

        def sign_in(token: str) -> httpx2.Response:
            return httpx2.post(f"{url}/ui/signin", data={"token": token}, trust_env=False)

        assert [sign_in(f"guess-number-{n}").status_code for n in range(attempts.MAX_WRONG)] == [401] * 10
        refused = sign_in("secret-of-bilal")
        assert (refused.status_code, "set-cookie" in refused.headers) == (429, False)
        assert 0 < int(refused.headers["retry-after"]) <= attempts.WINDOW_SECONDS
        assert get(f"{url}/studies", headers={"Authorization": "Bearer secret-of-bilal"}).status_code == 200
        monkeypatch.setattr(attempts, "WINDOW_SECONDS", 0.0)
        assert sign_in("secret-of-bilal").status_code == 303


def test_guesses_are_counted_by_address_and_few_addresses_are_remembered():
    counted = attempts.Attempts()
    for n in range(attempts.MAX_WRONG):
        counted.note_wrong(f"2001:db8::{n}")
    assert counted.wait_seconds("2001:db8::ffff") > 0, "one user has 2**64 of them"
    assert counted.wait_seconds("2001:db8:0:1::1") == counted.wait_seconds("10.0.0.1") == 0
    for n in range(attempts.MAX_ADDRESSES):
        counted.note_wrong(f"10.1.{n // 256}.{n % 256}")
    assert len(counted._wrong) == attempts.MAX_ADDRESSES
    assert counted.wait_seconds("2001:db8::ffff") == 0


def test_a_sign_in_form_of_many_fields_is_no_error_of_the_service(tmp_path, database):
    with served(tmp_path, database, tokens=TOKENS) as url:
        answer = httpx2.post(f"{url}/ui/signin", data={f"a{n}": "1" for n in range(20)}, trust_env=False)
        assert (answer.status_code, "Sign in" in answer.text) == (422, True)


def test_strangers_are_not_told_where_ray_is(tmp_path, database):
    where = "http://10.99.99.99:8265"
    with served(tmp_path, database, tokens=TOKENS, ray_address="http://127.0.0.1:9", mlflow_tracking_uri=where) as url:
        told = get(f"{url}/readyz").json()
        assert (told["ready"], told["ray"]["ok"], told["ray"]["detail"]) == (True, False, "does not answer")
        assert told["mlflow"]["detail"] == "does not answer"
        known = get(f"{url}/readyz", headers={"Authorization": "Bearer secret-of-bilal"}).json()
        assert "127.0.0.1:9" in known["ray"]["detail"]


@pytest.mark.parametrize("kept", [False, True], ids=["the proxy takes the prefix away", "the proxy leaves the prefix"])
def test_behind_a_proxy_everything_stands_below_the_prefix(tmp_path, database, kept):
    study = create(database, state=State.PAUSED)
    with served(tmp_path, database, tokens=TOKENS, root_path="/lncis") as url:
        at = f"{url}/lncis" if kept else url
        asked = get(f"{at}/ui/studies/{study}?page=1")
        assert asked.status_code == 401
        (then,) = re.findall(r'name="then" value="([^"]*)"', asked.text)
        assert then == f"/lncis/ui/studies/{study}?page=1"
        form, public = {"token": "secret-of-bilal", "then": then}, "https://team.example"
        # as nginx sends it with `proxy_set_header Host $http_host`
        headers = {"Host": "team.example", "Origin": public, "X-Forwarded-Proto": "https"}
        answer = httpx2.post(f"{at}/ui/signin", data=form, headers=headers, trust_env=False)
        assert (answer.status_code, answer.headers["location"]) == (303, then)
        assert {"Path=/lncis/", "Secure"} <= set(answer.headers["set-cookie"].split("; "))
        cookie = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
        for path in ("/", f"/ui/studies/{study}", "/docs"):
            shown = get(at + path, headers=cookie)
            assert shown.status_code == 200
            own = re.findall(r'(?:href|src|action)="(/[^"]*)"', shown.text)
            assert own
            assert all(link.startswith("/lncis/") for link in own), own
        assert get(f"{at}/ui/page.css").status_code == 200
        assert get(f"{at}/openapi.json").json()["servers"] == [{"url": "/lncis"}]
        token = {"Authorization": "Bearer secret-of-anna"}
        made = httpx2.post(f"{at}/studies", json={"preset": "first"}, headers=token, trust_env=False)
        assert made.headers["location"] == f"/lncis/studies/{made.json()['id']}"
        with Client(f"{url}/lncis", token="secret-of-bilal") as client:
            assert client.get(study).id == study


def test_a_pass_ends_with_its_time_and_with_its_token(monkeypatch):
    begun = time.time()
    good = new_pass("secret-of-anna", TOKENS)
    assert good
    caller = caller_of_pass(good, TOKENS)
    assert caller
    assert (caller.user, caller.may_write) == ("anna", False)
    value, since, signature = good.split(".")
    monkeypatch.setattr("time.time", lambda: begun + 3600)
    _, later, _ = new_pass("secret-of-anna", TOKENS).split(".")
    forged = f"{value}.{later}.{signature}"
    for bad in (None, "", ".", good[:-1], forged, f"{value}.{since}.", "\ud800.é", f"é.{signature}"):
        assert caller_of_pass(bad, TOKENS) is None
    assert caller_of_pass(good, TOKENS[1:]) is None
    assert new_pass("secret-of-nobody", TOKENS) is None
    assert new_pass("anything", []) is None
    monkeypatch.setattr("time.time", lambda: begun + auth.PASS_SECONDS + 2)
    assert caller_of_pass(good, TOKENS) is None
    assert PASS_COOKIE.isidentifier()


@pytest.mark.parametrize(
    "path", ["//evil.example", "/\\evil.example", "https://evil.example", "/a\nb", "", "javascript:1"]
)
def test_nobody_is_led_elsewhere(path):
    assert rendering.own(path, "") == "/"
    assert rendering.own(path, "/lncis") == "/lncis/"
    assert rendering.own("/ui/studies/a?page=2", "") == "/ui/studies/a?page=2"
    assert rendering.own("/ui/studies/a", "/lncis") == "/lncis/"


def test_of_a_studys_folder_only_what_is_for_people_is_served(tmp_path, database):
    study = create(database)
    folder = tmp_path / "runs" / study
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("<h1>report</h1>")
    (folder / "checkpoint.pt").write_text("weights")
    (tmp_path / "secret").write_text("secret")
    (folder / "table.csv").symlink_to(tmp_path / "secret")
    with served(tmp_path, database) as url:
        answer = get(f"{url}/ui/studies/{study}/report.html")
        assert answer.text == "<h1>report</h1>"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'unsafe-inline';")
        assert "script-src" not in answer.headers["content-security-policy"]
        for name in ("table.csv", "checkpoint.pt", "best.yaml", "..%2F..%2Fsecret", "%2e%2e%2f%2e%2e%2fsecret"):
            assert get(f"{url}/ui/studies/{study}/{name}").status_code == 404, name
        text = get(f"{url}/ui/studies/{study}").text
        assert f'href="/ui/studies/{study}/report.html"' in text
        assert "table.csv" not in text


def test_no_page_asks_anyone_else_for_anything(tmp_path, database):
    study = create(database)
    with served(tmp_path, database) as url:
        for path in ("/", f"/ui/studies/{study}", "/ui/studies/never"):
            answer = get(url + path)
            assert answer.headers["content-security-policy"] == page.HEADERS["Content-Security-Policy"]
            assert re.findall(r"(?:src|href)=\"(?!/|#|data:,)[^\"]*", answer.text) == []
            assert "style=" not in answer.text


def test_the_reference_of_the_api_loads_nothing_from_elsewhere(tmp_path, database):
    with served(tmp_path, database) as url:
        answer = get(f"{url}/docs")
        assert "url: '/openapi.json'" in answer.text
        assert re.findall(r"(?:src|href)=\"(?!/|data:,)[^\"]*", answer.text) == []
        assert '"validatorUrl": null' in answer.text
        (script,) = re.findall(r"<script>(.*?)</script>", answer.text, flags=re.DOTALL)
        digest = b64encode(sha256(script.encode()).digest()).decode()
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["script-src"] == f"'self' 'sha256-{digest}'"
        assert policy["default-src"] == "'none'"
        for name, kind in (("swagger-ui-bundle.js", "javascript"), ("swagger-ui.css", "css")):
            assert f'"/ui/{name}"' in answer.text
            part = get(f"{url}/ui/{name}")
            assert (part.status_code, kind in part.headers["content-type"]) == (200, True)
        assert not [path for path in get(f"{url}/openapi.json").json()["paths"] if path.startswith("/ui")]


@needs_browser
def test_the_reference_of_the_api_shows_every_operation(tmp_path, database, browser):
    with served(tmp_path, database) as url:
        operations = [m for methods in get(f"{url}/openapi.json").json()["paths"].values() for m in methods]
        browser.open(f"{url}/docs")
        until = time.monotonic() + 60
        while browser.js("document.querySelectorAll('.opblock').length") != len(operations):
            assert time.monotonic() < until
            time.sleep(0.2)
        assert browser.complaints == [], "nothing that the page asks for was refused"


def points(path: str, chart: curves.Chart) -> list[tuple[float, float]]:
    """Return the values that a path of M, L and h0 stands for, from its places in the box."""
    places = [[float(part) for part in place.split()] for place in re.findall(r"[ML]([^MLhZ]+)", path)]
    (x0, x1), (y0, y1) = chart.x, chart.y
    return [
        (x0 + (x - 3) / (curves.WIDTH - 6) * (x1 - x0), y1 - (y - 4) / (curves.HEIGHT - 8) * (y1 - y0))
        for x, y in places
    ]


def test_curves_stand_where_their_values_are():
    values = [(1, 4.0), (2, None), (3, 9.0), (4, float("nan")), (5, 6.5), (8, 12.0)]
    chart = curves.by_trial(values, "max")
    assert chart
    assert (chart.x, chart.y) == ((1.0, 8.0), (4.0, 12.0))
    there = [(n, v) for n, v in values if v is not None and v == v]
    for found, expected in zip(points(chart.dots, chart), there, strict=True):
        assert found == pytest.approx(expected, abs=0.05)
    steps = [part for part in re.findall(r"[HV][\d.]+", chart.lines[0].path) if part[0] == "V"]
    assert len(steps) == 2, "4 -> 9 -> 12: best so far"
    assert len(re.findall("V", curves.by_trial(values, "min").lines[0].path)) == 0, "the first is the least"
    assert curves.by_trial([(1, None)], "max") is None
    assert curves.by_epoch([("a", [])]) is None
    learnt = curves.by_epoch([("a", [(4.0, 1.0), (8.0, 3.0)]), ("b", [(4.0, 2.0)])])
    assert learnt
    (x0, y0), (x1, y1) = points(learnt.lines[0].path, learnt)
    assert [x0, y0, x1, y1] == pytest.approx([4.0, 1.0, 8.0, 3.0], abs=0.05)
    assert [line.label for line in learnt.lines] == ["a", "b"]


def test_links_to_mlflow_follow_it_to_another_address(tmp_path, database):
    study = create(database)
    run = {"experiment_id": "1", "run_id": "a/b"}
    database.write(lambda c: c.execute(tables.studies.update().values(mlflow_run=run)))
    for at in ("http://127.0.0.1:5000/", "https://mlflow.example"):
        link = f"{at.rstrip('/')}/#/experiments/1/runs/a%2Fb?workflowType=machine_learning"
        with served(tmp_path, database, mlflow_tracking_uri=at) as url:
            for path in ("/", f"/ui/studies/{study}"):
                assert f'href="{link}"' in get(url + path).text
            assert get(f"{url}/studies/{study}").json()["mlflow_url"] == link
            assert get(f"{url}/studies").json()["studies"][0]["mlflow_url"] == link
    with served(tmp_path, database, mlflow_tracking_uri="sqlite:///mlflow.db") as url:
        assert get(f"{url}/studies/{study}").json()["mlflow_url"] is None, "no server, no link"
        assert "MLflow run" not in get(f"{url}/ui/studies/{study}").text


def test_many_trials_are_a_band_of_their_least_and_greatest():
    values = [(n, float((n * 7919) % 1000)) for n in range(1, 10_001)]
    chart = curves.by_trial(values, "max")
    assert chart
    assert not chart.dots
    band = points(chart.band, chart)
    assert len(band) == 2 * curves.BINS
    for number in (0, 37, 99):
        part = [value for _, value in values[number * 100 : (number + 1) * 100]]
        assert band[number][1] == pytest.approx(min(part), abs=0.6)
        assert band[-1 - number][1] == pytest.approx(max(part), abs=0.6)


def test_the_time_left_is_the_pace_of_the_latest_epochs(database):
    study_id = create(database, state=State.RUNNING)
    with database.engine.connect() as connection:
        study = store.load_study(connection, study_id)

    def left(pace: float | None = 2.5, **columns: Any) -> float | None:
        values = {"trials_total": 10, "epochs_total": 100, "epochs_done": 60, **columns}
        return views.seconds_left(replace(study, **values), pace)

    assert left() == pytest.approx(2.5 * 40)
    assert left(trials_finished=6, trials_pruned=2, trials_failed=1) == pytest.approx(2.5 * 10), "one is to come"
    assert left(pace=None) is None
    assert left(state=State.PAUSED) is None


def test_the_pace_is_no_other_when_ray_was_away_or_workers_take_long_to_start(database):
    """Twenty epochs of 3 s each, ten of them in the dark; a pause before them; a state that is 1 s old."""
    study_id = create(database)

    def event(at: float, kind: str, **data: Any) -> None:
        def write(connection: Any) -> None:
            study = store.load_study(connection, study_id, to_change=True)
            row = {"study": study.number, "number": study.events + 1, "at": at, "type": kind, "data": data}
            connection.execute(tables.events.insert(), row)
            store.update_study(connection, study, events=study.events + 1)

        database.write(write)

    def pace() -> float | None:
        return database.read(lambda c: findings.seconds_an_epoch(c, store.load_study(c, study_id)))

    event(0.0, "state", state="running", reason="")
    event(100.0, "epoch_finished", epoch=1)
    assert pace() is None
    event(1000.0, "epoch_finished", epoch=2)
    assert pace() == 900
    event(2000.0, "state", state="paused", reason="paused")
    event(9000.0, "state", state="running", reason="")
    assert pace() is None, "what was before the pause says nothing"
    for number in range(20):
        event(9060.0 + 3 * number, "epoch_finished", epoch=number)
    assert pace() == pytest.approx(3.0)
    event(9999.0, "state", state="running", reason="another word")
    assert pace() == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.6, "1 min 0 s"), (3661, "1 h 1 min"), (90061, "1 d 1 h"), (86400, "1 d 0 h")]
)
def test_durations_have_two_units(seconds, text):
    assert rendering._duration(seconds) == text
