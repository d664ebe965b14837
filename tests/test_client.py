"""lncis.client and `lncis study submit ...` against services that really answer, refuse, and die."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from fake_ray import SPEC, FakeRay
from served import ROOT, Service, filler, served
from typer.testing import CliRunner

from lncis import client, documents
from lncis.client import Client
from lncis.commands import app as cli
from lncis.config import TrainConfig
from lncis.errors import ConfigError, LncisError, ServiceError
from lncis.studies.spec import StudySpec
from service.auth import parse_tokens
from service.store.database import Database

runner = CliRunner()


@pytest.fixture(autouse=True)
def no_service_of_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (client.URL, client.TOKEN):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def idle(tmp_path: Path, database: Database) -> Iterator[str]:
    """Without Ray: what is queued stays queued."""
    with served(tmp_path, database) as address:
        yield address


def test_a_study_is_submitted_watched_and_its_best_taken_home(url):
    spec = documents.parse(StudySpec, SPEC, source="test")
    with Client(url) as service:
        study = service.submit(spec)
        assert (study.state, study.name, study.progress.trials_total) == ("queued", spec.name, 6)
        seen = list(service.watch(study.id))
        assert [event.number for event in seen] == [*range(1, len(seen)), len(seen) - 1], "each once; `end` has none"
        kinds = [event.type for event in seen]
        assert kinds.count("trial_ended") == 6
        assert kinds.count("epoch_finished") == 24
        assert (kinds[-1], seen[-1].data) == ("end", {"state": "succeeded"})
        done = service.get(study.id)
        assert done.over
        assert done.spec is not None
        assert documents.parse(StudySpec, done.spec, source="test") == spec
        assert done.best
        best = service.best(study.id, top=1)[0]
        assert (best.label, best.status) == (done.best.label, "finished")
        assert str(best.objective) == "12.2 ± 3.2"
        config = documents.parse(TrainConfig, yaml.safe_load(service.best_yaml(study.id)), source="best")
        assert documents.dump(config) == best.config
        assert [trial.state for trial in service.trials(study.id)] == ["finished"] * 6
        assert list(service.watch(study.id, after=done.last_event)) == [], "over already"
        assert [event.type for event in service.watch(study.id, after=done.last_event - 1)] == ["state", "end"]


def test_what_the_service_refuses_names_every_mistake(idle):
    with Client(idle) as service:
        with pytest.raises(ServiceError) as refused:
            service.submit({**SPEC, "seeds": [0, 0], "objektive": {}})
        assert (refused.value.status, refused.value.exit_code) == (422, 2)
        assert any(line.startswith("objektive: no such field") for line in refused.value.problems)
        assert "\n" not in str(refused.value)
        study = service.submit(SPEC, key="once")
        assert service.submit(SPEC, key="once").id == study.id
        with pytest.raises(ServiceError, match=r"seeds: was \[0, 1\], now \[0, 2\]") as refused:
            service.submit({**SPEC, "seeds": [0, 2]}, key="once")
        assert refused.value.status == 409
        with pytest.raises(ServiceError, match="cannot resume") as refused:
            service.resume(study.id)
        assert (refused.value.status, refused.value.legal) == (409, ["cancel"])
        assert service.cancel(study.id).state == "cancelled"
        with pytest.raises(ServiceError, match="there is no study never") as refused:
            service.get("never")
        assert refused.value.status == 404
        for odd in ("", "..", "a/b", "a?b"):
            with pytest.raises(ConfigError):
                service.get(odd)


def test_a_preset_a_list_and_the_queue(idle, monkeypatch):
    monkeypatch.setattr(client, "PAGE_SIZE", 2)
    with Client(idle) as service:
        made = [
            service.submit({"preset": "first", "set": {"noise.rate": rate}}).id for rate in (0.1, 0.2, 0.3, 0.4, 0.5)
        ]
        assert [study.id for study in service.list()] == made[::-1]
        assert [study.id for study in islice(service.list(state="queued"), 3)] == made[:1:-1]
        assert list(service.list(owner="nobody")) == []
        assert [(w.position, w.id) for w in service.queue()] == list(enumerate(made, 1))
        assert "Ray" in service.queue()[0].why
        assert service.get(made[0]).spec["base"]["noise"]["rate"] == 0.1


def test_a_token_opens_what_it_may(tmp_path, database, monkeypatch):
    tokens = parse_tokens("anna:write:secret-of-anna,bilal:read:secret-of-bilal")
    with served(tmp_path, database, tokens=tokens) as url:
        monkeypatch.setenv(client.URL, url)
        with Client() as service, pytest.raises(ServiceError, match="set LNCIS_TOKEN") as refused:
            service.get("a")
        assert (refused.value.status, refused.value.exit_code) == (401, 1)
        monkeypatch.setenv(client.TOKEN, "secret-of-anna")
        with Client() as service:
            study = service.submit(SPEC)
        with Client(token="secret-of-bilal") as service:
            assert service.get(study.id).owner == "anna"
            with pytest.raises(ServiceError, match="bilal may read, not write"):
                service.cancel(study.id)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a", "http://", "nonsense"])
def test_what_is_no_address_is_said_before_anything_is_sent(url):
    with pytest.raises(ConfigError, match=r"LNCIS_SERVICE_URL: must be an address such as http://127\.0\.0\.1:8000"):
        Client(url)


@pytest.mark.parametrize("answer", [(500, b"<h1>proxy</h1>"), (200, b"<h1>hello</h1>"), (200, b"{}"), (200, b"[]")])
def test_another_server_there_is_found_out(answer, monkeypatch):
    def handler(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(answer[0], content=answer[1])

    service = Client("http://127.0.0.1:1")
    service._http = httpx2.Client(base_url=service.url, transport=httpx2.MockTransport(handler))
    with pytest.raises(ServiceError, match="lncis"):
        service.get("a")


def test_a_connection_that_breaks_is_asked_once_more_where_that_is_safe():
    asked: list[str] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        asked.append(f"{request.method} {request.url.path} {request.headers.get('idempotency-key', '')}".strip())
        raise httpx2.RemoteProtocolError("broke off")

    with Client("http://127.0.0.1:1") as service:
        service._http = httpx2.Client(base_url=service.url, transport=httpx2.MockTransport(handler))
        for ask in (lambda: service.submit(SPEC, key="k"), lambda: service.get("a"), lambda: service.resume("a")):
            with pytest.raises(ServiceError, match="closed the connection"):
                ask()
    assert asked == ["POST /studies k", "POST /studies k", "GET /studies/a", "GET /studies/a", "POST /studies/a/resume"]


@pytest.mark.processes
def test_a_watcher_outlives_a_service_that_is_killed(tmp_path):
    ray = FakeRay(tmp_path / "runs", epoch_seconds=0.3)
    service = Service(tmp_path, ray.address)
    try:
        service.start().ready()
        with Client(service.address) as watching:
            study = watching.submit(SPEC)
            seen: list[Any] = []
            watcher = threading.Thread(target=lambda: seen.extend(watching.watch(study.id, timeout=120)))
            watcher.start()
            for _ in range(2):
                time.sleep(1.5)
                service.kill()
                time.sleep(0.5)
                service.start().ready()
            watcher.join(120)
            assert not watcher.is_alive()
            assert (seen[-1].type, seen[-1].data) == ("end", {"state": "succeeded"})
            assert [event.number for event in seen[:-1]] == list(range(1, watching.get(study.id).last_event + 1))
    finally:
        service.kill()
        ray.kill_head()


def test_a_watcher_does_not_wait_for_ever(idle, monkeypatch):
    monkeypatch.setattr(client, "BACKOFF_SECONDS", (0.05,))
    with Client(idle) as service:
        study = service.submit(SPEC)
        service._http.close()
    with Client("http://127.0.0.1:9") as service, pytest.raises(ServiceError, match="has not answered for 0 s"):
        list(service.watch(study.id, timeout=0.2))


def run(*arguments: str, url: str) -> Any:
    return runner.invoke(cli.app, ["study", *arguments, "--service", url])


def test_the_commands_do_it_all(url, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    Path("study.yaml").write_text(yaml.safe_dump(SPEC))
    submitted = run("submit", "study.yaml", "--set", "noise.rate=0.3", "--set", "seeds=[4]", "--watch", url=url)
    assert submitted.exit_code == 0, submitted.output
    study = submitted.stdout.splitlines()[0]
    assert re.search(r"gamma = 6 .*: epoch 4, val/segm_AP \d+\.\d", submitted.output)
    assert f"{study}: succeeded; best: gamma = 6" in submitted.output
    with Client(url) as service:
        spec = service.get(study).spec
    assert spec
    assert (spec["base"]["noise"]["rate"], spec["seeds"]) == (0.3, [4])
    listed = run("list", url=url).output
    assert re.search(rf"{study} +succeeded +3/3 +100 %", listed)
    best = run("best", study, url=url).output
    assert re.search(r"1  gamma = 6 .* finished", best)
    config = run("best", study, "--yaml", url=url).stdout
    assert documents.parse(TrainConfig, yaml.safe_load(config), source="best").loss.gamma == 6.0
    again = run("watch", study, url=url)
    assert (again.exit_code, "succeeded; best" in again.output) == (0, True)


def test_a_queued_study_is_listed_with_why_and_cancelled(idle):
    study = run("submit", "--preset", "first", url=idle).stdout.splitlines()[0]
    assert "Ray is away" in " ".join(run("list", url=idle).output.split())
    assert run("best", study, url=idle).exit_code == 1
    refused = run("resume", study, url=idle)
    assert (refused.exit_code, refused.stderr.count("\n"), "legal now: cancel" in refused.stderr) == (2, 1, True)
    assert run("cancel", study, url=idle).output == f"{study}: cancelled\n"
    watched = run("watch", study, url=idle)
    assert (watched.exit_code, f"study {study} cancelled" in watched.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["submit"], "needs one of a YAML file, --preset NAME and --extends STUDY_ID"),
        (["submit", "none.yaml"], "none.yaml: no such file"),
        (
            ["submit", "--preset", "first", "--set", "a"],
            "--set: must be PATH=VALUE, such as noise.rate=0.2, but got 'a'",
        ),
        (["submit", "study.yaml", "--set", "loss.gama=1"], "base.loss.gama: no such field; did you mean gamma?"),
        (["watch", "../x"], "study: an id has letters"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_sent(arguments, complaint):
    Path("study.yaml").write_text(yaml.safe_dump(SPEC))
    ran = run(*arguments, url="http://127.0.0.1:9")
    assert (ran.exit_code, ran.stderr.count("\n")) == (2, 1)
    assert complaint in ran.stderr


def test_no_service_is_one_line():
    ran = run("list", url="http://127.0.0.1:9")
    assert (ran.exit_code, ran.stderr.count("\n")) == (1, 1)
    assert ran.stderr.startswith("error: http://127.0.0.1:9 does not answer (")
    assert "LNCIS_SERVICE_URL" in ran.stderr


@pytest.mark.processes
def test_ctrl_c_leaves_the_study_and_says_so(idle):
    with Client(idle) as service:
        study = service.submit(SPEC).id
        command = [sys.executable, "-m", "lncis", "study", "watch", study, "--service", idle]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )
        assert process.stdout
        assert process.stdout.readline() == f"{study}: queued\n"
        assert process.stdout.readline() == "queued\n"
        process.send_signal(signal.SIGINT)
        said, complaints = process.communicate(timeout=60)
        assert said == f"{study} keeps running; watch it again: lncis study watch {study}\n"
        assert (process.returncode, complaints) == (130, "interrupted\n")
        assert service.get(study).state == "queued"


def test_what_others_wrote_cannot_steer_a_terminal(database, idle):
    filler().fill(database, 1, 4)
    with Client(idle) as service:
        study = next(iter(service.list()))
    from service.store import tables

    database.write(lambda c: c.execute(tables.studies.update().values(reason="\x1b[2J[bold]gone\x07", state="failed")))
    ran = run("list", url=idle)
    assert "?[2J[bold]gone?" in ran.output
    watched = run("watch", study.id, url=idle)
    assert "\x1b" not in watched.output + watched.stderr


@pytest.mark.processes
def test_the_client_needs_no_service_code():
    unwanted = {"service", "fastapi", "sqlalchemy", "torch", "ray"}
    code = f"import sys, lncis.client, lncis.commands.service; print({unwanted} & {{*sys.modules}})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "set()\n"


def test_every_error_of_the_client_is_ours():
    assert issubclass(ServiceError, LncisError)
    assert str(ServiceError("a: 2 mistakes", problems=["x: y", "z"])) == "a: 2 mistakes; x: y; z"
    codes = [ServiceError("a", status=status).exit_code for status in (None, 401, 404, 409, 422, 500, 503)]
    assert codes == [1, 1, 2, 2, 2, 1, 1]
