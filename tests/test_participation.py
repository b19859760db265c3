"""Samples with a small clean probability take no part in training."""

import numpy as np
import pytest
import torch
from helpers.toy import NUM_LABELS, collate, toy_dataset
from helpers.trainers import estimate_of, lora_model, losses_of

from hf_clear import ClearTrainer
from hf_clear.sample_index import SAMPLE_INDEX


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_with_a_small_clean_probability_take_no_part(training_arguments, workers):
    seen, probability = [], np.where(np.arange(24) % 3 == 0, 0.01, 0.9)

    class Recorder(ClearTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            index, labels = inputs[SAMPLE_INDEX], inputs["labels"]
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            seen.append((int(self.state.epoch), index.tolist(), labels.tolist(), loss.item()))
            return loss

    def train(**kwargs) -> None:
        seen.clear()
        trainer = Recorder(
            lora_model(),
            training_arguments(
                clear_warmup_epochs=1, clear_min_clean_probability=0.05, dataloader_num_workers=workers, **kwargs
            ),
            train_dataset=toy_dataset(24),
            data_collator=collate,
            callbacks=[estimate_of(probability)],
        )
        trainer.train()
        assert (trainer.sample_store.labels >= 0).all() and trainer.sample_store.losses.isfinite().all()

        assert [entry["left_out"] for entry in trainer.state.log_history if "left_out" in entry] == [8, 8]
        trainer.get_train_dataloader()  # another one changes nothing
        assert trainer._takes_part.sum() == 16
        seen_before = len(seen)
        trainer.args.clear_min_clean_probability = 0.0
        trainer.train()
        assert len({index for _, batch, _, _ in seen[seen_before:] for index in batch}) == 24, "a life of its own"
        del seen[seen_before:]

    train()
    for epoch in range(3):
        indices = sorted(index for of, batch, _, _ in seen if of == epoch for index in batch)
        assert indices == [index for index in range(24) if epoch == 0 or probability[index] > 0.5]
    train(per_device_train_batch_size=1)  # batches without any sample: the loss of the one that stays is 0
    assert len(seen) == 3 * 24
    for epoch, (index,), (label,), loss in seen:
        left_out = epoch > 0 and index % 3 == 0
        assert (label == -100, loss == 0) == (left_out, left_out)


def test_batches_of_samples_that_take_no_part(training_arguments, caplog):
    """They are no argument of a loss function, and are said where they are all."""

    def one_hot_loss(outputs, labels, num_items_in_batch=None):
        return (torch.nn.functional.one_hot(labels, NUM_LABELS) - outputs.logits).square().mean()

    def train(probability, **kwargs) -> ClearTrainer:
        trainer = ClearTrainer(
            lora_model(),
            training_arguments(
                clear_warmup_epochs=1, clear_min_clean_probability=0.5, per_device_train_batch_size=1, **kwargs
            ),
            train_dataset=toy_dataset(6),
            data_collator=collate,
            compute_loss_func=one_hot_loss,
            callbacks=[estimate_of(probability)],
        )
        trainer.train()
        return trainer

    assert np.isfinite(losses_of(train([0.1, 0.9] * 3), "compute_loss_func")).all()
    assert not [record for record in caplog.records if record.name == "hf_clear.refit"]
    assert losses_of(train(0.1))[6:] == [0.0] * 12 and "training stands still" in caplog.text
    with pytest.raises(ValueError, match="dispatch_batches"):
        train(0.9, accelerator_config={"dispatch_batches": True})
