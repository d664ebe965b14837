"""Every endpoint of docs/service.md, with a real database and a fake Ray that answers over HTTP."""

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from fake_ray import SPEC, FakeRay
from served import eventually, served
from starlette.testclient import TestClient

from lncis import documents
from lncis.config import TrainConfig
from lncis.errors import ConfigError
from service.api.submission import bodies, presets
from service.app import create_app
from service.auth import parse_tokens
from service.dispatch.jobs import RayJobs
from service.settings import Settings
from service.store.database import Database

PRESETS = Path(__file__).parents[1] / "studies"
ANNA, BILAL = "anna:write:secret-of-anna", "bilal:read:secret-of-bilal"


@pytest.fixture
def open_client(tmp_path: Path, migrated: Path, ray: FakeRay) -> Iterator[Callable[..., TestClient]]:
    with ExitStack() as stack:

        def start(**changes: Any) -> TestClient:
            settings = Settings(
                **{
                    "runs": tmp_path / "runs",
                    "presets": PRESETS,
                    "ray_address": ray.address,
                    "poll_seconds": 0.02,
                    "ray_grace_seconds": 0.1,
                    "event_stream_seconds": 600,
                    **changes,
                }
            )
            path = tmp_path / "lncis.db"
            if not path.exists():
                shutil.copy(migrated, path)
            database = Database(f"sqlite:///{path}")
            stack.callback(database.close)
            app = create_app(settings, database, RayJobs(settings))
            return stack.enter_context(TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False))

        yield start


@pytest.fixture
def client(open_client: Callable[..., TestClient]) -> TestClient:
    """With Ray."""
    return open_client()


@pytest.fixture
def idle(open_client: Callable[..., TestClient], ray: FakeRay) -> TestClient:
    """Without Ray: what is queued stays queued."""
    ray.go_away()
    return open_client()


def post(client: TestClient, spec: Any = SPEC, **more: Any) -> Any:
    answer = client.post("/studies", json=spec, **more)
    assert answer.status_code == 201, answer.text
    return answer.json()


def in_state(client: TestClient, study: Any, *states: str) -> Any:
    def look() -> Any:
        now = client.get(study["links"]["self"]).json()
        return now if now["state"] in states else None

    return eventually(look)


def problem(answer: Any, status: int) -> Any:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert document["detail"]
    return document


def test_a_study_is_queued_runs_and_its_best_come_back(client, ray):
    answer = client.post("/studies", json=SPEC)
    assert answer.status_code == 201
    study = answer.json()
    assert study["state"] == "queued"
    assert answer.headers["location"] == study["links"]["self"] == f"/studies/{study['id']}"
    done = in_state(client, study, "succeeded", "failed")
    assert (done["state"], done["reason"]) == ("succeeded", "")
    assert done["progress"] == {
        "trials_total": 6,
        "trials_started": 6,
        "trials_finished": 6,
        "trials_pruned": 0,
        "trials_failed": 0,
        "epochs_total": 24,
        "epochs_done": 24,
        "fraction": 1.0,
    }
    assert done["cost"]["requested"] == 24
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]
    assert done["best"]["label"] == "gamma = 6"
    assert ray.submissions == [study["id"]]

    best = client.get(study["links"]["best"], params={"top": 2}).json()["configurations"]
    assert [(entry["rank"], entry["label"], entry["status"]) for entry in best] == [
        (1, "gamma = 6", "finished"),
        (2, "gamma = 4", "finished"),
    ]
    # 12 and 12.5: mean 12.25, s = 0.3536, t(1) = 12.706
    assert best[0]["objective"]["mean"] == pytest.approx(12.25)
    assert best[0]["objective"]["ci95"] == pytest.approx(12.7062 * 0.353553 / 2**0.5, rel=1e-4)
    assert best[0]["metrics"]["test/segm_AP"]["mean"] == pytest.approx(24.5)

    text = client.get(study["links"]["best"], params={"format": "yaml"})
    assert text.headers["content-type"].startswith("application/yaml")
    config = documents.parse(TrainConfig, yaml.safe_load(text.text), source="best")
    assert (config.loss.gamma, config.seed) == (6.0, 0)
    assert documents.dump(config) == best[0]["config"]


def test_the_best_agree_with_the_studys_own_report(client, ray, tmp_path):
    from lncis.studies import folders

    study = in_state(client, post(client), "succeeded")
    result = folders.read_result(tmp_path / "runs", study["id"])
    best = client.get(study["links"]["best"], params={"top": 3}).json()["configurations"]
    ranked = sorted(result.searched, key=lambda c: c.score(result.spec.objective), reverse=True)
    assert [entry["label"] for entry in best] == [configuration.trial.label for configuration in ranked]
    third = client.get(study["links"]["best"], params={"format": "yaml", "rank": 3, "top": 1}).text
    assert third.startswith(f"# Number 3 of study {study['id']}: {best[2]['label']}")
    assert best[0]["objective"]["ci95"] == pytest.approx(result.best.over_seeds("val/segm_AP").half_width)
    assert study["cost"] == json.loads(json.dumps(result.cost.__dict__))


def test_intervals_over_noise_draws_are_those_of_the_studys_own_report(client, ray, tmp_path):
    from lncis.studies import folders

    study = in_state(client, post(client, {**SPEC, "noise_seeds": [4, 7]}), "succeeded")
    best = folders.read_result(tmp_path / "runs", study["id"]).best
    entry = client.get(study["links"]["best"], params={"top": 1}).json()["configurations"][0]
    reached = best.over_seeds("val/segm_AP")
    assert entry["objective"] == pytest.approx({"mean": reached.mean, "ci95": reached.half_width, "seeds": 4})
    assert [(r.seed, r.noise_seed) for r in best.replicates] == [(0, 4), (1, 4), (0, 7), (1, 7)]


def test_what_still_runs_is_marked(client, ray):
    ray.hold_after = 14
    study = post(client)

    def some_of_both() -> Any:
        entries = client.get(study["links"]["best"]).json()["configurations"]
        return entries if {entry["status"] for entry in entries} == {"finished", "running"} else None

    entries = eventually(some_of_both)
    assert [entry["status"] for entry in entries] == sorted(entry["status"] for entry in entries)  # finished first
    running = entries[-1]
    assert running["seeds_finished"] < 2 or running["epoch"] < 4
    assert 0 < client.get(study["links"]["self"]).json()["progress"]["fraction"] < 1
    text = client.get(study["links"]["best"], params={"format": "yaml", "rank": running["rank"]}).text
    assert "running: after epoch" in text


def test_trials_and_stages_come_in_pages(client):
    study = in_state(client, post(client), "succeeded")

    def every(name: str) -> list[Any]:
        rows, cursor = [], None
        while True:
            page = client.get(study["links"][name], params={"limit": 4} | ({"cursor": cursor} if cursor else {})).json()
            assert len(page[name]) <= 4
            rows, cursor = rows + page[name], page["next_cursor"]
            if cursor is None:
                return rows

    trials, stages = every("trials"), every("stages")
    assert [t["name"] for t in trials] == [f"{c:04d}-seed{s}" for c in range(3) for s in range(2)]
    assert {(t["state"], t["epoch"], t["epochs"]) for t in trials} == {("finished", 4, 4)}
    assert trials[2]["metrics"]["test/segm_AP"] == pytest.approx(24.0)
    # two seeds: two stages 1, each used by three trials, and six stages 2
    shared = [stage for stage in stages if stage["after"] is None]
    assert len(stages) == 8
    assert [(s["first_epoch"], s["last_epoch"], s["users_total"], s["epoch"]) for s in shared] == [(1, 2, 3, 2)] * 2
    assert shared[0]["users"] == ["0000-seed0", "0001-seed0", "0002-seed0"]
    own = [stage for stage in stages if stage["after"]]
    assert all(stage["users_total"] == 1 and stage["first_epoch"] == 3 for stage in own)
    assert {stage["after"] for stage in own} == {stage["key"] for stage in shared}
    assert {key for t in trials for key in t["stages"]} == {stage["key"] for stage in stages}


def events(answer: Any) -> list[tuple[int | None, str, Any]]:
    found = []
    for block in answer.text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((int(lines["id"]) if "id" in lines else None, lines["event"], json.loads(lines["data"])))
    return found


def test_events_tell_all_once_and_go_on_where_they_were_cut(client):
    study = in_state(client, post(client), "succeeded")
    told = events(client.get(study["links"]["events"]))
    numbers = [number for number, _, _ in told[:-1]]
    assert numbers == list(range(1, len(numbers) + 1))
    kinds = [kind for _, kind, _ in told]
    assert kinds.count("trial_started") == kinds.count("trial_ended") == 6
    assert kinds.count("epoch_finished") == 24
    assert told[0][2]["state"] == "queued"
    assert told[-2][2]["state"] == told[-1][2]["state"] == "succeeded"
    assert told[-1][1] == "end"
    rest = events(client.get(study["links"]["events"], headers={"Last-Event-ID": "10"}))
    assert rest == told[10:]
    last = client.get(study["links"]["events"], headers={"Last-Event-ID": str(numbers[-1])})
    assert last.status_code == 204


def test_events_come_while_it_runs(client, ray):
    ray.epoch_seconds = 0.02
    study = post(client)
    told = events(client.get(study["links"]["events"]))  # waits for the end
    assert [kind for _, kind, _ in told].count("epoch_finished") == 24
    assert told[-1][1] == "end"


def test_a_preset_with_changes(idle):
    study = post(idle, {"preset": "gamma_sweep", "set": {"noise.rate": 0.2, "seeds": [3], "loss.A": -2}})
    assert study["spec"]["base"]["noise"]["rate"] == 0.2
    assert study["spec"]["base"]["loss"]["A"] == -2
    assert study["spec"]["seeds"] == [3]
    assert study["progress"]["trials_total"] == 5, "four gammas and cross entropy"
    listed = idle.get("/presets").json()["presets"]
    assert "gamma_sweep" in {preset["name"] for preset in listed}
    assert "voc/table1" in {preset["name"] for preset in listed}
    for preset in listed:
        if preset["spec"]["base"]["dataset"]["type"] == "digits":  # the others' data are not in this service's roots
            post(idle, preset["spec"])


def test_the_yaml_of_a_study_is_a_body(idle):
    text = (PRESETS / "gamma_sweep.yaml").read_bytes()
    answer = idle.post("/studies", content=text, headers={"Content-Type": "application/yaml"})
    assert answer.status_code == 201
    assert answer.json()["name"] == "gamma_sweep"


def test_every_mistake_is_reported_at_once(idle):
    wrong = {
        "name": "x",
        "base": {"schedule": {"epochs": 4, "stage1_epochs": 4}, "loss": {"type": "lncis", "A": 1}},
        "search": {"loss.gama": {"type": "categorical", "choices": [1]}},
        "sed": 1,
    }
    told = problem(idle.post("/studies", json=wrong), 422)
    by_path = {error["path"]: error["problem"] for error in told["errors"]}
    assert by_path["sed"] == "no such field; did you mean seeds?"
    assert "less than 0" in by_path["base.loss.A"]
    assert "must be below epochs (4) but got 4" in by_path["base.schedule"]
    assert len(told["errors"]) == 3  # gama shows once the base is one


@pytest.mark.parametrize(
    ("body", "path", "said"),
    [
        ({"preset": "nothing"}, "preset", "must be one of cityscapes/table3, coco/table2, digits/auto, digits/figure5"),
        ({"preset": "gamma_sweep", "set": {"nois.rate": 1}}, "set.nois.rate", "names no field"),
        ({"preset": "gamma_sweep", "set": {"search.loss.gamma": 1}}, "set.search.loss.gamma", "give search whole"),
        ({"preset": "gamma_sweep", "seeds": [1]}, "seeds", "no such field beside preset"),
        ({**SPEC, "question": "a\0b"}, "question", "without NUL"),
        ({**SPEC, "question": "a\x1b[2Jb"}, "question", "other control characters"),
        ({**SPEC, "baselines": {"\x1b]0;x\x07": {"flip": 0.5}}}, "baselines", "keys must be printable"),
        ({**SPEC, "seeds": [2**60]}, "seeds.0", "must be from -2**53"),
        ({**SPEC, "seeds": list(range(5000))}, "search", "asks for 15000 trials"),
        ({**SPEC, "base": {"schedule": {"epochs": 10**9}}}, "base.schedule.epochs", "must be at most 10000"),
        (
            {**SPEC, "sampler": {"type": "tpe", "configurations": 3, "warm_start": "../../etc"}},
            "sampler.warm_start",
            "'../../etc'",
        ),
        (
            {**SPEC, "sampler": {"type": "tpe", "configurations": 3, "warm_start": "other"}},
            "sampler.warm_start",
            "earlier",
        ),
        ({**SPEC, "resources": {"cpus_per_worker": 1e9}}, "resources.cpus_per_worker", "must be at most 1024 here"),
    ],
)
def test_what_a_shared_service_does_not_take(idle, body, path, said):
    told = problem(idle.post("/studies", json=body), 422)
    assert any(error["path"] == path and said in error["problem"] for error in told["errors"]), told


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 422),
        (b"[" * 100_000, "application/json", 422),
        (b"[]", "application/json", 422),
        (b"NaN", "application/json", 422),
        (b"{}", "text/plain", 415),
        (b"{}", "multipart/form-data", 415),
        (b"a: &x [1]\nb: *x", "application/yaml", 422),
        (b"a: !!python/object/apply:os.system [ls]", "application/yaml", 422),
        (b"a: 2020-01-01", "application/yaml", 422),
        (b"{" + b" " * 300_000 + b"}", "application/json", 413),
    ],
)
def test_bodies_that_are_no_study(idle, content, kind, status):
    problem(idle.post("/studies", content=content, headers={"Content-Type": kind}), status)


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, identity"])
def test_a_compressed_body_is_refused_as_one(idle, coding):
    answer = idle.post("/studies", json=SPEC, headers={"Content-Encoding": coding})
    assert "Content-Encoding must be identity" in problem(answer, 415)["detail"]
    assert answer.headers["Accept-Encoding"] == "identity"


def test_a_grid_of_a_billion_is_refused_without_counting_it_out(idle):
    search = {f"loss.x{n}": {"type": "categorical", "choices": list(range(100))} for n in range(10)}
    started = time.monotonic()
    told = problem(idle.post("/studies", json={**SPEC, "search": search}), 422)
    assert "asks for 2e+20 trials" in told["errors"][0]["problem"]
    assert time.monotonic() - started < 5


def test_a_repeated_key_gives_the_same_study(idle):
    headers = {"Idempotency-Key": "my-key"}
    first = idle.post("/studies", json=SPEC, headers=headers)
    again = idle.post("/studies", json=SPEC, headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert again.headers["location"] == first.headers["location"]
    told = problem(idle.post("/studies", json={**SPEC, "seeds": [0, 2], "question": "?"}, headers=headers), 409)
    assert told["study"] == first.json()["id"]
    assert told["differing"] == [
        {"path": "seeds", "earlier": [0, 1], "now": [0, 2]},
        {"path": "question", "earlier": None, "now": "?"},
    ]


@pytest.mark.processes
def test_a_dry_run_answers_with_the_plan_and_queues_nothing(idle):
    answer = idle.post("/studies", json=SPEC, params={"dry_run": True})
    assert answer.status_code == 200
    plan = answer.json()
    assert (plan["trials_total"], plan["epochs_to_train"], plan["epochs_without_sharing"]) == (6, 16, 24)
    assert len(plan["stages"]) == 8
    assert plan["estimate"]["checkpoint_bytes"] > 1e6
    assert plan["estimate"]["seconds"] > 0
    assert idle.get("/studies").json()["studies"] == []


def test_the_list_is_newest_first_in_pages(idle):
    ids = [post(idle)["id"] for _ in range(5)]
    page = idle.get("/studies", params={"limit": 3}).json()
    rest = idle.get("/studies", params={"limit": 3, "cursor": page["next_cursor"]}).json()
    assert [study["id"] for study in page["studies"] + rest["studies"]] == ids[::-1]
    assert rest["next_cursor"] is None
    idle.post(f"/studies/{ids[0]}/cancel")
    assert [s["id"] for s in idle.get("/studies", params={"state": "cancelled"}).json()["studies"]] == [ids[0]]
    problem(idle.get("/studies", params={"state": "nowhere"}), 422)
    problem(idle.get("/studies", params={"cursor": "x"}), 422)


def test_a_reader_with_the_etag_is_told_that_nothing_changed(idle):
    study = post(idle)
    answer = idle.get(study["links"]["self"])
    same = idle.get(study["links"]["self"], headers={"If-None-Match": answer.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")


def test_a_change_needs_if_match(idle):
    study = post(idle)
    path = study["links"]["self"]
    problem(idle.patch(path, json={"priority": 3}), 428)
    problem(idle.patch(path, json={"priority": 3}, headers={"If-Match": '"77"'}), 412)
    etag = idle.get(path).headers["etag"]
    answer = idle.patch(path, json={"priority": 3, "max_concurrent_trials": 7}, headers={"If-Match": etag})
    assert (answer.json()["priority"], answer.json()["spec"]["resources"]["max_concurrent_trials"]) == (3, 7)
    assert answer.headers["etag"] != etag
    problem(idle.patch(path, json={"name": "x"}, headers={"If-Match": "*"}), 422)
    auto = idle.patch(path, json={"max_concurrent_trials": "auto"}, headers={"If-Match": "*"}).json()
    assert auto["max_concurrent_trials"] == auto["spec"]["resources"]["max_concurrent_trials"] == "auto"
    for wrong in (0, "2", "many", 10_001):
        told = problem(idle.patch(path, json={"max_concurrent_trials": wrong}, headers={"If-Match": "*"}), 422)
        (error,) = told["errors"]
        assert error["problem"].startswith("Input should be a whole number from 1, or auto but got")


def test_an_illegal_transition_names_the_legal_ones(idle):
    study = post(idle)
    told = problem(idle.post(f"{study['links']['self']}/pause"), 409)
    assert (told["state"], told["legal"]) == ("queued", ["cancel"])
    assert idle.post(f"{study['links']['self']}/cancel").status_code == 202
    told = problem(idle.post(f"{study['links']['self']}/cancel"), 409)
    assert (told["state"], told["legal"]) == ("cancelled", [])
    assert "is cancelled, so it cannot cancel" in told["detail"]


def test_the_queue_says_why(idle, ray):
    first, second = post(idle), post(idle)
    etag = idle.get(second["links"]["self"]).headers["etag"]
    idle.patch(second["links"]["self"], json={"priority": 5}, headers={"If-Match": etag})
    queue = eventually(
        lambda: q if (q := idle.get("/queue").json())["ray"]["detail"] != "has not been asked yet" else 0
    )
    assert not queue["ray"]["ok"]
    assert [(entry["id"], entry["position"]) for entry in queue["studies"]] == [(second["id"], 1), (first["id"], 2)]
    assert all(entry["why"].startswith("Ray is away: ") and "refused" in entry["why"] for entry in queue["studies"])
    assert idle.get("/readyz").json()["ready"]


def test_the_queue_says_which_limit(open_client, ray):
    ray.hold_after = 1
    client = open_client(max_running=1)
    first, second = post(client), post(client)
    in_state(client, first, "running")
    entries = {entry["id"]: entry for entry in client.get("/queue").json()["studies"]}
    assert entries[first["id"]]["position"] is None
    assert entries[second["id"]]["why"] == "1 studies have a job already, the limit is 1"


def test_tokens_and_their_scopes(open_client):
    client = open_client(tokens=parse_tokens(f"{ANNA},{BILAL}"))
    assert client.get("/openapi.json").json()["paths"]["/studies"]["post"]["security"] == [{"HTTPBearer": []}]
    problem(client.get("/studies"), 401)
    problem(client.get("/studies", headers={"Authorization": "Bearer wrong-one"}), 401)
    problem(client.get("/studies", headers={"Authorization": "Basic secret-of-anna"}), 401)
    read, write = ({"Authorization": f"Bearer secret-of-{name}"} for name in ("bilal", "anna"))
    assert client.get("/studies", headers=read).status_code == 200
    problem(client.post("/studies", json=SPEC, headers=read), 403)
    made = client.post("/studies", json=SPEC, headers=write)
    assert (made.status_code, made.json()["owner"]) == (201, "anna")
    problem(client.post(f"{made.json()['links']['self']}/cancel", headers=read), 403)
    problem(client.patch(made.json()["links"]["self"], content=b"{", headers={"Content-Type": "application/json"}), 401)
    for path in ("/queue", "/presets", "/metrics", made.json()["links"]["self"]):
        problem(client.get(path), 401)
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert client.get(path).status_code == 200


def test_without_tokens_strangers_are_refused(client):
    problem(client.get("/studies", headers={"Host": "attacker.example"}), 403)
    problem(client.post("/studies", json=SPEC, headers={"Origin": "http://attacker.example"}), 403)
    assert client.get("/studies", headers={"Host": "localhost:8000"}).status_code == 200
    assert client.get("/studies", headers={"Host": "[::1]:8000"}).status_code == 200
    answer = client.get("/studies")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_what_is_not_there(idle):
    problem(idle.get("/studies/none"), 404)
    problem(idle.get("/nothing"), 404)
    problem(idle.delete("/studies"), 405)
    for path in ("trials", "stages", "best", "events"):
        problem(idle.get(f"/studies/none/{path}"), 404)
    study = post(idle)
    problem(idle.get(study["links"]["best"], params={"format": "yaml"}), 409)
    assert idle.get(study["links"]["best"]).json()["configurations"] == []


def test_metrics_count_requests_and_studies(idle):
    post(idle)
    idle.get("/somewhere/else")
    idle.head("/queue")
    text = idle.get("/metrics").text
    assert 'lncis_studies{state="queued"} 1.0' in text
    assert 'lncis_http_requests_total{method="POST",route="/studies",status="201"} 1.0' in text
    assert 'route="none",status="404"' in text
    assert 'lncis_http_requests_total{method="HEAD",route="/queue",status="200"} 1.0' in text
    assert "lncis_ray_up 0.0" in text


def test_infinity_goes_through_as_a_word(idle):
    spec = {**SPEC, "search": {"loss.gamma": {"type": "categorical", "choices": [6.0, "inf"]}}}
    study = post(idle, spec)
    json.dumps(idle.get(study["links"]["self"]).json(), allow_nan=False)
    text = "name: x\nsearch: {loss.gamma: {type: categorical, choices: [6.0, .inf]}}"
    answer = idle.post("/studies", content=text, headers={"Content-Type": "application/yaml"})
    assert answer.json()["spec"]["search"]["loss.gamma"]["choices"] == [6.0, "inf"]


def test_the_examples_of_the_document_are_accepted(idle):
    document = idle.get("/openapi.json").json()
    body = document["paths"]["/studies"]["post"]["requestBody"]["content"]["application/json"]
    for example in body["examples"].values():
        post(idle, example["value"])


@pytest.mark.parametrize(
    ("content", "kind", "errors"),
    [
        (
            b'{"seeds": [0],\n "seeds": [1]}',
            "application/json",
            [("seeds", "stands in line 1 and in line 2; keep one of the two")],
        ),
        (
            b"base:\n  seed: 1\n  seed: 2\n",
            "application/yaml",
            [("base.seed", "stands in line 2 and in line 3; keep one of the two")],
        ),
        (b"name: " + b"[" * 60_000, "application/yaml", [("", "line 1: must not be nested deeper than 40 levels")]),
        (b"name: " + b"[" * 30_000 + b"]" * 30_000, "application/yaml", [("", "line 1: must not be nested deeper")]),
        (b'{"name": ' + b"[" * 60_000, "application/json", [("", "line 1: must not be nested deeper than 40 levels")]),
        (b"name: !!timestamp abc", "application/yaml", [("", "line 1: must not use the tag !!timestamp")]),
        ('{"name": "x"}'.encode("utf-16"), "application/json", [("", "is UTF-16 or UTF-32; save it as UTF-8")]),
    ],
)
def test_bodies_are_judged_as_text_first(idle, content, kind, errors):
    begun = time.monotonic()
    told = problem(idle.post("/studies", content=content, headers={"Content-Type": kind}), 422)
    assert time.monotonic() - begun < 2
    assert len(told["errors"]) == len(errors)
    for error, (path, said) in zip(told["errors"], errors, strict=True):
        assert error["path"] == path
        assert error["problem"].startswith(said)


def test_a_key_twice_is_refused_in_changes_of_a_study_too(idle):
    study = post(idle, SPEC)
    headers = {"Content-Type": "application/json", "If-Match": "*"}
    told = problem(
        idle.patch(f"/studies/{study['id']}", content='{"priority": 1, "priority": 2}', headers=headers), 422
    )
    assert told["errors"] == [{"path": "priority", "problem": "stands twice in line 1; keep one of the two"}]


def test_two_names_of_one_field_are_not_set_together(idle):
    body = {"preset": "first", "set": {"noise.rate": 0.1, "base.noise.rate": 0.2}}
    (error,) = problem(idle.post("/studies", json=body), 422)["errors"]
    assert error["path"] == "set.base.noise.rate"
    assert error["problem"].startswith("is the same field as noise.rate, which is set too")


def test_a_preset_that_cannot_be_read_is_named(tmp_path, caplog):
    (tmp_path / "mine.yaml").write_text("name: x\nseeds: [0]\nseeds: [1]\n")
    said = "seeds: stands in line 2 and in line 3; keep one of the two"
    assert presets.presets(tmp_path) == {}
    assert said in caplog.text
    with pytest.raises(ConfigError) as caught:
        bodies.to_spec({"preset": "mine"}, Settings(presets=tmp_path))
    assert caught.value.problems == [f"preset: mine: {said}"]


@pytest.mark.parametrize(
    ("method", "path", "query", "errors"),
    [
        ("GET", "/studies", "stat=queued", [("query.stat", "no such parameter; did you mean state?")]),
        ("GET", "/studies", "limit=1&limit=2", [("query.limit", "stands 2 times; keep one")]),
        ("POST", "/studies", "dryrun=1", [("query.dryrun", "no such parameter; did you mean dry_run?")]),
        ("POST", "/studies/x/cancel", "now", [("query.now", "no such parameter; known are none")]),
        ("GET", "/studies", "text=a%00b", [("query.text", "must be text without NUL")]),
        ("GET", "/queue", "a=1&b=2", [("query.a", "known are none"), ("query.b", "known are none")]),
        ("GET", "/", "stat=failed", [("query.stat", "did you mean state?")]),
        ("GET", "/healthz", "verbose", [("query.verbose", "known are none")]),
    ],
)
def test_a_query_parameter_that_would_be_ignored_is_named(idle, method, path, query, errors):
    told = problem(idle.request(method, f"{path}?{query}", json=SPEC if path == "/studies" else None), 422)["errors"]
    assert [error["path"] for error in told] == [path for path, _ in errors]
    assert all(said in error["problem"] for error, (_, said) in zip(told, errors, strict=True))
    assert idle.get("/studies").json()["studies"] == []


def test_a_repeated_key_with_another_priority_is_another_request(idle):
    headers = {"Idempotency-Key": "my-key"}
    first = idle.post("/studies", json=SPEC, headers=headers)
    assert idle.post("/studies?priority=0", json=SPEC, headers=headers).json() == first.json()
    told = problem(idle.post("/studies?priority=5", json=SPEC, headers=headers), 409)
    assert told["differing"] == [{"path": "?priority", "earlier": None, "now": 5}]
    high = {"Idempotency-Key": "another"}
    assert idle.post("/studies?priority=7", json=SPEC, headers=high).status_code == 201
    assert idle.post("/studies?priority=7", json=SPEC, headers=high).status_code == 200
    problem(idle.post("/studies", json=SPEC, headers=high), 409)


def test_what_two_long_requests_differ_in_is_answered_in_short(idle):
    headers = {"Idempotency-Key": "k"}
    idle.post("/studies", json={**SPEC, "question": "a" * 200_000}, headers=headers)
    answer = idle.post("/studies", json={**SPEC, "question": "b" * 200_000}, headers=headers)
    (field,) = problem(answer, 409)["differing"]
    assert field["path"] == "question"
    assert len(answer.content) < 3000


def test_a_long_change_of_a_study_is_refused(idle):
    path = post(idle)["links"]["self"]
    problem(idle.patch(path, json={f"k{n}": 1 for n in range(15_000)}, headers={"If-Match": "*"}), 413)


def test_head_answers_wherever_get_does_and_allow_names_every_method(idle):
    study = post(idle)
    for path in ("/", "/studies", "/queue", "/healthz", "/docs", study["links"]["self"], study["links"]["events"]):
        assert idle.head(path).status_code == 200, path
    assert idle.head(study["links"]["self"]).headers["etag"] == idle.get(study["links"]["self"]).headers["etag"]
    assert idle.head("/studies/none").status_code == 404
    for path, methods in (
        ("/studies", "GET, HEAD, POST"),
        (study["links"]["self"], "DELETE, GET, HEAD, PATCH"),
        (f"{study['links']['self']}/cancel", "POST"),
    ):
        answer = idle.put(path)
        problem(answer, 405)
        assert answer.headers["allow"] == methods
    assert not any("head" in operations for operations in idle.get("/openapi.json").json()["paths"].values())


def test_any_etag_is_known_to_who_sends_a_star(idle):
    study = post(idle)
    assert idle.get(study["links"]["self"], headers={"If-None-Match": "*"}).status_code == 304
    problem(idle.get("/studies/none", headers={"If-None-Match": "*"}), 404)


def test_a_study_that_is_over_is_not_changed(idle):
    study = post(idle)
    idle.post(f"{study['links']['self']}/cancel")
    before = idle.get(study["links"]["self"])
    told = problem(idle.patch(study["links"]["self"], json={"priority": 5}, headers={"If-Match": "*"}), 409)
    assert (told["state"], told["legal"]) == ("cancelled", [])
    assert idle.get(study["links"]["self"]).headers["etag"] == before.headers["etag"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "application/json", 422),
        (b"\xff{}", "application/json", 422),
        (b"[" * 2000, "application/json", 422),
        (b"[]", "application/json", 422),
        (b"{}", "text/plain", 415),
        (b'{"priority": 1.5}', "application/json; charset=utf-8", 422),
    ],
)
def test_a_change_is_read_as_strictly_as_a_study(idle, content, kind, status):
    headers = {"Content-Type": kind, "If-Match": "*"}
    problem(idle.patch(post(idle)["links"]["self"], content=content, headers=headers), status)


def test_the_document_is_one_that_generators_of_clients_read(idle):
    document = idle.get("/openapi.json").json()
    patch = document["paths"]["/studies/{study_id}"]["patch"]
    (header,) = (one for one in patch["parameters"] if one["name"] == "if-match")
    assert header["required"]
    assert "400" not in patch["responses"]
    assert patch["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/Adjustment")

    def constants(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [value for key in value if key == "const"] + [
                c for inner in value.values() for c in constants(inner)
            ]
        return [c for inner in value for c in constants(inner)] if isinstance(value, list) else []

    assert constants(document) == []
    assert "security" not in patch  # a service without tokens asks for none
    schema = document["components"]["schemas"]["StudySummary"]["properties"]["max_concurrent_trials"]
    assert {"type": "string", "enum": ["auto"]} in schema["anyOf"]


def test_more_streams_than_the_limit_are_refused_also_at_once(tmp_path, database):
    """Thirty ask at the same moment, before the first one has sent anything."""
    with served(tmp_path, database, max_event_streams=3) as url:
        with httpx2.Client(base_url=url, trust_env=False) as client:
            path = client.post("/studies", json=SPEC).json()["links"]["events"]

        async def ask(client: httpx2.AsyncClient) -> int:
            async with client.stream("GET", f"{url}{path}") as answer:
                if answer.status_code == 200:
                    await asyncio.sleep(1)
                return answer.status_code

        async def everybody() -> list[int]:
            async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
                return await asyncio.gather(*(ask(client) for _ in range(30)))

        assert sorted(asyncio.run(everybody())) == [200] * 3 + [429] * 27
        eventually(lambda: asyncio.run(everybody()).count(200) == 3, seconds=30)  # their places are free again
