"""Routing by clean probabilities that are balanced over classes: `clear_routing="class_balanced"`."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from hf_clear.estimators import gaussian_mixture
from hf_clear.routing import gate_probability


def balanced(p, labels, losses=None, gamma=1.0):
    losses = -p.log() if losses is None else losses
    return gate_probability("class_balanced", p, gamma, labels=labels, losses=losses)


def test_log_odds_of_a_class_with_less_than_half_are_shifted_to_the_mean_of_all():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 200 + [1] * 60 + [2] + [3] * 90)
    height = torch.tensor([0.9, 0.2, 0.2, 0.6], dtype=torch.float64)[labels]
    p = torch.rand(351, generator=generator, dtype=torch.float64) * height + 0.02
    found = balanced(p, labels, gamma=0.5) / 0.5
    for label, size in ((1, 60), (2, 1)):
        own = labels == label
        assert p[own].mean() < 0.5 * p.mean()
        expected = (size * p.mean() + 20 * p[own].mean()) / (size + 20)  # a class of few samples moves little
        assert found[own].mean() == pytest.approx(expected.item(), abs=1e-12)
        shift = found[own].logit() - p[own].logit()
        torch.testing.assert_close(shift, shift[:1].expand_as(shift))  # so that the order stays
    enough = (labels == 0) | (labels == 3)
    assert 0.5 * p.mean() < p[labels == 3].mean() < p.mean()
    assert torch.equal(found[enough], p[enough])


@pytest.mark.parametrize("mean,std", [(2.2, 0.4), (2.5, 0.1)])
def test_a_class_that_is_not_learned_is_not_locked_out(mean, std):
    """Three classes of 200, the first fifth of each with wrong labels; all losses of the last class are large. With the
    smaller deviation, all of its clean probabilities are 0 in float32: then its losses tell."""
    rng, labels = np.random.default_rng(0), torch.arange(3).repeat_interleave(200)
    is_wrong, lost = torch.arange(200).repeat(3) < 40, labels == 2
    losses = rng.normal(np.where(is_wrong, 3.0, np.where(lost, mean, 0.3)), std)
    p = torch.from_numpy(gaussian_mixture(losses).clean_probability).float()
    losses = torch.from_numpy(losses).float()
    assert gate_probability("clean", p, 1.0)[lost].mean() < 0.05
    gates = balanced(p, labels, losses)
    assert gates[lost].mean() == pytest.approx(p.mean().item(), abs=0.06)
    assert gates[lost & ~is_wrong].mean() > 2 * gates[lost & is_wrong].mean()
    told = roc_auc_score(~is_wrong[lost], -losses[lost])
    assert roc_auc_score(~is_wrong[lost], gates[lost]) == pytest.approx(told, abs=0.01)


def test_what_is_unknown_keeps_its_probability():
    """Samples without a label, or with a loss that is not finite; they say nothing of their class, either."""
    generator = torch.Generator().manual_seed(0)
    labels, p = torch.tensor([0] * 50 + [1] * 50 + [1] * 50 + [-100] * 9), torch.rand(159, generator=generator)
    losses, unknown = -p.log(), torch.arange(159) >= 100
    losses[100:150], p[100:150] = torch.nan, 0  # more than half of the class: as the estimators have it
    gates = balanced(p, labels, losses, gamma=0.9)
    torch.testing.assert_close(gates[unknown], 0.9 * p[unknown], rtol=0, atol=0)
    torch.testing.assert_close(gates[:100], balanced(p[:100], labels[:100], losses[:100], gamma=0.9))
    assert balanced(p, torch.full((159,), -100), losses, gamma=0.5).tolist() == (0.5 * p).tolist()
    with pytest.raises(ValueError, match="'class_balanced' needs one given label and one loss for each sample"):
        gate_probability("class_balanced", p, 0.5, labels=labels)


def test_extremes():
    labels = torch.tensor([0, 0, 1, 1])
    for value in (0.0, 1.0):  # nothing to move
        p = torch.full((4,), value)
        torch.testing.assert_close(balanced(p, labels, torch.ones(4), gamma=0.9), 0.9 * p)
    gates = balanced(torch.tensor([0.0, 0.0, 1.0, 1.0]), labels, torch.tensor([3.0, 3.0, 0.1, 0.1]))
    torch.testing.assert_close(gates, torch.tensor([0.5 / 11, 0.5 / 11, 1.0, 1.0]))


def test_a_strategy_changes_neither_labels_nor_losses():
    from hf_clear.routing import ROUTING_STRATEGIES, register_routing_strategy

    def careless(p, gamma, is_clean, labels, losses):
        labels.fill_(1), losses.zero_()
        return gamma * p

    register_routing_strategy("careless", careless, needs_labels=True)
    try:
        labels, losses = torch.tensor([0, 2]), torch.tensor([0.1, 0.2])
        gate_probability("careless", torch.ones(2), 1.0, labels=labels, losses=losses)
        assert labels.tolist() == [0, 2] and losses.min() > 0
    finally:
        del ROUTING_STRATEGIES["careless"]
