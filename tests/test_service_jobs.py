from typing import Any

import pytest

from service.jobs import RayJobs
from service.settings import from_environment


def test_a_job_is_given_the_storage_of_the_service_and_it_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(RayJobs, "_ask", lambda self, *call: asked.append(call))
    settings = from_environment({"LNCIS_STORAGE": "s3://key:secret@bucket/lncis"})
    RayJobs(settings).submit("study-1", attempt=1)
    RayJobs(from_environment({})).submit("study-1", attempt=1)
    (_, _, job), (_, _, other) = asked
    assert job["runtime_env"]["env_vars"]["LNCIS_STORAGE"] == "s3://key:secret@bucket/lncis"
    assert job["entrypoint"] == other["entrypoint"]
    assert "LNCIS_STORAGE" not in other["runtime_env"]["env_vars"]
    assert "secret" not in repr(settings)
