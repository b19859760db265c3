"""The contract of PEFT methods: every method of ours keeps it on every architecture, and broken ones don't."""

import contextlib

import pytest
import torch
from helpers.architectures import ROWS, SUPPORTED, config_of, model_of
from helpers.toy import tiny_bert
from peft import IA3Config, LoraConfig, get_peft_model
from peft.tuners.ia3 import IA3Layer

from hf_clear import ClearPromptConfig, num_routed_layers, register_routable
from hf_clear.routing import apply_gate, gate_output
from hf_clear.routing._route import _GATE_SETTERS
from hf_clear.testing import check_peft_method
from hf_clear.tuners.prompt import PromptLayer

TOLERANCE = {"prompt": 1e-5}  # masked out, but summed over in another order; `exact=True` is exact


@pytest.mark.parametrize("method,name", SUPPORTED, ids=["-".join(row) for row in SUPPORTED])
def test_ours_keep_it(method, name):
    check_peft_method(config_of(method, name), model_of(name), tolerance=TOLERANCE.get(method, 0.0))
    assert num_routed_layers(get_peft_model(model_of(name), config_of(method, name))) == ROWS[name]


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear"),
        LoraConfig(task_type="SEQ_CLS", r=4, use_rslora=True, lora_dropout=0.1),
        LoraConfig(task_type="SEQ_CLS", r=4, use_dora=True),
        LoraConfig(task_type="SEQ_CLS", r=4, lora_bias=True),
    ],
    ids=["all-linear", "rslora", "dora", "lora_bias"],
)
def test_variants_of_stock_lora_keep_it(config):
    check_peft_method(config, tiny_bert(initializer_range=0.2))


# ---- Broken methods ----


@pytest.fixture
def broken_layer():
    """Registers how the layers of IA3 are gated, for one test."""
    yield lambda set_gate: register_routable(IA3Layer, set_gate)
    _GATE_SETTERS.pop(IA3Layer, None)


def gate_wrapped(combine):
    """A `set_gate` that combines the layer's output with that of its base layer in some way."""

    def set_gate(layer: IA3Layer, gate: torch.Tensor):
        stock = layer.forward

        def forward(x):
            return combine(layer, gate, stock, x)

        layer.forward = forward
        return lambda: layer.__dict__.__setitem__("forward", stock)

    return set_gate


def zeros_as_bypass(layer, gate, stock, x):
    return apply_gate(gate, stock(x), torch.zeros_like(stock(x)))


def whole_batch(layer, gate, stock, x):
    return stock(x) if gate.any() else layer.base_layer(x)


def product(layer, gate, stock, x):
    base = layer.base_layer(x)
    return base + gate.view(-1, 1, 1) * (stock(x) - base)


def detached(layer, gate, stock, x):
    return apply_gate(gate, stock(x).detach(), layer.base_layer(x))


def lost_in_recomputation(layer, gate):
    """Re-entrant checkpointing makes the first forward pass without gradient."""
    stock, had_gradient = layer.forward, []

    def forward(x):
        had_gradient.append(torch.is_grad_enabled())
        routed = stock(x)
        return apply_gate(gate, routed if all(had_gradient) else routed.detach(), layer.base_layer(x))

    layer.forward = forward
    return lambda: layer.__dict__.__setitem__("forward", stock)


def merged_too(layer, gate):
    layer.merged_adapters, merged = [], layer.merged_adapters
    undo = gate_output(layer, gate)
    layer.merged_adapters = merged
    return undo


@pytest.mark.parametrize(
    "set_gate,message",
    [
        (gate_wrapped(zeros_as_bypass), "closed gates the model is not the frozen base: they are .* apart"),
        (gate_wrapped(whole_batch), "gates of one sample changed the outputs of others"),
        (gate_wrapped(product), "with open gates the model is not the ungated one"),
        (gate_wrapped(detached), "has no gradient instead of zeros"),
        (lost_in_recomputation, r"use_reentrant=True\) .* has another gradient"),
        (lambda layer, gate: lambda: None, "closed gates the model is not the frozen base"),
        (lambda layer, gate: gate_output(layer, gate) and (lambda: None), "gates outlive an inner context"),
        (merged_too, "a merged adapter is routed"),
        (gate_output, None),
    ],
    ids=["zeros", "batch", "product", "detached", "lost", "nothing", "stays", "merged", "works"],
)
def test_broken_ways_to_gate_fail(broken_layer, set_gate, message):
    broken_layer(set_gate)
    with pytest.raises(AssertionError, match=message) if message else contextlib.nullcontext():
        check_peft_method(IA3Config(task_type="SEQ_CLS"), tiny_bert(initializer_range=0.2))


def test_broken_methods_fail(monkeypatch):
    """A prompt that is hardly to be seen, but not hidden, from samples that a gate keeps out; and layers that nobody
    registered."""
    with pytest.raises(AssertionError, match="no layer can be routed.*`register_routable` its class"):
        check_peft_method(IA3Config(task_type="SEQ_CLS"), tiny_bert())
    hide = PromptLayer._mask_with_prompt

    def hardly_hide(self, mask, query, key, length, boolean):
        mask = hide(self, mask, query, key, length, boolean)
        if mask is not None:
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
            mask[..., :length] = mask[..., :length].clamp(min=-5.0)
        return mask

    with monkeypatch.context() as patch:
        patch.setattr(PromptLayer, "_mask_with_prompt", hardly_hide)
        with pytest.raises(AssertionError, match="closed gates the model is not the frozen base: they are"):
            config = ClearPromptConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
            check_peft_method(config, tiny_bert(), tolerance=TOLERANCE["prompt"])
    with pytest.raises(ValueError, match="trains biases of the base model"):
        check_peft_method(LoraConfig(task_type="SEQ_CLS", bias="all"), tiny_bert())
    with pytest.raises(ValueError, match="Pass `inputs`: what a Sequential takes"):
        check_peft_method(LoraConfig(target_modules=["0"]), torch.nn.Sequential(torch.nn.Linear(2, 2)))
