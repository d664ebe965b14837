"""What the service reads from its environment, and what it names as wrong."""

import logging
from pathlib import Path

import pytest

from lncis.errors import ConfigError
from service.settings import from_environment, variable


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"LNCIS_MAX_RUNING": "3"}, ["LNCIS_MAX_RUNING: no such variable; did you mean LNCIS_MAX_RUNNING?"]),
        ({"LNCIS_DATA_ROOT": "/"}, ["LNCIS_DATA_ROOT: no such variable; did you mean LNCIS_DATA_ROOTS?"]),
        ({"LNCIS_DATABASE": ""}, ["LNCIS_DATABASE: no such variable; did you mean LNCIS_DATABASE_URL?"]),
        (
            {"LNCIS_PORTS": "1", "LNCIS_PRESET": "x"},
            [
                "LNCIS_PORTS: no such variable; did you mean LNCIS_PORT?",
                "LNCIS_PRESET: no such variable; did you mean LNCIS_PRESETS?",
            ],
        ),
        ({"LNCIS_PRESETS": "/no/folder"}, ["LNCIS_PRESETS: must name a folder, but there is none at /no/folder"]),
        ({"LNCIS_DATA_ROOTS": "/:/nowhere"}, ["LNCIS_DATA_ROOTS: must name a folder, but there is none at /nowhere"]),
        ({"LNCIS_RUNS": "/no/runs"}, ["LNCIS_RUNS: must name a folder, but there is none at /no"]),
    ],
)
def test_what_would_be_ignored_is_named(environment, said):
    with pytest.raises(ConfigError) as caught:
        from_environment(environment)
    assert len(caught.value.problems) == len(said)
    assert all(line.startswith(start) for line, start in zip(caught.value.problems, said, strict=True))


def test_what_looks_like_no_setting_is_logged(caplog):
    with caplog.at_level(logging.WARNING):
        from_environment({"LNCIS_ZEBRA": "1", "LNCIS_CACHE": "x", "LNCIS_TOKEN": "secret"})
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["LNCIS_ZEBRA"]


def test_settings_are_read_whole(tmp_path: Path):
    settings = from_environment({"LNCIS_RUNS": str(tmp_path / "runs"), "LNCIS_DATA_ROOTS": f"{tmp_path}:{tmp_path}"})
    assert settings.runs == tmp_path / "runs"
    assert settings.data_roots == [tmp_path, tmp_path]
    assert variable("ray_address") == "RAY_ADDRESS"
