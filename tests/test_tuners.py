"""What each PEFT method of ours does beside routing: exports, merging, saved notes, refusals."""

import json
import subprocess
import sys

import pytest
import torch
from helpers.architectures import adapted, all_equal, batch_of, config_of, hidden_states, model_of, randomized
from peft import PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
    PreTrainedModel,
    Trainer,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hf_clear import (
    ClearAdapterConfig,
    ClearBitFitConfig,
    ClearPromptConfig,
    ClearTrainer,
    export_to_peft,
    num_routed_layers,
    route,
)
from hf_clear.tuners import note_loading
from hf_clear.tuners.prompt import PromptLayer, peft_prefixes_work

STOCK_PEFT = """
import json, sys
sys.modules["hf_clear"] = None  # importing it would fail
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from transformers import AutoModelForSequenceClassification

results = {}
for base, adapter in json.loads(sys.argv[1]):
    batch, expected = torch.load(f"{adapter}/expected.pt")
    models = [
        PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(base), adapter),
        AutoPeftModelForSequenceClassification.from_pretrained(adapter),
    ]
    with torch.no_grad():
        off = [(model.eval()(**batch).logits - expected).abs().max().item() for model in models]
    results[adapter] = models[0].peft_config["default"].peft_type, max(off)
print(json.dumps(results))
"""
EXPORTED = {
    ("lora", "bert"): "LORA",
    ("bitfit", "bert"): "LORA",
    ("bitfit", "gpt2"): "LORA",
    ("bitfit", "bart"): "LORA",
    ("prompt", "llama"): "PREFIX_TUNING",
    ("prompt-exact", "qwen2"): "PREFIX_TUNING",
}


def prefixes_work(name: str) -> bool:
    return peft_prefixes_work(model_of(name), "SEQ_CLS")


@torch.no_grad()
def test_exports_load_with_stock_peft_and_give_the_same_logits(tmp_path):
    rows, can_run = {}, [key for key, kind in EXPORTED.items() if kind != "PREFIX_TUNING" or prefixes_work(key[1])]
    for method, name in can_run:
        base, adapter = str(tmp_path / name), str(tmp_path / f"{method}-{name}")
        model_of(name).save_pretrained(base)
        model, batch = adapted(method, name), batch_of(name)
        model.peft_config["default"].base_model_name_or_path = base
        before = model(**batch).logits
        export_to_peft(model, adapter)
        assert torch.equal(model(**batch).logits, before), "the export changed the model"
        torch.save((batch, before), f"{adapter}/expected.pt")
        rows[method, name] = base, adapter
    done = subprocess.run(
        [sys.executable, "-c", STOCK_PEFT, json.dumps(list(rows.values()))], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout.splitlines()[-1])
    for row in rows:
        exported_type, off = results[rows[row][1]]
        assert exported_type == EXPORTED[row] and off <= 2e-5, (row, exported_type, off)


@pytest.mark.parametrize(
    "method,name,reason",
    [
        ("adapter", "bert", "no form for a bottleneck adapter"),
        ("prompt", "bert", "shifts the positions"),
        ("prompt", "gpt2", "shifts the positions"),
        ("prompt", "t5", "shifts the positions"),
        ("prompt", "modernbert", "shifts the positions"),
    ],
)
def test_what_stock_peft_has_no_form_for_is_not_exported(tmp_path, method, name, reason):
    with pytest.raises(ValueError, match=reason):
        export_to_peft(adapted(method, name), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    with pytest.raises(ValueError, match="no adapter 'other'.*default"):
        export_to_peft(adapted(method, name), tmp_path / "adapter", adapter_name="other")
    with pytest.raises(ValueError, match="only a PeftModel"):
        export_to_peft(model_of("bert"), tmp_path / "adapter")


def small_decoder(cls, config_cls, **config):
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
    return cls(config_cls(**sizes, num_key_value_heads=2, intermediate_size=37, num_labels=3, **config)).eval()


@pytest.mark.parametrize(
    "build",
    [
        lambda: small_decoder(MistralForSequenceClassification, MistralConfig, sliding_window=8),
        lambda: small_decoder(
            LlamaForSequenceClassification,
            LlamaConfig,
            rope_parameters={
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e4,
                "original_max_position_embeddings": 32,
            },
        ),
    ],
)
def test_prompts_where_positions_matter_are_not_exported(tmp_path, build):
    model = get_peft_model(build(), config_of("prompt", "llama"))
    with pytest.raises(ValueError, match="sliding window hides the prompt"):
        export_to_peft(model, tmp_path / "adapter")


@pytest.mark.parametrize("method,name", [("lora", "bert"), ("bitfit", "bert"), ("prompt", "llama")])
@torch.no_grad()
def test_the_export_of_one_adapter_among_several(tmp_path, method, name):
    """With its own head, while another adapter is active, or merged, and into the folder of the original."""
    if method == "prompt" and not prefixes_work(name):
        with pytest.raises(ValueError, match="peft .* can't run PREFIX_TUNING .* below 5.24"):
            export_to_peft(adapted(method, name), tmp_path)
        pytest.skip("stock peft can't run PREFIX_TUNING for classification with this version of transformers")
    batch = batch_of(name)
    model = adapted(method, name)
    model.add_adapter("second", config_of(method, name))
    model.set_adapter("second")
    randomized(model.eval(), seed=5)
    expected = model(**batch).logits
    model.set_adapter("default")
    active = model(**batch).logits
    model.save_pretrained(tmp_path)
    export_to_peft(model, tmp_path, adapter_name="second")
    assert torch.equal(model(**batch).logits, active), "the export changed the model"
    assert "import hf_clear" not in (tmp_path / "README.md").read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("tmp")]
    exported = PeftModel.from_pretrained(model_of(name), tmp_path).eval()
    assert exported.peft_config["default"].peft_type in ("LORA", "PREFIX_TUNING")
    assert torch.allclose(exported(**batch).logits, expected, rtol=0, atol=2e-5)
    if method == "bitfit":
        model.merge_adapter()
        export_to_peft(model, tmp_path / "again", adapter_name="second")
        exported = PeftModel.from_pretrained(model_of(name), tmp_path / "again").eval()
        assert torch.allclose(exported(**batch).logits, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", ["lora", "bitfit"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "qwen2"])
@torch.no_grad()
def test_merging_gives_a_plain_model_with_the_same_logits(method, name):
    model, batch = adapted(method, name), batch_of(name)
    before, types = model(**batch).logits, {type(module) for module in model_of(name).modules()}
    model.merge_adapter()
    assert torch.allclose(model(**batch).logits, before, rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match="merged"), route(model, torch.ones(2, 4, dtype=torch.bool)):
        pass
    model.unmerge_adapter()
    plain = model.merge_and_unload()
    assert {type(module) for module in plain.modules()} == types
    assert torch.allclose(plain(**batch).logits, before, rtol=0, atol=2e-5)


@torch.no_grad()
def test_disabled_means_the_base_model_merged_or_not():
    model, batch = adapted("bitfit", "bert"), batch_of("bert")
    with model.disable_adapter():
        base = hidden_states(model, batch)
    model.merge_adapter()
    with model.disable_adapter():
        for state, expected in zip(hidden_states(model, batch), base, strict=True):
            assert torch.allclose(state, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", ["adapter", "bitfit", "prompt"])
@torch.no_grad()
def test_low_memory_loading_and_half_precision(tmp_path, method):
    model, batch = adapted(method, "bert"), batch_of("bert")
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(model_of("bert"), tmp_path, low_cpu_mem_usage=True).eval()
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    half = PeftModel.from_pretrained(model_of("bert").bfloat16(), tmp_path).eval()
    assert half(**batch).logits.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="`adapter_names`.*LoRA alone"):
        model(**batch, adapter_names=["default"] * 4)


@pytest.mark.parametrize("method", ["adapter", "prompt"])
@torch.no_grad()
def test_what_is_no_change_of_weights_unloads_and_does_not_merge(method):
    batch = batch_of("bert")
    base = hidden_states(model_of("bert"), batch)
    model = adapted(method, "bert")
    with pytest.raises(ValueError, match="can't be merged"):
        model.merge_and_unload()
    model = adapted(method, "bert").unload()
    assert all_equal(hidden_states(model, batch), base)
    assert num_routed_layers(model) == 0


@pytest.mark.parametrize("method", ["adapter", "bitfit", "prompt"])
def test_a_saved_adapter_says_what_to_import(tmp_path, method, training_arguments):
    model = adapted(method, "bert")
    model.save_pretrained(tmp_path / "a")
    model.save_pretrained(tmp_path / "a")
    readme = (tmp_path / "a" / "README.md").read_text()
    assert readme.count("import hf_clear  # pip install hf-clear") == 1 and readme.startswith("---\n")
    trainer = ClearTrainer(model, training_arguments())
    trainer.save_model()
    trainer.create_model_card()  # which writes it anew
    assert "import hf_clear" in (tmp_path / "out" / "README.md").read_text()
    note_loading(tmp_path / "empty")
    assert "import hf_clear" in (tmp_path / "empty" / "README.md").read_text()


def test_configs_are_registered_and_leave_the_users_list_alone():
    for config_cls in (ClearAdapterConfig, ClearBitFitConfig, ClearPromptConfig):
        heads = ["classifier"]
        config = config_cls(task_type="SEQ_CLS", modules_to_save=heads)
        assert config.peft_type in list(PeftType) and PEFT_TYPE_TO_CONFIG_MAPPING[config.peft_type] is config_cls
        get_peft_model(model_of("bert"), config)
        assert heads == ["classifier"]


def test_fresh_adapters_and_biases_start_as_the_base_model():
    batch = batch_of("bert")
    base = hidden_states(model_of("bert"), batch)
    for method in ("adapter", "bitfit"):
        assert all_equal(hidden_states(get_peft_model(model_of("bert"), config_of(method, "bert")), batch), base)


def test_where_the_deltas_are():
    def targets(method: str, name: str) -> set[str]:
        return set(adapted(method, name).targeted_module_names)

    layer = "bert.encoder.layer.0."
    assert {path for path in targets("adapter", "bert") if path.startswith(layer)} == {
        f"{layer}attention.output.dense",
        f"{layer}output.dense",
    }
    biases = {path for path in targets("bitfit", "bert") if path.startswith(layer)}
    assert biases == {
        f"{layer}{path}"
        for path in (
            *(f"attention.self.{part}" for part in ("query", "key", "value")),
            *(f"{part}.{module}" for part in ("attention.output", "output") for module in ("dense", "LayerNorm")),
            "intermediate.dense",
        )
    }
    assert all(path.startswith("bert.encoder.layer.") for path in targets("bitfit", "bert")), "embeddings, pooler, head"
    assert {path.rsplit(".", 1)[1] for path in targets("prompt", "bert")} == {"self"}


def test_weight_decay_leaves_biases_alone(training_arguments):
    trainer = Trainer(adapted("bitfit", "bert"), training_arguments(weight_decay=0.1))
    assert not [name for name in trainer.get_decay_parameter_names(trainer.model) if "clear_bitfit" in name]


@torch.no_grad()
def test_prompts_with_a_cache_generate_the_same_tokens():
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=60,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=37,
            initializer_range=0.5,
        )
    )
    plain = {"input_ids": torch.tensor([[5, 6, 7], [8, 9, 10]]), "attention_mask": torch.ones(2, 3, dtype=torch.long)}
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    unprompted = base.generate(**plain, **options)
    model = get_peft_model(base, ClearPromptConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    for name, parameter in model.named_parameters():
        if "clear_prompt" in name:
            parameter.normal_(std=2.0)
    cached = model.generate(**plain, **options, use_cache=True)
    assert torch.equal(cached, model.generate(**plain, **options, use_cache=False))
    assert not torch.equal(cached, unprompted)


@torch.no_grad()
def test_both_attention_implementations_give_the_same_prompted_model():
    for name in ("bert", "llama", "t5"):
        model, batch = adapted("prompt", name), batch_of(name)
        gates = torch.rand(num_routed_layers(model), 4, generator=torch.Generator().manual_seed(0)) < 0.5
        assert model.config._attn_implementation == "sdpa"
        with route(model, gates):
            expected = model(**batch).logits
        for part in model.modules():  # in older transformers, T5 doesn't pass it on to its stacks
            if isinstance(part, PreTrainedModel):
                part.set_attn_implementation("eager")
        assert all(m._attention() is not sdpa_attention_forward for m in model.modules() if isinstance(m, PromptLayer))
        with route(model, gates):
            assert torch.allclose(model(**batch).logits, expected, rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize(
    "build,message",
    [
        (lambda: ClearAdapterConfig(bottleneck_size=0), "`bottleneck_size` has to be 1 or above"),
        (lambda: ClearAdapterConfig(activation="gel"), "`activation` has to be one of"),
        (lambda: ClearAdapterConfig(activation="xielu"), "has weights of its own"),
        (lambda: ClearPromptConfig(num_virtual_tokens=0), "`num_virtual_tokens` has to be 1 or above"),
        (
            lambda: get_peft_model(model_of("bert"), ClearAdapterConfig(target_modules=["LayerNorm"])),
            "LayerNorm: a bottleneck adapter follows a linear layer",
        ),
        (
            lambda: get_peft_model(model_of("bert"), ClearBitFitConfig(target_modules=["dropout"])),
            "dropout: BitFit needs a linear or LayerNorm module with a bias",
        ),
        (
            lambda: get_peft_model(model_of("bert"), ClearPromptConfig(target_modules=["output.dense"])),
            "output.dense: a deep prompt needs an attention module",
        ),
        (
            lambda: get_peft_model(torch.nn.Sequential(torch.nn.Linear(2, 2)), ClearAdapterConfig()),
            "no default `target_modules`.*'custom'.*bert",
        ),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_flash_attention_is_refused_for_prompts():
    base = model_of("bert")
    base.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match="attn_implementation='sdpa' or 'eager', not 'flash_attention_2'"):
        get_peft_model(base, config_of("prompt", "bert"))
    assert not isinstance(base, PeftModel)
