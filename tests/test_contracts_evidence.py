"""Every source of evidence keeps the contract; one that has seen its own labels does not."""

import pytest
import torch

from hf_clear.evidence import EVIDENCE_SOURCES
from hf_clear.evidence.probes import _batch_size
from hf_clear.testing import check_evidence


@pytest.mark.parametrize("name", EVIDENCE_SOURCES)
def test_registered_sources_keep_the_contract(name):
    check_evidence(name)


@pytest.mark.parametrize(
    ("num_samples", "numbers", "size"),
    [
        (100, 30, 128),
        (2723, 100, 340),
        (10_000, 400, 512),
        (100_000, 100, 3125),
        (300_000, 5000, 3355),
        (10**6, 10**6, 128),
    ],
)
def test_batches_of_the_probe_grow_with_the_data_and_stay_in_memory(num_samples, numbers, size):
    """An eighth, 128 to 512; then a thirty-second, if the logits of all folds have no more than 2^24 numbers."""
    assert _batch_size(num_samples, numbers) == size


def memorizing(features, labels, num_labels, seed):
    """Least squares on all samples, its own among them."""
    known = labels >= 0
    x = features.nan_to_num(0.0)
    targets = torch.nn.functional.one_hot(labels.clamp_min(0), num_labels).float()
    return x @ torch.linalg.lstsq(x[known], targets[known]).solution


def blind(features, labels, num_labels, seed):
    return torch.zeros(len(labels), num_labels)


def dicey(features, labels, num_labels, seed):
    return torch.randn(len(labels), num_labels)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (memorizing, "it has seen the label"),
        (blind, "classes that are far apart"),
        (dicey, "two answers|random"),
        (lambda features, labels, num_labels, seed: features, "one row for"),
    ],
)
def test_what_breaks_the_contract_is_named(source, message):
    with pytest.raises(AssertionError, match=message):
        check_evidence(source)
