"""Trainers and models that bring a loss of their own, each stock and routed."""

from __future__ import annotations

import functools
from pathlib import Path

import datasets
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    MixtralConfig,
    MixtralForCausalLM,
    Trainer,
    TrainingArguments,
)
from transformers.loss.loss_utils import LOSS_MAPPING

from helpers.toy import NUM_LABELS, collate, randomize_adapters, tiny_bert, toy_dataset
from helpers.trainers import losses_of
from hf_clear import ClearLoraConfig, ClearMixin, ClearTrainer, ClearTrainingArguments, preset

WEIGHTS = torch.tensor([1.0, 5.0, 1.0, 0.2])
SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48, "max_position_embeddings": 32}


class WeightedTrainer(Trainer):
    """The class-weights recipe of transformers' documentation."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs.logits, labels, weight=WEIGHTS)
        return (loss, outputs) if return_outputs else loss


class WeightedBert(BertForSequenceClassification):
    def forward(self, *args, labels=None, **kwargs):
        outputs = super().forward(*args, **kwargs)
        if labels is not None:
            outputs["loss"] = nn.functional.cross_entropy(outputs.logits, labels, weight=WEIGHTS)
        return outputs


def weighted_bert() -> WeightedBert:
    torch.manual_seed(0)
    return WeightedBert(BertConfig(**SIZES, num_labels=NUM_LABELS))


class LossOfItsOwn(LlamaForSequenceClassification):
    """The loss function of its class is another one, and `forward` is that of transformers."""

    @property
    def loss_function(self):
        return weighted_loss


def weighted_loss(logits=None, labels=None, pooled_logits=None, config=None, **kwargs) -> torch.Tensor:
    """Differs from cross entropy on the classes 2 and 3 alone, which are not in the first batch."""
    return nn.functional.cross_entropy(pooled_logits, labels, weight=torch.tensor([1.0, 1.0, 5.0, 0.2]))


def llama(cls: type = LlamaForSequenceClassification) -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    return cls(LlamaConfig(**SIZES, num_labels=NUM_LABELS, pad_token_id=0))


def with_a_registered_loss() -> LlamaForSequenceClassification:
    LOSS_MAPPING["Weighted"] = weighted_loss
    model = llama()
    model.loss_type = "Weighted"
    return model


class SmoothedInTraining(LlamaForSequenceClassification):
    def forward(self, *args, labels=None, **kwargs):
        outputs = super().forward(*args, **kwargs)
        if labels is not None and self.training:
            outputs["loss"] = nn.functional.cross_entropy(outputs.logits, labels, label_smoothing=0.2)
        return outputs


def with_a_hook() -> BertForSequenceClassification:
    """A hook takes the place of the loss: in training alone, and to be seen on the last class alone."""
    model = tiny_bert()

    def hook(module, args, kwargs, outputs):
        if kwargs.get("labels") is not None and module.training:
            weights = torch.tensor([1.0, 1.0, 1.0, 3.0])
            outputs["loss"] = nn.functional.cross_entropy(outputs.logits, kwargs["labels"], weight=weights)
        return outputs

    model.register_forward_hook(hook, with_kwargs=True)
    return model


def with_a_hook_that_watches() -> BertForSequenceClassification:
    model = tiny_bert()
    model.register_forward_hook(lambda module, args, outputs: None)
    return model


def with_a_wrapper() -> BertForSequenceClassification:
    """`functools.wraps` makes the wrapper look as if it were of transformers."""
    model = tiny_bert()
    stock = model.forward

    @functools.wraps(stock)
    def forward(*args, **kwargs):
        outputs = stock(*args, **kwargs)
        if "loss" in outputs:
            outputs["loss"] = nn.functional.cross_entropy(outputs.logits, kwargs["labels"], weight=WEIGHTS)
        return outputs

    model.forward = forward
    return model


def with_a_loss_function() -> BertForSequenceClassification:
    """As transformers' documentation sets it. (This head doesn't ask it: what it computes is its own affair.)"""
    model = tiny_bert()
    model.loss_function = lambda *args, **kwargs: 0.0
    return model


def mixtral(coefficient: float = 1.0) -> MixtralForCausalLM:
    torch.manual_seed(0)
    sizes = {key: value for key, value in SIZES.items() if key != "max_position_embeddings"}
    return MixtralForCausalLM(
        MixtralConfig(
            **sizes,
            num_key_value_heads=2,
            num_local_experts=4,
            output_router_logits=True,
            router_aux_loss_coef=coefficient,
            pad_token_id=0,
        )
    )


def masked_lm() -> BertForMaskedLM:
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(**SIZES))


def multiple_choice() -> BertForMultipleChoice:
    torch.manual_seed(0)
    return BertForMultipleChoice(BertConfig(**SIZES))


class WithoutKwargs(nn.Module):
    """A model of one's own: no config, no `**kwargs`."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(60, 16)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.classifier = nn.Linear(16, NUM_LABELS)

    def forward(self, input_ids, attention_mask=None, labels=None):
        hidden = self.embedding(input_ids).mean(dim=1)
        for layer in self.layers:
            hidden = hidden + layer(hidden).tanh()
        logits = self.classifier(hidden)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"logits": logits} if loss is None else {"loss": loss, "logits": logits}


def of_language(items):
    batch = collate(items)
    return batch | {"labels": torch.where(batch["attention_mask"] > 0, batch["input_ids"], -100)}


def masked(items):
    """Every third token is to be predicted."""
    batch = collate(items)
    hidden = (torch.arange(batch["input_ids"].shape[1]) % 3 == 1) & (batch["attention_mask"] > 0)
    labels = torch.where(hidden, batch["input_ids"], -100)
    return batch | {"input_ids": batch["input_ids"].masked_fill(hidden, 3), "labels": labels}


def of_choices(items):
    """Three choices: the question, and two ways to begin it elsewhere."""
    batch = collate(items)
    choices = {
        name: torch.stack([batch[name], batch[name].roll(1, 1), batch[name].roll(2, 1)], dim=1)
        for name in ("input_ids", "attention_mask")
    }
    return choices | {"labels": batch["labels"] % 3}


# name: (model, task type, LoRA's targets, collator, base trainer, what has a loss of its own)
QV, _LLAMA = ["query", "value"], ["q_proj", "v_proj"]
CASES = {
    "a weighted trainer": (tiny_bert, "SEQ_CLS", QV, collate, WeightedTrainer, "WeightedTrainer.compute_loss"),
    "a weighted model": (weighted_bert, "SEQ_CLS", QV, collate, Trainer, "WeightedBert's own loss"),
    "a loss function set by hand": (with_a_loss_function, "SEQ_CLS", QV, collate, Trainer, "BertFor.*'s own loss"),
    "a loss function of the class": (
        lambda: llama(LossOfItsOwn),
        "SEQ_CLS",
        _LLAMA,
        collate,
        Trainer,
        "LossOfItsOwn",
    ),
    "a registered loss": (with_a_registered_loss, "SEQ_CLS", _LLAMA, collate, Trainer, "LlamaFor.*'s own loss"),
    "a loss in training": (
        lambda: llama(SmoothedInTraining),
        "SEQ_CLS",
        _LLAMA,
        collate,
        Trainer,
        "SmoothedIn",
    ),
    "a hook": (with_a_hook, "SEQ_CLS", QV, collate, Trainer, "BertFor.*'s own loss"),
    "a wrapper": (with_a_wrapper, "SEQ_CLS", QV, collate, Trainer, "BertFor.*'s own loss"),
    "a router loss": (mixtral, "CAUSAL_LM", _LLAMA, of_language, Trainer, "MixtralFor.*'s own loss"),
    "a model without **kwargs": (WithoutKwargs, None, ["layers.0", "layers.1"], collate, Trainer, "WithoutKwargs's"),
    "a masked language model": (masked_lm, None, QV, masked, Trainer, None),
    "multiple choice": (multiple_choice, None, QV, of_choices, Trainer, None),
    "a hook that watches": (with_a_hook_that_watches, "SEQ_CLS", QV, collate, Trainer, None),
    "plain": (tiny_bert, "SEQ_CLS", QV, collate, Trainer, None),
}
HAVE_THEIR_OWN = [name for name, case in CASES.items() if case[-1]]
OPEN = {**preset("clear"), "clear_warmup_epochs": 1, "clear_routing": "none", "clear_consistency_weight": 0.0}


def build(name: str, folder: Path, cls: type[Trainer] | None = None, callbacks=None, **arguments) -> Trainer:
    """Stock, or with `cls` or an argument of CleaR routed."""
    model_of, task_type, targets, collator, base, _ = CASES[name]
    is_clear = cls is not None or any(key.startswith("clear_") for key in arguments)
    cls = cls or (over(base) if is_clear else base)
    model = model_of()
    config = (ClearLoraConfig if is_clear else LoraConfig)(r=4, task_type=task_type, target_modules=targets)
    if task_type is None and hasattr(model, "classifier"):
        config.modules_to_save = ["classifier"]
    torch.manual_seed(1)
    model = get_peft_model(model, config)
    randomize_adapters(model)
    args = (ClearTrainingArguments if is_clear else TrainingArguments)(
        str(folder),
        **{
            **{"use_cpu": True, "disable_tqdm": True, "report_to": [], "save_strategy": "no", "logging_steps": 1},
            **{"max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "seed": 7},
            **{"remove_unused_columns": False, "label_names": ["labels"]},
            **(preset("clear") if is_clear else {}),
            **arguments,
        },
    )
    return cls(model, args, train_dataset=data_of(name), data_collator=collator, callbacks=callbacks)


def data_of(name: str) -> datasets.Dataset:
    data = toy_dataset(24)
    if CASES[name][3] in (of_language, masked):
        return data.remove_columns("labels")
    labels = [label % 3 for label in data["labels"]] if name == "multiple choice" else data["labels"]
    return data.remove_columns("labels").add_column("labels", labels)


def over(base: type[Trainer]) -> type[Trainer]:
    return ClearTrainer if base is Trainer else type("Clear" + base.__name__, (ClearMixin, base), {})


def assert_same_training(clear: Trainer, stock: Trainer) -> None:
    assert losses_of(clear) == losses_of(stock), (losses_of(clear), losses_of(stock))
    assert len(losses_of(stock)) == 6
    weights = dict(clear.model.named_parameters())
    for name, value in stock.model.named_parameters():
        assert torch.equal(weights[name], value), name
