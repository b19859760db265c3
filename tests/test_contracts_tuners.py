"""The contract of PEFT methods: every method of ours keeps it on every architecture, and broken ones don't."""

from dataclasses import dataclass

import pytest
import torch
from helpers.architectures import ARCHITECTURES, METHODS, ROWS, UNSUPPORTED, config_of, model_of
from peft import get_peft_model

from hf_clear import num_routed_layers
from hf_clear.testing import check_peft_method

ALL = [(method, name) for method in METHODS for name in ARCHITECTURES]
SUPPORTED = [row for row in ALL if row not in UNSUPPORTED]
TOLERANCE = {"prompt": 1e-5}  # masked out, but summed over in another order; `exact=True` is exact


@pytest.mark.parametrize("method,name", SUPPORTED, ids=["-".join(row) for row in SUPPORTED])
def test_ours_keep_it(method, name):
    check_peft_method(config_of(method, name), model_of(name), tolerance=TOLERANCE.get(method, 0.0))
    assert num_routed_layers(get_peft_model(model_of(name), config_of(method, name))) == ROWS[name]
