"""What users give: functions with the right arguments, losses that are numbers, and the same at resume."""

import functools
from dataclasses import replace
from functools import partial
from unittest.mock import MagicMock

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.posterior import NO_DROPOUT, POSTERIOR, trainer_of
from helpers.toy import collate, tiny_bert, toy_dataset
from helpers.turn import noisy_dataset
from peft import get_peft_model
from torch import nn

from hf_clear import (
    CleanProbabilityCallback,
    CleanProbabilityEstimate,
    ClearLoraConfig,
    ClearTrainer,
    SampleEvidence,
    audit_labels,
    find_label_issues,
    load_label_issues,
    register_estimator,
    register_evidence,
    register_noise_type,
    register_routable,
    register_routing_strategy,
    register_training_loss,
)
from hf_clear.estimators import ESTIMATORS, NamedEstimator, evidence_mixture, gaussian_mixture, get_estimator
from hf_clear.identity.given_objects import as_json
from hf_clear.losses import TRAINING_LOSSES
from hf_clear.noise import inject_label_noise
from hf_clear.report import issue_table, to_csv, to_parquet
from hf_clear.routing import register_choice
from hf_clear.runs.label_issues import held_out_evidence

TAKE_FUNCTIONS = {
    "estimator": (partial(register_estimator, "mine"), "evidence"),
    "callback": (CleanProbabilityCallback, "evidence"),
    "evidence": (partial(register_evidence, "mine"), "features, labels, num_labels, seed"),
    "noise type": (partial(register_noise_type, "mine"), "labels, num_labels, noise_rate, rng, features"),
    "strategy": (partial(register_routing_strategy, "mine"), "clean_probability, gamma, is_clean"),
    "strategy by labels": (
        partial(register_routing_strategy, "mine", needs_labels=True),
        "clean_probability, gamma, is_clean, labels, losses",
    ),
    "loss": (partial(register_training_loss, "mine"), "evidence"),
    "routable": (partial(register_routable, nn.Bilinear), "module, gate"),
    "choice": (partial(register_choice, nn.Bilinear), "layer, choice"),
}


@pytest.mark.parametrize(
    "function", [lambda: None, lambda *, other: None, 0.5], ids=["too few", "by name", "no function"]
)
@pytest.mark.parametrize("taken", TAKE_FUNCTIONS)
def test_a_function_that_cannot_be_called_so_is_refused_at_once(taken, function):
    register, arguments = TAKE_FUNCTIONS[taken]
    with pytest.raises(ValueError, match=f"is called with .{arguments}.*(, and takes|it has to be a function)"):
        register(function)
    assert "mine" not in ESTIMATORS and "mine" not in TRAINING_LOSSES


def test_what_has_no_signature_or_takes_them_after_all_passes():
    @functools.wraps(gaussian_mixture)
    def decorated(evidence):
        return gaussian_mixture(evidence.losses)

    named = {
        "dict": dict,
        "gaussian_mixture": partial(gaussian_mixture, seed=1),
        "MagicMock": MagicMock(),
        "best": lambda *args, **kwargs: None,
    }
    named["best"].__name__ = "best"
    for name, function in named.items():
        assert CleanProbabilityCallback(function).estimator.name == name
    assert CleanProbabilityCallback(decorated).estimator.estimator is decorated


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_refused_before_training(training_arguments, monkeypatch, value):
    monkeypatch.setitem(TRAINING_LOSSES, "void", None)
    del TRAINING_LOSSES["void"]
    register_training_loss("void", lambda e: {"void": e.logits.sum(dim=-1) * value})
    trainer = trainer_of(training_arguments(clear_loss="void"), noisy_dataset(40))
    with pytest.raises(
        ValueError, match="part 'void' of the training loss 'void' is not finite in the warm-up, for any"
    ):
        trainer.train()
    assert trainer.state.global_step == 0
    # Of a label that is trusted to the full, a logarithm may be infinite.
    del TRAINING_LOSSES["void"]
    register_training_loss(
        "void",
        lambda e: {
            "void": e.logits[..., 0] * (1.0 if e.clean_probability is None else (1 - e.clean_probability).log())
        },
        uses_clean_probability=True,
    )
    trainer_of(training_arguments(clear_loss="void", max_steps=1), noisy_dataset(40)).train()
    del TRAINING_LOSSES["void"]


def says_nothing(evidence):
    constant = np.full_like(evidence.probabilities, 1 / evidence.probabilities.shape[1])
    return get_estimator("noise_model")(replace(evidence, probabilities=constant))


ONE_GROUP = NamedEstimator("one group", lambda e: gaussian_mixture(np.ones(len(e.losses))))
NO_POSTERIOR = {"clear_loss": "clear", "clear_estimator": "gaussian_mixture", "clear_ensemble_size": 2}
NOTHING_FOUND = {
    "noise model": (NamedEstimator("silent", says_nothing, uses_labels=True, gives_posterior=True), {}),
    "mixture": (ONE_GROUP, {**NO_POSTERIOR, "clear_loss_source": "epoch"}),
}


@pytest.mark.parametrize("kind", NOTHING_FOUND)
def test_where_a_fit_says_nothing_no_label_has_a_score(training_arguments, caplog, kind):
    """Training takes all labels for correct, which is no finding."""
    estimator, more = NOTHING_FOUND[kind]
    settings = POSTERIOR | {"clear_warmup": "epochs", "clear_warmup_epochs": 1, "num_train_epochs": 2} | more
    dataset = noisy_dataset(200)
    trainer = trainer_of(training_arguments(**settings), dataset, callbacks=[CleanProbabilityCallback(estimator)])
    trainer.train()
    assert (trainer.sample_store.clean_probability == 1).all() and "says_nothing" in trainer.fit_findings.warnings
    assert trainer.fit_findings.noise_rate is None and "estimate says nothing" in trainer.fit_findings.unsupported
    trainer.save_state()
    for table in (
        trainer.label_issues(return_all=True),
        load_label_issues(trainer.args.output_dir, dataset, return_all=True),
    ):
        assert np.isnan(table["label_score"]).all() and not any(table["is_label_issue"])
        assert all("not_scored" in reasons for reasons in table["reasons"])
        assert np.isnan(table["suggestion_confidence"]).all() and set(table["predicted_label"]) == {None}
    assert "none has a score, and none is an issue" in caplog.text


def test_rows_taken_for_validation_have_no_suggestion_either(training_arguments, caplog):
    """A model that was not trained says nothing about labels drawn at random."""
    data = toy_dataset(24)
    labels = np.random.default_rng(0).permutation(data["labels"])
    data = data.remove_columns("labels").add_column("labels", labels)
    found = held_out_evidence(trainer_of(training_arguments(), data), data, {"clean_probability": np.ones(24)})
    assert np.isnan(found["label_score"]).all() and np.isnan(found["suggestion_confidence"]).all()
    assert (found["predicted_label"] == -1).all() and np.isfinite(found["loss"]).all()
    assert "they have no score and no suggestion" in caplog.text


def test_in_a_combination_what_says_nothing_is_left_out():
    labels = np.arange(200) % 4
    rng = np.random.default_rng(0)
    features = (np.eye(4)[labels] @ rng.normal(size=(4, 8)) * 3 + rng.normal(size=(200, 8))).astype(np.float32)
    given = np.where(np.arange(200) < 40, (labels + 1) % 4, labels)
    evidence = SampleEvidence(losses=np.ones(200), labels=given, features=features)
    alone = get_estimator("knn")(evidence)
    both, none = get_estimator("gaussian_mixture+knn")(evidence), get_estimator("gaussian_mixture")(evidence)
    assert both.is_supported and not none.is_supported and (alone.clean_probability[:40] < 0.5).all()
    assert np.array_equal(both.clean_probability, alone.clean_probability)
    nothing = get_estimator("gaussian_mixture+ema_gaussian_mixture")(evidence)
    assert not nothing.is_supported and (nothing.clean_probability == 1).all()
    with pytest.raises(ValueError, match="`is_supported` has to be True or False; got 'no'"):
        CleanProbabilityEstimate(np.ones(3), is_supported="no")


class SquaresTrainer(ClearTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        return (2 * loss, outputs) if return_outputs else 2 * loss


class OtherRateTrainer(ClearTrainer):
    def create_optimizer(self, *args, **kwargs):
        return super().create_optimizer(*args, **kwargs)


class BothTrainer(ClearTrainer):
    def create_optimizer_and_scheduler(self, *args, **kwargs):
        return super().create_optimizer_and_scheduler(*args, **kwargs)


class PerParameter(torch.optim.AdamW):
    def __init__(self, params, lr=1e-3, rates=None, schedule=None):
        super().__init__(params, lr=lr)


def other_collate(items):
    return collate(items)


GIVEN = {
    "compute_loss": (SquaresTrainer, {}),
    "create_optimizer": (OtherRateTrainer, {}),
    "create_optimizer_and_scheduler": (BothTrainer, {}),
    "data_collator": (ClearTrainer, {"data_collator": other_collate}),
    "optimizer_cls_and_kwargs": (ClearTrainer, {"optimizer_cls_and_kwargs": (torch.optim.Adagrad, {"lr": 1e-3})}),
    "optimizers": (ClearTrainer, {"optimizers": torch.optim.SGD}),
}


@pytest.mark.parametrize("given", GIVEN)
def test_another_object_is_refused_at_resume(training_arguments, given):
    build = training_arguments(
        **POSTERIOR | {"max_steps": 4, "save_steps": 2, "save_strategy": "steps", "probe_epochs": 2}
    )
    dataset = noisy_dataset()

    def of(kind, **more):
        model = get_peft_model(tiny_bert(**NO_DROPOUT), ClearLoraConfig(task_type="SEQ_CLS", r=4))
        if "optimizers" in more:
            more["optimizers"] = more["optimizers"](model.parameters(), lr=0.1), None
        return kind(model, build, train_dataset=dataset, **{"data_collator": collate, **more})

    of(ClearTrainer).train()
    kind, more = GIVEN[given]
    other = of(kind, **more)
    with pytest.raises(ValueError, match=f"other settings .*{given}: "):
        other.train(resume_from_checkpoint=f"{build.output_dir}/checkpoint-2")
    of(ClearTrainer).train(resume_from_checkpoint=f"{build.output_dir}/checkpoint-2")


def test_what_cannot_be_told_in_another_process_is_not_compared(training_arguments):
    """Functions, objects and parameters have an address, which is another each time."""
    build = training_arguments(
        **POSTERIOR | {"max_steps": 4, "save_steps": 2, "save_strategy": "steps", "probe_epochs": 2}
    )
    dataset = noisy_dataset()

    def trainer():
        model = tiny_bert(**NO_DROPOUT)
        rates = {parameter: 1e-3 for parameter in model.parameters()}
        given = {"lr": 1e-3, "rates": rates, "schedule": lambda step: 1.0}
        return trainer_of(build, dataset, model, optimizer_cls_and_kwargs=(PerParameter, given))

    trainer().train()
    trainer().train(resume_from_checkpoint=f"{build.output_dir}/checkpoint-2")
    assert as_json({"rate": lambda step: 1.0, "object": NO_POSTERIOR.__class__, "set": {2, 1}}) == {
        **{"rate": "<lambda>", "object": "<class 'dict'>", "set": ["1", "2"]}
    }


def test_clean_probabilities_are_of_the_training_set(training_arguments):
    dataset = noisy_dataset(400)
    trainer = trainer_of(training_arguments(**POSTERIOR | {"max_steps": 2}), dataset)
    trainer.train()
    assert trainer.clean_probabilities()["given_label"] == dataset["labels"]
    trainer.train_dataset = dataset.shuffle(seed=3)
    with pytest.raises(ValueError, match="the order of the samples changed"):
        trainer.clean_probabilities()


LABELS = np.arange(40) % 2
PROBABILITIES = np.where(np.eye(2)[LABELS], 0.9, 0.1)
ROWS = datasets.Dataset.from_dict({"text": ["a"] * 40, "label": LABELS})
BAD_ARGUMENTS = {
    "texts": (lambda: find_label_issues(LABELS, PROBABILITIES, texts="abc"), "a dict of columns of the same length"),
    "numbers for texts": (lambda: issue_table([0.1], texts=[1]), "a dict of columns of the same length"),
    "sample_index": (lambda: issue_table([0.1], sample_index=[1.7]), "whole numbers from 0 on, each once; got .1.7."),
    "a row twice": (lambda: issue_table([0.1, 0.2], sample_index=[3, 3]), "each once"),
    "a row before the first": (lambda: issue_table([0.1], sample_index=[-1]), "each once"),
    "flags": (
        lambda: issue_table([0.1], neighbors_disagree=[np.nan]),
        "`neighbors_disagree` has to hold True or False",
    ),
    "flags in words": (lambda: issue_table([0.1], held_out=["False"]), "`held_out` has to hold True or False"),
    "cuts": (lambda: audit_labels(LABELS, PROBABILITIES, cuts=[1.5]), "`cuts` has to be a whole number, 0 or above"),
    "one cut": (lambda: audit_labels(LABELS, PROBABILITIES, cuts=5), "`cuts` has to be a list of whole numbers; got 5"),
    "columns of two lengths": (lambda: issue_table([0.1], texts={"a": ["x"], "b": ["x", "y"]}), "of the same length"),
    "rows of predictions": (lambda: find_label_issues(LABELS, PROBABILITIES[:9]), "has 9 rows for 40 labels"),
    "no labels": (lambda: audit_labels(LABELS[:0], PROBABILITIES[:0]), "There are no labels"),
    "too many names": (
        lambda: find_label_issues(LABELS, PROBABILITIES, label_names=["x", "a", "b"]),
        "There are 3 `label_names`, and `pred_probs` is of 2 classes",
    ),
    "names that are the same": (lambda: issue_table([0.1], [0], label_names=[1, "1"]), "has '1' twice"),
    "no name": (lambda: issue_table([0.1], [0], label_names=["a", None]), "`label_names` has None in it"),
    "no table": (lambda: to_csv([1], "out.csv"), "it is a list. Take what"),
    "noise_rate": (lambda: inject_label_noise(ROWS, "symmetric", "0.2"), "it has to be a number in .0, 1.; got .0.2."),
    "a label that is none": (
        lambda: inject_label_noise(ROWS.select([0]).map(lambda row: {"label": -1}), "symmetric", 0.2),
        "The label of sample 0 is -1.*drop such samples",
    ),
    "num_labels": (
        lambda: inject_label_noise(ROWS, "symmetric", 0.2, num_labels=2.5),
        "`num_labels` has to be a whole",
    ),
    "splits": (lambda: inject_label_noise({"train": ROWS}, "symmetric", 0.2), "a datasets.Dataset, such as one split"),
    "losses for evidence": (lambda: evidence_mixture(np.ones(9)), "`evidence` has to be a SampleEvidence"),
    "words for losses": (lambda: gaussian_mixture(["a", "b"]), "`losses` has to hold numbers"),
}


@pytest.mark.parametrize("argument", BAD_ARGUMENTS)
def test_bad_arguments_are_refused_in_words(argument):
    call, message = BAD_ARGUMENTS[argument]
    with pytest.raises(ValueError, match=message):
        call()


def test_texts_may_be_a_list():
    texts = [f"text {row}" for row in range(40)]
    frame = pd.DataFrame({"text": texts}, index=[f"row {row}" for row in range(40)])
    for own in (texts, np.array(texts), {"text": texts}, frame, frame["text"], [None, *texts[1:]]):
        table = find_label_issues(LABELS, PROBABILITIES, texts=own, return_all=True)
        assert table["text"][1:] == [f"text {row}" for row in table["sample_index"]][1:]
    cuts = (size for size in (5, 10))
    found = audit_labels(LABELS, PROBABILITIES, cuts=cuts).expected_precision
    assert [row["num_labels"] for row in found] == [5, 10]


def test_a_table_may_be_a_data_frame(tmp_path):
    table = find_label_issues(LABELS, PROBABILITIES, texts=["a\0b"] + ["c"] * 39, return_all=True)
    to_csv(table.to_pandas(), tmp_path / "frame.csv")
    to_csv(table, tmp_path / "table.csv")
    assert (tmp_path / "frame.csv").read_bytes() == (tmp_path / "table.csv").read_bytes()
    to_parquet(table.to_pandas(), tmp_path / "frame.parquet")
    assert datasets.Dataset.from_parquet(str(tmp_path / "frame.parquet")).to_dict() == table.to_dict()


def test_a_rate_may_be_a_tensor():
    noisy, _ = inject_label_noise(ROWS, "symmetric", torch.tensor(0.25), seed=1)
    again, _ = inject_label_noise(ROWS, "symmetric", 0.25, seed=1)
    assert noisy["label"] == again["label"] != ROWS["label"]
