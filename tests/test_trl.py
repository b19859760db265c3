"""TRL's `SFTTrainer` keeps its loss and its metrics."""

import dataclasses
from pathlib import Path

import pytest
import torch
from helpers.task_losses import OPEN, SIZES, assert_same_training
from helpers.toy import randomize_adapters, toy_dataset
from helpers.trainers import losses_of
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer

from hf_clear import ClearArguments, ClearMixin, preset


def sft(cls: type[Trainer], folder: Path, **arguments) -> Trainer:
    from trl import SFTConfig

    vocabulary = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i + 2 for i in range(58)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="<eos>",
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, pad_token_id=0, eos_token_id=1))
    torch.manual_seed(1)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    randomize_adapters(model)
    bases = (ClearArguments, SFTConfig) if issubclass(cls, ClearMixin) else (SFTConfig,)
    args = dataclasses.make_dataclass("Config", [], bases=bases)(
        output_dir=str(folder),
        **{"use_cpu": True, "disable_tqdm": True, "report_to": [], "save_strategy": "no", "logging_steps": 1},
        **{"max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "seed": 7, "bf16": False},
        **{"packing": False, "max_length": 16, "gradient_checkpointing": False},
        **arguments,
    )
    data = toy_dataset(24).remove_columns(["labels", "attention_mask"])
    trainer = cls(model, args, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    return trainer


@pytest.mark.filterwarnings("ignore:.*return_outputs:FutureWarning")
def test_sft_trainer_keeps_its_loss_and_its_metrics(tmp_path):
    trl = pytest.importorskip("trl")
    clear_cls = type("ClearSFTTrainer", (ClearMixin, trl.SFTTrainer), {})
    stock = sft(trl.SFTTrainer, tmp_path)
    clear = sft(clear_cls, tmp_path, **OPEN)
    assert_same_training(clear, stock)
    for name in ("entropy", "mean_token_accuracy", "num_tokens"):
        values = [entry[name] for entry in stock.state.log_history if name in entry]
        assert [entry[name] for entry in clear.state.log_history if name in entry] == values and values
    # Its class scores come without a gradient, so that consistency needs a forward pass of its own.
    routed = sft(clear_cls, tmp_path, **{**preset("clear"), "clear_warmup_epochs": 1, "clear_consistency_weight": 0.5})
    last = [entry for entry in routed.state.log_history if "loss" in entry][-1]
    assert last["loss"] == pytest.approx(last["task_loss"], rel=1e-3)
    assert last["consistency"] > 0 and {"entropy", "mean_token_accuracy", "num_tokens"} <= last.keys()
    assert losses_of(routed) != losses_of(stock)
