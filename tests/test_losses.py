import math
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lncis import documents
from lncis.config import (
    ActivePassiveLoss,
    ClassLossConfig,
    CrossEntropyLoss,
    GeneralizedCrossEntropyLoss,
    JointOptimizationLoss,
    LabelSmoothingLoss,
    LncisLoss,
    ReverseCrossEntropyLoss,
    SymmetricCrossEntropyLoss,
    TrainConfig,
)
from lncis.detection.losses import (
    BACKGROUND,
    SampleRoles,
    active_passive,
    class_loss,
    cross_entropy,
    generalized_cross_entropy,
    joint_optimization,
    label_smoothing,
    lncis_stage2,
    reverse_cross_entropy,
    sample_roles,
    symmetric_cross_entropy,
)

GAMMA, A = 3.0, -4.0
ROOT = Path(__file__).parents[1]
RELEASE = LncisLoss(A=math.log(1e-4), isolation=False, clamped=True)
SWITCHES = ("negatives", "pseudo_negatives", "isolation")
LOSSES = {
    "cross_entropy": cross_entropy,
    "label_smoothing": label_smoothing,
    "generalized_cross_entropy": generalized_cross_entropy,
    "reverse_cross_entropy": reverse_cross_entropy,
    "symmetric_cross_entropy": symmetric_cross_entropy,
    "joint_optimization": joint_optimization,
    "active_passive": active_passive,
    "lncis_stage2": lncis_stage2,
    "lncis_stage2 of the release": class_loss(RELEASE, stage=2),
    "lncis_stage2 without switches": partial(lncis_stage2, **dict.fromkeys(SWITCHES, False)),
    "lncis_stage1": class_loss(LncisLoss(), stage=1),
}
CONFIGS = get_args(get_args(ClassLossConfig)[0])


@pytest.fixture(params=LOSSES)
def any_loss(request):
    return LOSSES[request.param]


def roles_of(logits: Tensor, labels: Tensor, gamma: float) -> SampleRoles:
    return sample_roles(logits, labels, cross_entropy(logits, labels, reduction="none"), gamma)


def batch(n: int = 200, classes: int = 6, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=generator)
    return logits, torch.randint(0, classes, (n,), generator=generator)


def probabilities(row: list[float]) -> list[float]:
    exponentials = [math.exp(z - max(row)) for z in row]
    return [e / sum(exponentials) for e in exponentials]


def slow_stage2(logits: Tensor, labels: Tensor, gamma: float, log_0: float) -> tuple[list[float], list[str]]:
    """Eq. 4 one sample at a time, in Python floats, with reverse cross entropy as the sum of Eq. 5."""
    losses, roles = [], []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        p = probabilities(row)
        if label == 0:
            roles.append("negative")
        elif row.index(max(row)) == 0:
            roles.append("pseudo_negative")
        else:
            roles.append("potential_noisy" if math.log(p[label]) < -gamma else "other")
        if roles[-1] in ("negative", "pseudo_negative"):
            losses.append(-math.log(p[label]))
        elif roles[-1] == "potential_noisy":
            losses.append(0.0)
        else:
            losses.append(-sum(p[k] * log_0 for k in range(len(p)) if k != label))
    return losses, roles


def gradient_at(loss, logits: Tensor, labels: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    loss(leaf, labels).backward()
    return leaf.grad


def test_cross_entropy_is_torchs_in_float64():
    logits, labels = batch()
    expected = F.cross_entropy(logits.double(), labels, reduction="none")
    torch.testing.assert_close(cross_entropy(logits, labels, reduction="none").double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cross_entropy(logits, labels).double(), expected.mean(), rtol=1e-5, atol=1e-5)


def test_cross_entropy_at_one_percent_is_4_6052():
    logits = torch.tensor([[0.99, 0.01]]).log()
    assert cross_entropy(logits, torch.tensor([1])).item() == pytest.approx(4.6052, abs=5e-5)


@pytest.mark.parametrize("log_0", [-4.0, -1.0, -9.21])
def test_reverse_cross_entropy_is_the_sum_of_eq_5(log_0):
    logits, labels = batch()
    p = logits.double().softmax(dim=1)
    log_q = torch.full_like(p, log_0).scatter(1, labels[:, None], 0.0)  # log 1 = 0, log 0 := A
    found = reverse_cross_entropy(logits, labels, A=log_0, reduction="none")
    torch.testing.assert_close(found.double(), -(p * log_q).sum(dim=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_foreground", [1, 2, 5, 80])
def test_reverse_cross_entropy_sums_over_labels_to_constants(num_foreground):
    logits, _ = batch(n=30, classes=num_foreground + 1)
    by_label = torch.stack(
        [
            reverse_cross_entropy(logits, torch.full((30,), label), A=A, reduction="none")
            for label in range(num_foreground + 1)
        ]
    )
    p_background = logits.softmax(dim=1)[:, BACKGROUND]
    torch.testing.assert_close(by_label.sum(dim=0), torch.full((30,), -num_foreground * A))
    torch.testing.assert_close(by_label[1:].sum(dim=0), -A * (num_foreground - 1 + p_background), rtol=1e-5, atol=1e-5)


def test_gradient_of_reverse_cross_entropy_is_eq_7():
    logits, labels = batch(n=40)
    found = gradient_at(lambda z, y: reverse_cross_entropy(z, y, A=A, reduction="none").sum(), logits, labels)
    for row, label, gradient in zip(logits.tolist(), labels.tolist(), found.tolist(), strict=True):
        p = probabilities(row)
        eq_7 = [A * p[j] - A * p[j] ** 2 if j == label else -A * p[j] * p[label] for j in range(len(p))]
        assert gradient == pytest.approx(eq_7, rel=1e-4, abs=1e-6)


def test_gradient_of_cross_entropy_is_eq_8():
    logits, labels = batch(n=40)
    found = gradient_at(lambda z, y: cross_entropy(z, y, reduction="none").sum(), logits, labels)
    for row, label, gradient in zip(logits.tolist(), labels.tolist(), found.tolist(), strict=True):
        p = probabilities(row)
        eq_8 = [p[j] - 1 if j == label else p[j] for j in range(len(p))]
        assert gradient == pytest.approx(eq_8, rel=1e-4, abs=1e-6)


def test_gradient_of_reverse_cross_entropy_is_at_most_a_quarter_of_A():
    # with two classes p_y = sigmoid(z), so a grid of z with 0 in it visits every p_y, one half too
    z = torch.linspace(-8, 8, 1601)
    logits = torch.stack([torch.zeros_like(z), z], dim=1)
    labels = torch.ones(len(z), dtype=torch.long)
    steepness = gradient_at(lambda x, y: reverse_cross_entropy(x, y, A=A, reduction="none").sum(), logits, labels)
    steepness = steepness[:, 1].abs()
    assert steepness.max().item() == pytest.approx(abs(A) / 4, rel=1e-5)
    assert z[steepness.argmax()].sigmoid().item() == pytest.approx(0.5, abs=1e-2)


@pytest.mark.parametrize(("gamma", "log_0"), [(3.0, -4.0), (1.0, -4.0), (6.0, -0.5), (5.0, -9.21)])
def test_stage_2_is_eq_4_sample_by_sample(gamma, log_0):
    logits, labels = batch(n=2000)
    losses, roles = slow_stage2(logits, labels, gamma, log_0)
    assert set(roles) == {"negative", "pseudo_negative", "potential_noisy", "other"}
    found = lncis_stage2(logits, labels, gamma=gamma, A=log_0, reduction="none")
    assert found.tolist() == pytest.approx(losses, rel=1e-5, abs=1e-5)
    assert lncis_stage2(logits, labels, gamma=gamma, A=log_0).item() == pytest.approx(sum(losses) / 2000, rel=1e-5)
    for name, mask in roles_of(logits, labels, gamma)._asdict().items():
        assert mask.tolist() == [role == name for role in roles]


def test_roles_are_a_partition():
    roles = roles_of(*batch(n=2000), gamma=GAMMA)
    assert (torch.stack(list(roles)).sum(dim=0) == 1).all()
    assert all(mask.any() for mask in roles)


def test_role_at_a_tie_follows_the_first_class():
    # argmax takes the first of equals: a tie with background is called background, one among foreground is not
    logits = torch.tensor([[2.0, 2.0, 0.0], [0.0, 2.0, 2.0], [1.0, 1.0, 1.0]])
    roles = roles_of(logits, torch.tensor([1, 2, 2]), gamma=GAMMA)
    assert roles.pseudo_negative.tolist() == [True, False, True]
    assert roles.other.tolist() == [False, True, False]


def test_cross_entropy_equal_to_gamma_is_not_isolated():
    logits, labels = torch.tensor([[-9.0, 5.0, 1.0]]), torch.tensor([2])
    at = cross_entropy(logits, labels).item()
    assert roles_of(logits, labels, gamma=at).other.item()
    assert roles_of(logits, labels, gamma=at - 1e-3).potential_noisy.item()


def test_infinite_gamma_isolates_none():
    logits, labels = batch(scale=1000.0)
    assert roles_of(logits, labels, gamma=50.0).potential_noisy.any()
    assert not roles_of(logits, labels, gamma=math.inf).potential_noisy.any()


def test_isolated_samples_have_no_gradient_but_count_in_the_mean():
    logits, labels = batch(n=500)
    isolated = roles_of(logits, labels, GAMMA).potential_noisy
    assert 0 < isolated.sum() < 500
    gradient = gradient_at(lambda z, y: lncis_stage2(z, y, gamma=GAMMA), logits, labels)
    assert (gradient[isolated] == 0).all()
    assert (gradient[~isolated].abs().amax(dim=1) > 0).all()
    kept = lncis_stage2(logits[~isolated], labels[~isolated], gamma=GAMMA, reduction="none")
    torch.testing.assert_close(lncis_stage2(logits, labels, gamma=GAMMA), kept.sum() / 500)


def test_roles_carry_no_gradient():
    logits, labels = batch(n=20)
    assert not any(mask.requires_grad for mask in roles_of(logits.requires_grad_(), labels, GAMMA))


def test_empty_batch_gives_zero_and_zero_gradient(any_loss):
    weight = torch.ones(5, requires_grad=True)
    loss = any_loss(torch.zeros(0, 5) * weight, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(weight.grad, torch.zeros(5))


def test_all_background_is_plain_cross_entropy():
    logits, labels = batch()
    labels.zero_()
    torch.testing.assert_close(lncis_stage2(logits, labels), cross_entropy(logits, labels))
    assert roles_of(logits, labels, GAMMA).negative.all()


def test_one_foreground_class_is_never_isolated_below_ln_2():
    # a sample called class 1 has p_1 > 1/2: with K = 1 every role but PON is possible
    logits, labels = batch(classes=2)
    roles = roles_of(logits, labels, gamma=math.log(2))
    assert not roles.potential_noisy.any()
    losses, _ = slow_stage2(logits, labels, 6.0, A)
    assert lncis_stage2(logits, labels, reduction="none").tolist() == pytest.approx(losses, rel=1e-5, abs=1e-5)


def test_loss_and_gradient_are_finite_at_extreme_logits(any_loss):
    corners = torch.cartesian_prod(*[torch.tensor([-1e4, 0.0, 1e4])] * 3)
    logits = corners.repeat_interleave(3, dim=0)
    labels = torch.arange(3).repeat(len(corners))
    assert any_loss(logits, labels).isfinite()
    assert gradient_at(any_loss, logits, labels).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_loss_is_fp32_for_any_float_type(any_loss, dtype):
    logits, labels = batch()
    logits = logits.to(dtype)
    assert any_loss(logits, labels).dtype == torch.float32
    assert any_loss(logits, labels) == any_loss(logits.float(), labels)
    assert gradient_at(any_loss, logits, labels).dtype == dtype


def test_loss_is_fp32_under_autocast(any_loss):
    logits, labels = batch()
    with torch.autocast("cpu", torch.bfloat16):
        under = any_loss(logits, labels)
    assert under.dtype == torch.float32
    assert under == any_loss(logits, labels)


def test_order_of_samples_does_not_matter(any_loss):
    logits, labels = batch()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(any_loss(logits[order], labels[order]), any_loss(logits, labels))
    torch.testing.assert_close(
        gradient_at(any_loss, logits[order], labels[order]), gradient_at(any_loss, logits, labels)[order]
    )


@pytest.mark.parametrize("config", [LncisLoss(gamma=GAMMA, A=-2.0), CrossEntropyLoss()], ids=["lncis", "cross_entropy"])
def test_class_loss_of_stage_1_is_cross_entropy(config):
    logits, labels = batch()
    assert torch.equal(class_loss(config, stage=1)(logits, labels), cross_entropy(logits, labels))


def test_class_loss_of_stage_2_follows_the_config():
    logits, labels = batch()
    losses, _ = slow_stage2(logits, labels, GAMMA, -2.0)
    lncis = class_loss(LncisLoss(gamma=GAMMA, A=-2.0), stage=2)(logits, labels)
    assert lncis.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert torch.equal(class_loss(CrossEntropyLoss(), stage=2)(logits, labels), cross_entropy(logits, labels))


def test_defaults_are_the_papers():
    logits, labels = batch(scale=6.0)
    losses, roles = slow_stage2(logits, labels, 6.0, -4.0)
    assert "potential_noisy" in roles
    assert lncis_stage2(logits, labels).item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert (LncisLoss().gamma, LncisLoss().A) == (6.0, -4.0)


def slow_eq_4(logits: Tensor, labels: Tensor, gamma: float, log_0: float, **switches: bool) -> list[float]:
    """Eq. 4 in float64, one sample at a time, from one-hot labels and the sums of Eq. 2 and 5."""
    losses = []
    for row, y in zip(logits.double().numpy(), labels.tolist(), strict=True):
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        q = np.eye(len(p))[y]
        ce = -sum(q[k] * np.log(p[k]) for k in range(len(p)) if q[k] > 0)
        rce = -sum(p[k] * (0.0 if q[k] == 1 else log_0) for k in range(len(p)))
        if y == 0:
            losses.append(ce if switches["negatives"] else rce)
        elif p.argmax() == 0:
            losses.append(ce if switches["pseudo_negatives"] else rce)
        elif ce > gamma:
            losses.append(0.0 if switches["isolation"] else rce)
        else:
            losses.append(rce)
    return losses


@pytest.mark.parametrize("on", list(product([True, False], repeat=3)), ids=str)
def test_each_switch_changes_its_role_and_no_other(on):
    """Table 4: N, PSN and PON, each by itself."""
    logits, labels = batch(n=500)
    switches = dict(zip(SWITCHES, on, strict=True))
    found = class_loss(LncisLoss(gamma=GAMMA, A=-2.5, **switches), stage=2)
    expected = slow_eq_4(logits, labels, GAMMA, -2.5, **switches)
    assert found(logits, labels, reduction="none").tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert found(logits, labels).item() == pytest.approx(np.mean(expected), rel=1e-5)
    whole = lncis_stage2(logits, labels, gamma=GAMMA, A=-2.5, reduction="none")
    other = found(logits, labels, reduction="none") != whole
    roles = roles_of(logits, labels, GAMMA)
    for switch, mask in zip(on, (roles.negative, roles.pseudo_negative, roles.potential_noisy), strict=True):
        assert other[mask].any() == (not switch)
    assert not other[roles.other].any()


TABLE_4 = {
    # row -> config, then the losses of NEG, PSN, PON and OS in stage 1 and in stage 2
    "CE": (CrossEntropyLoss(), "ce ce ce ce", "ce ce ce ce"),
    "ST": (LncisLoss(negatives=False, pseudo_negatives=False, isolation=False), "ce ce ce ce", "rce rce rce rce"),
    "N+PSN": (LncisLoss(stagewise=False, isolation=False), "ce ce rce rce", "ce ce rce rce"),
    "N+PSN+PON": (LncisLoss(stagewise=False), "ce ce 0 rce", "ce ce 0 rce"),
    "ST+N": (LncisLoss(pseudo_negatives=False, isolation=False), "ce ce ce ce", "ce rce rce rce"),
    "ST+N+PSN": (LncisLoss(isolation=False), "ce ce ce ce", "ce ce rce rce"),
    "ST+N+PSN+PON": (LncisLoss(), "ce ce ce ce", "ce ce 0 rce"),
}


@pytest.mark.parametrize("row", TABLE_4)
def test_every_row_of_table_4_is_a_config(row):
    config, *stages = TABLE_4[row]
    logits, labels = batch(n=500, scale=5.0)
    by_name = {
        "ce": cross_entropy(logits, labels, reduction="none"),
        "rce": reverse_cross_entropy(logits, labels, reduction="none"),
        "0": torch.zeros(500),
    }
    for stage, losses in zip((1, 2), stages, strict=True):
        found = class_loss(config, stage=stage)(logits, labels, reduction="none")
        for mask, name in zip(roles_of(logits, labels, 6.0), losses.split(), strict=True):
            assert mask.any()
            torch.testing.assert_close(found[mask], by_name[name][mask])


def test_without_any_switch_stage_2_is_reverse_cross_entropy():
    """ST alone in Table 4."""
    logits, labels = batch()
    found = class_loss(LncisLoss(A=-2.0, **dict.fromkeys(SWITCHES, False)), stage=2)(logits, labels)
    torch.testing.assert_close(found, reverse_cross_entropy(logits, labels, A=-2.0))


def test_without_stages_stage_1_is_stage_2():
    logits, labels = batch()
    config = LncisLoss(gamma=GAMMA, A=-2.0, stagewise=False)
    first, second = (class_loss(config, stage=stage)(logits, labels) for stage in (1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, cross_entropy(logits, labels))


def slow_release(logits: Tensor, labels: Tensor) -> list[float]:
    """The published code, line by line: clamped softmax and one-hot labels in both sums, weights of 0 and 1."""
    p = np.exp(logits.double().numpy())
    p = np.clip(p / p.sum(axis=1, keepdims=True), 1e-7, 1.0)
    q = np.clip(np.eye(p.shape[1])[labels.numpy()], 1e-4, 1.0)
    ce, rce = -(q * np.log(p)).sum(axis=1), -(p * np.log(q)).sum(axis=1)
    weight1 = np.zeros(len(p))
    weight1[labels.numpy() == 0] = 1.0
    weight1[p.argmax(axis=1) == 0] = 1.0
    return list(weight1 * ce + (1 - weight1) * rce)


@pytest.mark.parametrize("scale", [1.0, 3.0, 12.0])
def test_release_is_the_published_code(scale):
    logits, labels = batch(n=1000, scale=scale)
    release = class_loss(RELEASE, stage=2)
    expected = slow_release(logits, labels)
    assert release(logits, labels, reduction="none").tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert release(logits, labels).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_release_is_the_shipped_recipe():
    assert documents.load(TrainConfig, ROOT / "studies/recipes/release_loss.yaml").loss == RELEASE
    assert (RELEASE.A, RELEASE.isolation, RELEASE.clamped) == (math.log(1e-4), False, True)


def test_release_is_stage_2_with_its_constants_to_the_bit():
    logits, labels = batch(n=1000, scale=6.0)
    expected = lncis_stage2(logits, labels, gamma=6.0, A=math.log(1e-4), isolation=False, clamped=True)
    assert torch.equal(class_loss(RELEASE, stage=2)(logits, labels), expected)


def test_clamps_leave_isolation_as_it_is():
    logits, labels = batch(scale=6.0)
    loss = class_loss(replace(RELEASE, isolation=True), stage=2)(logits, labels, reduction="none")
    isolated = roles_of(logits, labels, 6.0).potential_noisy
    assert isolated.any()
    assert torch.equal(loss == 0, isolated)


def test_clamps_matter_where_probabilities_are_small_only():
    """A negative sample at p_0 = e-30 costs 30 nats, and in the published code at most those of 1e-7."""
    logits = torch.tensor([[-30.0, 0.0], [0.0, 0.0]])
    exact, clamped = (lncis_stage2(logits, torch.zeros(2).long(), clamped=c, reduction="none") for c in (False, True))
    assert exact.tolist() == pytest.approx([30.0, math.log(2)])
    assert clamped.tolist() == pytest.approx([-math.log(1e-7), math.log(2)], rel=2e-4)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5])
def test_label_smoothing_is_cross_entropy_against_smoothed_labels(epsilon):
    logits, labels = batch()
    q = torch.eye(6, dtype=torch.float64)[labels] * (1 - epsilon) + epsilon / 6
    expected = -(q * logits.double().log_softmax(dim=1)).sum(dim=1)
    found = label_smoothing(logits, labels, epsilon=epsilon, reduction="none")
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        label_smoothing(logits, labels, epsilon=epsilon), F.cross_entropy(logits, labels, label_smoothing=epsilon)
    )


@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_generalized_cross_entropy_is_its_closed_form(q):
    logits, labels = batch()
    p = logits.double().softmax(dim=1).gather(1, labels[:, None])[:, 0]
    found = generalized_cross_entropy(logits, labels, q=q, reduction="none")
    torch.testing.assert_close(found.double(), (1 - p**q) / q, rtol=1e-5, atol=1e-5)


def test_generalized_cross_entropy_lies_between_cross_entropy_and_absolute_error():
    logits, labels = batch()
    nearly = generalized_cross_entropy(logits, labels, q=1e-4, reduction="none")
    torch.testing.assert_close(nearly, cross_entropy(logits, labels, reduction="none"), rtol=2e-3, atol=1e-3)
    absolute = generalized_cross_entropy(logits, labels, q=1.0, reduction="none")
    torch.testing.assert_close(absolute, reverse_cross_entropy(logits, labels, A=-1.0, reduction="none"))


def test_gradient_of_generalized_cross_entropy_is_that_of_cross_entropy_times_a_power_of_p():
    """Its factor p^q goes to 0; the gradient of a power of p_y would be infinite there."""
    z = torch.tensor([0.0, -5.0, -50.0, -200.0, -1e4])
    logits = torch.stack([torch.zeros_like(z), z], dim=1)
    labels = torch.ones(len(z), dtype=torch.long)
    found = gradient_at(lambda x, y: generalized_cross_entropy(x, y, reduction="none").sum(), logits, labels)
    p = z.double().sigmoid()
    torch.testing.assert_close(found[:, 1].double(), p**0.3 * (p - 1), rtol=1e-5, atol=1e-7)


def test_symmetric_cross_entropy_is_the_weighted_sum():
    logits, labels = batch()
    expected = 0.7 * cross_entropy(logits, labels) + 0.2 * reverse_cross_entropy(logits, labels, A=-6.0)
    torch.testing.assert_close(symmetric_cross_entropy(logits, labels, alpha=0.7, beta=0.2, A=-6.0), expected)


def published_symmetric_cross_entropy(logits, labels):
    """As in github.com/YisenWang/symmetric_cross_entropy_for_noisy_labels, with alpha 1 and beta 0.1: in PyTorch the
    same lines stand in the code of Ma et al. and of LNCIS."""
    p = logits.softmax(dim=1).clamp(min=1e-7, max=1.0)
    label = torch.nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype).clamp(min=1e-4, max=1.0)
    return torch.nn.functional.cross_entropy(logits, labels) + 0.1 * (-(p * label.log()).sum(dim=1)).mean()


def test_symmetric_cross_entropy_is_by_default_that_of_all_published_code():
    logits, labels = batch()
    expected = published_symmetric_cross_entropy(logits.double(), labels)
    torch.testing.assert_close(symmetric_cross_entropy(logits, labels).double(), expected, rtol=1e-5, atol=1e-5)
    weaker = symmetric_cross_entropy(logits, labels, A=-4.0)
    missed = 1 - logits.double().softmax(dim=1).gather(1, labels[:, None]).mean()
    assert (expected - weaker).item() == pytest.approx(0.1 * (-math.log(1e-4) - 4) * missed.item(), rel=1e-4)


def test_joint_optimization_has_its_authors_numbers_under_the_other_names():
    """Tanaka's first_step_train.py: L_c + alpha L_p + beta L_e, alpha 1.2 (prior), beta 0.8 (entropy)."""
    logits, labels = batch()
    p = logits.double().softmax(dim=1)
    prior = torch.full((6,), 1 / 6, dtype=torch.float64)
    l_c = -p.log().gather(1, labels[:, None]).mean()
    l_p = -(p.mean(dim=0).log() * prior).sum() + (prior.log() * prior).sum()
    l_e = -(p * p.log()).sum(dim=1).mean()
    found = joint_optimization(logits, labels).double()
    torch.testing.assert_close(found, l_c + 1.2 * l_p + 0.8 * l_e, rtol=1e-5, atol=1e-5)
    swapped = joint_optimization(logits, labels, alpha=1.2, beta=0.8).double()
    torch.testing.assert_close(swapped, l_c + 0.8 * l_p + 1.2 * l_e, rtol=1e-5, atol=1e-5)


def test_joint_optimization_is_the_sum_of_its_three_terms():
    logits, labels = batch()
    p = torch.distributions.Categorical(logits=logits.double())
    mean = torch.distributions.Categorical(probs=p.probs.mean(dim=0))
    uniform = torch.distributions.Categorical(probs=torch.ones(6, dtype=torch.float64) / 6)
    divergence = torch.distributions.kl_divergence(uniform, mean)
    expected = -p.log_prob(labels) + 0.5 * p.entropy() + 2.0 * divergence
    found = joint_optimization(logits, labels, alpha=0.5, beta=2.0, reduction="none")
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        joint_optimization(logits, labels, alpha=0.5, beta=2.0).double(), expected.mean(), rtol=1e-5, atol=1e-5
    )


def test_active_passive_is_normalized_plus_reverse_cross_entropy():
    logits, labels = batch()
    log_p = logits.double().log_softmax(dim=1)
    ce = -log_p.gather(1, labels[:, None])[:, 0]
    expected = 2.0 * ce / -log_p.sum(dim=1) + 0.5 * 3.0 * (1 - (-ce).exp())
    found = active_passive(logits, labels, alpha=2.0, beta=0.5, A=-3.0, reduction="none")
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_normalized_cross_entropy_sums_over_labels_to_one():
    logits, _ = batch(n=30)
    by_label = [active_passive(logits, torch.full((30,), y), alpha=1.0, beta=0.0, reduction="none") for y in range(6)]
    torch.testing.assert_close(torch.stack(by_label).sum(dim=0), torch.ones(30))


def test_gradients_are_finite_differences(any_loss):
    logits, labels = batch(n=12, seed=3)
    gradient, step = gradient_at(any_loss, logits, labels), 1e-2
    roles = roles_of(logits, labels, 6.0)
    for i, j in product(range(12), range(6)):
        up, down = logits.clone(), logits.clone()
        up[i, j] += step
        down[i, j] -= step
        moved = [torch.stack(list(roles_of(z, labels, 6.0))) for z in (up, down)]
        if not all(torch.equal(found, torch.stack(list(roles))) for found in moved):
            continue  # it lies on the border between two roles
        slope = (any_loss(up, labels) - any_loss(down, labels)).item() / (2 * step)
        assert gradient[i, j].item() == pytest.approx(slope, rel=2e-2, abs=5e-4)


def test_all_background_and_one_foreground_class_are_fine(any_loss):
    for classes in (2, 6):
        logits, _ = batch(classes=classes)
        labels = torch.zeros(len(logits), dtype=torch.long)
        assert any_loss(logits, labels).isfinite()
        assert gradient_at(any_loss, logits, labels).isfinite().all()


def test_mean_is_the_mean_over_all_samples(any_loss):
    logits, labels = batch()
    torch.testing.assert_close(any_loss(logits, labels), any_loss(logits, labels, reduction="none").mean())
    assert any_loss(logits[:0], labels[:0], reduction="none").shape == (0,)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LabelSmoothingLoss(epsilon=0.3), partial(label_smoothing, epsilon=0.3)),
        (GeneralizedCrossEntropyLoss(q=0.7), partial(generalized_cross_entropy, q=0.7)),
        (ReverseCrossEntropyLoss(A=-2.0), partial(reverse_cross_entropy, A=-2.0)),
        (
            SymmetricCrossEntropyLoss(alpha=0.2, beta=3.0, A=-2.0),
            partial(symmetric_cross_entropy, alpha=0.2, beta=3.0, A=-2.0),
        ),
        (JointOptimizationLoss(alpha=0.2, beta=3.0), partial(joint_optimization, alpha=0.2, beta=3.0)),
        (ActivePassiveLoss(alpha=0.2, beta=3.0, A=-2.0), partial(active_passive, alpha=0.2, beta=3.0, A=-2.0)),
    ],
    ids=lambda value: getattr(value, "type", ""),
)
def test_baselines_use_their_loss_in_both_stages(config, expected):
    logits, labels = batch()
    for stage in (1, 2):
        assert torch.equal(class_loss(config, stage=stage)(logits, labels), expected(logits, labels))
        assert not torch.equal(class_loss(type(config)(), stage=stage)(logits, labels), expected(logits, labels))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_defaults_of_a_config_are_those_of_its_function(config):
    logits, labels = batch(scale=6.0)
    name = config().type.replace("lncis", "lncis_stage2")
    assert torch.equal(class_loss(config(), stage=2)(logits, labels), LOSSES[name](logits, labels))


def test_constants_are_the_papers():
    """Section 5.2 of the paper; NCE+RCE from its authors' CIFAR-10."""
    assert LabelSmoothingLoss().epsilon == 0.1
    assert GeneralizedCrossEntropyLoss().q == 0.3
    assert (SymmetricCrossEntropyLoss().alpha, SymmetricCrossEntropyLoss().beta) == (1.0, 0.1)
    assert SymmetricCrossEntropyLoss().A == ActivePassiveLoss().A
    assert (JointOptimizationLoss().alpha, JointOptimizationLoss().beta) == (0.8, 1.2)
    assert (ActivePassiveLoss().alpha, ActivePassiveLoss().beta, ActivePassiveLoss().A) == (1.0, 1.0, math.log(1e-4))


def test_called_background_by_majority_counts_odds_and_not_ranks():
    """p_0 > 1/2 is background against all others together: exp(z_0) > the sum of the others' exponentials."""
    logits, labels = batch(n=2000, scale=2.0)
    ce = cross_entropy(logits, labels, reduction="none")
    strict = sample_roles(logits, labels, ce, GAMMA, "majority")
    wide = sample_roles(logits, labels, ce, GAMMA)
    odds = [math.exp(row[0]) > sum(map(math.exp, row[1:])) for row in logits.tolist()]
    wanted = [called and label != 0 for called, label in zip(odds, labels.tolist(), strict=True)]
    assert strict.pseudo_negative.tolist() == wanted
    assert 0 < strict.pseudo_negative.sum() < wide.pseudo_negative.sum(), "who has the majority is the likeliest, too"
    assert (strict.pseudo_negative <= wide.pseudo_negative).all()
    assert (torch.stack(list(strict)).sum(dim=0) == 1).all()


def test_stage_2_with_the_majority_differs_where_the_roles_do():
    logits, labels = batch(n=2000, scale=2.0)
    ce = cross_entropy(logits, labels, reduction="none")
    config = LncisLoss(gamma=GAMMA, called_background="majority")
    found = class_loss(config, stage=2)(logits, labels, reduction="none")
    paper = class_loss(LncisLoss(gamma=GAMMA), stage=2)(logits, labels, reduction="none")
    wide, strict = (sample_roles(logits, labels, ce, GAMMA, how) for how in ("argmax", "majority"))
    changed = wide.pseudo_negative & ~strict.pseudo_negative
    assert torch.equal(found[~changed], paper[~changed])
    rce = 4 * (1 - torch.exp(-ce))
    assert found[changed].tolist() == pytest.approx(rce.where(ce <= GAMMA, 0)[changed].tolist(), abs=1e-5)
    assert torch.equal(paper[changed], ce[changed])
