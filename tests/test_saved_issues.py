"""The table of a run that has ended: the same as the trainer's, and only for the data that it is of."""

import datasets
import numpy as np
import pandas as pd
import pytest
from helpers.toy import collate, tiny_bert, toy_dataset
from helpers.turn import turn_trainer

from hf_clear import ClearLoraConfig, ClearTrainer, load_label_issues
from hf_clear.sample_store import FINAL_STATE_NAME, STATE_NAME, SampleStore

NAMES = ["red", "green", "blue", "white"]


def texts_and_tokens(num_samples: int = 40) -> datasets.Dataset:
    data = toy_dataset(num_samples).add_column("text", [f"text {i}" for i in range(num_samples)])
    return data.cast_column("labels", datasets.ClassLabel(names=NAMES))


def trained(kind: str, training_arguments, data: datasets.Dataset, **arguments):
    if kind == "turn":
        trainer = turn_trainer(training_arguments, data, **arguments)
    else:
        arguments = {"clear_warmup_epochs": 1, "num_train_epochs": 2, **arguments}
        if kind == "knn":
            arguments["clear_estimator"] = "gaussian_mixture+knn"
        trainer = ClearTrainer(
            tiny_bert(initializer_range=0.2),
            training_arguments(**arguments),
            train_dataset=data,
            data_collator=collate,
            peft_config=ClearLoraConfig(task_type="SEQ_CLS", r=4),
        )
    trainer.train()
    return trainer


def assert_same(table: datasets.Dataset, expected: datasets.Dataset) -> None:
    assert table.features == expected.features
    table, expected = table.to_pandas(), expected.to_pandas()
    for name in expected:
        if name == "reasons":
            assert list(map(list, table[name])) == list(map(list, expected[name]))
        else:  # confidence is in half precision
            pd.testing.assert_series_equal(table[name], expected[name], rtol=1e-3)


@pytest.mark.parametrize("kind", ["clear", "knn", "turn"])
def test_the_table_of_a_saved_run_is_that_of_its_trainer(training_arguments, kind):
    data = texts_and_tokens()
    trainer = trained(kind, training_arguments, data, save_strategy="epoch" if kind != "clear" else "no")
    out = trainer.args.output_dir
    if kind == "clear":
        with pytest.raises(FileNotFoundError, match="holds nothing of what.*`trainer.save_state"):
            load_label_issues(out, data)
        trainer.save_state()
    for options in ({"return_all": True}, {"threshold": 0.9, "columns": ["labels", "text"]}):
        assert_same(load_label_issues(out, data, **options), trainer.label_issues(**options))
    table = trainer.label_issues(return_all=True)
    assert table.column_names[:4] == ["sample_index", "text", "given_label", "predicted_label"]
    agree = np.array(table["given_label"]) == np.array(table["predicted_label"])
    assert 0.2 < agree.mean() < 1 and min(table["suggestion_confidence"]) > 0.25
    told = [("disagrees_with_ensemble" in reasons) for reasons in table["reasons"]]
    assert (np.array(told) == ~agree).all()
    assert (trainer.sample_store.neighbors_disagree is not None) == (kind == "knn")


def test_other_data_are_refused(training_arguments, caplog):
    data = texts_and_tokens()
    trainer = trained("clear", training_arguments, data)
    trainer.save_state()
    out = trainer.args.output_dir
    rotated = data.select(np.roll(range(40), 1))
    raw = data.select_columns(["text", "labels"])
    named = raw.remove_columns("labels").add_column("label", [NAMES[label] for label in data["labels"]])
    for other, message in [
        (data.select(range(39)), "a run on 40 samples, and the data set has 39. Give the training set as"),
        (rotated, "of a run on other data: the order of the samples changed"),
        (data.map(lambda row: {"input_ids": row["input_ids"][:3]}), r"other data: the inputs \(input_ids\) changed"),
        (raw.select(np.roll(range(40), 1)), r"another order: 40 of 40 labels differ \(row 0: 3, and 0 in the run\)"),
        (raw.select_columns(["text"]), "Nothing tells whether this data set is that of"),
        (named, "row 0: 'red', and 0 in the run; if that is its name, give the names"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_label_issues(out, other)
    caplog.clear()
    expected = load_label_issues(out, data, return_all=True)
    assert "changed places" not in caplog.text
    for other, options in ((raw, {}), (named, {"label_names": NAMES})):
        caplog.clear()
        assert_same(load_label_issues(out, other, return_all=True, **options), expected)
        assert "whether texts of one class have changed places can't be told" in caplog.text
    labels = data["labels"][:]
    relabelled = data.remove_columns("labels").add_column("labels", [3, *labels[1:]], feature=data.features["labels"])
    assert_same(load_label_issues(out, relabelled, return_all=True), expected)
    assert "1 of 40 labels differ (row 0: 3, and 0 in the run). The table shows those of the run" in caplog.text
    plain = load_label_issues(out, [dict(item) for item in data], return_all=True)  # no data set: labels have no names
    assert plain["given_label"][:] == [labels[index] for index in plain["sample_index"]]


def test_the_last_fit_counts_and_none_is_said(training_arguments, tmp_path):
    data = texts_and_tokens(24)
    trainer = trained("clear", training_arguments, data)
    store = trainer.sample_store
    checkpoint = tmp_path / "out" / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    store.fitted_epoch = -1
    store.save(checkpoint / STATE_NAME)
    with pytest.raises(ValueError, match="holds no clean probabilities: the run was saved before"):
        load_label_issues(tmp_path / "out", data)
    store.fitted_epoch = 1
    store.clean_probability.fill_(0.25)
    store.save(tmp_path / "out" / FINAL_STATE_NAME)
    store.fitted_epoch = 2
    store.clean_probability.fill_(0.75)
    store.save(checkpoint / STATE_NAME)
    (tmp_path / "out" / FINAL_STATE_NAME).touch()  # copied later
    assert set(load_label_issues(tmp_path / "out", data, return_all=True)["label_score"]) == {0.75}
    old = SampleStore.load(checkpoint / STATE_NAME)  # as an earlier version has written it
    old.suggestion = old.suggestion_confidence = None
    old.save(checkpoint / STATE_NAME)
    table = load_label_issues(checkpoint, data, return_all=True)
    assert "predicted_label" not in table.column_names
    assert table["given_label"][:] == [NAMES[data["labels"][i]] for i in table["sample_index"]]
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        load_label_issues(tmp_path / "none", data)
