import os
import pickle
from contextlib import nullcontext

import pytest
import torch

from lncis.detection import checkpoint
from lncis.detection.checkpoint import Checkpoint
from lncis.errors import CheckpointError


class Intruder:
    ran = False

    def __reduce__(self):
        return (setattr, (Intruder, "ran", True))


def trained(epochs: int = 2) -> Checkpoint:
    torch.manual_seed(epochs)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    history = [{"epoch": float(e + 1), "lr": 1e-3, "seconds": 0.5, "val/segm_AP": float("nan")} for e in range(epochs)]
    return Checkpoint(model=model.state_dict(), optimizer=optimizer.state_dict(), history=history)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "stage" / "checkpoint.pt"


def assert_equal(found: Checkpoint, expected: Checkpoint) -> None:
    torch.testing.assert_close(dict(found.model), dict(expected.model), rtol=0, atol=0)
    assert found.optimizer["param_groups"] == expected.optimizer["param_groups"]
    torch.testing.assert_close(found.optimizer["state"], expected.optimizer["state"], rtol=0, atol=0)
    assert repr(found.history) == repr(expected.history)  # repr, for nan
    assert found.epoch == expected.epoch


def test_what_is_saved_is_what_is_loaded(path):
    saved = trained()
    checkpoint.save(saved, path)
    assert_equal(checkpoint.load(path), saved)
    assert saved.epoch == 2
    assert list(path.parent.iterdir()) == [path]


def test_resumed_optimizer_goes_on_the_same(path):
    saved = trained()
    checkpoint.save(saved, path)
    steps = []
    for state in (saved, checkpoint.load(path)):
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        model.load_state_dict(state.model)
        optimizer = torch.optim.AdamW(model.parameters())
        optimizer.load_state_dict(state.optimizer)
        model(torch.ones(5, 3)).sum().backward()
        optimizer.step()
        steps.append(model[0].weight)
    assert torch.equal(*steps)


def test_later_checkpoint_replaces_the_earlier(path):
    checkpoint.save(trained(1), path)
    checkpoint.save(trained(3), path)
    assert_equal(checkpoint.load(path), trained(3))


@pytest.mark.parametrize("fault", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("earlier", [True, False])
def test_failure_midway_keeps_the_earlier_checkpoint(path, monkeypatch, fault, earlier):
    if earlier:
        checkpoint.save(trained(1), path)

    def fail(content, file):
        file.write(b"PK half of it")
        raise fault("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(fault if fault is KeyboardInterrupt else CheckpointError, match="disk full"):
        checkpoint.save(trained(2), path)
    assert list(path.parent.iterdir()) == ([path] if earlier else [])
    if earlier:
        assert_equal(checkpoint.load(path), trained(1))


def large() -> Checkpoint:
    return Checkpoint(model={"weight": torch.ones(20_000)}, optimizer={}, history=[{"epoch": 1.0}])


@pytest.mark.parametrize("earlier", [True, False])
def test_on_a_full_disk_the_reason_is_named_and_the_earlier_checkpoint_stays(small_disk, earlier):
    path = small_disk / "checkpoint.pt"
    if earlier:
        checkpoint.save(trained(1), path)
    (small_disk / "ballast").write_bytes(b"x" * 40_000)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.save(large(), path)
    assert str(caught.value) == (
        f"{path} cannot be written: [Errno 28] No space left on device; free some room on its disk, and retry"
    )
    assert {file.name for file in small_disk.iterdir()} == {"ballast"} | ({"checkpoint.pt"} if earlier else set())
    if earlier:
        assert_equal(checkpoint.load(path), trained(1))
    (small_disk / "ballast").unlink()
    checkpoint.save(large(), path)
    assert checkpoint.load(path).epoch == 1


def test_where_nothing_may_be_written_the_reason_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file/checkpoint.pt cannot be written: .*(File exists|Not a directory)"):
        checkpoint.save(trained(1), tmp_path / "file" / "checkpoint.pt")


def test_new_content_is_on_disk_before_it_gets_its_name(path, monkeypatch):
    checkpoint.save(trained(1), path)
    earlier, synced = path.read_bytes(), []
    fsync = os.fsync

    def watch(descriptor):
        fsync(descriptor)
        synced.append(path.read_bytes() == earlier)

    monkeypatch.setattr(os, "fsync", watch)
    checkpoint.save(trained(2), path)
    assert synced == [True]
    assert path.read_bytes() != earlier


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_truncated_file_is_named(path, share):
    checkpoint.save(trained(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=f"{path} is not a readable checkpoint .* delete it to train again"):
        checkpoint.load(path)


def test_missing_file_is_named(path):
    with pytest.raises(CheckpointError, match=f"no checkpoint at {path}; train first, or correct the path"):
        checkpoint.load(path)


@pytest.mark.parametrize("content", [{"model": {}}, {"model": {}, "optimizer": {}, "history": [], "more": 1}, [1, 2]])
def test_file_of_something_else_is_refused(path, content):
    path.parent.mkdir()
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"{path} is not a readable checkpoint"):
        checkpoint.load(path)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_pickled_code_is_not_run(path, write, monkeypatch):
    monkeypatch.setattr(Intruder, "ran", False)
    path.parent.mkdir()
    write({"model": Intruder(), "optimizer": {}, "history": []}, path)
    with pytest.raises(CheckpointError, match=f"{path} is not a readable checkpoint"):
        checkpoint.load(path)
    assert not Intruder.ran
    with pytest.raises((pickle.UnpicklingError, RuntimeError)) if write is not torch.save else nullcontext():
        torch.load(path, weights_only=False)
    assert Intruder.ran  # the file was loaded all right: it is weights_only that saved us
