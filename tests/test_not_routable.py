"""What can't be routed shows before the first step."""

import pytest
from helpers.toy import collate, tiny_bert, toy_dataset
from peft import LoraConfig, get_peft_model
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification, Trainer

from hf_clear import ClearLoraConfig, ClearTrainer


def no_step(*args, **kwargs):
    raise AssertionError("a training step ran")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"target_modules": ["query", "word_embeddings"]}, "Embedding can't be routed.*target_modules"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
        ({"bias": "all"}, "bias='all'"),
    ],
    ids=str,
)
def test_lora_that_can_not_be_bypassed(training_arguments, monkeypatch, config, message):
    monkeypatch.setattr(Trainer, "training_step", no_step)
    with pytest.raises(ValueError, match=message):
        ClearTrainer(
            get_peft_model(tiny_bert(), LoraConfig(task_type="SEQ_CLS", **config)),
            training_arguments(),
            train_dataset=toy_dataset(),
            data_collator=collate,
        ).train()


def test_modules_whose_rows_are_not_samples(training_arguments, monkeypatch):
    """DeBERTa sends its relative positions through the query projection too."""
    monkeypatch.setattr(Trainer, "training_step", no_step)
    config = DebertaV2Config(
        **{"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": 4},
        **{"intermediate_size": 37, "relative_attention": True, "share_att_key": True, "pos_att_type": "p2c|c2p"},
    )
    model = DebertaV2ForSequenceClassification(config)
    trainer = ClearTrainer(
        model,
        training_arguments(),
        train_dataset=toy_dataset(),
        data_collator=collate,
        peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
    )
    with pytest.raises(ValueError, match="its rows are not samples.*`target_modules`"):
        trainer.train()
