"""Copies of published stages on two nodes, which here are two scratch folders."""

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch
from object_store import serving

from lncis import datasets
from lncis.config import TrainConfig
from lncis.detection import checkpoint, engine
from lncis.errors import StorageError
from lncis.execution import objects, scratch, storage
from lncis.execution.scratch import Scratch
from lncis.execution.tasks import Task


@pytest.fixture
def base(tmp_path: Path) -> str:
    return objects.resolved(str(tmp_path / "published"))


@pytest.fixture(autouse=True)
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LNCIS_SCRATCH", str(tmp_path / "node"))
    return tmp_path / "node" / "lncis"


def task(base: str, key: str, until: int, after: Task | None = None, config: TrainConfig | None = None) -> Task:
    return Task(
        key=key,
        config=config or TrainConfig(),
        until=until,
        directory=Path("nowhere"),
        after=after,
        shared=objects.below(base, "stages", key),
    )


def publish(at: Task, epoch: int, content: str) -> None:
    made = Path("made")
    made.mkdir(exist_ok=True)
    (made / engine.CHECKPOINT).write_text(content)
    storage.publish(made, at.shared, epoch)


def test_a_chain_trained_on_two_nodes_ends_with_the_weights_of_one_training(tiny, trained, monkeypatch):
    """Node one dies after a local epoch that it did not publish; node two goes on from the bucket alone."""
    data = datasets.load(tiny)
    with serving() as s3:
        first = task(s3.url("lncis"), "one", 2, config=tiny)
        second = task(s3.url("lncis"), "two", 4, after=first, config=tiny)

        def train(work: Task, node: str, publishes: int) -> list[float]:
            monkeypatch.setenv("LNCIS_SCRATCH", node)
            told: list[float] = []
            with closing(Scratch()) as here:
                copy = here.copy(work)

                def epoch_finished(record: dict[str, float]) -> bool:
                    if record["epoch"] > copy.epoch:
                        if record["epoch"] > publishes:
                            return False
                        storage.publish(copy.directory, work.shared, int(record["epoch"]))
                    told.append(record["epoch"])
                    return True

                engine.train(
                    tiny, data, copy.directory, until=work.until, fork_from=copy.fork_from, on_epoch=epoch_finished
                )
            return told

        assert train(first, "one", publishes=1) == [1]
        assert train(first, "two", publishes=2) == [1, 2]
        assert train(second, "one", publishes=3) == [1, 2, 3]
        assert train(second, "two", publishes=4) == [1, 2, 3, 4]
        assert not list(Path("one/lncis").glob("*/*")) and not list(Path("two/lncis").glob("*/*"))
        assert storage.fetch(second.shared, Path("result")) == 4
    mine, theirs = (checkpoint.load(folder / engine.CHECKPOINT) for folder in (Path("result"), trained))
    assert mine.model.keys() == theirs.model.keys()
    assert all(torch.equal(mine.model[key], theirs.model[key]) for key in theirs.model)
    assert [r["train/loss"] for r in mine.history] == [r["train/loss"] for r in theirs.history]


def test_a_stage_is_begun_from_the_end_of_the_one_before_and_gone_on_with_once_it_is_published(base):
    first, second = task(base, "a", 2), task(base, "b", 4, after=task(base, "a", 2))
    publish(first, 2, "a2")
    with closing(Scratch()) as here:
        copy = here.copy(second)
        assert (copy.epoch, (copy.fork_from / engine.CHECKPOINT).read_text()) == (2, "a2")
        assert not (copy.directory / engine.CHECKPOINT).exists()
        (copy.directory / engine.CHECKPOINT).write_text("b3, not published")
        assert not (here.copy(second).directory / engine.CHECKPOINT).exists()
        publish(second, 3, "b3")
        copy = here.copy(second)
        assert (copy.epoch, copy.fork_from, (copy.directory / engine.CHECKPOINT).read_text()) == (3, None, "b3")


@pytest.mark.parametrize("there", [0, 1])
def test_a_stage_is_not_begun_from_one_that_is_not_published_to_its_end(base, there):
    first = task(base, "a", 2)
    if there:
        publish(first, 1, "a1")
    with (
        closing(Scratch()) as here,
        pytest.raises(StorageError, match=rf"stages/a holds {there or 'no'} epochs where 2"),
    ):
        here.copy(task(base, "b", 4, after=first))


def test_the_latest_stages_are_kept_and_at_the_end_none(base, node):
    with closing(Scratch()) as here:
        for key in "abcde":
            publish(task(base, key, 2), 2, key)
            here.copy(task(base, key, 2))
        kept = {path.name for path in node.glob("*/*") if path.is_dir()}
        assert kept == set("cde")
        assert len(kept) == scratch.KEPT_STAGES
    assert not [path for path in node.iterdir() if path.is_dir()]


HOLD = """
import sys
from pathlib import Path
from lncis.execution import scratch
folder, lock = scratch._claim_folder(scratch._root())
(folder / "stage").mkdir()
print(folder, flush=True)
sys.stdin.readline()
"""


@pytest.mark.processes
def test_what_a_killed_process_left_is_removed_by_the_next_and_that_of_a_living_one_is_not(base, node):
    processes = [
        subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    dead, alive = (Path(process.stdout.readline().strip()) for process in processes)
    os.kill(processes[0].pid, signal.SIGKILL)
    processes[0].wait()
    assert dead.exists()
    try:
        with closing(Scratch()) as here:
            here.copy(task(base, "a", 2))
            assert not dead.exists() and (alive / "stage").exists()
    finally:
        processes[1].communicate("\n")
        processes[0].stdin.close()
        processes[0].stdout.close()


def test_a_scratch_that_cannot_be_written_is_told(base, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LNCIS_SCRATCH", str(tmp_path / "file"))
    with (
        closing(Scratch()) as here,
        pytest.raises(StorageError, match=r"file/lncis cannot be written: .*LNCIS_SCRATCH"),
    ):
        here.copy(task(base, "a", 2))
