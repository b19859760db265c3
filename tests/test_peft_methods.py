"""Every PEFT method on every architecture, beyond its contract (`test_contracts_tuners.py`): compiled, and loaded in a
fresh process. A new method is a row in `architectures.METHODS`."""

import json
import subprocess
import sys

import pytest
import torch
from helpers.architectures import ARCHITECTURES, ROWS, SUPPORTED, UNSUPPORTED, adapted, batch_of, config_of, model_of
from peft import get_peft_model

from hf_clear import route

matrix = pytest.mark.parametrize("method,name", SUPPORTED, ids=["-".join(row) for row in SUPPORTED])

# A graph break is a matter of how a method's layer is written and where it is called: not all pairs are worth 5 s each.
COMPILED = [(method, name) for method, name in SUPPORTED if method == "lora" or name in ("bert", "albert", "llama")]


@pytest.mark.parametrize("method,name", COMPILED, ids=["-".join(row) for row in COMPILED])
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
