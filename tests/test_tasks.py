"""Labels on tokens, language models, images; routing strategies and estimators by name; memorization."""

from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import datasets
import numpy as np
import pytest
import torch
from helpers.architectures import ARCHITECTURES, model_of
from helpers.toy import collate, randomize_adapters, tiny_bert, toy_dataset
from peft import get_peft_model
from transformers import (
    BartForConditionalGeneration,
    BertForTokenClassification,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from hf_clear import (
    CleanProbabilityCallback,
    CleanProbabilityEstimate,
    ClearAdapterConfig,
    ClearArguments,
    ClearBitFitConfig,
    ClearLoraConfig,
    ClearMixin,
    ClearTrainer,
    ClearTrainingArguments,
    MemorizationCallback,
    SampleEvidence,
    per_sample_losses,
    register_estimator,
)
from hf_clear.estimators import ESTIMATORS
from hf_clear.losses import sharpen
from hf_clear.metrics import detection_metrics
from hf_clear.noise import inject_label_noise
from hf_clear.refit import LOSS, TARGET
from hf_clear.routing import ROUTING_STRATEGIES, gate_probability, route, sample_gates


class Seq2SeqClearTrainer(ClearMixin, Seq2SeqTrainer):
    pass


@dataclass
class Seq2SeqClearArguments(ClearArguments, Seq2SeqTrainingArguments):
    pass


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


def token_losses(model, batch, shift: bool) -> list[float]:
    """The mean loss of each sample's labelled tokens, token by token."""
    with torch.no_grad():
        log_p = model.eval()(**batch).logits.log_softmax(-1)
    means = []
    for row, labels in enumerate(batch["labels"].tolist()):
        losses = [
            -log_p[row, position - shift, label].item()
            for position, label in enumerate(labels)
            if label != -100 and position - shift >= 0
        ]
        means.append(sum(losses) / len(losses))
    return means


@pytest.mark.parametrize("task", TOKEN_TASKS)
def test_per_sample_losses_are_means_over_labelled_tokens(training_arguments, task):
    trainer = trainer_of(task, training_arguments(TrainingArguments), Trainer, size=6)
    expected = []
    for item in trainer.train_dataset:
        expected += token_losses(trainer.model, trainer.data_collator([item]), task in ("llama", "gpt2"))
    assert per_sample_losses(trainer) == pytest.approx(expected, rel=1e-4)


# With the other heads stock Trainer sums what it accumulates; for GPT-2 it counts one token a row too many.
@pytest.mark.parametrize(
    "task,accumulation", [("token classification", 1), ("llama", 1), ("llama", 3), ("t5", 1), ("bart", 1)]
)
def test_with_open_gates_token_tasks_train_as_under_stock_trainer(training_arguments, task, accumulation):
    arguments = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 4, "num_train_epochs": 1}
    stock = trainer_of(task, training_arguments(TrainingArguments, **arguments), Trainer)
    stock.train()
    ours = trainer_of(task, training_arguments(clear_warmup_epochs=9, **arguments))
    ours.train()
    theirs = dict(stock.model.named_parameters())
    for name, parameter in ours.model.named_parameters():
        assert torch.allclose(parameter, theirs[name], rtol=0, atol=1e-6), name
    assert ours.state.log_history[0]["loss"] == pytest.approx(stock.state.log_history[0]["loss"], rel=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("task", TOKEN_TASKS)
def test_token_tasks_route_with_targets_of_the_step(training_arguments, task, smoothing):
    arguments = training_arguments(clear_warmup_epochs=1, num_train_epochs=3, label_smoothing_factor=smoothing)
    trainer = trainer_of(task, arguments)
    trainer.train()
    assert trainer.ensemble_source == "step" and trainer.sample_store.targets is None
    table = trainer.clean_probabilities()
    assert table.column_names == ["sample_index", "clean_probability", "loss"]
    assert np.isfinite(table["loss"]).all()
    assert any("consistency" in entry for entry in trainer.state.log_history)
    assert set(trainer.label_issues().column_names) == set(table.column_names)


def test_a_sentence_without_a_label_does_no_harm(training_arguments, caplog):
    trainer = trainer_of(
        "token classification",
        training_arguments(clear_warmup_epochs=1, num_train_epochs=3, per_device_train_batch_size=1),
    )
    rows = list(trainer.train_dataset)
    rows[5]["labels"] = [-100] * len(rows[5]["labels"])
    trainer.train_dataset = datasets.Dataset.from_list(rows)
    trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    assert trainer.clean_probabilities()["clean_probability"][5] == 0 and "1 sample (index 5)" in caplog.text


def test_consistency_of_tokens_by_hand(training_arguments):
    """One step, one batch of 3 sentences, gates closed at random: means over labelled tokens of the whole batch."""
    trainer = trainer_of(
        "token classification",
        training_arguments(
            clear_warmup_epochs=0,
            num_train_epochs=1,
            learning_rate=0.0,
            clear_consistency_weight=0.7,
            clear_ensemble_temperature=0.5,
            clear_ensemble_size=2,
        ),
        size=3,
        callbacks=[CleanProbabilityCallback(lambda evidence: CleanProbabilityEstimate(np.array([0.9, 0.4, 0.6])))],
    )
    for name, parameter in trainer.model.named_parameters():
        if "clear_adapter_up" in name:
            parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trainer.train()

    model, batch = trainer.model.eval(), trainer.data_collator(list(trainer.train_dataset))
    labels, probability = batch.pop("labels"), 0.9 * torch.tensor([0.9, 0.4, 0.6])

    def routed(*draw: int) -> torch.Tensor:
        gates = sample_gates(probability, 2, torch.arange(3), (trainer.args.seed, 0, *draw))
        with torch.no_grad(), route(model, gates):
            return model(**batch).logits

    ensemble = sum(routed(TARGET, member).softmax(-1) for member in range(2)) / 2
    target = ensemble**2 / (ensemble**2).sum(-1, keepdim=True)
    log_p = routed(LOSS).log_softmax(-1)
    labelled = [(i, t) for i in range(3) for t in range(labels.shape[1]) if labels[i, t] != -100]
    cross_entropy = -sum(log_p[i, t, labels[i, t]] for i, t in labelled) / len(labelled)
    consistency = -sum((target[i, t] * log_p[i, t]).sum() for i, t in labelled) / len(labelled)
    logs = trainer.state.log_history
    assert [x["cross_entropy"] for x in logs if "loss" in x][0] == pytest.approx(cross_entropy.item(), rel=1e-5)
    assert [x["consistency"] for x in logs if "loss" in x][0] == pytest.approx(consistency.item(), rel=1e-5)


def test_sentences_with_wrong_token_labels_are_found(training_arguments):
    _, data, _ = token_classification(120)
    wrong = np.random.default_rng(0).random(len(data)) < 0.3
    rows = list(data)
    for row in np.flatnonzero(wrong):
        labels = [-100 if label == -100 else (label + 1) % 3 for label in rows[row]["labels"]]
        rows[row] = {**rows[row], "labels": labels}
    arguments = training_arguments(clear_warmup_epochs=4, num_train_epochs=6)
    trainer = trainer_of("token classification", arguments, config_cls=ClearLoraConfig)
    trainer.train_dataset = datasets.Dataset.from_list(rows)
    trainer.train()
    metrics = detection_metrics(np.array(trainer.clean_probabilities()["clean_probability"]), wrong)
    assert metrics["detection_auroc"] > 0.9


@pytest.mark.parametrize("cls,name", [(T5ForConditionalGeneration, "t5"), (BartForConditionalGeneration, "bart")])
def test_seq2seq_trainer_with_generation_routes_all_the_same(training_arguments, cls, name):
    model, data, collator = seq2seq(12, cls, name)
    trainer = Seq2SeqClearTrainer(
        model,
        training_arguments(
            Seq2SeqClearArguments,
            predict_with_generate=True,
            generation_max_length=6,
            eval_strategy="epoch",
            clear_warmup_epochs=1,
            num_train_epochs=2,
        ),
        train_dataset=data,
        eval_dataset=data,
        data_collator=collator,
        peft_config=ClearLoraConfig(task_type="SEQ_2_SEQ_LM", r=4),
    )
    trainer.train()
    assert len(trainer.clean_probabilities()) == 12


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"clear_ensemble_source": "epoch"}, "every token has a label. Use 'step'"),
        ({"clear_estimator": "knn"}, "'knn' compares samples by their class label"),
        ({"clear_estimator": "gaussian_mixture+per_class_gaussian_mixture"}, "compares samples by their class label"),
        ({"clear_routing": "oracle"}, "one true label a sample"),
    ],
)
def test_what_token_tasks_can_not_do(training_arguments, arguments, message):
    trainer = trainer_of("token classification", training_arguments(**arguments))
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize(
    "labels,message",
    [
        ([-100, 0, 3], "label of token 2 of sample 1 is 3. It has to be 0 to 2"),
        ([-100, -1, 0], "label of token 1 of sample 1 is -1"),
        ([-100, 0.5, 1.0], "labels of sample 1 have to be one class number for each token"),
    ],
)
def test_token_labels_that_are_no_classes(training_arguments, labels, message):
    trainer = trainer_of("token classification", training_arguments())
    rows = [{"input_ids": [5, 6, 7], "labels": [-100, 0, 1]}, {"input_ids": [5, 6, 7], "labels": labels}]
    trainer.train_dataset = [dict(row) for row in rows]
    with pytest.raises(ValueError, match=message):
        trainer.train()


def test_images(training_arguments):
    """Random images; wrong labels show where a small ViT learns the correct ones first."""
    generator = torch.Generator().manual_seed(0)
    labels = [i % 3 for i in range(90)]
    images = torch.randn(90, 3, 8, 8, generator=generator) * 0.3
    for i, label in enumerate(labels):
        images[i, label] += 1.0  # the colour tells the class
    data = datasets.Dataset.from_dict({"pixel_values": images.numpy(), "label": labels}).with_format("torch")
    noisy, _ = inject_label_noise(data, "symmetric", 0.3, num_labels=3)
    trainer = ClearTrainer(
        model_of("vit"),
        training_arguments(clear_warmup_epochs=4, num_train_epochs=6),
        train_dataset=noisy,
        peft_config=ClearLoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"]),
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "detection_auroc" in entry]
    assert len(logs) == 2 and logs[-1]["detection_auroc"] > 0.9
    assert logs[-1]["memorization_clean"] > logs[-1]["memorization_noisy"]


# ---- Routing strategies ----


def test_strategies_by_hand():
    p = torch.tensor([0.9, 0.5, 0.2, 0.6])
    is_clean = torch.tensor([1.0, 0.0, torch.nan, 0.0])
    expected = {
        "clean": [0.72, 0.4, 0.16, 0.48],
        "deterministic": [1, 0, 0, 1],
        "random": [0.44] * 4,
        "noisy": [0.08, 0.4, 0.64, 0.32],
        "oracle": [1, 0, 0.16, 0],
        "none": [1] * 4,
    }
    assert expected.keys() == ROUTING_STRATEGIES.keys()
    for name, rates in expected.items():
        assert gate_probability(name, p, 0.8, is_clean).tolist() == pytest.approx(rates), name
    with pytest.raises(ValueError, match="'oracle' needs to know"):
        gate_probability("oracle", p, 0.8)
    with pytest.raises(ValueError, match="no routing strategy 'cleen'. There are: 'clean', 'deterministic'"):
        gate_probability("cleen", p, 0.8)


def noisy_toy() -> datasets.Dataset:
    noisy, _ = inject_label_noise(toy_dataset(24), "symmetric", 0.5, label_column="labels")
    return noisy


def gates_of(strategy: str, training_arguments, data=None, **arguments) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The gate probabilities that a training with this strategy draws from, with the samples' indices."""
    seen = []

    class Watched(ClearTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            if self._step is not None and self.sample_store.is_fitted:
                index = inputs["_clear_sample_index"]
                seen.append((index, self._refit._gate_probabilities()[index]))
            return super().compute_loss(model, inputs, *args, **kwargs)

    trainer = Watched(
        get_peft_model(tiny_bert(), ClearLoraConfig(task_type="SEQ_CLS", r=4)),
        training_arguments(clear_warmup_epochs=1, num_train_epochs=2, clear_routing=strategy, **arguments),
        train_dataset=noisy_toy() if data is None else data,
        data_collator=collate,
    )
    trainer.train()
    p = trainer.sample_store.clean_probability
    return [(p[index], rate, index) for index, rate in seen]


def test_the_trainer_routes_by_the_strategy(training_arguments):
    for p, rate, _ in gates_of("noisy", training_arguments, clear_gamma=0.5):
        assert torch.allclose(rate, 0.5 * (1 - p))
    data = noisy_toy()
    is_clean = torch.tensor(data["labels"]) == torch.tensor(data["true_label"])
    for _, rate, index in gates_of("oracle", training_arguments, data):
        assert torch.equal(rate == 1, is_clean[index])
    unknown = data.remove_columns("true_label").add_column("true_label", [-100] * 12 + data["true_label"][12:])
    for p, rate, index in gates_of("oracle", training_arguments, unknown):
        assert torch.allclose(rate[index < 12], 0.9 * p[index < 12])
        assert torch.equal(rate[index >= 12] == 1, is_clean[index[index >= 12]])
    with pytest.raises(ValueError, match="needs to know the truth"):
        gates_of("oracle", training_arguments, toy_dataset(24))


def test_the_ablation_without_both_is_plain_peft(training_arguments):
    def train(trainer_cls, cls=ClearTrainingArguments, **arguments) -> dict[str, torch.Tensor]:
        model = get_peft_model(tiny_bert(), ClearLoraConfig(task_type="SEQ_CLS", r=4))
        trainer_cls(
            model, training_arguments(cls, **arguments), train_dataset=toy_dataset(), data_collator=collate
        ).train()
        return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    stock = train(Trainer, TrainingArguments)
    ablated = train(ClearTrainer, clear_routing="none", clear_consistency_weight=0.0, clear_warmup_epochs=1)
    assert all(torch.equal(stock[name], ablated[name]) for name in stock)
    without_routing = train(ClearTrainer, clear_routing="none", clear_warmup_epochs=1)
    assert any(not torch.equal(stock[name], without_routing[name]) for name in stock)


def test_random_routing_in_the_warm_up(training_arguments):
    """With γ = 0 nothing of the adapter is trained, not even before the first refit."""
    model = get_peft_model(tiny_bert(), ClearLoraConfig(task_type="SEQ_CLS", r=4))
    randomize_adapters(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    ClearTrainer(
        model,
        training_arguments(clear_gamma=0.0, clear_warmup_random_routing=True, num_train_epochs=1, weight_decay=0.0),
        train_dataset=toy_dataset(),
        data_collator=collate,
    ).train()
    after = dict(model.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before if "lora_" in name)
    assert any(not torch.equal(before[name], after[name]) for name in before if "modules_to_save" in name)


def test_dropout_can_stop_after_the_warm_up(training_arguments):
    modes = []

    class Watched(ClearTrainer):
        def compute_loss(self, model, *args, **kwargs):
            loss = super().compute_loss(model, *args, **kwargs)
            if self._step is not None:  # no evaluation
                modes.append((self.sample_store.is_fitted, model.training))
            return loss

    model = get_peft_model(tiny_bert(), ClearBitFitConfig(task_type="SEQ_CLS"))
    arguments = training_arguments(clear_dropout_after_warmup=False, clear_warmup_epochs=1, num_train_epochs=2)
    Watched(model, arguments, train_dataset=toy_dataset(), data_collator=collate).train()
    assert {(False, True), (True, False)} == set(modes), "backward has to see the mode of the forward pass"


def test_checkpointing_stops_with_dropout(training_arguments, caplog):
    for checkpointing in (False, True):
        caplog.clear()
        ClearTrainer(
            get_peft_model(tiny_bert(), ClearLoraConfig(task_type="SEQ_CLS", r=4)),
            training_arguments(clear_dropout_after_warmup=False, gradient_checkpointing=checkpointing),
        )
        assert ("no activation checkpointing" in caplog.text) == checkpointing


def test_sharpened_targets():
    p = torch.tensor([[0.8, 0.2], [0.0, 0.0]])
    assert torch.allclose(sharpen(p, 0.5), torch.tensor([[0.64 / 0.68, 0.04 / 0.68], [0.0, 0.0]]))
    assert sharpen(p, 1.0) is p


# ---- Estimators ----


def lora_trainer(training_arguments, **arguments) -> ClearTrainer:
    return ClearTrainer(
        get_peft_model(tiny_bert(), ClearLoraConfig(task_type="SEQ_CLS", r=4)),
        training_arguments(**{"clear_warmup_epochs": 1, **arguments}),
        train_dataset=noisy_toy(),
        data_collator=collate,
    )


@patch.dict(ESTIMATORS)
def test_a_new_estimator_takes_one_line(training_arguments):
    seen = []
    register_estimator(
        "toy",
        lambda e: seen.append(e) or CleanProbabilityEstimate(e.probabilities.max(axis=1), {"calls": len(seen)}),
    )
    trainer = lora_trainer(training_arguments, clear_estimator="toy")
    trainer.train()
    (first, second) = seen
    assert first.probabilities.shape == (24, 4) and first.features is None
    assert np.array_equal(first.labels, trainer.train_dataset["labels"])
    assert np.array_equal(first.mean_losses, first.losses)
    assert second.mean_losses == pytest.approx(0.9 * first.losses + 0.1 * second.losses, rel=1e-5)
    assert trainer.clean_probabilities()["clean_probability"] == pytest.approx(second.probabilities.max(axis=1))
    logs = trainer.state.log_history
    assert [log["calls"] for log in logs if "calls" in log] == [1, 2]
    assert not [name for log in logs for name in log if name.startswith("mixture")], "it fits none"
    trainer.create_model_card()
    card = (Path(trainer.args.output_dir) / "README.md").read_text()
    assert "| After epoch | p > 0.5 | Estimated noise rate |" in card and "nan" not in card


@patch.dict(ESTIMATORS)
def test_features_are_those_of_the_frozen_base(training_arguments):
    seen: list[SampleEvidence] = []
    register_estimator(
        "toy", lambda e: seen.append(e) or CleanProbabilityEstimate(np.ones(len(e.losses))), uses_features=True
    )
    trainer = lora_trainer(training_arguments, clear_estimator="gaussian_mixture+toy")
    base = tiny_bert().eval()
    trainer.train()
    batch = collate(list(trainer.train_dataset))
    mask = batch["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        states = base(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True
        ).hidden_states[-1]
    expected = (states * mask).sum(1) / mask.sum(1)
    assert len(seen) == 2
    for evidence in seen:  # after an epoch and after two
        assert np.allclose(evidence.features, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["per_class_gaussian_mixture", "ema_gaussian_mixture", "probe", "probe+knn"])
def test_every_estimator_trains(training_arguments, name):
    trainer = lora_trainer(training_arguments, clear_estimator=name)
    trainer.train()
    assert len(trainer.clean_probabilities()) == 24


def test_unknown_names_are_refused_at_once(training_arguments):
    with pytest.raises(ValueError, match="no clean-probability estimator 'None'"):
        training_arguments(clear_estimator=None)
    with pytest.raises(ValueError, match="no clean-probability estimator 'gaussian'.*gaussian_mixture"):
        training_arguments(clear_estimator="gaussian")
    with pytest.raises(ValueError, match="`clear_routing` has to be the name of a routing strategy"):
        training_arguments(clear_routing="clear")
    with pytest.raises(ValueError, match="`clear_ensemble_temperature` has to be above 0"):
        training_arguments(clear_ensemble_temperature=0.0)


@pytest.mark.parametrize(
    "estimator,message",
    [
        (lambda evidence: np.ones(24), "'mine' returned a ndarray, not a CleanProbabilityEstimate"),
        (lambda evidence: None, "'mine' returned a NoneType"),
        (lambda evidence: CleanProbabilityEstimate(np.ones(3)), "'mine' returned 3 clean probabilities for 24 samples"),
        (lambda evidence: CleanProbabilityEstimate(np.full(24, np.nan)), "one number in .0, 1. for each sample"),
        (lambda evidence: evidence.losses.sort(), "read-only"),
    ],
)
def test_estimators_that_misbehave(training_arguments, estimator, message):
    estimator.__name__ = "mine"
    trainer = lora_trainer(training_arguments, clear_warmup_epochs=0)
    trainer.add_callback(CleanProbabilityCallback(estimator))
    with pytest.raises(ValueError, match=message):
        trainer.train()


# ---- Memorization ----


def test_memorization_of_a_stock_trainer_after_every_epoch(training_arguments):
    data = noisy_toy()
    model = get_peft_model(tiny_bert(), ClearLoraConfig(task_type="SEQ_CLS", r=4))
    trainer = Trainer(model, training_arguments(TrainingArguments), train_dataset=data, data_collator=collate)
    with pytest.raises(ValueError, match="3.*24 training samples"):
        MemorizationCallback(trainer, [0, 1, 2])
    trainer.add_callback(MemorizationCallback(trainer, data["true_label"]))
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "memorization_noisy" in entry]
    assert [entry["epoch"] for entry in logs] == [1, 2, 3]
    predicted = trainer.predict(data).predictions.argmax(1)
    given, true = np.array(data["labels"]), np.array(data["true_label"])
    assert logs[-1]["memorization_noisy"] == pytest.approx((predicted == given)[given != true].mean())
    assert logs[-1]["memorization_clean"] == pytest.approx((predicted == given)[given == true].mean())


def test_true_labels_of_token_tasks_and_of_no_class(training_arguments):
    trainer = trainer_of("token classification", training_arguments(clear_warmup_epochs=1, num_train_epochs=2))
    trainer.train_dataset = trainer.train_dataset.add_column("true_label", [0] * 24)
    trainer.train()  # one for a sentence says nothing of its tokens
    assert not any("memorization_noisy" in entry for entry in trainer.state.log_history)
    for task in ("token classification", "llama"):
        trainer = trainer_of(task, training_arguments(TrainingArguments), Trainer)
        trainer.add_callback(MemorizationCallback(trainer, [0] * 24))
        with pytest.raises(ValueError, match="one class a sample, and here every token"):
            trainer.train()
    trainer = lora_trainer(training_arguments)
    data = trainer.train_dataset.remove_columns("true_label")
    trainer.train_dataset = data.add_column("true_label", [None] * 12 + [1] * 12)
    trainer.train()
    assert trainer.true_labels.tolist() == [-100] * 12 + [1] * 12
    trainer.train_dataset = data.add_column("true_label", ["red"] * 24)
    with pytest.raises(ValueError, match="'red' for sample 0. It has to hold class numbers"):
        trainer.train()


def test_watching_memorization_leaves_training_as_it_was(training_arguments):
    def train(watch: bool) -> dict[str, torch.Tensor]:
        trainer = lora_trainer(training_arguments, clear_warmup_epochs=2)
        if watch:
            trainer.add_callback(MemorizationCallback(trainer, trainer.train_dataset["true_label"]))
        trainer.train()
        return {name: p.detach() for name, p in trainer.model.named_parameters()}

    watched, unwatched = train(True), train(False)
    assert all(torch.equal(watched[name], unwatched[name]) for name in watched)


# ---- Setup ----


def test_a_frozen_head_is_reported(training_arguments, caplog):
    def warnings_of(name: str, **config) -> str:
        caplog.clear()
        ClearTrainer(model_of(name), training_arguments(), peft_config=ClearAdapterConfig(**config))
        return caplog.text

    assert "modules_to_save=['classification_head']" in warnings_of("bart", task_type="SEQ_CLS")
    assert "modules_to_save=['classifier']" in warnings_of("bert")
    assert "frozen" not in warnings_of("bert", task_type="SEQ_CLS")
    assert "frozen" not in warnings_of("bart", modules_to_save=["classification_head"])
