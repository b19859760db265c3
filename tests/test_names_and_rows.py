"""What numbers stand for: names of classes in their order, and rows of the training set."""

import numpy as np
import pytest
from helpers.posterior import POSTERIOR, trainer_of
from helpers.turn import noisy_dataset, turn_trainer

from hf_clear import apply_corrections, audit_labels, find_label_issues, load_label_issues
from hf_clear.report import issue_table, plot_transition_matrix, save_report, to_cleanlab, to_label_studio

LABELS = np.arange(40) % 2
PROBABILITIES = np.where(np.eye(2)[LABELS], 0.9, 0.1)
NAMES = {
    "label2id": {"cat": 1, "zebra": 0},
    "id2label": {0: "zebra", 1: "cat"},
    "set": {"zebra", "cat"},
    "string": "zc",
    "iterator": iter(["zebra", "cat"]),
}
TAKE_NAMES = {
    "find_label_issues": lambda names, _: find_label_issues(LABELS, PROBABILITIES, label_names=names),
    "audit_labels": lambda names, _: audit_labels(LABELS, PROBABILITIES, label_names=names),
    "issue_table": lambda names, _: issue_table([0.1], [0], [1], label_names=names),
    "to_cleanlab": lambda names, _: to_cleanlab(issue_table([0.1, 0.9], [0, 1], return_all=True), names),
    "to_label_studio": lambda names, path: to_label_studio(issue_table([0.1], [0], [1]), path / "a.json", names),
    "save_report": lambda names, path: save_report(path / "a.html", issue_table([0.1], [0]), label_names=names),
    "plot": lambda names, _: plot_transition_matrix(np.eye(2), names),
    "load_label_issues": lambda names, path: load_label_issues(path, noisy_dataset(), label_names=names),
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("taken", TAKE_NAMES)
def test_names_whose_order_is_any_are_refused(taken, kind, tmp_path):
    with pytest.raises(ValueError, match="`label_names` has to be a list: the names of all classes, in the order of"):
        TAKE_NAMES[taken](NAMES[kind], tmp_path)
    assert not list(tmp_path.iterdir())


def test_corrections_by_such_names_are_refused(tmp_path):
    dataset = noisy_dataset(20)
    (tmp_path / "some.csv").write_text("sample_index,given_label,corrected_label\n0,zebra,cat\n")
    with pytest.raises(ValueError, match="Got a dict. Of a config, `\\[id2label\\[number\\]"):
        apply_corrections(dataset, tmp_path / "some.csv", text_columns=[], label_names=NAMES["label2id"])


def test_a_table_beside_other_rows_is_refused(training_arguments, caplog):
    dataset = noisy_dataset(400)
    trainer = trainer_of(training_arguments(**POSTERIOR | {"max_steps": 2}), dataset)
    trainer.train()
    table = trainer.label_issues(return_all=True)
    trainer.train_dataset = dataset.select(range(400))  # the same
    assert trainer.label_issues(return_all=True)[:] == table[:]
    trainer.train_dataset = dataset.shuffle(seed=1)
    with pytest.raises(ValueError, match="This trainer's last fit is of a run on other data: the order of the samples"):
        trainer.label_issues()
    changed = [1 - label if row == 3 else label for row, label in enumerate(dataset["labels"])]
    trainer.train_dataset = dataset.remove_columns("labels").add_column("labels", changed)
    trainer.label_issues()
    assert "The table shows those of the run" in caplog.text


def test_of_turn_too(training_arguments):
    trainer = turn_trainer(training_arguments, probe_epochs=20)
    trainer.linear_probe()
    trainer.cleanse()
    trainer.label_issues()
    trainer.train_dataset = trainer.train_dataset.shuffle(seed=1)
    with pytest.raises(ValueError, match="The training set was replaced since the probe was trained"):
        trainer.label_issues()


def test_another_task_loss_is_refused_at_resume(training_arguments):
    build, dataset = (
        training_arguments(
            **POSTERIOR | {"max_steps": 4, "save_steps": 2, "save_strategy": "steps", "probe_epochs": 2}
        ),
        noisy_dataset(),
    )

    def loss(outputs, labels, num_items_in_batch=None):
        return outputs["logits"].square().mean() + 0.0 * labels.sum()

    trainer_of(build, dataset, compute_loss_func=loss).train()
    with pytest.raises(ValueError, match="compute_loss_func"):
        trainer_of(build, dataset).train(resume_from_checkpoint=f"{build.output_dir}/checkpoint-2")


def test_where_predictions_say_nothing_there_is_no_score():
    """And no accuracy on true labels."""
    rng = np.random.default_rng(0)
    labels, features = rng.integers(0, 4, 120), rng.normal(size=(120, 8))
    table = find_label_issues(labels, features=features, return_all=True)
    assert np.isnan(table["label_score"]).all() and np.isnan(table["suggestion_confidence"]).all()
    assert not any(table["is_label_issue"]) and all("not_scored" in reasons for reasons in table["reasons"])
    audit = audit_labels(labels, features=features)
    assert not audit.is_supported and np.isfinite(audit.accuracy.given) and np.isnan(audit.accuracy.estimate)
