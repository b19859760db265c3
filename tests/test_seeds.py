"""Every function that draws at random refuses what is no seed, before it does anything."""

import inspect

import datasets
import numpy as np
import pytest
import torch

from hf_clear import find_label_issues
from hf_clear.audit import audit_labels
from hf_clear.data import train_validation_split
from hf_clear.estimators import (
    SampleEvidence,
    evidence_mixture,
    gaussian_mixture,
    out_of_sample_cross_entropy,
    per_class_gaussian_mixture,
    plain_gaussian_mixture,
)
from hf_clear.evidence import cross_fitted_probe
from hf_clear.noise import corrupt_labels, inject_label_noise
from hf_clear.report import plot_feature_drift
from hf_clear.turn.selection import select_clean

FEATURES = np.random.default_rng(0).normal(size=(40, 4))
LABELS = np.arange(40) % 2
LOSSES = np.random.default_rng(1).random(40)
DATA = datasets.Dataset.from_dict({"label": LABELS})

CALLS = [
    (gaussian_mixture, (LOSSES,)),
    (plain_gaussian_mixture, (LOSSES,)),
    (per_class_gaussian_mixture, (LOSSES, LABELS)),
    (evidence_mixture, (SampleEvidence(LOSSES, held_out_clean_probability=LOSSES, labels=LABELS),)),
    (out_of_sample_cross_entropy, (FEATURES, LABELS)),
    (cross_fitted_probe, (torch.tensor(FEATURES), torch.tensor(LABELS), 2)),
    (select_clean, (LOSSES, LABELS, 0.5)),
    (train_validation_split, (DATA, 0.5)),
    (corrupt_labels, (LABELS, np.eye(2))),
    (inject_label_noise, (DATA, "symmetric", 0.2)),
    (find_label_issues, (LABELS, None, FEATURES)),
    (audit_labels, (LABELS, None, FEATURES)),
    (plot_feature_drift, ({"before": FEATURES}, LABELS, "never.png")),
]


@pytest.mark.parametrize(("function", "arguments"), CALLS, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_no_seed_is_refused(function, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "seed" in inspect.signature(function).parameters
    for seed in (-1, 2**32, 0.5, None, "1", True):
        with pytest.raises(ValueError, match="`seed` has to be a whole number from 0 to 4294967295; got"):
            function(*arguments, seed=seed)
    assert not list(tmp_path.iterdir())
