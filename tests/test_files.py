import subprocess
import sys
from pathlib import Path

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


@pytest.mark.processes
def test_a_lock_is_held_by_one_process_and_ends_with_it(tmp_path):
    path = tmp_path / "there" / "lock"
    code = "import sys, time; from pathlib import Path; from lncis import files\n"
    code += "with files.lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        with pytest.raises(TimeoutError), files.lock(path):
            pass
        holder.kill()
    with files.lock(path), pytest.raises(TimeoutError), files.lock(path):
        pass


def test_a_folder_appears_with_all_that_was_written():
    with files.appearing(Path("made/here")) as folder:
        (folder / "a").write_text("1")
        assert not Path("made/here").exists()
    assert [path.name for path in Path("made").iterdir()] == ["here"]
    assert Path("made/here/a").read_text() == "1"


def test_a_folder_whose_block_fails_vanishes():
    with pytest.raises(KeyboardInterrupt), files.appearing(Path("made/here")) as folder:
        (folder / "a").write_text("1")
        raise KeyboardInterrupt
    assert not list(Path("made").iterdir())


def test_a_folder_that_holds_something_is_kept():
    Path("here").mkdir()
    Path("here/mine").touch()
    with pytest.raises(OSError, match="not empty"), files.appearing(Path("here")) as folder:
        (folder / "a").write_text("1")
    assert sorted(str(path) for path in Path().rglob("*")) == ["here", "here/mine"]
