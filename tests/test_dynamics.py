"""Detection beside a stock Trainer: what the callback keeps, its table, and the files for other tools."""

import csv
import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel
from helpers.toy import collate, tiny_bert, toy_dataset
from peft import LoraConfig, get_peft_model
from sklearn.metrics import roc_auc_score
from transformers import Trainer, TrainingArguments

from hf_clear import TrainingDynamics, TrainingDynamicsCallback

SIZE, EPOCHS = 120, 6


def noisy_toys():
    rng, dataset = np.random.default_rng(0), toy_dataset(SIZE)
    true = np.array(dataset["labels"])
    labels = np.where(rng.random(SIZE) < 0.25, (true + rng.integers(1, 4, SIZE)) % 4, true)
    feature = ClassLabel(names=["red", "green", "blue", "grey"])
    dataset = dataset.remove_columns("labels").add_column("labels", labels.tolist(), feature=feature)
    return dataset.add_column("text", [f"text {i}" for i in range(SIZE)]), true != labels, true


def trainer_in(folder, dataset, model=None, callback=True, epochs=EPOCHS, **settings):
    settings = {"save_strategy": "no", "learning_rate": 2e-3, **settings}
    args = TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=8,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )
    trainer = Trainer(model or tiny_bert(initializer_range=0.2), args, train_dataset=dataset, data_collator=collate)
    dynamics = TrainingDynamicsCallback(trainer)
    if callback:
        trainer.add_callback(dynamics)
    return trainer, dynamics


def test_a_stock_trainer_finds_wrong_labels_and_trains_as_before(tmp_path):
    dataset, is_wrong, true = noisy_toys()
    plain, _ = trainer_in(tmp_path / "plain", dataset, callback=False)
    plain.train()
    trainer, dynamics = trainer_in(tmp_path / "out", dataset)
    with pytest.raises(FileNotFoundError, match="holds no training dynamics"):
        _ = dynamics.records
    trainer.train()
    for first, second in zip(plain.model.parameters(), trainer.model.parameters()):
        assert torch.equal(first, second)

    table = dynamics.label_issues()
    found = np.array(table["sample_index"])
    assert is_wrong[found].mean() > 0.9 and len(found) > 0.8 * is_wrong.sum()
    assert table.column_names[:4] == ["sample_index", "text", "given_label", "predicted_label"]
    assert table["text"][0] == f"text {found[0]}" and set(table["given_label"]) <= {"red", "green", "blue", "grey"}
    every = dynamics.label_issues(return_all=True, columns=["text"])
    score = np.empty(SIZE)
    score[every["sample_index"][:]] = every["label_score"][:]
    assert len(every) == SIZE and roc_auc_score(is_wrong, -score) > 0.95

    records = TrainingDynamics(tmp_path / "out" / "training_dynamics")
    assert records.epochs == [1, 2, 3, 4, 5, 6] and records.losses.shape == records.margins.shape == (EPOCHS, SIZE)
    assert roc_auc_score(is_wrong, -records.area_under_margin) > 0.95
    logits = trainer.predict(dataset).predictions  # of the last epoch
    labels = np.array(dataset["labels"])
    others = np.where(np.eye(4, dtype=bool)[labels], -np.inf, logits).max(axis=1)
    np.testing.assert_allclose(records.margins[-1], logits[np.arange(SIZE), labels] - others, atol=0.02)
    assert (records.predicted[-1] == logits.argmax(axis=1)).all()
    by_model = dynamics.label_issues(estimator="noise_model", return_all=True)
    with pytest.raises(ValueError, match="'evidence_mixture' needs what models say that have not seen the labels"):
        dynamics.label_issues(estimator="evidence_mixture")
    assert len(by_model) == SIZE


def test_files_for_other_tools(tmp_path):
    dataset, is_wrong, _ = noisy_toys()
    trainer, dynamics = trainer_in(tmp_path / "out", dataset, epochs=3)
    trainer.train()
    records = dynamics.records
    files = records.to_cartography(tmp_path / "cartography")
    assert [path.name for path in files] == [f"dynamics_epoch_{i}.jsonl" for i in range(3)]
    rows = [json.loads(line) for line in files[2].read_text().splitlines()]
    assert [row["guid"] for row in rows] == list(range(SIZE)) and [row["gold"] for row in rows] == dataset["labels"][:]
    logits = np.array([row["logits_epoch_2"] for row in rows])
    np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1, atol=5e-3)
    assert (logits.argmax(axis=1) == records.predicted[2]).all()
    with open(records.to_aum(tmp_path / "aum_values.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    values = [float(row["aum"]) for row in rows]
    assert values == sorted(values, reverse=True) and sorted(int(row["sample_id"]) for row in rows) == list(range(SIZE))
    assert float(rows[0]["aum"]) == pytest.approx(records.area_under_margin.max(), rel=1e-5)
    records.to_aum(tmp_path / "aum_values.csv")  # its own file is replaced
    (tmp_path / "mine.csv").write_text("a,b\n")
    (tmp_path / "cartography" / "dynamics_epoch_1.jsonl").write_text("mine")
    for write in (
        lambda: records.to_aum(tmp_path / "mine.csv"),
        lambda: records.to_cartography(tmp_path / "cartography"),
    ):
        with pytest.raises(FileExistsError, match="is in the way"):
            write()


def test_a_resumed_training_goes_on_with_the_epochs_before(tmp_path):
    dataset, *_ = noisy_toys()
    lora = LoraConfig(task_type="SEQ_CLS", r=4)  # PEFT, too
    whole, all_epochs = trainer_in(tmp_path / "whole", dataset, get_peft_model(tiny_bert(), lora), epochs=3)
    whole.train()
    settings = {"save_strategy": "epoch", "epochs": 3}
    first, dynamics = trainer_in(tmp_path / "out", dataset, get_peft_model(tiny_bert(), lora), **settings)
    first.train()
    checkpoint = tmp_path / "out" / "checkpoint-30"  # after 2 of 3 epochs of 15 steps
    again, resumed = trainer_in(tmp_path / "out", dataset, get_peft_model(tiny_bert(), lora), **settings)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.records.epochs == [1, 2, 3] and resumed.records.run == resumed._run
    np.testing.assert_allclose(resumed.records.losses, all_epochs.records.losses, atol=1e-5)
    short, shorter = trainer_in(
        tmp_path / "out", dataset, get_peft_model(tiny_bert(), lora), **settings | {"epochs": 2}
    )
    short.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-15"))
    assert shorter.records.epochs == [1, 2]  # without the third, of the training that it was resumed from

    other = dataset.select(range(1, SIZE)).add_item(dataset[0])
    different, _ = trainer_in(tmp_path / "out", other, get_peft_model(tiny_bert(), lora), **settings)
    with pytest.raises(ValueError, match="the training set is another"):
        different.train(resume_from_checkpoint=str(checkpoint))
    # A new training in the same folder: epochs of the one before are not taken for its own
    new, dynamics = trainer_in(tmp_path / "out", dataset, get_peft_model(tiny_bert(), lora), max_steps=22)
    new.train()
    assert dynamics.records.epochs == [1, 2] and np.isfinite(dynamics.records.losses).all()
    (tmp_path / "out" / "training_dynamics" / "epoch_2.safetensors").write_bytes(b"mine")
    with pytest.raises(ValueError, match="its dynamics can't be read"):
        again.train(resume_from_checkpoint=str(checkpoint))
    with pytest.raises(FileExistsError, match="is in the way"):
        trainer_in(tmp_path / "out", dataset, get_peft_model(tiny_bert(), lora), epochs=3)[0].train()
