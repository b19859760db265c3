"""What the functions of `hf_clear.trust` take, and what they refuse, in words."""

import numpy as np
import pandas as pd
import pytest
import torch

from hf_clear import fit_noise_model
from hf_clear.trust import (
    NoiseRate,
    PlantedErrors,
    confident_joint,
    estimate_noise_rate,
    expected_precision,
    plant_and_find,
)

RATE, EYE = NoiseRate(0.2, 0.2, 0.1, 0.3), np.eye(2)
SEEN = {"planted": [0.1], "kind": [0], "untouched": [0.9], "num_labels": 2}
LABELS = np.arange(40) % 2
MODEL = fit_noise_model(np.where(EYE[LABELS] == 1, 3.0, 0.0), LABELS)
REFUSED = {
    "label of no class": (lambda: confident_joint(EYE, [0, 2]), r"`labels` has to hold .* or -100.*`labels\[1\]` is 2"),
    "negative label": (lambda: confident_joint(EYE, [-1, 0]), r"`labels\[0\]` is -1"),
    "other length": (lambda: confident_joint(EYE, [0, 1, 0]), r"`labels` has to be of shape \[2\].*got \[3\]"),
    "logits": (lambda: confident_joint([[0.5, 3.0], [0, 1]], [0, 1]), r"`pred_probs\[0, 1\]` is 3. Of logits, take"),
    "small logits": (lambda: confident_joint([[0.1, 0.2], [0, 1]], [0, 1]), r"`pred_probs\[0\]` is no distribution"),
    "nothing to count": (lambda: confident_joint(EYE * np.nan, [0, 1]), "No sample has a label and a prediction"),
    "infinite": (lambda: confident_joint([[1, 0], [0, np.inf]], [0, 1]), r"`pred_probs\[1, 1\]` is inf"),
    "a table": (lambda: expected_precision(EYE, RATE), r"`clean_probability` has to be of shape \[num_samples\]"),
    "above 1": (lambda: expected_precision([0.1, 1.5], RATE), r"`clean_probability\[1\]` is 1.5"),
    "a number as rate": (lambda: expected_precision([0.1], 0.2), "`rate` has to be a NoiseRate"),
    "scores as planted": (lambda: expected_precision([0.1], RATE, [0.2]), "`planted` has to be PlantedErrors"),
    "rate above 1": (lambda: NoiseRate(0.2, 0.2, 0.1, 3.0), r"`high` has to hold probabilities in \[0, 1\]"),
    "no end": (lambda: NoiseRate(0.2, 0.2, np.nan, 0.3), "`low` has to hold probabilities"),
    "ends in disorder": (lambda: NoiseRate(0.2, 0.2, 0.3, 0.1), "`low` has to be `high` or below"),
    "planted beyond 1": (lambda: PlantedErrors(**SEEN | {"planted": [2]}), r"`planted\[0\]` is 2"),
    "kinds of others": (lambda: PlantedErrors(**SEEN | {"kind": [0, 1]}), r"`kind` has to be of shape \[1\]"),
    "strange kind": (lambda: PlantedErrors(**SEEN | {"kind": [7]}), r"`kind` has to be 0 or 1.*got \[7\]"),
    "one class": (
        lambda: PlantedErrors(**SEEN | {"num_labels": 1}),
        "`num_labels` has to be a whole number, 2 or above",
    ),
    "no model": (lambda: estimate_noise_rate(EYE, EYE, [0, 1]), "`model` has to be what `fit_noise_model` returns"),
    "scores of others": (
        lambda: estimate_noise_rate(MODEL, EYE, LABELS),
        r"`scores` has to be .*\[40, 2\]; got \[2, 2\]",
    ),
    "no label": (lambda: estimate_noise_rate(MODEL, MODEL.prediction, LABELS * 0 - 100), "No sample has a label and a"),
    "no function": (lambda: plant_and_find(MODEL, EYE), "`rescore` is called with.*it has to be a function"),
    "rescored others": (
        lambda: plant_and_find(MODEL, lambda labels: EYE),
        r"`rescore` has to return scores of shape \[40",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("kind", [list, torch.tensor, pd.Series])
def test_numbers_come_in_any_container(kind):
    score = np.linspace(0, 1, 50)
    seen = PlantedErrors(kind([0.1, 0.2]), kind([0, 1]), kind(score.tolist()), 2)
    same = PlantedErrors(np.array([0.1, 0.2]), np.array([0, 1]), score, 2)
    found, expected = expected_precision(kind(score.tolist()), RATE, seen), expected_precision(score, RATE, same)
    assert [list(row.values()) for row in found] == [pytest.approx(list(row.values()), nan_ok=True) for row in expected]
    assert (confident_joint(EYE[LABELS].tolist(), kind(LABELS.tolist())) == EYE / 2).all()
    rate = estimate_noise_rate(MODEL, MODEL.prediction.tolist(), kind(LABELS.tolist()))
    assert rate == estimate_noise_rate(MODEL, MODEL.prediction, LABELS)
