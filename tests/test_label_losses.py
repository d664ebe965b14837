"""What each annotation's samples lost, counted again in a loop from what the heads saw."""

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lncis import datasets
from lncis.config import CrossEntropyLoss, LncisLoss, Schedule
from lncis.detection import engine, label_losses
from lncis.errors import CheckpointError


@pytest.mark.parametrize("loss", [LncisLoss(gamma=2.4), LncisLoss(gamma=2.4, isolation=False), CrossEntropyLoss()])
def test_an_epoch_is_what_a_loop_over_its_samples_counts(tiny, digits_cache, loss, monkeypatch):
    config = replace(tiny, loss=loss, schedule=Schedule(epochs=2, stage1_epochs=1))
    data = datasets.load(config)
    seen: list[tuple[torch.Tensor, ...]] = []
    add = label_losses.add

    def spy(sums, ids, stage_loss, heads, targets):
        for image, (matched, target) in enumerate(zip(heads.matched_idxs, targets, strict=True)):
            start = sum(len(m) for m in heads.matched_idxs[:image])
            own = slice(start, start + len(matched))
            seen.append((heads.class_logits[own], heads.labels[own], target["annotation_ids"][matched]))
        add(sums, ids, stage_loss, heads, targets)

    monkeypatch.setattr(label_losses, "add", spy)
    engine.train(config, data, Path("run"))
    found = label_losses.read(Path("run"))
    images = len(data.train)
    for epoch in (0, 1):
        losses, isolated = defaultdict(list), defaultdict(int)
        for logits, labels, ids in seen[epoch * images : (epoch + 1) * images]:
            for row, label, i in zip(logits.double(), labels.tolist(), ids.tolist(), strict=True):
                if label:
                    ce = float(torch.logsumexp(row, 0) - row[label])
                    losses[i].append(ce)
                    sets_aside = epoch == 1 and isinstance(loss, LncisLoss) and loss.isolation
                    isolated[i] += sets_aside and ce > 2.4 and int(row.argmax()) != 0
        for place, i in enumerate(found.annotation_ids.tolist()):
            mean = np.mean(losses[i]) if losses[i] else math.nan
            assert found.losses[epoch, place] == pytest.approx(mean, rel=1e-5, nan_ok=True)
            assert found.isolated[epoch, place] == isolated[i]
    assert np.isfinite(found.losses).any()
    assert bool(found.isolated[1].sum()) == (isinstance(loss, LncisLoss) and loss.isolation)


def test_a_lost_or_damaged_file_costs_no_training(tiny, trained, digits_cache):
    data = datasets.load(tiny)
    engine.train(tiny, data, Path("run"), until=2)
    (Path("run") / label_losses.FILE).write_bytes(b"PK")
    assert label_losses.read(Path("run")) is None
    engine.train(tiny, data, Path("run"))
    kept, whole = label_losses.read(Path("run")), label_losses.read(trained)
    assert np.array_equal(kept.losses, whole.losses[2:], equal_nan=True)


def test_a_full_disk_is_said(tiny, digits_cache, monkeypatch):
    found = label_losses.begun_in(None, datasets.load(tiny).train)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(label_losses.files, "replace", full)
    with pytest.raises(CheckpointError, match=r"label_losses.npz cannot be written: .*No space left.*; free some"):
        label_losses.write(found, Path())


def test_data_without_annotations_have_no_losses(tiny, digits_cache):
    empty = datasets.load(tiny).train.of_images(set())
    found = label_losses.begun_in(None, empty)
    sums = label_losses.no_sums(torch.from_numpy(found.annotation_ids))
    label_losses.add(sums, torch.from_numpy(found.annotation_ids), CrossEntropyLoss(), None, [])
    assert found.followed_by(sums).losses.shape == (1, 0)
