"""What happens before the first step, and what tables of predictions take."""

from pathlib import Path

import pytest
import torch
from helpers.toy import collate, tiny_bert, toy_dataset
from helpers.trainers import lora_model, lora_trainer
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_clear import ClearTrainer, MemorizationCallback, TurnTrainer, TurnTrainingArguments, class_tables
from hf_clear.class_tables import say_table_size
from hf_clear.labels.known import labels_without_items
from hf_clear.passes import running_predictions
from hf_clear.sample_store import SampleStore

NUM_SAMPLES = 400


class Counted(Dataset):
    """Counts the items that it makes; says its labels only if it is told to."""

    def __init__(self, data, tells: bool):
        self.rows, self.count = list(data), 0
        if tells:
            self.targets = torch.tensor(data["labels"])

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        self.count += 1
        return self.rows[index]


def transformed(data):
    """`with_transform`, with a count that is an attribute too."""
    counted = data.with_transform(lambda rows: setattr(counted, "count", counted.count + len(rows["labels"])) or rows)
    counted.count = 0
    return counted


class FirstStep(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.count = getattr(self, "count", self.dataset.count)


KINDS = {
    "with_transform": transformed,
    "tells its labels": lambda data: Counted(data, True),
    "keeps its labels to itself": lambda data: Counted(data, False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_few_items_are_made_before_the_first_step(training_arguments, kind):
    """Stock: two batches of 8. TURN looks at every sample once, for its features."""

    def items(build, **arguments) -> int:
        callback = FirstStep()
        callback.dataset = KINDS[kind](toy_dataset(NUM_SAMPLES))
        trainer = build(callback.dataset, [callback], **{"remove_unused_columns": False, "max_steps": 1, **arguments})
        if "clear" in build.__name__:
            trainer.add_callback(MemorizationCallback(trainer, [0] * NUM_SAMPLES))
        trainer.train()
        return callback.count

    def stock(data, callbacks, **arguments):
        arguments = training_arguments(TrainingArguments, **arguments)
        return Trainer(tiny_bert(), arguments, train_dataset=data, data_collator=collate, callbacks=callbacks)

    def clear(data, callbacks, **arguments):
        arguments = training_arguments(**arguments)
        return ClearTrainer(lora_model(), arguments, train_dataset=data, data_collator=collate, callbacks=callbacks)

    def turn(data, callbacks, **arguments):
        arguments = training_arguments(TurnTrainingArguments, probe_epochs=1, **arguments)
        return TurnTrainer(tiny_bert(), arguments, train_dataset=data, data_collator=collate, callbacks=callbacks)

    of_stock = items(stock)
    assert of_stock == 16
    assert items(clear) <= of_stock + 4 + 3  # the look at a first batch; one or two items, and one for the callback
    assert items(turn) <= NUM_SAMPLES + of_stock + 4


def test_labels_without_items():
    data = toy_dataset(6)
    labels, names = data["labels"][:], ("labels", "label")
    never = data.with_transform(lambda rows: 1 / 0)
    for dataset, expected in [
        (never, labels),
        (Subset(never, [4, 1]), [labels[4], labels[1]]),
        (ConcatDataset([never, Subset(never, [3])]), [*labels, labels[3]]),
        (TensorDataset(torch.rand(3, 2), torch.tensor([2, 0, 1])), [2, 0, 1]),
        (list(data), labels),
        (Counted(data, True), labels),
        (Counted(data, False), None),
        (data.remove_columns("labels"), None),
    ]:
        found = labels_without_items(dataset, names)
        assert (found if found is None else list(found)) == expected


def test_labels_of_a_transform_count(training_arguments):
    """Stored are 1 to 4; the transform makes 0 to 3 of them, or what is no class."""
    stored = toy_dataset(24)
    labels = [label + 1 for label in stored["labels"]]
    stored = stored.remove_columns("labels").add_column("labels", labels)

    def train(minus: int) -> ClearTrainer:
        data = stored.with_transform(lambda rows: {**rows, "labels": [label - minus for label in rows["labels"]]})
        trainer = ClearTrainer(
            lora_model(),
            training_arguments(remove_unused_columns=False),
            train_dataset=data,
            data_collator=collate,
        )
        trainer.train()
        return trainer

    assert train(1).sample_store.labels.tolist() == [label - 1 for label in labels]
    with pytest.raises(ValueError, match=r"The label of sample \d+ is -1"):
        train(2)
    with pytest.raises(ValueError, match="The label of sample 3 is 4"):
        train(0)


# ---- Tables of predictions ----


class TwoProcesses:
    """Of which the other added nothing."""

    num_processes, device = 2, torch.device("cpu")

    def gather(self, tensor):
        return tensor

    def reduce(self, tensor, reduction):
        return tensor.clone()


def peak_growth(work) -> float:
    """By how much more memory this process held at most, in bytes."""
    status, before = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def line(name: str) -> int:
        return next(int(row.split()[1]) * 1024 for row in status.read_text().splitlines() if row.startswith(name))

    before.write_text("5")
    start = line("VmRSS")
    work()
    return line("VmHWM") - start


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux says what the peak was")
def test_no_copy_of_the_table():
    """60,000 samples of 500 classes: 120 MB. Once a table and a part of another were held four times over."""
    num_samples, num_labels = 60_000, 500
    store, index = SampleStore.empty(num_samples), torch.arange(num_samples)
    for rows in index.split(500):
        store.add_predictions(rows, torch.rand(len(rows), num_labels), rows % num_labels, window=2)
    size, address = store.targets.nbytes, store.targets.data_ptr()
    assert peak_growth(lambda: store.merge(TwoProcesses())) < 0.4 * size
    assert peak_growth(lambda: running_predictions(store.targets, store.labels, keep_probabilities=True)) < 0.4 * size
    assert store.targets.data_ptr() == address and store.targets.dtype == torch.float32


def test_large_tables_are_in_half_precision(training_arguments, tmp_path, monkeypatch, caplog):
    """Targets, what a refit keeps, and the file; training goes on from it."""
    monkeypatch.setattr(class_tables, "FULL_PRECISION", 24 * 4 - 1)
    stores = []
    for source in ("online", "epoch"):
        trainer = lora_trainer(
            training_arguments, clear_ensemble_source=source, save_strategy="epoch", output_dir=str(tmp_path / source)
        )
        trainer.train()
        stores.append(trainer.sample_store)
        assert trainer.sample_store.targets.dtype == torch.float16
        torch.testing.assert_close(trainer.sample_store.targets.sum(dim=1), torch.ones(24).half(), atol=2e-3, rtol=0)
        path = next((tmp_path / source).glob("checkpoint-6/clear_state.safetensors"))
        assert SampleStore.load(path, 24, num_labels=4).targets.dtype == torch.float16
        again = lora_trainer(training_arguments, clear_ensemble_source=source, output_dir=str(tmp_path / source))
        again.train(resume_from_checkpoint=str(path.parent))
        assert torch.equal(again.sample_store.targets, trainer.sample_store.targets)
    half = running_predictions(stores[0].targets, stores[0].labels, keep_probabilities=False)
    assert half.probabilities is None and half.losses.isfinite().all() and half.losses.dtype == torch.float32
    say_table_size(10**6, 2_000, torch.float16, is_doubled=False)
    assert "take 3.73 GiB of memory (float16)" in caplog.text
