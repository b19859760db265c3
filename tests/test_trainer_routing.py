"""Routing strategies in a training."""

import pytest
import torch
from helpers.toy import collate, randomize_adapters, tiny_bert, toy_dataset
from helpers.trainers import estimate_of, lora_model, noisy_toy
from peft import get_peft_model
from transformers import Trainer, TrainingArguments

from hf_clear import ClearLoraConfig, ClearTrainer, ClearTrainingArguments
from hf_clear.routing import ROUTING_STRATEGIES, RoutingStrategy, gate_probability


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
        "class_balanced": [0.72, 0.4, 0.16, 0.48],  # of one class; of several: tests/test_class_balanced.py
    }
    assert expected.keys() == ROUTING_STRATEGIES.keys()
    labels = torch.zeros(4, dtype=torch.long)
    for name, rates in expected.items():
        found = gate_probability(name, p, 0.8, is_clean, labels, losses=1 - p)
        assert found.tolist() == pytest.approx(rates), name
    with pytest.raises(ValueError, match="'oracle' needs to know"):
        gate_probability("oracle", p, 0.8)
    with pytest.raises(ValueError, match="no routing strategy 'cleen'. There are: 'class_balanced', 'clean'"):
        gate_probability("cleen", p, 0.8)


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


STRATEGIES = {
    "in place": (lambda p, gamma, is_clean: p.mul_(gamma), None),
    "above 1": (lambda p, gamma, is_clean: p + 1, "'above 1' has to return one probability in .0, 1.*values from 2"),
    "nan": (lambda p, gamma, is_clean: p * torch.nan, "'nan' has to return one probability"),
    "nothing": (lambda p, gamma, is_clean: None, "'nothing' has to return one probability.*got None"),
    "of another shape": (lambda p, gamma, is_clean: p[:, None], "'of another shape' has to return one probability"),
    "fails": (lambda p, gamma, is_clean: is_clean * p, "'fails' fails: TypeError"),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_that_misbehave(training_arguments, monkeypatch, name):
    """Refused before the first step; what one does in place does not reach the clean probabilities."""
    function, message = STRATEGIES[name]
    monkeypatch.setitem(ROUTING_STRATEGIES, name, RoutingStrategy(name, function))
    trainer = ClearTrainer(
        lora_model(),
        training_arguments(clear_warmup_epochs=0, clear_routing=name, clear_gamma=0.5, num_train_epochs=1),
        train_dataset=toy_dataset(),
        data_collator=collate,
        callbacks=[estimate_of(1.0)],
    )
    if message is None:
        trainer.train()
        assert (trainer.sample_store.clean_probability == 1).all()
        return
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0
