import json
from pathlib import Path

import pytest

from lncis.detection import histograms
from lncis.detection.histograms import FILE, LossHistogram
from lncis.errors import CheckpointError

TWO = [LossHistogram(epoch=e, clean=[5 * e, 1, 0], flipped=[0, e, 2]) for e in (1, 2)]


def test_what_is_written_is_read_back(tmp_path):
    histograms.write(TWO, tmp_path / "new")
    assert histograms.read(tmp_path / "new") == TWO
    document = json.loads((tmp_path / "new" / FILE).read_text())
    assert document == {
        "bin_nats": 0.25,
        "epochs": [
            {"epoch": 1, "clean": [5, 1, 0], "flipped": [0, 1, 2]},
            {"epoch": 2, "clean": [10, 1, 0], "flipped": [0, 2, 2]},
        ],
    }


def test_a_folder_without_the_file_has_none(tmp_path):
    assert histograms.read(tmp_path) == histograms.read(tmp_path / "nowhere") == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"epochs": [{"epoch": 1}]}', '{"bins": 3}', b"\xff\xfe"])
def test_a_damaged_file_is_as_none(tmp_path, content):
    (tmp_path / FILE).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert histograms.read(tmp_path) == []


def test_nothing_is_left_half_written(tmp_path, monkeypatch):
    histograms.write(TWO[:1], tmp_path)

    def killed(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(CheckpointError, match=r"loss_histograms.json cannot be written: .*No space left.*; free some"):
        histograms.write(TWO, tmp_path)
    assert histograms.read(tmp_path) == TWO[:1]
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


def test_a_file_that_the_store_links_to_is_replaced_and_not_written_through(tmp_path):
    histograms.write(TWO[:1], tmp_path / "stage")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / FILE).hardlink_to(tmp_path / "stage" / FILE)
    histograms.write(TWO, tmp_path / "stage")
    assert histograms.read(tmp_path / "store") == TWO[:1]
