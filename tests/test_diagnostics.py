import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lncis.config import CrossEntropyLoss, LncisLoss
from lncis.detection import diagnostics
from lncis.detection.diagnostics import clean_labels, count_samples, loss_histogram, no_samples, sample_metrics
from lncis.detection.histograms import BIN_NATS, BINS
from lncis.detection.losses import lncis_stage2
from lncis.metrics import FLIP_METRICS, ROLE_METRICS

CPU = torch.device("cpu")
GAMMA = 3.0
LNCIS = LncisLoss(gamma=GAMMA)


def batch(n: int = 1000, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and clean labels of samples, a third of the foreground flipped."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, 6, generator=generator)
    clean = torch.randint(0, 6, (n,), generator=generator)
    flip = (torch.rand(n, generator=generator) < 1 / 3) & (clean > 0)
    labels = torch.where(flip, clean % 5 + 1, clean)
    return logits, labels, clean


def counted(*batches: tuple[Tensor, Tensor, Tensor | None], gamma: float = GAMMA) -> Tensor:
    counts = no_samples(CPU)
    for logits, labels, clean in batches:
        count_samples(counts, logits, labels, clean, gamma)
    return counts


def slow(logits: Tensor, labels: Tensor, clean: Tensor, gamma: float) -> tuple[dict[str, float], list[int], list[int]]:
    """All figures and both histograms, one sample at a time in Python floats."""
    names = ("negative", "pseudo_negative", "potential_noisy", "other")
    role = dict.fromkeys(names, 0)
    number = {(f, pon): 0 for f in (False, True) for pon in (False, True)}
    above = {False: 0, True: 0}
    bins = {False: [0] * BINS, True: [0] * BINS}
    for row, y, truth in zip(logits.double().tolist(), labels.tolist(), clean.tolist(), strict=True):
        ce = math.log(sum(math.exp(z) for z in row)) - row[y]
        if y == 0:
            role["negative"] += 1
            continue
        called_background = row.index(max(row)) == 0
        pon = not called_background and ce > gamma
        role["pseudo_negative" if called_background else "potential_noisy" if pon else "other"] += 1
        number[y != truth, pon] += 1
        above[y != truth] += ce > gamma
        bins[y != truth][min(int(ce // BIN_NATS), BINS - 1)] += 1
    n, flipped, cleans = len(labels), sum(bins[True]), sum(bins[False])
    isolated = number[True, True] + number[False, True]
    expected = {
        "train/isolated": 100 * isolated / (n - role["negative"]),
        "roles/samples": n,
        **{f"roles/{name}": 100 * role[name] / n for name in names},
        "roles/isolation_precision": 100 * number[True, True] / isolated,
        "roles/isolation_recall": 100 * number[True, True] / flipped,
        "roles/flipped_above_gamma": 100 * above[True] / flipped,
        "roles/clean_above_gamma": 100 * above[False] / cleans,
    }
    return expected, bins[False], bins[True]


@pytest.mark.parametrize("gamma", [1.1, 3.0, 6.0])
def test_figures_and_histogram_are_those_of_a_slow_count(gamma):
    samples = batch()
    expected, clean, flipped = slow(*samples, gamma)
    counts = counted(samples, gamma=gamma)
    assert sample_metrics(counts, LncisLoss(gamma=gamma)) == pytest.approx(expected)
    assert set(expected) == {"train/isolated", *ROLE_METRICS, *FLIP_METRICS}
    histogram = loss_histogram(counts, 7)
    assert (histogram.epoch, histogram.clean, histogram.flipped) == (7, clean, flipped)


def test_batches_and_ranks_add_up():
    whole = batch()
    parts = [tuple(tensor[part] for tensor in whole) for part in (slice(0, 300), slice(300, 1000))]
    assert torch.equal(counted(whole), counted(*parts))
    assert torch.equal(counted(whole), counted(parts[0]) + counted(parts[1]))


def test_losses_of_16_nats_and_more_are_in_the_open_bin():
    z = torch.tensor([0.0, -15.8, -16.1, -1e4])
    logits = torch.stack([torch.full_like(z, -1e4), torch.zeros_like(z), z], dim=1)
    labels = torch.full((4,), 2)
    histogram = loss_histogram(counted((logits, labels, labels)), 1)
    assert [place for place, count in enumerate(histogram.clean) if count] == [2, 63, 64]  # ln 2 is the first
    assert histogram.clean[64] == 2
    assert sum(histogram.flipped) == 0


def test_without_clean_labels_there_are_roles_and_nothing_of_flips():
    logits, labels, _ = batch()
    counts = counted((logits, labels, None))
    assert loss_histogram(counts, 1) is None
    found = sample_metrics(counts, LNCIS)
    assert not set(FLIP_METRICS) & set(found)
    assert found == {key: value for key, value in sample_metrics(counted(batch()), LNCIS).items() if key in found}
    assert set(ROLE_METRICS) <= set(found)


def test_where_nothing_is_flipped_only_the_clean_have_sample_metrics():
    logits, _, clean = batch()
    found = sample_metrics(counted((logits, clean, clean)), LNCIS)
    assert set(FLIP_METRICS) & set(found) == {"roles/clean_above_gamma"}


def test_an_epoch_of_background_alone_is_fine():
    logits = torch.zeros(5, 3)
    found = sample_metrics(counted((logits, torch.zeros(5).long(), torch.ones(5).long())), LNCIS)
    assert found["roles/negative"] == 100
    assert found["train/isolated"] == 0
    assert not set(FLIP_METRICS) & set(found)


def test_roles_and_counts_take_one_cross_entropy_each(monkeypatch):
    calls, computed = [], functional.cross_entropy
    monkeypatch.setattr(functional, "cross_entropy", lambda *a, **options: calls.append(1) or computed(*a, **options))
    logits, labels, clean = batch()
    lncis_stage2(logits, labels, gamma=GAMMA)
    assert len(calls) == 1
    count_samples(no_samples(CPU), logits, labels, clean, GAMMA)
    assert len(calls) == 2


def test_no_samples_have_no_metrics():
    empty = (torch.zeros(0, 3), torch.zeros(0).long(), torch.zeros(0).long())
    assert sample_metrics(counted(empty), LNCIS)["roles/samples"] == 0


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), LncisLoss(gamma=GAMMA, isolation=False)])
def test_what_a_loss_would_have_isolated_is_counted_and_not_called_isolated(loss):
    found = sample_metrics(counted(batch()), loss)
    assert found["train/isolated"] == 0
    assert found["roles/potential_noisy"] > 0


def test_a_loss_without_gamma_is_seen_at_the_papers():
    assert diagnostics.gamma_of(CrossEntropyLoss()) == LncisLoss().gamma == 6.0
    assert diagnostics.gamma_of(LncisLoss(gamma=math.inf)) == math.inf
    found = sample_metrics(counted(batch(), gamma=math.inf), LncisLoss(gamma=math.inf))
    assert (found["train/isolated"], found["roles/flipped_above_gamma"]) == (0, 0)


def test_counting_is_for_any_float_type_and_leaves_no_graph():
    logits, labels, clean = batch()
    half = logits.bfloat16().requires_grad_()
    counts = counted((half, labels, clean))
    assert not counts.requires_grad
    assert torch.equal(counts, counted((half.detach().float(), labels, clean)))


def test_counting_draws_no_random_numbers():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sample_metrics(counted(batch()), LNCIS)
    assert torch.equal(torch.get_rng_state(), before)


def test_clean_labels_are_those_of_the_matched_instances():
    targets = [{"clean_labels": torch.tensor(labels).long()} for labels in ([3, 5], [], [2])]
    matched = [torch.tensor(m) for m in ([1, 0, 1], [0, 0], [0])]
    assert clean_labels(matched, targets).tolist() == [5, 3, 5, 0, 0, 2]
    del targets[1]["clean_labels"]
    assert clean_labels(matched, targets) is None
