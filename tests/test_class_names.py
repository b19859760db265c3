"""Names of classes: what the rows of a head stand for, and that all that is saved or reported says the same."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import ClassLabel, List
from helpers.toy import collate, tiny_bert, toy_dataset
from peft import inject_adapter_in_model
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    pipeline,
)

from hf_clear import ClearLoraConfig, ClearTrainer, export_to_peft, load_label_issues
from hf_clear.files import write_folder
from hf_clear.labels.names import LABEL_NAMES_FILE, agreed_names, names_in, read_label_names

NAMES = ["red", "green", "blue", "no color é"]
UNNAMED = [f"LABEL_{number}" for number in range(4)]


@pytest.mark.parametrize(
    ("own", "of_data", "names", "said"),
    [
        (UNNAMED, [], UNNAMED, ""),
        (UNNAMED, NAMES, NAMES, ""),
        (NAMES, NAMES, NAMES, ""),
        (NAMES, [], NAMES, ""),
        (NAMES, NAMES[::-1], NAMES[::-1], "The head is trained on the latter: the config has their order now"),
        (NAMES, list("abcd"), NAMES, "numbers its classes 'red', .* the training set 'a', 'b', 'c', 'd'"),
        (NAMES, list("abc"), NAMES, "names for 3 classes, and the head 4 rows: they are not used"),
        (UNNAMED, list("abc"), UNNAMED, "names for 3 classes, and the head 4 rows"),
        ([], NAMES, NAMES, ""),
        (NAMES[:3], [], [], ""),
    ],
)
def test_names_of_config_and_data_agree_or_it_is_said(own, of_data, names, said):
    found, told = agreed_names(own, of_data, 4)
    assert found == names and bool(told) == bool(said) and re.search(said, told)


class ColorModel(BertForSequenceClassification):
    """A class of one's own that says nothing of its task in its name."""


class ColorClassifier(ColorModel):
    pass


def trainer_of(
    training_arguments, names=NAMES, in_config=UNNAMED, model_class=ColorClassifier, **given
) -> ClearTrainer:
    data = toy_dataset().cast_column("labels", ClassLabel(names=list(names)))
    model = model_class(tiny_bert(initializer_range=0.2).config)
    model.config.id2label = dict(enumerate(in_config))
    given = {"data_collator": collate, "peft_config": ClearLoraConfig(task_type="SEQ_CLS"), **given}
    arguments = training_arguments(save_strategy="epoch", clear_warmup_epochs=1)
    return ClearTrainer(model, arguments, train_dataset=data, **given)


def test_data_that_number_the_classes_in_another_order_count(training_arguments, caplog):
    trainer = trainer_of(training_arguments, in_config=NAMES[::-1])
    trainer.train()
    said = [record.message for record in caplog.records if "numbers its classes" in record.message]
    assert len(said) == 1 and "'no color é', 'blue', 'green', 'red', the training set 'red', 'green'" in said[0]
    trainer.save_model()
    config = trainer.model.get_base_model().config
    assert names_in(config) == NAMES and config.label2id == {name: number for number, name in enumerate(NAMES)}
    folders = [Path(trainer.args.output_dir), *Path(trainer.args.output_dir).glob("checkpoint-*")]
    assert len(folders) > 1 and all(read_label_names(folder / LABEL_NAMES_FILE) == NAMES for folder in folders)


def test_before_training_the_names_of_the_config_stay(training_arguments, tmp_path):
    """The head may be trained already, by others, in their order."""
    trainer = trainer_of(training_arguments, in_config=NAMES[::-1])
    trainer.save_merged(tmp_path / "merged")
    assert names_in(trainer.model.get_base_model().config) == NAMES[::-1]
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["id2label"]["0"] == NAMES[3]


def test_a_model_that_is_none_of_transformers_is_trained_without_names(training_arguments):
    class TextClassificationNet(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_bert()
            self.config = SimpleNamespace(id2label=dict(enumerate(NAMES)))

        def forward(self, input_ids, attention_mask=None, labels=None):
            return self.inner(input_ids, attention_mask=attention_mask, labels=labels)

    data = toy_dataset().cast_column("labels", ClassLabel(names=NAMES))
    trainer = ClearTrainer(
        TextClassificationNet(),
        training_arguments(clear_warmup="epochs", clear_warmup_epochs=1),
        train_dataset=data,
        data_collator=collate,
        peft_config=ClearLoraConfig(target_modules=["query"]),
    )
    trainer.train()


def test_a_file_of_somebody_elses_stays(training_arguments):
    trainer = trainer_of(training_arguments)
    trainer.train_dataset = toy_dataset()
    trainer.model.get_base_model().config.id2label = {number + 1: name for number, name in enumerate(NAMES)}
    path = Path(trainer.args.output_dir) / LABEL_NAMES_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"mine": 1}')
    trainer.save_model()
    assert path.read_text() == '{"mine": 1}'


def test_names_are_there_before_anything_was_saved(training_arguments, tmp_path):
    trainer = trainer_of(training_arguments)
    trainer.args.save_strategy = "no"
    trainer.train()
    export_to_peft(trainer.model, tmp_path / "stock")
    assert read_label_names(tmp_path / "stock" / LABEL_NAMES_FILE) == NAMES
    untrained = trainer_of(training_arguments)
    untrained.create_model_card()
    assert "no color é" in (Path(untrained.args.output_dir) / "README.md").read_text(encoding="utf-8")


def test_names_of_an_earlier_adapter_do_not_stay(training_arguments):
    trainer = trainer_of(training_arguments)
    trainer.save_model()
    folder = Path(trainer.args.output_dir)
    assert read_label_names(folder / LABEL_NAMES_FILE) == NAMES
    config = trainer.model.get_base_model().config
    trainer.train_dataset = toy_dataset()
    config.id2label = {number + 1: name for number, name in enumerate(NAMES)}
    trainer.save_model()
    assert not (folder / LABEL_NAMES_FILE).exists()


def test_without_names_classes_are_numbers_in_a_saved_run_too(training_arguments):
    data = toy_dataset()
    trainer = trainer_of(training_arguments)
    trainer.train_dataset = data
    trainer.train()
    trainer.save_model()
    folder = trainer.args.output_dir
    assert read_label_names(Path(folder) / LABEL_NAMES_FILE) == UNNAMED, "which is what `pipeline` will say"
    for table in (trainer.label_issues(return_all=True), load_label_issues(folder, data, return_all=True)):
        assert set(table["given_label"]) == {0, 1, 2, 3}


def test_labels_of_tokens_have_names_too(training_arguments, tiny_model):
    names = ["O", "B", "I"]
    data = toy_dataset(8).map(lambda row: {"labels": [token % 3 for token in row["input_ids"]]})
    data = data.cast_column("labels", List(ClassLabel(names=names)))
    trainer = ClearTrainer(
        BertForTokenClassification(BertConfig(**{**tiny_bert(3).config.to_dict(), "num_labels": 3})),
        training_arguments(),
        train_dataset=data,
        data_collator=DataCollatorForTokenClassification(AutoTokenizer.from_pretrained(tiny_model)),
        peft_config=ClearLoraConfig(task_type="TOKEN_CLS"),
    )
    trainer.save_model()
    assert read_label_names(Path(trainer.args.output_dir) / LABEL_NAMES_FILE) == names


def test_a_merged_model_takes_the_collators_tokenizer_or_says_that_it_has_none(
    training_arguments, tiny_model, tmp_path, caplog
):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    trainer = trainer_of(training_arguments, model_class=BertForSequenceClassification)
    trainer.data_collator = DataCollatorWithPadding(tokenizer)
    trainer.save_merged(tmp_path / "with")
    assert not any("no tokenizer" in record.message for record in caplog.records)
    assert pipeline("text-classification", model=str(tmp_path / "with"))("red1")[0]["label"] in NAMES
    trainer.data_collator = collate
    trainer.save_merged(tmp_path / "without")
    assert any("no tokenizer" in record.message for record in caplog.records)
    assert not list((tmp_path / "without").glob("*token*"))


@pytest.mark.parametrize("how", ["add_adapter", "inject_adapter_in_model"])
def test_an_adapter_outside_of_a_peft_model_is_not_merged(training_arguments, tmp_path, how):
    model = tiny_bert()
    config = ClearLoraConfig(target_modules=["query"])
    if how == "add_adapter":
        model.add_adapter(config)
    else:
        inject_adapter_in_model(config, model)
    trainer = ClearTrainer(model, training_arguments(), train_dataset=toy_dataset(), data_collator=collate)
    with pytest.raises(ValueError, match="carries an adapter and is no `PeftModel`.*`peft_config=...`"):
        trainer.save_merged(tmp_path / "merged")
    assert not any(tmp_path.glob("merged*"))


def test_two_processes_do_not_take_each_others_folder(tmp_path):
    """The second finds the first at work, and leaves its files alone; a folder may have any name."""
    for name in ("merged", "earlier", "new"):
        path = tmp_path / name
        for content in ("before", "first"):
            with write_folder(path) as folder:
                (folder / "weights").write_text(content)
                with pytest.raises(KeyboardInterrupt), write_folder(path) as other:
                    (other / "weights").write_text("second")
                    raise KeyboardInterrupt
            assert (path / "weights").read_text() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["earlier", "merged", "new"]


def test_a_disk_without_locks_is_written_to(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("hf_clear.files.atomic.FileLock", refuse)
    (left := tmp_path / "_merged.abcdefgh.hf_clear_tmp").mkdir()  # it may be somebody's at work
    with write_folder(tmp_path / "merged") as folder:
        (folder / "weights").write_text("x")
    assert (tmp_path / "merged" / "weights").exists() and left.exists()


@pytest.mark.parametrize("at", ["while writing", "between the renames"])
def test_what_a_killed_save_has_left_is_mended_by_the_next(training_arguments, tmp_path, at):
    trainer = trainer_of(training_arguments)
    folder = tmp_path / "merged"
    trainer.save_merged(folder)
    staging = tmp_path / "_merged.abcdefgh.hf_clear_tmp"
    (staging / "merged").mkdir(parents=True)
    (staging / "merged" / "half").write_text("x")
    if at == "between the renames":
        folder.rename(staging / "earlier")
    (tmp_path / "_merged.mine").mkdir()  # somebody else's
    trainer.save_merged(folder)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(("_", "m"))) == [
        "_merged.mine",
        "merged",
    ]
    assert json.loads((folder / "config.json").read_text())["id2label"]["3"] == NAMES[3]
