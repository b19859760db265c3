import math

import pytest
import torch

from hf_clear.losses import consistency_loss, cross_entropy, generalized_cross_entropy, per_sample

LOGITS = [[2.0, 0.0, -1.0], [0.5, 0.5, 0.5], [-3.0, 1.0, 4.0]]
TARGET = [[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]]
LABELS = [0, 2, 1]


def log_softmax(row: list[float]) -> list[float]:
    log_sum = math.log(sum(math.exp(x) for x in row))
    return [x - log_sum for x in row]


def test_losses_by_hand():
    expected_ce = [-log_softmax(row)[label] for row, label in zip(LOGITS, LABELS)]
    expected_consistency = [
        -sum(t * lp for t, lp in zip(target, log_softmax(row))) for row, target in zip(LOGITS, TARGET)
    ]
    logits = torch.tensor(LOGITS)
    assert cross_entropy(logits, torch.tensor(LABELS)).tolist() == pytest.approx(expected_ce, rel=1e-6)
    assert consistency_loss(logits, torch.tensor(TARGET)).tolist() == pytest.approx(expected_consistency, rel=1e-6)


def test_no_gradient_flows_into_the_ensemble():
    logits, target = torch.tensor(LOGITS, requires_grad=True), torch.tensor(TARGET, requires_grad=True)
    consistency_loss(logits, target).sum().backward()
    assert target.grad is None
    # d/dlogits of -Σ t log softmax = softmax · Σt - t
    assert torch.allclose(logits.grad, torch.tensor(LOGITS).softmax(-1) - torch.tensor(TARGET), atol=1e-6)


def test_no_target_means_no_loss():
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss = consistency_loss(logits, torch.zeros(3, 3))
    loss.sum().backward()
    assert not loss.any() and not logits.grad.any()


def test_label_smoothing_is_that_of_transformers():
    from transformers.trainer_pt_utils import LabelSmoother

    logits, labels = torch.tensor(LOGITS), torch.tensor(LABELS)
    stock = LabelSmoother(epsilon=0.1)({"logits": logits}, labels)
    assert cross_entropy(logits, labels, 0.1).mean().item() == pytest.approx(stock.item(), rel=1e-6)


def test_tokens_without_a_label_count_for_nothing():
    logits, labels = torch.tensor([LOGITS, LOGITS]), torch.tensor([[0, -100, 1], [-100, -100, -100]])
    losses = cross_entropy(logits, labels)
    expected = [-log_softmax(LOGITS[0])[0], 0.0, -log_softmax(LOGITS[2])[1]]
    assert losses[0].tolist() == pytest.approx(expected, rel=1e-6) and not losses[1].any()
    assert cross_entropy(logits, labels, reduction="sum").item() == pytest.approx(sum(expected), rel=1e-6)
    means = per_sample(losses, labels)
    assert means[0].item() == pytest.approx(sum(expected) / 2, rel=1e-6) and means[1].isnan()
    assert consistency_loss(logits, logits.softmax(-1)).shape == (2, 3)


@pytest.mark.parametrize("q", [1e-4, 0.3, 0.7, 1.0])
def test_generalized_cross_entropy_is_its_formula(q):
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.tensor([0, 1, 2, 3, 3])
    p = logits.softmax(dim=-1)[torch.arange(5), labels]
    torch.testing.assert_close(
        generalized_cross_entropy(logits, labels, q).double(), (1 - p**q) / q, rtol=1e-4, atol=1e-5
    )


def test_limits_of_generalized_cross_entropy():
    logits, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 0, -100])
    expected = cross_entropy(logits, labels)
    assert torch.equal(generalized_cross_entropy(logits, labels, 0.0), expected)
    torch.testing.assert_close(generalized_cross_entropy(logits, labels, 1e-6), expected, rtol=1e-4, atol=1e-5)
    mean_absolute_error = 1 - logits.softmax(dim=-1)[torch.arange(5), labels[:5]]
    torch.testing.assert_close(generalized_cross_entropy(logits, labels, 1.0)[:5], mean_absolute_error)
    assert generalized_cross_entropy(logits, labels, 0.7)[5] == 0
    with pytest.raises(ValueError, match=r"`q`.*\[0, 1\].*1.5"):
        generalized_cross_entropy(logits, labels, 1.5)


def test_generalized_cross_entropy_of_a_hopeless_sample_has_a_finite_gradient():
    logits = torch.tensor([[500.0, 0.0]], requires_grad=True)
    generalized_cross_entropy(logits, torch.tensor([1])).sum().backward()
    assert logits.grad.abs().max() < 1e-6  # where cross entropy would pull with 1
