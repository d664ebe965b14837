"""The buttons of a study's page: what they do, for whom they are there, and that no other site can press them."""

import http.server
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from browser import Browser
from fake_ray import SPEC, FakeRay
from served import eventually, served

from lncis.client import Client
from service.auth import PASS_COOKIE, caller_of_pass, new_pass, parse_tokens
from service.store.database import Database

TOKENS = parse_tokens("anna:write:secret-of-anna,bilal:read:secret-of-bilal")


@pytest.fixture
def url(tmp_path: Path, database: Database, ray: FakeRay) -> Iterator[str]:
    """With tokens; its studies run until they are let go on."""
    ray.hold_after = 0
    with served(tmp_path, database, ray_address=ray.address, tokens=TOKENS) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, "secret-of-anna") as made:
        yield made


def running(client: Client) -> Any:
    study = client.submit(SPEC)
    return eventually(lambda: (now := client.get(study.id)).state == "running" and now)


SignIn = Callable[..., httpx2.Client]


@pytest.fixture
def signed_in(url: str) -> Iterator[SignIn]:
    with ExitStack() as stack:

        def sign_in(secret: str = "secret-of-anna", *, acts: bool = True) -> httpx2.Client:
            client = httpx2.Client(timeout=60, base_url=url, follow_redirects=True, trust_env=False)
            browser = stack.enter_context(client)
            browser.post("/ui/signin", data={"token": secret, "then": "/"} | ({"acts": "on"} if acts else {}))
            assert browser.cookies
            return browser

        yield sign_in


def key_of(page: str) -> str:
    found = re.search(r'name="key" value="([0-9a-f]{64})"', page)
    assert found
    return found[1]


def press(browser: httpx2.Client, study: Any, action: str, **more: str) -> httpx2.Response:
    page = f"/ui/studies/{study.id}"
    return browser.post(f"{page}/act", data={"key": key_of(browser.get(page).text), "action": action, **more})


def test_buttons_do_what_they_say(url: str, client: Client, ray: FakeRay, signed_in: SignIn) -> None:
    study, browser = running(client), signed_in()
    answer = press(browser, study, "pause")
    assert answer.url.path == f"/ui/studies/{study.id}"
    eventually(lambda: client.get(study.id).state == "paused")
    press(browser, study, "priority", priority="7")
    assert client.get(study.id).priority == 7
    press(browser, study, "labels", labels=" paper, table 6 ,")
    assert client.get(study.id).labels == ["paper", "table 6"]
    press(browser, study, "resume")
    eventually(lambda: client.get(study.id).state == "running")
    press(browser, study, "cancel")
    eventually(lambda: client.get(study.id).state == "cancelled")
    press(browser, study, "archive")
    assert client.get(study.id).archived
    press(browser, study, "unarchive")
    assert not client.get(study.id).archived
    assert press(browser, study, "delete").url.path == "/"
    assert list(client.list()) == []


def test_a_spent_budget_is_raised_on_the_page(client: Client, ray: FakeRay, signed_in: SignIn) -> None:
    ray.hold_after = None
    study, browser = client.submit({**SPEC, "budget": {"epochs": 5}}), signed_in()
    eventually(lambda: client.get(study.id).state == "spent")
    assert (
        'name="epochs" inputmode="decimal" size="7" placeholder="none" value="5"'
        in browser.get(f"/ui/studies/{study.id}").text
    )
    for given, said in (
        ("5", "budget.epochs: must be more than 5, which are spent already, but got 5"),
        ("5.5", "A budget has positive numbers, whole ones of epochs; an empty field is no limit."),
        ("inf", "A budget has positive numbers"),
        ("many", "A budget has positive numbers"),
    ):
        answer = press(browser, study, "budget", epochs=given)
        assert answer.status_code == 422
        assert said in answer.text
    press(browser, study, "budget", epochs="", hours="9")
    eventually(lambda: client.get(study.id).state == "succeeded")
    assert client.get(study.id).spec["budget"] == {"epochs": None, "worker_hours": None, "hours": 9.0, "money": None}


def test_only_legal_buttons_are_there(url: str, client: Client, signed_in: SignIn) -> None:
    study, browser = running(client), signed_in()

    def buttons() -> set[str]:
        return set(re.findall(r'name="action" value="(\w+)"', browser.get(f"/ui/studies/{study.id}").text))

    eventually(lambda: next(client.trials(study.id), None))
    assert buttons() == {"pause", "drain", "cancel", "priority", "budget", "labels", "stop"}
    client.cancel(study.id)
    eventually(lambda: client.get(study.id).over)
    assert buttons() == {"labels", "archive", "delete"}
    refused = press(browser, study, "pause")
    assert refused.status_code == 409
    assert "is cancelled, so it cannot pause" in refused.text
    assert f'href="/ui/studies/{study.id}"' in refused.text


def test_a_form_without_the_key_of_its_user_does_nothing(url: str, client: Client, signed_in: SignIn) -> None:
    study, browser = running(client), signed_in()
    for given in ({"key": ""}, {"key": "0" * 64}, {}, {"key": "\u00fc"}):
        refused = browser.post(f"/ui/studies/{study.id}/act", data={**given, "action": "cancel"})
        assert refused.status_code == 403, given
        assert "not of a page of yours" in refused.text
        assert client.get(study.id).state == "running"


def test_the_key_of_another_pass_does_nothing(url: str, client: Client, signed_in: SignIn) -> None:
    study, browser, other = running(client), signed_in(), signed_in()
    key = key_of(other.get(f"/ui/studies/{study.id}").text)
    assert browser.post(f"/ui/studies/{study.id}/act", data={"key": key, "action": "cancel"}).status_code == 403
    other.post("/ui/signout")
    assert other.post(f"/ui/studies/{study.id}/act", data={"key": key, "action": "cancel"}).status_code == 401
    assert client.get(study.id).state == "running"


def test_a_request_of_a_foreign_page_does_nothing_even_with_the_key(
    url: str, client: Client, signed_in: SignIn
) -> None:
    study, browser = running(client), signed_in()
    form = {"key": key_of(browser.get(f"/ui/studies/{study.id}").text), "action": "cancel"}
    refused = browser.post(f"/ui/studies/{study.id}/act", data=form, headers={"Origin": "http://evil.example"})
    assert refused.status_code == 403
    assert client.get(study.id).state == "running"


@pytest.mark.parametrize(("secret", "acts"), [("secret-of-anna", False), ("secret-of-bilal", True)])
def test_a_browser_that_may_only_read_has_no_buttons(
    url: str, client: Client, secret: str, acts: bool, signed_in: SignIn
) -> None:
    study, browser = running(client), signed_in(secret, acts=acts)
    page = browser.get(f"/ui/studies/{study.id}").text
    assert 'name="action"' not in page
    assert "This browser may only read" in page
    refused = browser.post(f"/ui/studies/{study.id}/act", data={"key": "", "action": "cancel"})
    assert refused.status_code == 403
    assert "may only read" in refused.text
    assert client.get(study.id).state == "running"


def test_a_pass_that_acts_by_forms_never_writes_by_the_api(url: str, client: Client, signed_in: SignIn) -> None:
    study, browser = running(client), signed_in()
    assert browser.post(f"/studies/{study.id}/cancel").status_code == 403
    assert browser.delete(f"/studies/{study.id}").status_code == 403


def test_a_pass_to_read_cannot_become_one_to_act() -> None:
    read, act = new_pass("secret-of-anna", TOKENS), new_pass("secret-of-anna", TOKENS, acts=True)
    reader, actor = caller_of_pass(read, TOKENS), caller_of_pass(act, TOKENS)
    assert reader
    assert actor
    assert (reader.form_key, reader.may_write, actor.may_write) == ("", False, False)
    assert re.fullmatch("[0-9a-f]{64}", actor.form_key)
    of_reader = caller_of_pass(new_pass("secret-of-bilal", TOKENS, acts=True), TOKENS)
    assert of_reader
    assert of_reader.form_key == ""
    only_read_now = parse_tokens("anna:read:secret-of-anna")
    demoted = caller_of_pass(act, only_read_now)  # the token lost its scope, the browser still has the pass
    assert demoted
    assert demoted.form_key == ""


def test_priorities_and_labels_that_are_none_are_refused(url: str, client: Client, signed_in: SignIn) -> None:
    study, browser = running(client), signed_in()
    for given in ("", "seven", "1.5", "1001", "-9999"):
        answer = press(browser, study, "priority", priority=given)
        assert answer.status_code == 422, given
        assert "A priority is a whole number from -1000 to 1000" in answer.text
    for given in ("x" * 41, ",".join(str(number) for number in range(21)), "a\nb"):
        assert press(browser, study, "labels", labels=given).status_code == 422, given
    assert (client.get(study.id).priority, client.get(study.id).labels) == (0, [])


def test_what_no_form_sends_is_refused(url: str, client: Client, signed_in: SignIn) -> None:
    study, browser = running(client), signed_in()
    assert press(browser, study, "explode").status_code == 422
    assert press(browser, study, "stop", trial="a\0b").status_code == 422
    assert browser.post(f"/ui/studies/{study.id}/act", content="&".join(["a=b"] * 20)).status_code == 422
    unknown = browser.post(
        "/ui/studies/unknown/act",
        data={"key": key_of(browser.get(f"/ui/studies/{study.id}").text), "action": "cancel"},
    )
    assert unknown.status_code == 404


def test_without_tokens_forms_have_a_key_too(tmp_path: Path, database: Database, ray: FakeRay) -> None:
    ray.hold_after = 0
    with served(tmp_path, database, ray_address=ray.address) as url, Client(url) as client:
        study = running(client)
        with httpx2.Client(timeout=60, base_url=url, follow_redirects=True, trust_env=False) as browser:
            assert browser.post(f"/ui/studies/{study.id}/act", data={"action": "cancel"}).status_code == 403
            assert press(browser, study, "cancel").status_code == 200
        eventually(lambda: client.get(study.id).state == "cancelled")


@contextmanager
def foreign_page(target: str) -> Iterator[str]:
    """A page of another site that sends a form to ours as soon as it is open."""
    html = (
        f'<form method="post" action="{target}"><input name="action" value="cancel"><input name="key" value=""></form>'
        "<script>document.forms[0].submit()</script>"
    ).encode()

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(html)))
            self.end_headers()
            self.wfile.write(html)

        def log_message(self, *said: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://localhost:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_in_a_browser_a_button_works_and_a_foreign_page_does_not(url: str, client: Client, browser: Browser) -> None:
    study = running(client)
    page = f"{url}/ui/studies/{study.id}"
    browser.open(page)
    browser.js(
        "document.querySelector('[name=token]').value = 'secret-of-anna'; document.querySelector('[name=acts]').click()"
    )
    browser.after_load(lambda: browser.js("document.querySelector('.signin button').click()"))
    assert "Pause" in browser.js("document.getElementById('controls').innerText")

    with foreign_page(f"{page}/act") as evil:
        browser.after_load(lambda: browser.open(evil))
        eventually(lambda: "must not come from pages of" in browser.js("document.body.innerText"))
    assert client.get(study.id).state == "running"
    assert PASS_COOKIE

    browser.complaints.clear()
    browser.open(page)
    browser.js("document.querySelector('#surely-cancel summary').click()")
    assert "It ends for good" in browser.js("document.getElementById('controls').innerText")
    browser.after_load(lambda: browser.js("document.querySelector('#surely-cancel button').click()"))
    eventually(lambda: client.get(study.id).state == "cancelled")
    assert browser.js("location.pathname") == f"/ui/studies/{study.id}"
    assert browser.complaints == []
