"""The loss of a training step: by hand, accumulated, checkpointed, with and without dropout."""

import numpy as np
import pytest
import torch
from helpers.toy import NUM_LABELS, NUM_LAYERS, collate, tiny_bert, toy_dataset
from helpers.trainers import assert_same_weights, estimate_of, lora_model, losses_of, minimized_by, weights
from peft import get_peft_model
from transformers import TrainerCallback

from hf_clear import ClearBitFitConfig, ClearLoraConfig, ClearTrainer
from hf_clear.losses import sharpen
from hf_clear.refit import LOSS, TARGET
from hf_clear.routing import route, sample_gates


@pytest.mark.parametrize("source", ["epoch", "step"])
def test_loss_equals_a_computation_by_hand(training_arguments, source):
    """3 samples, eval-mode dropout (none in the model), routed cross entropy + λ · consistency, and their gradients."""
    model = lora_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    probability, gamma, weight, size = torch.tensor([0.9, 0.4, 0.6]), 0.8, 0.7, 3
    trainer = ClearTrainer(
        model,
        training_arguments(
            clear_gamma=gamma,
            clear_consistency_weight=weight,
            clear_ensemble_size=size,
            clear_ensemble_source=source,
            clear_warmup_epochs=0,
            num_train_epochs=1,
            learning_rate=0.0,  # the weights that the loss saw are still there after training
        ),
        train_dataset=toy_dataset(3),
        data_collator=collate,
        callbacks=[estimate_of(probability)],
    )
    gradients = {}

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            gradients.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    trainer.args.max_grad_norm = 0.0
    trainer.add_callback(Keep())
    minimized = minimized_by(trainer)
    trainer.train()

    index = torch.arange(3)
    batch = collate(list(toy_dataset(3)))
    labels = batch.pop("labels")
    key = (trainer.args.seed, 0)

    def routed(*draw: int) -> torch.Tensor:
        gates = sample_gates(gamma * probability, NUM_LAYERS, index, (*key, *draw))
        with route(model, gates):
            return model(**batch).logits

    with torch.no_grad():
        ensemble = sum(routed(TARGET, member).softmax(-1) for member in range(size)) / size
    model.zero_grad()
    gates = sample_gates(gamma * probability, NUM_LAYERS, index, (*key, LOSS))
    with route(model, gates):
        log_p = model(**batch).logits.log_softmax(-1)
        ce = -sum(log_p[i, labels[i]] for i in range(3)) / 3
        consistency = -sum(ensemble[i, c] * log_p[i, c] for i in range(3) for c in range(NUM_LABELS)) / 3
        (ce + weight * consistency).backward()

    assert minimized[0] == pytest.approx((ce + weight * consistency).item(), rel=1e-5)
    assert losses_of(trainer)[0] == pytest.approx(ce.item(), rel=1e-5)
    assert losses_of(trainer, "cross_entropy")[0] == pytest.approx(ce.item(), rel=1e-5)
    assert losses_of(trainer, "consistency")[0] == pytest.approx(consistency.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, gradients[name], atol=1e-6), name


@pytest.mark.parametrize(
    "settings",
    [
        *({"clear_ensemble_source": source} for source in ("epoch", "online", "step")),
        {"clear_min_clean_probability": 0.5},
    ],
    ids=str,
)
def test_batch_8_and_8_accumulated_batches_give_one_trajectory(training_arguments, settings):
    """Routing and consistency on; 27 samples, so that the last step of an epoch is smaller."""

    def train(batch_size: int, accumulation: int) -> ClearTrainer:
        trainer = ClearTrainer(
            lora_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
            training_arguments(
                per_device_train_batch_size=batch_size,
                gradient_accumulation_steps=accumulation,
                clear_warmup_epochs=1,
                optim="sgd",
                **settings,
            ),
            train_dataset=toy_dataset(27),
            data_collator=collate,
            callbacks=[estimate_of(np.resize([0.9, 0.6, 0.1], 27))]
            if "clear_min_clean_probability" in settings
            else [],
        )
        trainer.train()
        return trainer

    whole = train(8, 1)
    for split in (train(1, 8), train(2, 4)):
        assert losses_of(split) == pytest.approx(losses_of(whole), abs=1e-4)
        for name, weight in weights(whole.model).items():
            assert torch.allclose(weights(split.model)[name], weight, atol=1e-5), name


def test_activation_checkpointing_changes_nothing(training_arguments):
    def train(**kwargs) -> dict[str, torch.Tensor]:
        trainer = ClearTrainer(
            lora_model(),
            training_arguments(clear_warmup_epochs=1, **kwargs),
            train_dataset=toy_dataset(),
            data_collator=collate,
        )
        trainer.train()
        return weights(trainer.model)

    plain = train()
    for reentrant in (False, True):
        assert_same_weights(
            train(gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": reentrant}), plain
        )


def test_consistency_switched_on_in_mid_epoch_starts_at_the_next_refit(training_arguments):
    class SwitchOn(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            args.clear_consistency_weight = float(state.global_step >= 4)

    trainer = ClearTrainer(
        lora_model(),
        training_arguments(clear_warmup_epochs=1, clear_consistency_weight=0.0, clear_ensemble_source="epoch"),
        train_dataset=toy_dataset(),
        data_collator=collate,
        callbacks=[SwitchOn()],
    )
    trainer.train()
    logged = [entry["step"] for entry in trainer.state.log_history if "consistency" in entry]
    assert logged == [7, 8, 9]


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
