import dataclasses

import pytest
from peft import IA3Config

from hf_clear import (
    ClearAdapterConfig,
    ClearArguments,
    ClearBitFitConfig,
    ClearLoraConfig,
    ClearPromptConfig,
    ClearTrainingArguments,
    preset,
    register_peft_method,
)
from hf_clear.presets import PRESETS
from hf_clear.probe_args import ProbeArguments
from hf_clear.runs import NoisyTrainingArguments
from hf_clear.tuners import PEFT_METHODS


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("method", PEFT_METHODS)
def test_presets_are_arguments_of_the_trainer(name, method, tmp_path):
    settings = preset(name, method)
    arguments = ClearTrainingArguments(output_dir=str(tmp_path), **settings)
    assert settings.items() <= dataclasses.asdict(arguments).items()


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("method", PEFT_METHODS)
def test_no_preset_depends_on_a_default(name, method):
    own = {field.name for field in dataclasses.fields(ClearArguments)}
    own -= {field.name for field in dataclasses.fields(ProbeArguments)}
    of_trainer = {"per_device_train_batch_size", "lr_scheduler_type", "weight_decay", "max_grad_norm"}
    assert preset(name, method).keys() == own | (of_trainer if name == "official" else set())


def test_clear_is_the_paper_but_for_its_targets_and_its_mixture():
    assert preset("clear") == {
        "clear_gamma": 0.9,
        "clear_warmup": "epochs",
        "clear_warmup_epochs": 3,
        "clear_folds": 2,
        "clear_evidence": "mean_probe+head_probe",
        "clear_warmup_random_routing": False,
        "clear_routing": "clean",
        "clear_estimator": "gaussian_mixture",
        "clear_min_explained": 0.5,
        "clear_loss_source": "epoch",
        "clear_min_clean_probability": 0.0,
        "clear_loss": "clear",
        "clear_loss_kwargs": None,
        "clear_consistency_weight": 1.0,
        "clear_ensemble_size": 2,
        "clear_ensemble_source": None,
        "clear_ensemble_temperature": 1.0,
        "clear_dropout_after_warmup": True,
    }
    changed = {"clear_ensemble_source": "step", "clear_estimator": "plain_gaussian_mixture"}
    assert preset("paper") == preset("clear") | changed


def test_recommended_is_the_default(tmp_path):
    settings = preset("recommended")
    for arguments in (ClearArguments(), NoisyTrainingArguments(output_dir=str(tmp_path))):
        assert settings.items() <= dataclasses.asdict(arguments).items()


def test_what_the_official_code_does_otherwise():
    assert {
        method: preset("official", method)["clear_gamma"] for method in ("lora", "adapter", "bitfit", "prompt")
    } == {
        "lora": 0.85,
        "adapter": 0.7,
        "bitfit": 0.9,
        "prompt": 0.85,
    }
    assert preset("paper")["clear_ensemble_source"] == "step" and preset("official")["clear_ensemble_source"] == "epoch"
    assert not preset("official")["clear_dropout_after_warmup"]
    adapter, lora = preset("official", "adapter"), preset("official", "lora")
    assert (adapter["clear_estimator"], lora["clear_estimator"]) == (
        "plain_ema_gaussian_mixture",
        "plain_gaussian_mixture",
    )
    assert (adapter["clear_ensemble_temperature"], lora["clear_ensemble_temperature"]) == (0.5, 1.0)
    assert (adapter["clear_ensemble_size"], lora["clear_ensemble_size"]) == (1, 2)
    assert adapter["clear_warmup_random_routing"] and lora["clear_warmup_random_routing"]
    assert (lora["lr_scheduler_type"], lora["weight_decay"], lora["max_grad_norm"]) == ("constant", 0.01, 0.0)


def test_unknown_names():
    with pytest.raises(ValueError, match="one of recommended, clear, paper, official; got 'papers'"):
        preset("papers")
    with pytest.raises(
        ValueError, match="`peft_method` has to be the name of.*got 'ia3'. There are: 'adapter'.*'lora'"
    ):
        preset("paper", "ia3")


def test_a_method_that_was_registered_has_the_papers_preset_alone():
    register_peft_method("ia3", IA3Config, learning_rate=1e-2)
    try:
        assert preset("paper", "ia3") == preset("paper")
        with pytest.raises(ValueError, match="official code of CleaR has no PEFT method 'ia3', only lora, adapter"):
            preset("official", "ia3")
    finally:
        del PEFT_METHODS["ia3"]


def test_the_table_of_methods():
    assert {method.name: (method.config, method.learning_rate) for method in PEFT_METHODS.values()} == {
        "lora": (ClearLoraConfig, 2e-3),
        "adapter": (ClearAdapterConfig, 3e-3),
        "bitfit": (ClearBitFitConfig, 3e-3),
        "prompt": (ClearPromptConfig, 1e-2),
    }
    for arguments, message in [
        (("lora", IA3Config, 1e-2), "a PEFT method 'lora' already"),
        (("ia3", "IA3", 1e-2), "subclass of PeftConfig; got 'IA3'"),
        (("ia3", IA3Config, 0.0), "above 0; got 0.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            register_peft_method(*arguments)
