import dataclasses

import pytest

from hf_clear import ClearTrainingArguments, preset
from hf_clear.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("method", ["lora", "adapter", "bitfit", "prompt"])
def test_presets_are_arguments_of_the_trainer(name, method, tmp_path):
    settings = preset(name, method)
    arguments = ClearTrainingArguments(output_dir=str(tmp_path), **settings)
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
    assert adapter["clear_estimator"] == "ema_gaussian_mixture" != lora["clear_estimator"]
    assert adapter["clear_ensemble_temperature"] == 0.5 and adapter["clear_warmup_random_routing"]


def test_unknown_names():
    with pytest.raises(ValueError, match="one of paper, official; got 'papers'"):
        preset("papers")
    with pytest.raises(ValueError, match="one of lora, adapter, bitfit, prompt; got 'ia3'"):
        preset("paper", "ia3")
