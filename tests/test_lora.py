import subprocess
import sys

import torch
from helpers.toy import collate, randomize_adapters, tiny_bert, toy_dataset
from peft import (
    AutoPeftModelForSequenceClassification,
    LoraConfig,
    PeftModel,
    PeftType,
    get_peft_config,
    get_peft_model,
)
from transformers import AutoModelForSequenceClassification

from hf_clear import ClearLoraConfig, num_routed_layers, route
from hf_clear.tuners._registration import register_with_peft

WITHOUT_HF_CLEAR = """
import sys, warnings
sys.modules["hf_clear"] = None  # importing it would fail
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from transformers import AutoModelForSequenceClassification
base, adapter, batch, logits = sys.argv[1:]
warnings.simplefilter("error", UserWarning)
batch, expected = torch.load(batch), torch.load(logits)
models = [
    PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(base, num_labels=4), adapter),
    AutoPeftModelForSequenceClassification.from_pretrained(adapter, num_labels=4),
    AutoModelForSequenceClassification.from_pretrained(adapter, num_labels=4),
]
with torch.no_grad():
    assert all(torch.equal(model.eval()(**batch).logits, expected) for model in models)
assert models[0].peft_config["default"].peft_type == "LORA"
print("identical")
"""


def test_saved_adapter_is_a_stock_lora(tmp_path):
    base, adapter = str(tmp_path / "base"), str(tmp_path / "adapter")
    tiny_bert().save_pretrained(base)
    model = get_peft_model(
        AutoModelForSequenceClassification.from_pretrained(base), ClearLoraConfig(task_type="SEQ_CLS", r=4)
    )
    randomize_adapters(model)
    batch = collate(list(toy_dataset(4)))
    with torch.no_grad(), route(model, torch.ones(num_routed_layers(model), 4, dtype=torch.bool)):
        logits = model.eval()(**batch).logits
    model.save_pretrained(adapter)

    for loaded in [
        PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(base), adapter),
        AutoPeftModelForSequenceClassification.from_pretrained(adapter, num_labels=4),
        AutoModelForSequenceClassification.from_pretrained(adapter, num_labels=4),
    ]:
        assert num_routed_layers(loaded) == num_routed_layers(model)
        with torch.no_grad():
            assert torch.equal(loaded.eval()(**batch).logits, logits)

    torch.save(batch, tmp_path / "batch.pt")
    torch.save(logits, tmp_path / "logits.pt")
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_HF_CLEAR, base, adapter, tmp_path / "batch.pt", tmp_path / "logits.pt"],
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip().endswith("identical"), run.stderr


def test_config_is_registered_and_equals_loraconfig():
    config = get_peft_config({"peft_type": "CLEAR_LORA", "task_type": "SEQ_CLS", "r": 5})
    assert isinstance(config, ClearLoraConfig) and config.r == 5
    assert ClearLoraConfig().to_dict() == LoraConfig().to_dict()
    # Registering again is harmless.
    assert register_with_peft("clear_lora", ClearLoraConfig, None) is PeftType.CLEAR_LORA
    assert PeftType("CLEAR_LORA") is PeftType["CLEAR_LORA"] and PeftType.CLEAR_LORA in list(PeftType)


def test_peft_does_not_write_into_the_users_list():
    names = ["classifier"]
    get_peft_model(tiny_bert(), ClearLoraConfig(task_type="SEQ_CLS", modules_to_save=names))
    assert names == ["classifier"]


@torch.no_grad()
def test_after_routing_the_model_merges_like_any_lora():
    batch = collate(list(toy_dataset(3)))
    plain, routed = (get_peft_model(tiny_bert(), LoraConfig(task_type="SEQ_CLS", use_dora=True)) for _ in range(2))
    routed.load_state_dict(plain.state_dict())
    for model in (plain, routed):
        randomize_adapters(model)
        model.eval()
    with torch.no_grad():
        with route(routed, torch.zeros(num_routed_layers(routed), 3, dtype=torch.bool)):
            routed(**batch)
        assert torch.equal(routed.merge_and_unload()(**batch).logits, plain.merge_and_unload()(**batch).logits)
