import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lncis.config import CrossEntropyLoss, LncisLoss
from lncis.losses import (
    BACKGROUND,
    class_loss,
    cross_entropy,
    lncis_stage2,
    reverse_cross_entropy,
    sample_roles,
)

GAMMA, A = 3.0, -4.0
LOSSES = {
    "cross_entropy": cross_entropy,
    "reverse_cross_entropy": reverse_cross_entropy,
    "lncis_stage2": lncis_stage2,
    "lncis_stage1": class_loss(LncisLoss(), stage=1),
}


@pytest.fixture(params=LOSSES)
def any_loss(request):
    return LOSSES[request.param]


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
    for name, mask in sample_roles(logits, labels, gamma)._asdict().items():
        assert mask.tolist() == [role == name for role in roles]


def test_roles_are_a_partition():
    roles = sample_roles(*batch(n=2000), gamma=GAMMA)
    assert (torch.stack(list(roles)).sum(dim=0) == 1).all()
    assert all(mask.any() for mask in roles)


def test_role_at_a_tie_follows_the_first_class():
    # argmax takes the first of equals: a tie with background is called background, one among foreground is not
    logits = torch.tensor([[2.0, 2.0, 0.0], [0.0, 2.0, 2.0], [1.0, 1.0, 1.0]])
    roles = sample_roles(logits, torch.tensor([1, 2, 2]), gamma=GAMMA)
    assert roles.pseudo_negative.tolist() == [True, False, True]
    assert roles.other.tolist() == [False, True, False]


def test_cross_entropy_equal_to_gamma_is_not_isolated():
    logits, labels = torch.tensor([[-9.0, 5.0, 1.0]]), torch.tensor([2])
    at = cross_entropy(logits, labels).item()
    assert sample_roles(logits, labels, gamma=at).other.item()
    assert sample_roles(logits, labels, gamma=at - 1e-3).potential_noisy.item()


def test_infinite_gamma_isolates_none():
    logits, labels = batch(scale=1000.0)
    assert sample_roles(logits, labels, gamma=50.0).potential_noisy.any()
    assert not sample_roles(logits, labels, gamma=math.inf).potential_noisy.any()


def test_isolated_samples_have_no_gradient_but_count_in_the_mean():
    logits, labels = batch(n=500)
    isolated = sample_roles(logits, labels, GAMMA).potential_noisy
    assert 0 < isolated.sum() < 500
    gradient = gradient_at(lambda z, y: lncis_stage2(z, y, gamma=GAMMA), logits, labels)
    assert (gradient[isolated] == 0).all()
    assert (gradient[~isolated].abs().amax(dim=1) > 0).all()
    kept = lncis_stage2(logits[~isolated], labels[~isolated], gamma=GAMMA, reduction="none")
    torch.testing.assert_close(lncis_stage2(logits, labels, gamma=GAMMA), kept.sum() / 500)


def test_roles_carry_no_gradient():
    logits, labels = batch(n=20)
    assert not any(mask.requires_grad for mask in sample_roles(logits.requires_grad_(), labels, GAMMA))


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
    assert sample_roles(logits, labels, GAMMA).negative.all()


def test_one_foreground_class_is_never_isolated_below_ln_2():
    # a sample called class 1 has p_1 > 1/2: with K = 1 every role but PON is possible
    logits, labels = batch(classes=2)
    roles = sample_roles(logits, labels, gamma=math.log(2))
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
