"""Adapters that are made to hang, to fill the memory or to predict NaN: refused with a ValueError, within bounds."""

import contextlib
import json
import os
import re
import shutil
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch
from helpers.architectures import model_of
from helpers.damaged_adapters import CONFIG, WEIGHTS, in_config
from helpers.toy import tiny_bert
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from peft import AdaLoraConfig, LoHaConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from hf_clear import ClearAdapterConfig, ClearBitFitConfig, ClearLoraConfig, ClearPromptConfig, load_adapter
from hf_clear.adapters import loading
from hf_clear.adapters.linear_regex import Budget, matcher

SECONDS = 5  # of computing, for one adapter on the toy model; a busy machine computes slower, too
KINDS = {
    "lora": ClearLoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"]),
    "clear_adapter": ClearAdapterConfig(task_type="SEQ_CLS", bottleneck_size=3),
    "clear_bitfit": ClearBitFitConfig(task_type="SEQ_CLS"),
    "clear_prompt": ClearPromptConfig(task_type="SEQ_CLS", num_virtual_tokens=2),
}
# As tools and papers write them.
WILD = [
    r".*\.layer\.[0-9]+\.attention\.self\.(query|value)",
    ".*encoder.*(self).*(query|value)$",
    r"^(?!.*(?:patch_embed|visual)).*(?:query|value).*",
    r"^(bert(?=\.).*\.(query|value))$",
    r"(?:.*?(?:encoder|text).*?(?:self|attn|mlp).*?(?:query|value).*?)|(?:\bbert\.layers\.[\d]{1,}\.(?:(?:q_proj|k_proj)))",
    r"(\w+\.)+(query|value)",
    r"bert\.encoder\.layer\.(0|1|2)\.attention\.self\.(?:query|value)",
    "(?i).*(QUERY|value)",
    r".*\.(?<=self\.)(query|value)",
]
EVIL = [
    "(a+)+$",
    "(.*)*x",
    "(.+)+(.+)+(.+)+x",
    r"(\w+\.?)+\.$",
    r"(.*)\1",
    "(?:(?:.?){60000}){60000}x",
    "(?=.*(?=.*(?=.*(?=.*(?=.*x)))))",
    "|".join(["a*"] * 3000),
    "(" * 500 + "a" + ")*" * 500,
    "[",
    "",
]


@contextlib.contextmanager
def within(seconds: float):
    """Fails, rather than to hang, where the body computes for longer; a busy machine doesn't count."""

    def stop(*args):
        raise AssertionError("it hangs")

    before, start = signal.signal(signal.SIGVTALRM, stop), time.process_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, 10 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert time.process_time() - start < seconds


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with an adapter of each kind."""
    folder = tmp_path_factory.mktemp("adapters")
    for name, config in KINDS.items():
        save(get_peft_model(tiny_bert(), config), folder / name)
    return folder


def save(model: PeftModel, folder: Path) -> Path:
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(1, 9)[None]).logits


ATOMS = st.sampled_from([*"ab.1", r"\.", r"\d", r"\w", r"[^a]", "[a-c0-9]", "layer", "^", "$", r"\b", r"\Z", ""])
QUANTIFIERS = st.sampled_from(["*", "+", "?", "*?", "+?", "{2}", "{1,3}", "{0,2}?", "{2,}"])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.tuples(inner, inner).map("(?:{0[0]}|{0[1]})".format),
        st.tuples(inner, QUANTIFIERS).map("({0[0]}){0[1]}".format),
        st.tuples(st.sampled_from(["(?=", "(?!"]), inner).map("{0[0]}{0[1]})".format),
        st.sampled_from([r"(?<=a)", r"(?<!\.)", "(?<=[ab]1)"]),
    ),
    max_leaves=8,
)
TEXTS = st.lists(st.sampled_from(["a", "b", ".", "1", "layer", "A"]), min_size=1, max_size=6).map("".join)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(PATTERNS, st.lists(TEXTS, min_size=3, max_size=3))
def test_patterns_match_what_re_matches(pattern, texts):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = re.compile(pattern)
    for full in (True, False):
        matches = matcher(pattern, Budget(1000), full=full)
        for text in texts:
            assert matches(text) == bool((expected.fullmatch if full else expected.match)(text)), (pattern, text)


@pytest.mark.parametrize("pattern", WILD)
def test_patterns_of_the_wild(saved, tmp_path, pattern):
    """Loaded as with peft, also once it is saved again; also as keys."""
    folder = Path(shutil.copytree(saved / "lora", tmp_path / "lora"))
    in_config(target_modules=pattern)(folder)
    expected = logits(PeftModel.from_pretrained(tiny_bert(), folder))
    model = load_adapter(tiny_bert(), folder)
    assert torch.equal(logits(model), expected)
    model.save_pretrained(tmp_path / "again")
    for load in (load_adapter, PeftModel.from_pretrained):
        assert torch.equal(logits(load(tiny_bert(), tmp_path / "again")), expected)


def test_ranks_and_scales_by_pattern(tmp_path):
    patterns = {
        "rank_pattern": {r"^bert\.encoder\.layer\.0\..*query": 3, r"layer\.(0|1)\.attention\.self\.(query|value)": 4},
        "alpha_pattern": {"layer.2.attention.self.query": 7, ".*": 5},
    }
    config = ClearLoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"], **patterns)
    folder = save(get_peft_model(tiny_bert(), config), tmp_path / "a")
    expected = logits(PeftModel.from_pretrained(tiny_bert(), folder))
    for _ in range(2):
        model = load_adapter(tiny_bert(), folder)
        assert torch.equal(logits(model), expected)
        folder = tmp_path / "again"
        model.save_pretrained(folder)


@pytest.mark.parametrize("config", [AdaLoraConfig, LoHaConfig])
@pytest.mark.parametrize("targets", ["all-linear", r".*\.(query|value)"])
def test_types_of_peft_load_as_with_peft(tmp_path, config, targets):
    more = {"total_step": 2} if config is AdaLoraConfig else {"rank_pattern": {"quer.": 2}}
    config = config(task_type="SEQ_CLS", r=4, target_modules=targets, **more)
    folder = save(get_peft_model(tiny_bert(), config), tmp_path)
    expected = logits(PeftModel.from_pretrained(tiny_bert(), folder))
    assert torch.equal(logits(load_adapter(tiny_bert(), folder)), expected)


def test_many_names_that_name_nothing(saved, tmp_path):
    folder = Path(shutil.copytree(saved / "lora", tmp_path / "lora"))
    many = ["query", "value", *(f"x{i}" for i in range(100_000))]
    in_config(target_modules=many, exclude_modules=many[2:])(folder)
    with within(SECONDS):
        model = load_adapter(tiny_bert(), folder)
    assert torch.equal(logits(model), logits(load_adapter(tiny_bert(), saved / "lora")))


def test_layers_that_are_replicated(tmp_path):
    config = ClearLoraConfig(task_type="SEQ_CLS", r=2, layer_replication=[[0, 2], [1, 3]], target_modules=r".*\.query")
    folder = save(get_peft_model(tiny_bert(), config), tmp_path)
    base = tiny_bert()
    model = load_adapter(base, folder)
    assert base.config.num_hidden_layers == 4
    assert torch.equal(logits(model), logits(PeftModel.from_pretrained(tiny_bert(), folder)))


def test_a_look_leaves_no_trace(saved):
    """Neither in the model that is refused an adapter, nor in the random state."""
    base, state = tiny_bert(), torch.get_rng_state()
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in base.state_dict().items()}
    training, needed = base.training, [p.requires_grad for p in base.parameters()]
    loading.rehearse(base, saved / "lora", loading.vetted(saved / "lora", base), "default")
    assert torch.equal(torch.get_rng_state(), state) and base.training == training
    assert needed == [p.requires_grad for p in base.parameters()] and not hasattr(base, "peft_config")
    assert all(tensor.data_ptr() == before[name][0] for name, tensor in base.state_dict().items())
    assert all(torch.equal(tensor, before[name][1]) for name, tensor in base.state_dict().items())


def test_large_weights_that_are_finite_load(saved, tmp_path):
    """Training with a high learning rate gets there."""
    folder = Path(shutil.copytree(saved / "lora", tmp_path / "lora"))
    save_file({name: tensor * 1e4 for name, tensor in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    assert logits(load_adapter(tiny_bert(), folder)).isfinite().all()
    model = tiny_bert()
    model.classifier.weight.data.fill_(torch.nan)  # not the adapter's fault
    model.bert.pooler.dense.weight.data.fill_(torch.nan)
    load_adapter(model, saved / "clear_bitfit")


@pytest.mark.parametrize("architecture", ["t5", "gpt2", "vit"])
def test_models_that_predict_nan_are_found(tmp_path, architecture):
    config = LoraConfig(r=2, target_modules="all-linear")
    folder = save(get_peft_model(model_of(architecture), config), tmp_path)
    load_adapter(model_of(architecture), folder)
    save_file({name: tensor * 1e14 for name, tensor in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    with pytest.raises(ValueError, match=f"{folder}: with this adapter the model predicts NaN"):
        load_adapter(model_of(architecture), folder)


def test_a_file_that_changes_while_it_is_loaded(saved, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(saved / "lora", tmp_path / "lora"))
    rehearse = loading.rehearse

    def swap(*args):
        rehearse(*args)
        tensors = {name: tensor + 1 for name, tensor in load_file(folder / WEIGHTS).items()}
        save_file(tensors, folder / "new")
        os.replace(folder / "new", folder / WEIGHTS)

    monkeypatch.setattr(loading, "rehearse", swap)
    with pytest.raises(ValueError, match=f"{folder} was changed while it was loaded"):
        load_adapter(tiny_bert(), folder)


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**12), 10**12),
        st.sampled_from([0, 1, 2, -1, 10**9, 2**63, 10**400, 1e308, float("nan"), float("inf"), 1e-300, 0.5]),
        st.sampled_from([*EVIL, *WILD, "query", "classifier", "all-linear", "all", "gaussian", "pissa_niter_99999999"]),
        st.text(max_size=20),
        st.sampled_from(["x" * 10**5, ["query"] * 10**5, {str(i): 2 for i in range(10**4)}, [[0, 1]] * 10**4]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from([*EVIL, "query", "rank", "buffer_size", "a"]), inner, max_size=3),
    ),
    max_leaves=4,
)


# Without the phase that explains a failure: it traces every line, which looks as if an adapter hung.
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)
@given(data=st.data())
def test_any_settings_load_or_are_refused(saved, tmp_path_factory, data):
    kind = data.draw(st.sampled_from([*KINDS, "lora"]))
    folder = tmp_path_factory.mktemp("mutated")
    values = json.loads((saved / kind / CONFIG).read_text())
    changed = data.draw(st.dictionaries(st.sampled_from(sorted(values)), JSON, min_size=1, max_size=2))
    (folder / CONFIG).write_text(json.dumps({**values, **changed}))
    os.link(saved / kind / WEIGHTS, folder / WEIGHTS)
    base = tiny_bert()
    with within(SECONDS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = load_adapter(base, folder)
        except ValueError as error:
            assert str(folder) in str(error) and len(str(error)) < 4000
            assert not hasattr(base, "peft_config") and not any("lora" in name for name, _ in base.named_modules())
        else:
            assert logits(model).isfinite().all()
