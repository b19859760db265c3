"""Models and PEFT configs that can be routed, and what is saved and said of them."""

import json

import pytest
import torch
from helpers.architectures import model_of
from helpers.toy import collate, tiny_bert, toy_dataset
from helpers.trainers import lora_model
from peft import LoraConfig, PeftModel, get_peft_model

from hf_clear import ClearAdapterConfig, ClearLoraConfig, ClearTrainer


def test_peft_config_wraps_the_model_as_in_trl(training_arguments):
    config = ClearLoraConfig(task_type="SEQ_CLS", r=4)
    before = config.to_dict()
    first, second = (
        ClearTrainer(**{**way, "args": training_arguments(), "train_dataset": toy_dataset(), "data_collator": collate})
        for way in (
            {"model": tiny_bert(), "peft_config": config},
            {"model_init": lambda: tiny_bert(), "peft_config": config},
        )
    )
    assert config.to_dict() == before, "the user's config was written into"
    for trainer in (first, second):
        trainer.train()
        assert isinstance(trainer.model, PeftModel) and trainer.is_routed
    with pytest.raises(ValueError, match="PeftModel already"):
        ClearTrainer(lora_model(), training_arguments(), peft_config=config)


@pytest.mark.parametrize(
    "config", [{"use_dora": True}, {"use_rslora": True}, {"target_modules": "all-linear"}], ids=str
)
def test_a_model_that_carries_lora_layers_is_routed_as_it_is(training_arguments, config):
    model = get_peft_model(tiny_bert(), LoraConfig(task_type="SEQ_CLS", **config))
    trainer = ClearTrainer(
        model, training_arguments(clear_warmup_epochs=1), train_dataset=toy_dataset(), data_collator=collate
    )
    trainer.train()
    assert trainer.is_routed and trainer.sample_store.fitted_epoch == 2

    native = tiny_bert()
    native.add_adapter(ClearLoraConfig(r=4))
    assert ClearTrainer(native, training_arguments(), train_dataset=toy_dataset(), data_collator=collate).is_routed


def test_the_settings_are_saved_beside_a_stock_adapter(training_arguments, tmp_path):
    trainer = ClearTrainer(
        tiny_bert(),
        training_arguments(clear_gamma=0.6, num_train_epochs=1),
        train_dataset=toy_dataset(),
        data_collator=collate,
        peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
    )
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    sidecar = json.loads((tmp_path / "saved" / "clear_config.json").read_text())
    assert sidecar["clear_gamma"] == 0.6 and sidecar["clear_ensemble_size"] == 2
    assert json.loads((tmp_path / "saved" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    loaded = PeftModel.from_pretrained(tiny_bert(), tmp_path / "saved")
    batch = collate(list(toy_dataset(4)))
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**batch).logits, trainer.model.eval()(**batch).logits)


def test_a_frozen_head_is_reported(training_arguments, caplog):
    def warnings_of(name: str, **config) -> str:
        caplog.clear()
        ClearTrainer(model_of(name), training_arguments(), peft_config=ClearAdapterConfig(**config))
        return caplog.text

    assert "modules_to_save=['classification_head']" in warnings_of("bart", task_type="SEQ_CLS")
    assert "modules_to_save=['classifier']" in warnings_of("bert")
    assert "frozen" not in warnings_of("bert", task_type="SEQ_CLS")
    assert "frozen" not in warnings_of("bart", modules_to_save=["classification_head"])
