"""A client in other hands: openapi-python-client makes one of /openapi.json, which submits studies and reads them."""

import importlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import openapi_python_client as generator
import pytest
from fake_ray import SPEC, FakeRay
from openapi_python_client.config import Config, ConfigFile, MetaType
from served import eventually, served

from service.store.database import Database

PACKAGE = "lncis_generated"
AUTO = {**SPEC, "resources": {"max_concurrent_trials": "auto"}}


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator["Calls"]:
    """The functions of a client that was generated for a service."""
    folder = tmp_path_factory.mktemp("generated")
    ray, database = FakeRay(folder / "runs"), Database(f"sqlite:///{shutil.copy(migrated, folder)}")
    with pytest.MonkeyPatch.context() as patch, served(folder, database, ray_address=ray.address) as url:
        generate(url, folder)
        patch.syspath_prepend(folder)
        made = Calls(url, ray)
        yield made
        made.client.get_httpx_client().close()
    ray.kill_head()
    database.close()


def generate(url: str, folder: Path) -> None:
    """Write the package of a client into a folder."""
    document = folder / "openapi.json"
    document.write_text(httpx2.get(f"{url}/openapi.json", trust_env=False).text)
    without_ruff, to = ConfigFile(post_hooks=[]), folder / PACKAGE
    complaints = generator.generate(
        config=Config.from_sources(without_ruff, MetaType.NONE, document, "utf-8", overwrite=False, output_path=to)
    )
    # the one thing that it cannot do, for a study and for an extension: send YAML in place of JSON
    assert [complaint.detail for complaint in complaints] == ["Unsupported content type application/yaml"] * 2


class Calls:
    """What a user of the generated package imports."""

    def __init__(self, url: str, ray: FakeRay) -> None:
        self.url, self.ray, self.models = url, ray, module("models")
        self.client = module("client").Client(url, raise_on_unexpected_status=True)

    def ask(self, operation: str, *parts: str, **given: Any) -> Any:
        """Return the answer of an operation, such as `studies.get_study`."""
        return module(f"api.{operation}").sync(*parts, client=self.client, **given)

    def same(self, operation: str, study_id: str, path: str) -> Any:
        """Return a generated answer that says all that the JSON says."""
        found = self.ask(operation, study_id)
        text = httpx2.get(f"{self.url}{path}", trust_env=False).text
        as_python_writes_times = re.sub(r'\.(\d{3})Z"', r'.\g<1>000+00:00"', text)
        assert found.to_dict() == json.loads(as_python_writes_times)
        return found


def module(name: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{name}")


def test_a_generated_client_submits_a_study_and_reads_all_of_it(calls: Calls) -> None:
    study = calls.ask("studies.submit", body=calls.models.StudyDocument.from_dict(AUTO), idempotency_key="one")
    assert (study.state, study.max_concurrent_trials) == ("queued", "auto")
    again = calls.ask("studies.submit", body=calls.models.StudyDocument.from_dict(AUTO), idempotency_key="one")
    assert again.id == study.id
    eventually(lambda: calls.ask("studies.get_study", study.id).state == "succeeded")

    page = f"/studies/{study.id}"
    done = calls.same("studies.get_study", study.id, page)
    assert (done.progress.trials_finished, done.max_concurrent_trials) == (6, "auto")
    assert done.spec["resources"]["max_concurrent_trials"] == "auto"
    trials = calls.same("results.get_trials", study.id, f"{page}/trials").trials
    assert {trial.state for trial in trials} == {"finished"}
    best = calls.same("results.get_best", study.id, f"{page}/best").configurations[0]
    assert best.objective.mean == pytest.approx(12.25)  # as in test_service_api.py
    calls.same("results.get_stages", study.id, f"{page}/stages")
    (listed,) = calls.ask("studies.list_studies", text=study.id).studies
    assert (listed.id, listed.best.label) == (study.id, best.label)

    stream = module("api.results.follow_events").sync_detailed(study.id, client=calls.client)
    curves = learning_curves(stream.content.decode())
    assert {name: len(curve) for name, curve in curves.items()} == {trial.name: 4 for trial in trials}
    assert {trial.name: trial.objective for trial in trials} == {name: curve[-1] for name, curve in curves.items()}


def learning_curves(text: str) -> dict[str, list[float]]:
    """Return the objective over the epochs of each trial, from a stream of events."""
    found: dict[str, list[float]] = {}
    for event in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in event.splitlines())
        if fields["event"] == "epoch_finished":
            data = json.loads(fields["data"])
            found.setdefault(data["trial"], []).append(data["metrics"]["val/segm_AP"])
    return found


def test_a_generated_client_takes_a_preset_and_acts_on_studies(calls: Calls) -> None:
    calls.ray.hold_after = 0
    request = calls.models.PresetRequest.from_dict({"preset": "first", "set": {"seeds": [3]}})
    study = calls.ask("studies.submit", body=request, priority=3)
    assert (study.spec["seeds"], study.priority) == ([3], 3)
    changed = calls.ask("studies.adjust_study", study.id, body=calls.models.Adjustment(priority=5), if_match="*")
    assert changed.priority == 5
    calls.ask("studies.cancel", study.id)
    eventually(lambda: calls.ask("studies.get_study", study.id).state == "cancelled")
    refused = calls.ask("studies.pause", study.id)
    assert (refused.status, refused.legal) == (409, [])
    assert refused.detail == f"study {study.id} is cancelled, so it cannot pause; legal now: nothing: it is over"
