"""Requests made from the OpenAPI document: none ends in a 5xx, none in an answer that the document does not know.

`make test` makes a few of each operation. The slow test has schemathesis do all that it can, to a service with tokens
and to one without: its examples, the bounds of every parameter, random requests, and chains of them.
"""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fake_ray import SPEC, FakeRay
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from served import ROOT, Service, eventually

pytestmark = pytest.mark.processes

CASES = int(os.environ.get("LNCIS_SCHEMA_CASES", "8"))
"""For each operation; 150 make more than 2,000."""
STUDIES = 8
"""That are there at the start: schemathesis deletes some."""
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

EXAMPLES = int(os.environ.get("LNCIS_SCHEMA_EXAMPLES", "60"))
"""Random requests to each operation, and chains, of the slow test."""
SEED = os.environ.get("LNCIS_SEED", "17")
WRITES = "secret-of-one-who-writes"

RULES = """
[dictionaries.studies]
values = {studies}
[dictionaries.trials]
values = {trials}
[parameters]
"path.study_id" = {{dictionary = "studies", probability = 0.6}}
"path.trial" = {{dictionary = "trials", probability = 0.6}}

[[operations]]  # how the fields of a study must fit together is more than a JSON schema can say
include-path = "/studies"
include-method = "POST"
checks.positive_data_acceptance.enabled = false

[[operations]]  # RFC 6585: 428 where If-Match is missing; RFC 9110: 412 where it is of another revision
include-path = "/studies/{{study_id}}"
include-method = "PATCH"
checks.missing_required_header.expected-statuses = [428]
checks.positive_data_acceptance.expected-statuses = ["2xx", 401, 403, 404, 409, 412]
"""
"""What schemathesis is told: studies that are there, and the two refusals that it takes for mistakes."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A service in a process of its own, with studies in several states."""

    address: str
    ids: list[str]
    trials: list[str]


@contextmanager
def target(folder: Path, **environment: str) -> Iterator[Target]:
    ray = FakeRay(folder / "runs", epoch_seconds=0.01)
    limits = {"LNCIS_EVENT_STREAM_SECONDS": "0.1", "LNCIS_MAX_TRIALS": "200", "LNCIS_PRESETS": str(ROOT / "studies")}
    service = Service(folder, ray.address, **limits, **environment).start().ready()
    token = {"Authorization": f"Bearer {WRITES}"}
    try:
        ids = [service.ask("POST", "/studies", SPEC, **token)["id"] for _ in range(STUDIES)]
        service.ask("POST", f"/studies/{ids[-1]}/cancel", **token)
        for study_id in ids[:-1]:
            eventually(lambda asked=f"/studies/{study_id}": service.ask("GET", asked, **token)["state"] == "succeeded")
            trials = service.ask("GET", f"/studies/{study_id}/trials", **token)["trials"]
            for trial in trials:
                stage = folder / "runs" / study_id / "stages" / trial["stages"][-1]
                stage.mkdir(parents=True, exist_ok=True)
                (stage / "checkpoint.pt").write_bytes(b"of a trial" * 100)
        yield Target(address=service.address, ids=ids, trials=[trial["name"] for trial in trials])
    finally:
        service.kill()
        ray.kill_head()
    assert "Traceback" not in service.log


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with target(tmp_path_factory.mktemp("service")) as service:
        made = schemathesis.openapi.from_url(f"{service.address}/openapi.json")

        @made.hook
        def map_path_parameters(context: Any, path_parameters: Any) -> Any:
            """Most of the studies asked for are there."""
            if path_parameters and "study_id" in path_parameters:
                number = sum(map(ord, str(path_parameters["study_id"])))
                if number % 5:
                    path_parameters["study_id"] = service.ids[number % len(service.ids)]
            return path_parameters

        yield made


def test_every_answer_is_one_that_is_documented(schema: Any) -> None:
    told: Counter[int] = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=CASES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def holds(case: Any) -> None:
            answer = case.call(timeout=120)  # the first dry run starts a process that imports torch
            told[answer.status_code] += 1
            case.validate_response(answer, checks=CHECKS)

        holds()
    print(f"{told.total()} cases: {dict(sorted(told.items()))}")
    assert {200, 404, 422} <= set(told)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "tokens", ["", f"anna:write:{WRITES},bilal:read:secret-of-one-who-reads"], ids=["open", "tokens"]
)
def test_schemathesis_finds_nothing_in_any_phase(tmp_path: Path, tokens: str) -> None:
    command = [Path(sys.executable).with_name("schemathesis"), "--config-file", "rules.toml", "run"]
    options = [
        "--phases=examples,coverage,fuzzing,stateful",
        "--continue-on-failure",
        "--no-color",
        f"--seed={SEED}",
        "--request-timeout=120",
    ]
    headers = ["--header", f"Authorization: Bearer {WRITES}"] if tokens else []
    (tmp_path / "service").mkdir()
    with target(tmp_path / "service", **({"LNCIS_TOKENS": tokens} if tokens else {})) as service:
        (tmp_path / "rules.toml").write_text(RULES.format(studies=service.ids, trials=service.trials))
        found = subprocess.run(
            [*command, *options, *headers, f"--max-examples={EXAMPLES}", f"{service.address}/openapi.json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    print(found.stdout)
    assert found.returncode == 0, found.stdout + found.stderr
    (cases,) = re.findall(r"(\d+) generated", found.stdout)
    assert int(cases) >= 5_000
