"""Training on the posterior: evidence before the first step, refits from what training predicts, resume, refusals."""

import logging
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.architectures import ARCHITECTURES, adapted, batch_of
from helpers.posterior import LEARNED, NO_DROPOUT, POSTERIOR, trainer_of
from helpers.token_tasks import token_classification
from helpers.toy import collate, tiny_bert, toy_dataset
from helpers.turn import assert_same, noisy_dataset, state_of
from torch.utils.data import WeightedRandomSampler
from transformers import TrainerCallback

from hf_clear import (
    CleanProbabilityCallback,
    CleanProbabilityEstimate,
    ClearLoraConfig,
    ClearTrainer,
    fit_noise_model,
    preset,
)
from hf_clear.estimators.noise_model import log_probabilities
from hf_clear.runs.label_issues import held_out_evidence
from hf_clear.without_posterior import with_gates


class Look(TrainerCallback):
    """Notes the state before the first step, and the posterior of every epoch."""

    def __init__(self):
        self.state, self.posteriors, self.targets = None, [], []

    def on_step_begin(self, args, state, control, **kwargs):
        store = self.trainer.sample_store
        if len(self.posteriors) <= int(state.epoch + 1e-6):
            self.state = self.state or state_of(self.trainer)
            self.posteriors.append(store.posterior.clone())
            self.targets.append(None if store.targets is None else store.targets.clone())


@torch.no_grad()
def predictions(model, dataset):
    model.eval()
    batch = collate(list(dataset.select_columns(["input_ids", "attention_mask"])))
    return model(**batch).logits.softmax(dim=-1)


def test_evidence_first_then_what_training_predicts(training_arguments):
    """With a learning rate of 0, each target and each loss is known in advance."""
    look, dataset = Look(), noisy_dataset(400)
    trainer = trainer_of(
        training_arguments(**POSTERIOR, learning_rate=0.0, num_train_epochs=2), dataset, callbacks=[look]
    )
    look.trainer, before = trainer, state_of(trainer)
    trainer.train()

    # No module has seen a label; the head has learned the targets.
    changed = {name for name in before if not torch.equal(before[name], look.state[name])}
    assert changed == {f"base_model.model.classifier.modules_to_save.default.{name}" for name in ("weight", "bias")}
    first, second = look.posteriors
    f, labels = predictions(trainer.model, dataset), torch.tensor(dataset["labels"])
    assert (f.argmax(dim=1) == first.argmax(dim=1)).float().mean() > 0.8
    # The posterior of the second epoch is that of the noise model of what the first predicted.
    model = fit_noise_model(log_probabilities(f.numpy()), labels.numpy())
    np.testing.assert_allclose(second.numpy(), model.target, atol=1e-3)
    np.testing.assert_allclose(trainer.sample_store.clean_probability.numpy(), model.clean_probability, atol=1e-3)
    np.testing.assert_allclose(trainer.sample_store.transition_matrix.numpy(), model.transition_matrix, atol=1e-3)
    # The loss is cross entropy with it.
    logs = trainer.state.log_history
    losses = [entry["posterior"] for entry in logs if "posterior" in entry]
    per_epoch = len(losses) // 2
    for epoch, target in enumerate((first, second)):
        expected = -(target * f.log()).sum(dim=1).mean()
        assert np.mean(losses[epoch * per_epoch : (epoch + 1) * per_epoch]) == pytest.approx(float(expected), rel=1e-3)
    fits = [entry for entry in logs if "noise_model_rate" in entry]
    assert [entry["epoch"] for entry in fits] == [0, 1]
    assert {"evidence_gain", "evidence_scale_mean_probe", "evidence_scale_head_probe"} <= fits[0].keys()


class Redrawn(ClearTrainer):
    def _get_train_sampler(self, train_dataset=None):
        return WeightedRandomSampler(torch.ones(400), 400, replacement=True)


@pytest.mark.parametrize(
    ("trainer_class", "arguments"),
    [(ClearTrainer, {"dataloader_drop_last": True, "per_device_train_batch_size": 96}), (Redrawn, {})],
    ids=["the last batch is dropped", "samples are drawn with replacement"],
)
def test_samples_that_an_epoch_leaves_out_are_predicted(training_arguments, caplog, trainer_class, arguments):
    """The posterior of the second epoch is that of all samples' predictions, whoever was in a batch of the first."""
    look, dataset = Look(), noisy_dataset(400)
    args = training_arguments(**POSTERIOR | {"learning_rate": 0.0, "num_train_epochs": 2} | arguments)
    trainer = trainer_of(args, dataset, callbacks=[look], trainer_class=trainer_class)
    look.trainer = trainer
    with caplog.at_level(logging.WARNING):
        trainer.train()
    model = fit_noise_model(log_probabilities(predictions(trainer.model, dataset).numpy()), np.array(dataset["labels"]))
    np.testing.assert_allclose(look.posteriors[1].numpy(), model.target, atol=1e-3)
    assert trainer.sample_store.losses.isfinite().all() and "not finite" not in caplog.text


def test_the_head_is_fitted_to_targets_in_larger_batches(training_arguments, monkeypatch):
    """As large as leaves 20 an epoch, at most four times; the learning rate by the square root. Arguments stay."""
    asked = []
    monkeypatch.setattr(
        "hf_clear.probing.head_start.train_probe",
        lambda probe, features, args, *rest, **more: asked.append((args.probe_batch_size, args.probe_learning_rate)),
    )
    for size in (2, 8, 32):
        args = training_arguments(**POSTERIOR | {"probe_batch_size": size, "probe_learning_rate": 0.01, "max_steps": 1})
        trainer_of(args, noisy_dataset(400)).train()
        assert (args.probe_batch_size, args.probe_learning_rate) == (size, 0.01)
    assert asked == [(8, pytest.approx(0.02)), (16, pytest.approx(0.01 * 2**0.5)), (32, 0.01)]


def test_a_run_resumes_bit_exactly(training_arguments):
    settings = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 30, "per_device_train_batch_size": 16}
    build, dataset = training_arguments(**POSTERIOR | settings), noisy_dataset(400)
    straight = trainer_of(build, dataset)
    straight.train()
    assert straight.sample_store.fitted_epoch == 1
    resumed = trainer_of(build, dataset)
    resumed.train(resume_from_checkpoint=f"{build.output_dir}/checkpoint-30")  # in mid-epoch
    assert_same(state_of(straight), state_of(resumed))
    assert torch.equal(straight.sample_store.posterior, resumed.sample_store.posterior)
    assert torch.equal(straight.sample_store.transition_matrix, resumed.sample_store.transition_matrix)


def test_labels_that_no_noise_matrix_explains_are_trained_with_gates(training_arguments, caplog):
    """Without wrong labels, for one; resumed, too. The settings of the user stay as they are."""
    dataset = noisy_dataset(400).remove_columns("labels").rename_column("true_label", "labels")
    settings = POSTERIOR | {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 10}
    build = training_arguments(**settings | {"per_device_train_batch_size": 16, "clear_gamma": 0.7})
    straight = trainer_of(build, dataset)
    with caplog.at_level(logging.WARNING, "hf_clear"):
        straight.train()
    assert "of what speaks against the given labels (it takes 50%, `clear_min_explained`)" in caplog.text
    assert "no effect" not in caplog.text
    instead = straight.clear_args
    names = ("clear_loss", "clear_ensemble_size")
    assert {name: getattr(instead, name) for name in names}.items() <= preset("clear").items()
    assert (instead.clear_estimator, instead.clear_routing) == ("evidence_mixture", "class_balanced")
    assert (build.clear_loss, build.clear_routing) == ("posterior", "none")
    fits = [entry for entry in straight.state.log_history if "mixture_separation" in entry]
    assert [entry["epoch"] for entry in fits] == [0, 1] and fits[0]["noise_model_explained"] < 0.5
    assert straight.sample_store.posterior is None and straight.sample_store.targets is not None
    assert [entry for entry in straight.state.log_history if "consistency" in entry]
    for step in (10, 30):  # in the first epoch, and in the second
        resumed = trainer_of(build, dataset)
        resumed.train(resume_from_checkpoint=f"{build.output_dir}/checkpoint-{step}")
        assert_same(state_of(straight), state_of(resumed))
        assert resumed.clear_args.clear_routing == "class_balanced"
    asked = {"clear_routing": "deterministic", "clear_ensemble_size": 3, "max_steps": 1}
    others = trainer_of(training_arguments(**settings | asked), dataset)
    others.train()
    assert with_gates(replace(others.args, clear_loss="gce", clear_loss_kwargs={"q": 0.5})).clear_loss_kwargs is None
    assert others.clear_args.clear_loss == "clear"
    assert (others.clear_args.clear_routing, others.clear_args.clear_ensemble_size) == ("deterministic", 3)
    by_losses = with_gates(replace(others.args, clear_warmup="epochs"), of_labels=True)
    assert (by_losses.clear_estimator, by_losses.clear_routing) == ("gaussian_mixture", "deterministic")
    always = trainer_of(training_arguments(**settings | {"clear_min_explained": 0, "max_steps": 1}), dataset)
    always.train()
    assert always.sample_store.posterior is not None and always.clear_args is always.args


def test_contradictions_are_refused_and_idle_settings_are_named(training_arguments, caplog):
    with pytest.raises(ValueError, match="'gaussian_mixture' tells right from wrong alone.*preset"):
        training_arguments(**{**POSTERIOR, "clear_estimator": "gaussian_mixture"})
    with pytest.raises(ValueError, match="There are: 'mean_probe', 'head_probe'"):
        training_arguments(**(POSTERIOR | {"clear_evidence": "knn"}))
    with caplog.at_level(logging.WARNING, "hf_clear"):
        given = {"clear_gamma": 0.7, "clear_consistency_weight": 2.0, "clear_min_explained": 0, "max_steps": 1}
        trainer_of(training_arguments(**(POSTERIOR | given))).train()
    assert "`clear_gamma=0.7` has no effect here: it takes gates" in caplog.text
    assert "`clear_consistency_weight=2.0` has no effect here: it takes `clear_loss='clear'`" in caplog.text


def test_a_callback_whose_estimator_gives_no_posterior(training_arguments):
    def likelihood(evidence):
        return CleanProbabilityEstimate(np.exp(-np.nan_to_num(evidence.losses, nan=np.inf)))

    for estimator, message in (("gaussian_mixture", "'gaussian_mixture' gives none"), (likelihood, "gave none")):
        trainer = trainer_of(
            training_arguments(**POSTERIOR), noisy_dataset(400), callbacks=[CleanProbabilityCallback(estimator)]
        )
        with pytest.raises(ValueError, match=message):
            trainer.train()
        assert trainer.state.global_step == 0


def frozen_head():
    return tiny_bert(), {"peft_config": ClearLoraConfig(r=4, target_modules=["query", "value"])}, {}


def own_loss():
    def mean_of_squares(outputs, labels, num_items_in_batch=None):
        return outputs["logits"].square().mean()

    return tiny_bert(), {"compute_loss_func": mean_of_squares}, {}


def smoothed():
    return tiny_bert(), {}, {"label_smoothing_factor": 0.1}


@pytest.mark.parametrize("name", ["classifier.weight", "bert.encoder.layer.1.attention.self.query.weight"])
def test_weights_that_are_no_numbers_are_refused_before_the_first_step(training_arguments, name):
    model = tiny_bert()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[0] = torch.nan if "query" in name else torch.inf
    model.classifier.bias.data.fill_(torch.nan if "classifier" in name else 0.0)
    trainer = trainer_of(training_arguments(), toy_dataset(), model)
    with pytest.raises(ValueError, match=f"predicts NaN or infinity for each of the 4 .*{name.split('.')[0]}"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_the_noise_model_is_refused_for_more_classes_than_it_is_for(training_arguments):
    """Before the first step, whatever the loss is."""
    arguments = training_arguments(**preset("clear") | {"clear_estimator": "noise_model"})
    trainer = trainer_of(arguments, toy_dataset(), tiny_bert(num_labels=4097))
    with pytest.raises(ValueError, match="There are 4097 classes. A noise matrix is for 4096 at most"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_held_out_rows_of_very_many_classes_have_no_score(training_arguments, caplog):
    trainer = trainer_of(training_arguments(), toy_dataset(), tiny_bert(num_labels=4097))
    with caplog.at_level(logging.WARNING, "hf_clear"):
        found = held_out_evidence(trainer, toy_dataset(8), {"clean_probability": np.ones(8)})
    assert np.isnan(found["label_score"]).all() and (found["predicted_label"] == -1).all()
    assert found["given_label"].tolist() == toy_dataset(8)["labels"][:] and "at most" in caplog.text


def many_classes():
    return tiny_bert(num_labels=4097), {}, {}


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (many_classes, "The model has 4097 classes, and the noise model is for 4096 at most."),
        (frozen_head, "The head 'classifier' of BertForSequenceClassification is frozen"),
        (own_loss, "The task loss is compute_loss_func"),
        (smoothed, "`label_smoothing_factor` is a target of its own"),
    ],
)
def test_what_the_posterior_cant_have_is_trained_with_gates_and_said(training_arguments, caplog, build, reason):
    model, kwargs, settings = build()
    arguments = training_arguments(**(preset("recommended") | {"clear_gamma": 0.7, "num_train_epochs": 4, **settings}))
    kwargs.setdefault("peft_config", ClearLoraConfig(task_type="SEQ_CLS", r=4))
    trainer = ClearTrainer(model, arguments, train_dataset=toy_dataset(), data_collator=collate, **kwargs)
    with caplog.at_level(logging.WARNING, "hf_clear"):
        trainer.train()
    assert reason in caplog.text and "this is trained as `preset('clear')`" in caplog.text
    assert trainer.sample_store.is_fitted and trainer.sample_store.posterior is None
    assert trainer.clear_args.clear_loss == "clear" and trainer.clear_args.clear_gamma == 0.7
    assert arguments.clear_loss == "posterior"  # the user's own stay as they are


def test_tokens_are_trained_with_gates_and_said(training_arguments, caplog):
    model, data, collator = token_classification()[:3]
    trainer = ClearTrainer(
        model,
        training_arguments(**preset("recommended"), num_train_epochs=4),
        train_dataset=data,
        data_collator=collator,
        peft_config=ClearLoraConfig(task_type="TOKEN_CLS", r=4),
    )
    with caplog.at_level(logging.WARNING, "hf_clear"):
        trainer.train()
    assert "Every token has a label, and the noise model is for one class a sample." in caplog.text
    assert trainer.ensemble_source == "step" and trainer.sample_store.is_fitted


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_has_evidence_and_a_posterior(training_arguments, monkeypatch, name):
    monkeypatch.setattr("hf_clear.probing.head_start.LEAST_SKILL", 0.0)  # of so few samples
    batch = {key: value for key, value in batch_of(name).items() if key != "labels"}
    size = len(next(iter(batch.values())))
    data = [{key: value[row % size] for key, value in batch.items()} | {"labels": row % 2} for row in range(16)]

    def stacked(items):
        return {key: torch.stack([torch.as_tensor(item[key]) for item in items]) for key in items[0]}

    settings = preset("recommended") | {"max_steps": 2, "probe_epochs": 1, "remove_unused_columns": False}
    settings["clear_min_explained"] = 0  # all labels are right
    trainer = ClearTrainer(
        adapted("lora", name), training_arguments(**settings), train_dataset=data, data_collator=stacked
    )
    trainer.train()
    assert trainer.clear_args.clear_loss == "posterior" and trainer.sample_store.fitted_epoch == 0
    assert torch.allclose(trainer.sample_store.posterior.sum(dim=1), torch.ones(16), atol=1e-5)


def test_samples_without_finite_features_are_no_evidence(training_arguments, caplog):
    """Their label stays, nothing is said about it, and the head doesn't learn NaN."""
    dataset = noisy_dataset(400)

    class Overflowing(torch.nn.Module):
        def __init__(self, embeddings):
            super().__init__()
            self.embeddings = embeddings

        def forward(self, input_ids=None, **kwargs):
            states = self.embeddings(input_ids=input_ids, **kwargs)
            broken = (input_ids == 59).any(dim=1)
            return states.masked_fill(broken.view(-1, 1, 1), torch.inf)

    def broken(row):
        row["input_ids"][1] = 59
        return row

    dataset = dataset.map(lambda row, i: broken(row) if i < 5 else row, with_indices=True)
    model = tiny_bert(**LEARNED, **NO_DROPOUT)
    model.bert.embeddings = Overflowing(model.bert.embeddings)
    is_broken = torch.tensor([59 in ids for ids in dataset["input_ids"]])
    look = Look()
    trainer = trainer_of(
        training_arguments(**POSTERIOR | {"max_steps": 1, "learning_rate": 0.0}), dataset, model, callbacks=[look]
    )
    look.trainer = trainer
    with caplog.at_level(logging.WARNING, "hf_clear"):
        trainer.train()
    assert (
        f"{is_broken.sum()} of 400 training samples (sample 0 first) have no score by the frozen model's features"
        in caplog.text
    )
    store = trainer.sample_store
    assert 5 <= is_broken.sum() < 50 and store.fitted_epoch == 0
    assert store.losses.isnan().equal(is_broken) and (store.posterior.sum(dim=1) == 0).equal(is_broken)
    assert all(tensor.isfinite().all() for name, tensor in look.state.items() if "modules_to_save" in name)
    table = trainer.clean_probabilities()
    assert np.isnan(table["clean_probability"])[is_broken.numpy()].all()


@pytest.mark.parametrize("evidence", ["mean_probe+head_probe", "head_probe"])
def test_a_model_that_gives_tuples_has_the_features_of_its_head_alone(training_arguments, caplog, evidence):
    model = tiny_bert(**LEARNED)
    model.config.return_dict = False
    arguments = training_arguments(**POSTERIOR | {"max_steps": 1, "clear_evidence": evidence})
    trainer = trainer_of(arguments, noisy_dataset(400), model)
    with caplog.at_level(logging.WARNING, "hf_clear"):
        trainer.train()
    needs_mean = "mean" in evidence
    assert (trainer.sample_store.posterior is None) == needs_mean
    assert (
        "doesn't give its hidden states by name" in caplog.text and "return_dict=False" in caplog.text
    ) == needs_mean


@pytest.mark.parametrize("is_merged", [False, True])
def test_a_trained_model_can_be_pickled_as_before(training_arguments, is_merged):
    """The pass over frozen features leaves nothing in the model, which gives hidden states to whoever asks then."""
    trainer = trainer_of(training_arguments(**POSTERIOR | {"max_steps": 1}), noisy_dataset(400))
    trainer.train()
    assert trainer.sample_store.is_fitted
    model = trainer.model.merge_and_unload() if is_merged else trainer.model
    assert not any(module._forward_hooks for module in model.modules())
    batch = collate(list(noisy_dataset(4)))
    states = model.eval()(**batch, output_hidden_states=True).hidden_states
    again = trainer_of(training_arguments(**POSTERIOR | {"max_steps": 1}), noisy_dataset(400))
    again.train()
    model = again.model.merge_and_unload() if is_merged else again.model
    copied = pickle.loads(pickle.dumps(model)).eval()
    torch.testing.assert_close(copied(**batch, output_hidden_states=True).hidden_states, states)


def test_the_card_of_a_run_on_the_posterior_says_what_it_is(training_arguments):
    trainer = trainer_of(training_arguments(**POSTERIOR | {"max_steps": 1}), noisy_dataset(400))
    trainer.train()
    trainer.create_model_card()
    with open(f"{trainer.args.output_dir}/README.md") as file:
        card = file.read()
    assert "on the posterior over the true class" in card and "mixture of two Gaussians over" not in card


def test_the_card_of_a_loss_without_gates_speaks_of_none(training_arguments):
    settings = {"clear_loss": "gce", "clear_warmup": "epochs", "clear_warmup_epochs": 1, "num_train_epochs": 2}
    trainer = trainer_of(training_arguments(**POSTERIOR | settings), noisy_dataset(100))
    trainer.train()
    trainer.create_model_card()
    with open(f"{trainer.args.output_dir}/README.md") as file:
        card = file.read()
    assert "the training loss is `gce`. All modules act on all samples." in card and "bypassed" not in card


@pytest.mark.parametrize(
    ("posterior", "message"),
    [
        (np.full((160, 4), 0.5), r"`posterior\[0\]` is no distribution"),
        (np.full((160, 4), np.nan), r"`posterior\[0\]` is no distribution"),
        (np.full((159, 4), 0.25), "one row for each of 160 samples"),
        (np.full((160, 5), 0.2), "a posterior over 5 classes, and the model has 4"),
    ],
)
def test_a_posterior_that_is_none_is_refused_before_the_first_step(training_arguments, posterior, message):
    def wrong(evidence):
        return CleanProbabilityEstimate(np.ones(len(evidence.losses)), posterior=posterior)

    arguments = training_arguments(**POSTERIOR | {"clear_warmup": "epochs", "clear_warmup_epochs": 0})
    trainer = trainer_of(arguments, callbacks=[CleanProbabilityCallback(wrong)])
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0
