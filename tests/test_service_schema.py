"""Requests made from the OpenAPI document: none ends in a 5xx, none in an answer that the document does not know."""

import os
from collections import Counter
from collections.abc import Iterator
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
from served import ROOT, Service

pytestmark = pytest.mark.processes

CASES = int(os.environ.get("LNCIS_SCHEMA_CASES", "8"))
"""For each operation; 150 make more than 2,000."""
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The document of a service that runs, with studies in several states."""
    folder = tmp_path_factory.mktemp("service")
    ray = FakeRay(folder / "runs", epoch_seconds=0.01)
    limits = {"LNCIS_EVENT_STREAM_SECONDS": "0.1", "LNCIS_MAX_TRIALS": "200", "LNCIS_PRESETS": str(ROOT / "studies")}
    service = Service(folder, ray.address, **limits).start().ready()
    made = schemathesis.openapi.from_url(f"{service.address}/openapi.json")
    ids = [service.ask("POST", "/studies", SPEC)["id"] for _ in range(4)]
    service.ask("POST", f"/studies/{ids[-1]}/cancel")

    @made.hook
    def map_path_parameters(context: Any, path_parameters: Any) -> Any:
        """Most of the studies asked for are there."""
        if path_parameters and "study_id" in path_parameters:
            number = sum(map(ord, str(path_parameters["study_id"])))
            if number % 5:
                path_parameters["study_id"] = ids[number % len(ids)]
        return path_parameters

    yield made
    service.kill()
    ray.kill_head()
    assert "Traceback" not in service.log


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
