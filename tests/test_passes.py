"""Which batches a pass over the training set is made of."""

import pytest
import torch
from helpers.toy import collate, tiny_bert, toy_dataset
from transformers import Trainer, TrainingArguments

from hf_clear import ClearLoraConfig, ClearTrainer, per_sample_losses
from hf_clear.passes import sample_dataloader
from hf_clear.sample_index import SAMPLE_INDEX


@pytest.fixture
def stock(training_arguments):
    def build(num_samples: int, **arguments) -> Trainer:
        arguments = training_arguments(TrainingArguments, **arguments)
        return Trainer(tiny_bert(), arguments, train_dataset=toy_dataset(num_samples), data_collator=collate)

    return build


def batches_of(trainer: Trainer) -> list[list[int]]:
    return [batch[SAMPLE_INDEX].tolist() for batch in sample_dataloader(trainer, trainer.train_dataset)]


def test_the_longest_sequences_come_first(stock):
    trainer = stock(20, per_device_eval_batch_size=4)
    rows = sum(batches_of(trainer), [])
    lengths = [len(trainer.train_dataset[row]["input_ids"]) for row in rows]
    assert sorted(rows) == list(range(20)) and lengths == sorted(lengths, reverse=True) and lengths[0] > lengths[-1]


@pytest.mark.parametrize(
    ("train", "evaluation", "shrunk_to", "expected"),
    [(8, 4, 8, 8), (8, 16, 8, 16), (8, 16, 4, 8), (8, 4, 2, 2), (8, 16, 7, 14), (32, 8, 1, 1), (8, 3, 1, 1)],
)
def test_batches_are_as_large_as_those_of_training_or_evaluation(stock, train, evaluation, shrunk_to, expected):
    trainer = stock(32, per_device_train_batch_size=train, per_device_eval_batch_size=evaluation)
    trainer._train_batch_size = shrunk_to  # as `auto_find_batch_size` does
    assert max(map(len, batches_of(trainer))) == expected


def test_each_module_stays_in_its_mode(stock):
    """One that its owner has frozen, too, whatever the model does."""
    trainer = stock(8)
    dropouts = [module for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout)]
    for training in (True, False):
        trainer.model.train(training)
        dropouts[0].train(not training)
        before = [module.training for module in trainer.model.modules()]
        per_sample_losses(trainer)
        assert [module.training for module in trainer.model.modules()] == before


def test_a_refit_that_runs_out_of_memory_shrinks_too(training_arguments):
    """The model has room for batches of 5 in evaluation mode, which training never fills."""
    sizes, model = [], tiny_bert()

    def look(model, args, kwargs) -> None:
        if not model.training:
            sizes.append(len(kwargs["input_ids"]))
            if sizes[-1] > 5:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model.register_forward_pre_hook(look, with_kwargs=True)
    batch_sizes = {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 16}
    arguments = training_arguments(
        auto_find_batch_size=True, clear_warmup_epochs=0, num_train_epochs=1, max_steps=3, **batch_sizes
    )
    trainer = ClearTrainer(
        model,
        arguments,
        train_dataset=toy_dataset(24),
        data_collator=collate,
        peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
    )
    trainer.train()
    assert trainer.state.global_step == 3 and trainer.sample_store.is_fitted
    tried = [size for size in sizes if size > 5]
    assert tried == [16, 14, 12, 10, 8, 6] and sizes[-1] == 4 and trainer._train_batch_size == 2
    assert len(per_sample_losses(trainer)) == 24
