"""What `make cluster-test` says where uv's cache is of no use to its hosts."""

import tempfile
import zipfile
from pathlib import Path

import pytest
from network_hosts import fill_uv_cache


@pytest.mark.processes
def test_a_cache_that_hosts_do_not_see_is_said_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("UV_CACHE_DIR", "/tmp/of-mine")
    said = fill_uv_cache(["ray"], tmp_path)
    assert said.startswith("uv's cache is /tmp/of-mine, and a host has a /tmp of its own: set UV_CACHE_DIR")
    assert "\n" not in said


@pytest.mark.processes
def test_an_empty_cache_that_cannot_be_filled_is_said_in_a_line(tmp_path, monkeypatch):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as cache:
        monkeypatch.setenv("UV_CACHE_DIR", cache)
        monkeypatch.setenv("UV_OFFLINE", "1")
        said = fill_uv_cache(["ray==2.60.0"], tmp_path)
    assert said.startswith(f"uv's cache {cache} lacks what the hosts install, and uv cannot fetch it")
    assert "ray" in said.partition("fetch it")[2] and "\n" not in said


@pytest.mark.processes
def test_an_empty_cache_is_filled(tmp_path, monkeypatch):
    wheel = _wheel(tmp_path)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as cache:
        monkeypatch.setenv("UV_CACHE_DIR", cache)
        assert fill_uv_cache([wheel], tmp_path) == ""
        assert [file.read_text() for file in Path(cache).rglob("nothing.py")] == ["x = 1\n"]
    assert not (tmp_path / "filled").exists()


def _wheel(folder: Path) -> Path:
    wheel, about = folder / "nothing-1-py3-none-any.whl", "nothing-1.dist-info"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("nothing.py", "x = 1\n")
        made.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: nothing\nVersion: 1\n")
        made.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr(f"{about}/RECORD", "")
    return wheel
