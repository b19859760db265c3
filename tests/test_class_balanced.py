"""Routing by clean probabilities that are balanced over classes: `clear_routing="class_balanced"`."""

import numpy as np
import pytest
import torch

from hf_clear.estimators import gaussian_mixture
from hf_clear.routing import gate_probability


def test_log_odds_of_a_class_are_shifted_to_the_mean_of_all():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 200 + [1] * 60 + [2])
    p = torch.rand(261, generator=generator, dtype=torch.float64) * torch.where(labels == 0, 0.9, 0.3) + 0.05
    balanced = gate_probability("class_balanced", p, 0.5, labels=labels) / 0.5
    for label, size in enumerate((200, 60, 1)):
        own = labels == label
        expected = (size * p.mean() + 20 * p[own].mean()) / (size + 20)  # a class of few samples moves little
        assert balanced[own].mean() == pytest.approx(expected.item(), abs=1e-12)
        shift = balanced[own].logit() - p[own].logit()
        torch.testing.assert_close(shift, shift[:1].expand_as(shift))  # so that the order stays
    assert abs(balanced[labels == 2] - p[labels == 2]) < 0.05


def test_a_class_that_is_not_learned_is_not_locked_out():
    """Three classes of 200, the first fifth of each with wrong labels; all losses of the last class are large."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(3), 200)
    is_wrong = np.tile(np.arange(200) < 40, 3)
    losses = rng.normal(np.where(is_wrong, 3.0, np.where(labels == 2, 2.2, 0.3)), 0.4)
    p = torch.from_numpy(gaussian_mixture(losses).clean_probability)
    lost, is_wrong = torch.from_numpy(labels == 2), torch.from_numpy(is_wrong)
    assert gate_probability("clean", p, 1.0)[lost].mean() < 0.05
    gates = gate_probability("class_balanced", p, 1.0, labels=torch.from_numpy(labels))
    assert gates[lost].mean() == pytest.approx(p.mean().item(), abs=0.06)
    assert gates[lost & ~is_wrong].mean() > 1.5 * gates[lost & is_wrong].mean()


def test_extremes_and_samples_without_a_label():
    labels = torch.tensor([0, 0, 1, 1, -100])
    for value in (0.0, 1.0):  # nothing to move
        p = torch.full((5,), value)
        torch.testing.assert_close(gate_probability("class_balanced", p, 0.9, labels=labels), 0.9 * p)
    p = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.3])  # as float32 has them: p underflows
    gates = gate_probability("class_balanced", p, 1.0, labels=labels)
    torch.testing.assert_close(gates, torch.tensor([0.5 / 11, 0.5 / 11, 10.5 / 11, 10.5 / 11, 0.3]))
    assert gate_probability("class_balanced", p, 0.5, labels=torch.full((5,), -100)).tolist() == (0.5 * p).tolist()
    with pytest.raises(ValueError, match="'class_balanced' needs one given label for each sample"):
        gate_probability("class_balanced", p, 0.5)
