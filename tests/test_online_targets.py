"""Targets and losses from what training predicts anyway."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers.toy import NUM_LAYERS, collate, toy_dataset
from helpers.trainers import lora_model, losses_of

from hf_clear import CleanProbabilityCallback, CleanProbabilityEstimate, ClearTrainer
from hf_clear.estimators import SampleEvidence
from hf_clear.refit import LOSS
from hf_clear.routing import route, sample_gates


def test_online_the_targets_are_a_running_mean_of_what_training_predicts_anyway(training_arguments):
    """Without dropout and with learning rate 0, the warm-up predicts `p0` (no gates), epoch 1 `p1` and epoch 2 `p2`."""
    model = lora_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    dataset, size, evidence, forwards = toy_dataset(3), 3, [], []

    def estimator(given: SampleEvidence) -> CleanProbabilityEstimate:
        evidence.append(dataclasses.replace(given, probabilities=given.probabilities.copy()))
        return CleanProbabilityEstimate(np.array([0.9, 0.4, 0.6]))

    trainer = ClearTrainer(
        model,
        training_arguments(
            clear_warmup_epochs=1, clear_ensemble_size=size, clear_loss_source="online", learning_rate=0.0
        ),
        train_dataset=dataset,
        data_collator=collate,
        callbacks=[CleanProbabilityCallback(estimator)],
    )
    assert trainer.ensemble_source == "online"
    hook = model.get_base_model().bert.register_forward_hook(lambda *args: forwards.append(1))
    trainer.train()
    hook.remove()
    assert len(forwards) == 3 + 1, "a forward pass a step, and one before training that checks the routing"

    batch = collate(list(dataset))
    labels = batch.pop("labels")

    def predicted(step: int) -> torch.Tensor:
        gates = sample_gates(0.9 * torch.tensor([0.9, 0.4, 0.6]), NUM_LAYERS, torch.arange(3), (7, step, LOSS))
        with torch.no_grad(), route(model, gates if step else torch.ones_like(gates)):
            return model(**batch).logits.softmax(-1)

    p0, p1, p2 = map(predicted, range(3))
    after = [p0, p0 + (p1 - p0) / size]
    for given, mean in zip(evidence, after, strict=True):
        torch.testing.assert_close(torch.from_numpy(given.probabilities.copy()), mean)
        expected = -mean.gather(1, labels.unsqueeze(1)).squeeze(1).log()
        torch.testing.assert_close(torch.from_numpy(given.losses.copy()), expected)
    torch.testing.assert_close(trainer.sample_store.targets, after[1] + (p2 - after[1]) / size)
    for target, prediction, logged in zip(after, (p1, p2), losses_of(trainer, "consistency"), strict=True):
        assert logged == pytest.approx(-(target * prediction.log()).sum().item() / 3, rel=1e-4)


@pytest.mark.parametrize("losses", ["epoch", "online"])
def test_online_samples_that_training_has_not_seen_are_predicted(training_arguments, losses):
    """The last batch of 3 is dropped; without warm-up, nothing was seen before the first refit."""
    for warmup in (0, 1):
        trainer = ClearTrainer(
            lora_model(),
            training_arguments(
                clear_warmup_epochs=warmup, num_train_epochs=2, dataloader_drop_last=True, clear_loss_source=losses
            ),
            train_dataset=toy_dataset(27),
            data_collator=collate,
        )
        trainer.train()
        store = trainer.sample_store
        assert store.losses.isfinite().all() and (store.labels >= 0).all()
        torch.testing.assert_close(store.targets.sum(dim=1), torch.ones(27))
