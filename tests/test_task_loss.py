"""The base class's loss is the task loss: nobody's loss is dropped without a word."""

import dataclasses
from pathlib import Path

import datasets
import pytest
import torch
from helpers.toy import NUM_LABELS, collate, randomize_adapters, tiny_bert, toy_dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from hf_clear import ClearArguments, ClearLoraConfig, ClearMixin, ClearTrainer, ClearTrainingArguments

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
    """Three choices: the question, and two other ones."""
    batch = collate(items)
    choices = {
        name: torch.stack([batch[name], batch[name].roll(1, 0), batch[name].roll(2, 0)], dim=1)
        for name in ("input_ids", "attention_mask")
    }
    return choices | {"labels": batch["labels"] % 3}


# name: (model, task type, LoRA's targets, collator, base trainer, what has a loss of its own)
QV = ["query", "value"]
CASES = {
    "a weighted trainer": (tiny_bert, "SEQ_CLS", QV, collate, WeightedTrainer, "WeightedTrainer.compute_loss"),
    "a weighted model": (weighted_bert, "SEQ_CLS", QV, collate, Trainer, "WeightedBert's own loss"),
    "a loss function set by hand": (with_a_loss_function, "SEQ_CLS", QV, collate, Trainer, "BertFor.*'s own loss"),
    "a router loss": (mixtral, "CAUSAL_LM", ["q_proj", "v_proj"], of_language, Trainer, "MixtralFor.*'s own loss"),
    "a model without **kwargs": (WithoutKwargs, None, ["layers.0", "layers.1"], collate, Trainer, "WithoutKwargs's"),
    "a masked language model": (masked_lm, None, QV, masked, Trainer, None),
    "multiple choice": (multiple_choice, None, QV, of_choices, Trainer, None),
    "plain": (tiny_bert, "SEQ_CLS", QV, collate, Trainer, None),
}
HAVE_THEIR_OWN = [name for name, case in CASES.items() if case[-1]]
OPEN = {"clear_warmup_epochs": 1, "clear_routing": "none", "clear_consistency_weight": 0.0}


def build(name: str, folder: Path, cls: type[Trainer] | None = None, **arguments) -> Trainer:
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
            **arguments,
        },
    )
    return cls(model, args, train_dataset=data_of(name), data_collator=collator)


def data_of(name: str) -> datasets.Dataset:
    data = toy_dataset(24)
    if CASES[name][3] in (of_language, masked):
        return data.remove_columns("labels")
    labels = [label % 3 for label in data["labels"]] if name == "multiple choice" else data["labels"]
    return data.remove_columns("labels").add_column("labels", labels)


def over(base: type[Trainer]) -> type[Trainer]:
    return ClearTrainer if base is Trainer else type("Clear" + base.__name__, (ClearMixin, base), {})


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def assert_same_training(clear: Trainer, stock: Trainer) -> None:
    assert losses(clear) == losses(stock) and len(losses(stock)) == 6
    weights = dict(clear.model.named_parameters())
    for name, value in stock.model.named_parameters():
        assert torch.equal(weights[name], value), name


@pytest.mark.parametrize("name", CASES)
def test_with_open_gates_and_no_consistency_it_is_the_stock_training(tmp_path, name):
    stock = build(name, tmp_path)
    stock.train()
    clear = build(name, tmp_path, **OPEN)  # not before: a trainer seeds the generators when it is made
    clear.train()
    assert clear.sample_store.is_fitted
    assert_same_training(clear, stock)


@pytest.mark.parametrize("name", HAVE_THEIR_OWN)
def test_accumulated_it_is_scaled_as_below(tmp_path, name):
    arguments = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    stock = build(name, tmp_path, **arguments)
    stock.train()
    clear = build(name, tmp_path, **arguments, **OPEN)
    clear.train()
    assert_same_training(clear, stock)


@pytest.mark.parametrize("name", HAVE_THEIR_OWN)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_loss_below_is_asked_in_every_step_and_consistency_is_added(tmp_path, name, accumulation):
    base, asked = CASES[name][4], []

    class Base(base):
        def compute_loss(self, *args, **kwargs):
            result = super().compute_loss(*args, **kwargs)
            if self.model.training:
                asked.append((result[0] if isinstance(result, tuple) else result).item())
            return result

    trainer = build(
        name,
        tmp_path,
        over(base if base is WeightedTrainer else Trainer),
        clear_warmup_epochs=1,
        clear_consistency_weight=0.5,
        gradient_accumulation_steps=accumulation,
        per_device_train_batch_size=8 // accumulation,
    )
    trainer.__class__ = type("Watched", (ClearMixin, Base), {})
    trainer.train()
    divided = trainer.model_accepts_loss_kwargs is False  # by `Trainer`, after `compute_loss`
    steps = [sum(asked[i : i + accumulation]) for i in range(0, len(asked), accumulation)]
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == len(steps) == 6
    assert [log["task_loss"] for log in logs] == pytest.approx([s / accumulation if divided else s for s in steps])
    assert "consistency" not in logs[0] and "consistency" in logs[-1]
    for log in logs:
        assert log["loss"] == pytest.approx(log["task_loss"] + 0.5 * log.get("consistency", 0.0))


@pytest.mark.parametrize("name", HAVE_THEIR_OWN)
def test_a_loss_that_would_drop_another_is_refused(tmp_path, name):
    trainer = build(name, tmp_path, clear_loss="weighted")
    with pytest.raises(ValueError, match=f"'weighted'.*place.*{CASES[name][-1]}.*no effect.*'clear' or 'elr'"):
        trainer.train()


def test_label_smoothing_is_not_dropped_either(tmp_path):
    with pytest.raises(ValueError, match="'gce'.*label_smoothing_factor=0.1 would have no effect"):
        build("plain", tmp_path, clear_loss="gce", label_smoothing_factor=0.1).train()


# ---- A subclass that never comes here ----


class OwnLoss(ClearTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = {name: value for name, value in inputs.items() if not name.startswith("_")}
        return WeightedTrainer.compute_loss(self, model, inputs, return_outputs)


class OwnStep(ClearTrainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = self.compute_loss(model, self._prepare_inputs(inputs))
        self.accelerator.backward(loss)
        return loss.detach()


class OwnStepAndLoss(ClearTrainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        inputs = {name: value for name, value in inputs.items() if not name.startswith("_")}
        loss = model(**inputs).loss
        self.accelerator.backward(loss)
        return loss.detach()


@pytest.mark.parametrize(
    ("cls", "what"), [(OwnLoss, "compute_loss"), (OwnStep, "training_step"), (OwnStepAndLoss, "training_step")]
)
def test_a_subclass_that_goes_around_routing_is_refused_in_the_first_step(tmp_path, cls, what):
    trainer = build("plain", tmp_path, cls)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    with pytest.raises(RuntimeError, match=rf"`{cls.__name__}.{what}` does not call `super\(\).{what}\(...\)`"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.named_parameters())


def test_a_subclass_that_calls_super_trains(tmp_path):
    class Halved(ClearTrainer):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            return loss[0] / 2 if isinstance(loss, tuple) else loss / 2

    trainer = build("plain", tmp_path, Halved, clear_warmup_epochs=1)
    trainer.train()
    assert trainer.state.global_step == 6 and trainer.sample_store.is_fitted


# ---- TRL ----


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
    routed = sft(clear_cls, tmp_path, clear_warmup_epochs=1, clear_consistency_weight=0.5)
    last = [entry for entry in routed.state.log_history if "loss" in entry][-1]
    assert last["loss"] == pytest.approx(last["task_loss"] + 0.5 * last["consistency"], rel=1e-3)
    assert last["consistency"] > 0 and {"entropy", "mean_token_accuracy", "num_tokens"} <= last.keys()
    assert losses(routed) != losses(stock)
