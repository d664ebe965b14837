import pytest

from lncis import files


def test_a_file_is_written_with_the_folders_above_it(tmp_path):
    files.replace(tmp_path / "a" / "b" / "file", "text")
    assert (tmp_path / "a" / "b" / "file").read_text() == "text"


def test_what_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    files.replace(path, b"old")
    with pytest.raises(RuntimeError), files.replacing(path) as file:
        file.write(b"half of the n")
        assert path.read_bytes() == b"old", "who reads it meanwhile finds the old one"
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(small_disk):
    path = small_disk / "file"
    files.replace(path, b"old")
    with pytest.raises(OSError, match="No space left"):
        files.replace(path, b"x" * 200_000)
    assert path.read_bytes() == b"old"
    assert list(small_disk.iterdir()) == [path]
