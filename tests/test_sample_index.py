"""Every batch carries the indices of its samples, whatever the data set and the sampler."""

import pytest
import torch
from helpers.toy import collate, toy_dataset
from helpers.trainers import Dictionaries, lora_model, with_transform
from transformers import Trainer

from hf_clear import ClearTrainer
from hf_clear.sample_index import SAMPLE_INDEX, indexed_dataloader


def collate_tensors(items):
    return collate([{key: torch.as_tensor(value).tolist() for key, value in item.items()} for item in items])


@pytest.mark.parametrize("kind", [lambda d: d, list, Dictionaries, with_transform, lambda d: d.with_format("torch")])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"remove_unused_columns": False},
        {"train_sampling_strategy": "group_by_length"},
        {"train_sampling_strategy": "batch_rebalance"},
        {"dataloader_drop_last": True},
        {"dataloader_num_workers": 1},
    ],
    ids=lambda arguments: next(iter(arguments), "default"),
)
def test_the_sample_index_survives(training_arguments, kind, arguments):
    data = toy_dataset(19)
    if arguments.get("remove_unused_columns", True):
        data = data.add_column("text", ["unused"] * 19)
    trainer = ClearTrainer(
        lora_model(),
        training_arguments(per_device_train_batch_size=4, **arguments),
        train_dataset=kind(data),
        data_collator=collate_tensors,
    )
    seen = []
    for batch in trainer.get_train_dataloader():
        for i, row in zip(batch[SAMPLE_INDEX].tolist(), batch["input_ids"].tolist()):
            seen.append(i)
            assert [token for token in row if token] == list(toy_dataset(19)[i]["input_ids"])
    assert sorted(seen) == list(range(19)) or (len(set(seen)) == 16 and "dataloader_drop_last" in arguments)


def test_a_dataloader_of_ones_own(training_arguments):
    class Own(ClearTrainer):
        def get_train_dataloader(self):
            return Trainer.get_train_dataloader(self)

    class Indexed(ClearTrainer):
        def get_train_dataloader(self):
            return indexed_dataloader(self, self.train_dataset, "Training", 4, lambda data: None)

    with pytest.raises(RuntimeError, match="indexed_dataloader"):
        Own(lora_model(), training_arguments(), train_dataset=toy_dataset(), data_collator=collate).train()
    Indexed(lora_model(), training_arguments(), train_dataset=toy_dataset(), data_collator=collate).train()
