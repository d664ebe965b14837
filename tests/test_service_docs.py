"""What docs/service.md says of settings and calls is what the service has; test_readme.py looks at its commands."""

import dataclasses
import re
from pathlib import Path

from served import ROOT

from service.app import create_app
from service.dispatch.jobs import RayJobs
from service.settings import OTHERS_VARIABLES, Settings, variable
from service.store.database import Database

TEXT = (ROOT / "docs" / "service.md").read_text()
OF_RAY = {"RAY_AUTH_MODE"}


def test_the_settings_it_names_exist_and_have_the_defaults_that_it_says() -> None:
    fields = {variable(field.name): field.name for field in dataclasses.fields(Settings)}
    assert set(re.findall(r"`(LNCIS_[A-Z_]+)", TEXT)) <= set(fields) | OTHERS_VARIABLES
    settings, checked = Settings(), 0
    for names, defaults in re.findall(r"^\| (`[A-Z_`, ]+`) \| ([^|]+) \|", TEXT, flags=re.MULTILINE):
        listed = re.findall(r"`([A-Z_]+)`", names)
        for name, default in zip(listed, defaults.split(", "), strict=True):
            if name not in OF_RAY:
                value = getattr(settings, fields[name])
                word = "none" if value in ("", [], None) else f"{value:g}" if isinstance(value, float) else str(value)
                assert default.strip("`").partition(": ")[0] == word, name
                checked += 1
    assert checked > 15


def test_its_table_has_every_call(tmp_path: Path, database: Database) -> None:
    settings = Settings(runs=tmp_path)
    paths = create_app(settings, database, RayJobs(settings)).openapi()["paths"]
    (table,) = re.findall(r"^\| call \|.*?\n\n", TEXT, flags=re.MULTILINE | re.DOTALL)
    words = re.findall(r"`(?:[A-Z]+ )?\.*(/[^`?]*)", table)
    for path in paths:
        known = path.replace("{study_id}", "{id}").replace("{trial}", "{name}")
        assert any(known.endswith(word) for word in words), path
