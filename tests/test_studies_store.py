import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lncis.config import Schedule, TrainConfig
from lncis.execution.tasks import Task
from lncis.studies.stages import store as stores
from lncis.studies.stages.store import StageStore

CONFIG = TrainConfig(schedule=Schedule(epochs=4))


def task(key: str, study: str = "one") -> Task:
    return Task(key=key, config=CONFIG, until=2, directory=Path("runs") / study / "stages" / key)


def trained(key: str, study: str = "one", size: int = 1000, content: bytes = b"x") -> Task:
    made = task(key, study)
    made.directory.mkdir(parents=True)
    (made.directory / "checkpoint.pt").write_bytes(content * size)
    (made.directory / "noise.json").write_text("[]")
    (made.directory / ".trainer").touch()
    return made


def checkpoint(made: Task) -> Path:
    return made.directory / "checkpoint.pt"


def inode(path: Path) -> int:
    return path.stat().st_ino


def kept(folder: Path = Path("store")) -> set[str]:
    return {stage.name for stage in folder.iterdir()}


@pytest.fixture
def store() -> StageStore:
    return StageStore(Path("store"), 1e6)


def test_a_published_stage_is_reused_by_another_study_as_links(store):
    one, two = trained("a"), task("a", "two")
    store.publish(one)
    assert store.reuse(two)
    assert {file.name for file in two.directory.iterdir()} == {"checkpoint.pt", "noise.json"}
    assert inode(checkpoint(one)) == inode(checkpoint(two)) == inode(Path("store/a/checkpoint.pt"))
    assert kept() == {"a"}


def test_what_the_store_has_not_is_not_reused(store):
    assert not store.reuse(task("a"))
    store.publish(trained("b"))
    assert not store.reuse(task("a"))
    assert not task("a").directory.exists()


def test_a_stage_that_the_study_has_begun_is_its_own(store):
    store.publish(trained("a"))
    two = trained("a", "two", content=b"y")
    assert not store.reuse(two)
    assert checkpoint(two).read_bytes() == b"y" * 1000


def test_a_stage_published_twice_stays_as_it_was(store):
    store.publish(trained("a"))
    store.publish(trained("a", "two", content=b"y"))
    assert Path("store/a/checkpoint.pt").read_bytes() == b"x" * 1000
    assert kept() == {"a"}


def test_replacing_a_checkpoint_leaves_the_stored_one(store):
    one, two = trained("a"), task("a", "two")
    store.publish(one)
    store.reuse(two)
    other = checkpoint(two).with_name(".checkpoint.pt.1")
    other.write_bytes(b"later")
    other.replace(checkpoint(two))
    assert checkpoint(one).read_bytes() == Path("store/a/checkpoint.pt").read_bytes() == b"x" * 1000


def test_those_used_longest_ago_go_first():
    store = StageStore(Path("store"), 3100)
    for age, key in ((300, "a"), (200, "b"), (100, "c")):
        store.publish(trained(key))
        os.utime(Path("store") / key, (time.time() - age,) * 2)
    assert kept() == {"a", "b", "c"}
    assert store.reuse(task("a", "two"))  # used now
    store.publish(trained("d"))
    assert kept() == {"a", "c", "d"}
    store.publish(trained("e", size=2000))
    assert kept() == {"a", "e"} or kept() == {"d", "e"}, "a and d were used in the same moment"


def test_a_store_with_room_is_listed_once_a_minute(monkeypatch):
    seconds, store = [0.0], StageStore(Path("store"), 5500)
    monkeypatch.setattr(stores.time, "monotonic", lambda: seconds[0])
    for key in "abcd":
        store.publish(trained(key))
    other = Path("store/others")  # another study's, not seen yet
    other.mkdir()
    (other / "checkpoint.pt").write_bytes(b"x" * 2000)
    os.utime(other, (1, 1))
    store.publish(trained("e"))
    assert kept() == {*"abcde", "others"}
    seconds[0] = stores.LISTED_AGAIN_SECONDS + 1
    store.publish(trained("f"))
    assert len(kept()) == 5 and "others" not in kept(), "f is one too many, the other study's was the oldest"


def test_what_the_store_lets_go_stays_with_those_who_have_it():
    store = StageStore(Path("store"), 1500)
    one, two = trained("a"), task("a", "two")
    store.publish(one)
    store.reuse(two)
    store.publish(trained("b"))
    assert kept() == {"b"}
    assert checkpoint(one).read_bytes() == checkpoint(two).read_bytes() == b"x" * 1000
    assert not store.reuse(task("a", "three"))


def test_a_stage_larger_than_the_store_is_not_kept_and_hurts_no_one():
    store = StageStore(Path("store"), 10)
    one = trained("a")
    store.publish(one)
    assert kept() == set()
    assert checkpoint(one).exists()


def test_leftovers_of_killed_processes_go_after_an_hour(store):
    for name, age in ((".a.123", stores.ABANDONED_SECONDS + 60), (".b.124", 60)):
        leftover = Path("store") / name
        leftover.mkdir(parents=True)
        (leftover / "checkpoint.pt").touch()
        os.utime(leftover, (time.time() - age,) * 2)
    store.publish(trained("c"))
    assert kept() == {".b.124", "c"}


def test_a_leftover_of_a_killed_process_is_no_stage(store):
    half = Path("store/.a.123")
    half.mkdir(parents=True)
    (half / "checkpoint.pt").write_bytes(b"half")
    assert not store.reuse(task("a"))


@pytest.mark.parametrize("where", ["store", "runs"])
def test_a_full_disk_does_no_harm(small_disk, where):
    """Across file systems there are copies for links, and these need room."""
    elsewhere = StageStore(small_disk / "store", 1e9) if where == "store" else StageStore(Path("store"), 1e9)
    one = trained("a", size=200_000)
    elsewhere.publish(one)
    if where == "store":
        assert kept(small_disk / "store") == set()
        small = trained("b", size=20_000)
        elsewhere.publish(small)
        assert kept(small_disk / "store") == {"b"}
        assert elsewhere.reuse(task("b", "two"))
        assert checkpoint(task("b", "two")).read_bytes() == b"x" * 20_000
    else:
        target = Task(key="a", config=CONFIG, until=2, directory=small_disk / "stages" / "a")
        assert not elsewhere.reuse(target)
        assert list((small_disk / "stages").iterdir()) == []
    assert checkpoint(one).exists()


PUBLISH = """
import sys; from pathlib import Path
from lncis.config import TrainConfig
from lncis.studies.stages.store import StageStore
from lncis.execution.tasks import Task
print("ready", flush=True); sys.stdin.readline()
store = StageStore(Path("store"), 1500)
for number in range(200):
    key = f"k{number % 5}"
    store.publish(Task(key=key, config=TrainConfig(), until=2, directory=Path("runs/one/stages") / key))
    directory = Path(f"reused-{sys.argv[1]}-{number}")
    if store.reuse(Task(key=key, config=TrainConfig(), until=2, directory=directory)):
        assert {file.name for file in directory.iterdir()} == {"checkpoint.pt", "noise.json"}, number
        assert (directory / "checkpoint.pt").read_bytes() == b"x" * 1000
print("reused", len(list(Path().glob(f"reused-{sys.argv[1]}-*"))))
"""


@pytest.mark.processes
def test_two_processes_publish_reuse_and_trim_the_same_stages_at_once():
    for number in range(5):
        trained(f"k{number}")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISH, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for name in "ab"
    ]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, b"")
        assert int(out.split()[1]) > 20
    assert len(kept()) <= 2
    assert not any(name.startswith(".") for name in kept())
