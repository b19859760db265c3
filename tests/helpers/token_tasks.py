"""Tasks in which every token has a label: models, data and collators."""

from __future__ import annotations

import datasets
import torch
from peft import get_peft_model
from transformers import (
    BartForConditionalGeneration,
    BertForTokenClassification,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    T5ForConditionalGeneration,
)

from helpers.architectures import ARCHITECTURES
from hf_clear import ClearAdapterConfig, ClearTrainer


def sequences(size: int, vocabulary: int = 60, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, 9, (size,), generator=generator).tolist()
    return [torch.randint(5, vocabulary, (length,), generator=generator).tolist() for length in lengths]


class Tokenizer:
    """As much of one as transformers' collators need."""

    padding_side, pad_token_id, pad_token, mask_token = "right", 0, "[PAD]", None

    def pad(self, items, padding=True, max_length=None, pad_to_multiple_of=None, return_tensors="pt", **kwargs):
        width = max(len(item["input_ids"]) for item in items)
        rows = {name: [list(item[name]) for item in items] for name in items[0] if name in ("input_ids", "labels")}
        padded = {
            name: torch.tensor([row + [-100 if name == "labels" else 0] * (width - len(row)) for row in values])
            for name, values in rows.items()
        }
        mask = [[1] * len(item["input_ids"]) + [0] * (width - len(item["input_ids"])) for item in items]
        return {**padded, "attention_mask": torch.tensor(mask)}


def token_classification(size: int = 24):
    """A token's class is its number modulo 3; the first token has none."""
    data = datasets.Dataset.from_list(
        [{"input_ids": ids, "labels": [-100] + [token % 3 for token in ids[1:]]} for ids in sequences(size, 17)]
    )
    torch.manual_seed(0)
    return BertForTokenClassification(ARCHITECTURES["bert"]()), data, DataCollatorForTokenClassification(Tokenizer())


def causal_lm(size: int = 24, cls=LlamaForCausalLM, name="llama"):
    data = datasets.Dataset.from_list([{"input_ids": ids} for ids in sequences(size)])
    torch.manual_seed(0)
    return cls(ARCHITECTURES[name]()), data, DataCollatorForLanguageModeling(Tokenizer(), mlm=False)


def gpt2_lm(size: int = 24):
    return causal_lm(size, GPT2LMHeadModel, "gpt2")


def seq2seq(size: int = 24, cls=T5ForConditionalGeneration, name="t5"):
    data = datasets.Dataset.from_list([{"input_ids": ids, "labels": ids[:4]} for ids in sequences(size)])
    torch.manual_seed(0)
    return cls(ARCHITECTURES[name]()), data, DataCollatorForSeq2Seq(Tokenizer())


def bart_lm(size: int = 24):
    return seq2seq(size, BartForConditionalGeneration, "bart")


TOKEN_TASKS = {
    "token classification": (token_classification, "TOKEN_CLS"),
    "llama": (causal_lm, "CAUSAL_LM"),
    "gpt2": (gpt2_lm, "CAUSAL_LM"),
    "t5": (seq2seq, "SEQ_2_SEQ_LM"),
    "bart": (bart_lm, "SEQ_2_SEQ_LM"),
}


def trainer_of(task, arguments, trainer_cls=ClearTrainer, config_cls=ClearAdapterConfig, size=24, **kwargs):
    build, task_type = TOKEN_TASKS[task]
    model, data, collator = build(size)
    model = get_peft_model(model, config_cls(task_type=task_type))
    return trainer_cls(model, arguments, train_dataset=data, data_collator=collator, **kwargs)
