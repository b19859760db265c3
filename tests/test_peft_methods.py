"""Every PEFT method on every architecture. A new method is a row in `architectures.METHODS`."""

import json
import subprocess
import sys

import pytest
import torch
from helpers.architectures import (
    ARCHITECTURES,
    METHODS,
    ROWS,
    UNSUPPORTED,
    batch_of,
    config_of,
    hidden_states,
    model_of,
)
from peft import PeftModel, get_peft_model

from hf_clear import num_routed_layers, route

ALL = [(method, name) for method in METHODS for name in ARCHITECTURES]
SUPPORTED = [row for row in ALL if row not in UNSUPPORTED]
matrix = pytest.mark.parametrize("method,name", SUPPORTED, ids=["-".join(row) for row in SUPPORTED])


def adapted(method: str, name: str, adapter_name: str = "default") -> PeftModel:
    return randomized(get_peft_model(model_of(name), config_of(method, name), adapter_name=adapter_name).eval())


def randomized(model: PeftModel, seed: int = 1) -> PeftModel:
    """Deltas start at zero: gives them values, so that acting and bypassed modules differ."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3, generator=generator)
    return model


def some_gates(model: PeftModel, size: int = 4) -> torch.Tensor:
    return torch.rand(num_routed_layers(model), size, generator=torch.Generator().manual_seed(2)) < 0.5


def all_equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) > 0 and all(torch.equal(a, b) for a, b in zip(first, second))


@matrix
@torch.no_grad()
def test_closed_gates_are_the_frozen_base_and_open_gates_the_ungated_model(method, name):
    batch = batch_of(name)
    base = hidden_states(model_of(name), batch)
    model = adapted(method, name)
    assert num_routed_layers(model) == ROWS[name]
    plain = hidden_states(model, batch)
    closed = torch.zeros(ROWS[name], 4, dtype=torch.bool)
    with route(model, closed):
        bypassed = hidden_states(model, batch)
    if method == "prompt":  # masked out, but summed over in another order
        assert all(torch.allclose(a, b, rtol=0, atol=1e-5) for a, b in zip(bypassed, base))
    else:
        assert all_equal(bypassed, base)
    with route(model, ~closed):
        assert all_equal(hidden_states(model, batch), plain)
    assert not all_equal(plain, base)
    assert all_equal(hidden_states(model, batch), plain), "gates outlived their context"
    with model.disable_adapter():
        assert all_equal(hidden_states(model, batch), base)


@matrix
@torch.no_grad()
def test_one_rows_gates_leave_the_other_rows_alone(method, name):
    model, batch = adapted(method, name), batch_of(name)
    gates = some_gates(model)
    flipped = gates.clone()
    flipped[:, 1] = ~flipped[:, 1]
    with route(model, gates):
        before = hidden_states(model, batch)[-1]
    with route(model, flipped):
        after = hidden_states(model, batch)[-1]
    others = [0, 2, 3]
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[1], after[1])


@matrix
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_under_activation_checkpointing_equal_those_without(method, name, reentrant):
    model, batch = adapted(method, name), batch_of(name)
    if not model.supports_gradient_checkpointing:
        pytest.skip(f"transformers has no activation checkpointing for {name}")
    gates = some_gates(model)

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model.train()
        torch.manual_seed(3)
        with route(model, gates):
            model(**batch).logits.square().sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    # Re-entrant checkpointing needs an input with a gradient.
    if name == "vit":
        batch["pixel_values"].requires_grad_()
    else:
        model.enable_input_require_grads()
    plain = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    checkpointed = gradients()
    adapter = [key for key in plain if "lora_" in key or "clear_" in key]
    assert adapter and any(plain[key].any() for key in adapter)
    assert plain.keys() == checkpointed.keys()
    # Re-entrant checkpointing adds up a tensor's gradients in another order.
    tolerance = 1e-6 * max(gradient.abs().max().item() for gradient in plain.values()) if reentrant else 0
    for key, gradient in plain.items():
        assert torch.allclose(gradient, checkpointed[key], rtol=0, atol=tolerance), key


@matrix
def test_a_bypassed_module_gets_zero_gradients_rather_than_none(method, name):
    model = adapted(method, name)
    with route(model, torch.zeros(ROWS[name], 4, dtype=torch.bool)):
        model(**batch_of(name)).logits.sum().backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad and "modules_to_save" not in key:
            assert parameter.grad is not None and not parameter.grad.any(), key


@matrix
@torch.no_grad()
def test_autocast(method, name):
    batch = batch_of(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        base = hidden_states(model_of(name), batch)
        model = adapted(method, name)
        plain, closed = hidden_states(model, batch), torch.zeros(ROWS[name], 4, dtype=torch.bool)
        with route(model, closed):
            bypassed = hidden_states(model, batch)
        with route(model, ~closed):
            assert all_equal(hidden_states(model, batch), plain)
    if method == "prompt":
        assert all(torch.allclose(a.float(), b.float(), rtol=0.05, atol=0.05) for a, b in zip(bypassed, base))
    else:
        assert all_equal(bypassed, base)


@matrix
@torch.no_grad()
def test_a_second_adapter_is_gated_too(method, name):
    batch = batch_of(name)
    base = hidden_states(model_of(name), batch)
    model = adapted(method, name)
    first = hidden_states(model, batch)
    model.add_adapter("second", config_of(method, name))
    model.set_adapter("second")
    randomized(model.eval(), seed=9)
    second = hidden_states(model, batch)
    assert not all_equal(first, second)
    with route(model, torch.zeros(ROWS[name], 4, dtype=torch.bool)):
        bypassed = hidden_states(model, batch)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-5) for a, b in zip(bypassed, base))
    model.set_adapter("default")
    assert all_equal(hidden_states(model, batch), first)
    model.delete_adapter("second")
    assert all_equal(hidden_states(model, batch), first)


@matrix
@torch.no_grad()
def test_compile_has_no_graph_break_and_no_recompilation_for_new_gates(method, name):
    model, batch = adapted(method, name), batch_of(name)
    graphs = []

    def count(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=count)
    for seed in range(2):
        gates = torch.rand(ROWS[name], 4, generator=torch.Generator().manual_seed(seed)) < 0.5
        with route(compiled, gates):
            result = compiled(**batch).logits
        with route(model, gates):
            assert torch.allclose(result, model(**batch).logits, rtol=1e-4, atol=1e-4)
    assert len(graphs) == 1


FRESH_PROCESS = """
import json, sys, warnings
import torch
import hf_clear
from peft import AutoPeftModel, AutoPeftModelForSequenceClassification, PeftModel
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

def same(load, batch, logits):
    with torch.no_grad():
        return torch.equal(load().eval()(**batch).logits, logits)

results = {}
for key, (name, base, adapter) in json.load(open(sys.argv[1])).items():
    auto = AutoModelForImageClassification if name == "vit" else AutoModelForSequenceClassification
    auto_peft = AutoPeftModel if name == "vit" else AutoPeftModelForSequenceClassification
    saved = torch.load(f"{adapter}/expected.pt")
    routes = {
        "PeftModel": lambda: PeftModel.from_pretrained(auto.from_pretrained(base), adapter),
        "AutoPeftModel": lambda: auto_peft.from_pretrained(adapter),
        "native": lambda: auto.from_pretrained(adapter),
    }
    results[key] = {}
    for route, load in routes.items():
        try:
            results[key][route] = same(load, *saved)
        except Exception as error:
            results[key][route] = f"{type(error).__name__}: {error}"
json.dump(results, open(sys.argv[2], "w"))
"""


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory) -> dict[str, dict[str, bool | str]]:
    """Saves an adapter of each row, loads them all in one fresh process, and says by which routes logits came equal."""
    folder = tmp_path_factory.mktemp("adapters")
    rows = {}
    for name in ARCHITECTURES:
        model_of(name).save_pretrained(folder / name)
    for method, name in SUPPORTED:
        model, batch = adapted(method, name), batch_of(name)
        model.peft_config["default"].base_model_name_or_path = str(folder / name)
        model.save_pretrained(folder / f"{method}-{name}")
        with torch.no_grad():
            torch.save((batch, model(**batch).logits), folder / f"{method}-{name}" / "expected.pt")
        rows[f"{method}-{name}"] = (name, str(folder / name), str(folder / f"{method}-{name}"))
    (folder / "rows.json").write_text(json.dumps(rows))
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(folder / "rows.json"), str(folder / "results.json")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "results.json").read_text())


@matrix
def test_loads_in_a_fresh_process_with_identical_logits(method, name, reloaded):
    assert reloaded[f"{method}-{name}"] == {"PeftModel": True, "AutoPeftModel": True, "native": True}


@pytest.mark.parametrize("method,name", UNSUPPORTED, ids=["-".join(row) for row in UNSUPPORTED])
def test_what_does_not_work_says_why(method, name):
    with pytest.raises(ValueError, match=UNSUPPORTED[method, name]) as error:
        get_peft_model(model_of(name), config_of(method, name))
    assert "Use another PEFT method" in str(error.value)
