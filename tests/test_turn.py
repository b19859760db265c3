import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.toy import NUM_LABELS, collate, tiny_bert, toy_dataset
from peft import LoraConfig
from scipy.special import softmax
from scipy.stats import norm
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from hf_clear import (
    CleanProbabilityEstimate,
    ClearLoraConfig,
    ClearTrainer,
    ClearTrainingArguments,
    TurnTrainer,
    TurnTrainingArguments,
)
from hf_clear.cleansing import select_clean
from hf_clear.estimators import ESTIMATORS, NamedEstimator
from hf_clear.losses import generalized_cross_entropy
from hf_clear.noise import inject_label_noise
from hf_clear.turn_state import STATE_NAME


def accuracy(p) -> dict[str, float]:
    return {"accuracy": float((p.predictions.argmax(axis=1) == p.label_ids).mean())}


def noisy_dataset(num_samples: int = 160, rate: float = 0.3) -> Dataset:
    return inject_label_noise(toy_dataset(num_samples), "symmetric", rate, 0, label_column="labels")[0]


@pytest.fixture
def turn(training_arguments):
    def build(dataset=None, cls=TurnTrainer, model=None, **kwargs):
        own = {
            name: kwargs.pop(name)
            for name in ("peft_config", "model_init", "callbacks", "eval_dataset", "compute_metrics")
            if name in kwargs
        }
        arguments = training_arguments(
            TurnTrainingArguments,
            **{
                "num_train_epochs": 2,
                "probe_epochs": 6,
                "probe_learning_rate": 1e-2,
                "probe_batch_size": 32,
                "learning_rate": 1e-3,
                **kwargs,
            },
        )
        model = tiny_bert(initializer_range=0.2) if model is None and "model_init" not in own else model
        dataset = noisy_dataset() if dataset is None else dataset
        return cls(model=model, args=arguments, train_dataset=dataset, data_collator=collate, **own)

    return build


def state_of(trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


# ---- The phases ----


def test_probing_changes_the_head_and_nothing_else(turn):
    trainer = turn()
    before = state_of(trainer)
    metrics = trainer.linear_probe()
    after = state_of(trainer)
    assert {name for name in after if not torch.equal(before[name], after[name])} == {
        "classifier.weight",
        "classifier.bias",
    }
    assert_same({"weight": after["classifier.weight"]}, {"weight": trainer.probe.head.weight.detach()})
    losses = [entry["probe/loss"] for entry in trainer._logs if "probe/epoch" in entry]
    assert len(losses) == 6 and losses[-1] < losses[0] and metrics["probe/loss"] == losses[-1]
    assert metrics["probe/detection_auroc"] > 0.8
    # The model *is* the probe now.
    prediction = trainer.predict(trainer.train_dataset).predictions
    np.testing.assert_allclose(
        trainer.predict_probe(trainer.train_dataset).predictions, prediction, rtol=1e-4, atol=1e-5
    )


def test_mean_features_have_a_probe_of_their_own_and_the_head_is_probed_too(turn):
    head, mean = turn(), turn(probe_features="mean")
    for trainer in (head, mean):
        trainer.linear_probe()
    assert_same(state_of(head), state_of(mean))
    assert not np.array_equal(head.per_sample_losses(), mean.sample_store.losses.numpy())
    features = torch.from_numpy(mean.features())
    logits = mean.probe.mean(features).detach()
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(mean.train_dataset["labels"]), reduction="none")
    torch.testing.assert_close(mean.sample_store.losses, expected, rtol=1e-3, atol=1e-4)


def test_cleansing_equals_a_hand_computation(turn):
    trainer = turn(noisy_dataset(400), turn_threshold=0.7, turn_balance="none", probe_batch_size=8)
    trainer.linear_probe()
    metrics = trainer.cleanse()
    losses, labels = trainer.sample_store.losses.double().numpy(), np.array(trainer.train_dataset["labels"])
    clean = labels == np.array(trainer.train_dataset["true_label"])
    by_hand = np.zeros(400)
    for label in range(NUM_LABELS):
        rows = np.flatnonzero(labels == label)
        x = (losses[rows] - losses[rows].mean()) / losses[rows].std()
        mixture = GaussianMixture(2, random_state=0, max_iter=500).fit(x[:, None])
        means, stds = mixture.means_.ravel(), np.sqrt(np.maximum(mixture.covariances_.ravel(), 0.01))
        joint = mixture.weights_ * norm.pdf(x[:, None], means, stds)
        posterior = joint[:, means.argmin()] / joint.sum(axis=1)
        for row, loss in zip(rows, x):  # a smaller loss never means a smaller probability
            if loss <= means.min():
                by_hand[row] = posterior[(x >= loss) & (x <= x[x >= means.min()].min())].max()
            else:
                by_hand[row] = posterior[(x >= means.min()) & (x <= loss)].min()
    kept = np.flatnonzero(by_hand > 0.7)
    assert trainer.fine_tuning_samples.tolist() == kept.tolist() and 100 < len(kept) < 300
    assert metrics["cleanse/kept"] == metrics["cleanse/fine_tuning_samples"] == len(kept)
    assert metrics["cleanse/purity"] == pytest.approx(clean[kept].mean())
    assert metrics["cleanse/recall"] == pytest.approx(clean[kept].sum() / clean.sum())
    issues = trainer.label_issues()
    assert set(issues["sample_index"]) == set(np.flatnonzero(by_hand < 0.5))


PROBABILITY = np.array([0.9, 0.8, 0.7, 0.2, 0.61, 0.9, 0.5, 0.1, 0.6, 0.3])
CLASSES = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])


def test_balanced_draws(caplog):
    assert select_clean(PROBABILITY[:7], CLASSES[:7]).tolist() == [0, 1, 2, 4, 5]
    drawn = select_clean(PROBABILITY[:7], CLASSES[:7], balance="min", seed=3)
    assert len(drawn) == 4 and {4, 5} < set(drawn) < {0, 1, 2, 4, 5}
    assert drawn.tolist() == select_clean(PROBABILITY[:7], CLASSES[:7], balance="min", seed=3).tolist()
    others = [select_clean(PROBABILITY[:7], CLASSES[:7], balance="min", seed=seed).tolist() for seed in range(20)]
    assert {tuple(rows[:2]) for rows in others} == {(0, 1), (0, 2), (1, 2)}
    assert len(select_clean(PROBABILITY[:7], CLASSES[:7], balance=1)) == 2
    assert select_clean(PROBABILITY[:7], CLASSES[:7], balance=3).tolist() == [0, 1, 2, 4, 5]  # not more than there are
    assert not caplog.records


def test_a_class_without_a_clean_sample_is_not_dropped(caplog):
    """0.6 is not above 0.6: class 2 has none, and keeps its two best, as many as class 1 has."""
    assert select_clean(PROBABILITY, CLASSES).tolist() == [0, 1, 2, 4, 5, 8, 9]
    assert "No sample of 1 of the 3 classes (label 2)" in caplog.text and "the 2 most" in caplog.text
    assert np.bincount(CLASSES[select_clean(PROBABILITY, CLASSES, balance="min")]).tolist() == [2, 2, 2]


class Killed(Exception):
    pass


class KillAt(TrainerCallback):
    """Ends the run when something is logged, before it is saved."""

    def __init__(self, when):
        self.when = when

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.when(logs, state):
            raise Killed


@pytest.mark.parametrize(
    "when",
    [
        pytest.param(lambda logs, state: logs.get("probe/epoch") == 1, id="before the first probing epoch is saved"),
        pytest.param(lambda logs, state: logs.get("probe/epoch") == 4, id="probing"),
        pytest.param(lambda logs, state: "probe/runtime" in logs, id="after probing"),
        pytest.param(lambda logs, state: "cleanse/kept" in logs, id="cleansing"),
        pytest.param(lambda logs, state: state.global_step == 3, id="fine-tuning, before its first checkpoint"),
        pytest.param(lambda logs, state: state.global_step == 16, id="fine-tuning, in mid-epoch"),
    ],
)
@pytest.mark.parametrize("peft", [False, True])
def test_every_phase_resumes_to_the_same_result(turn, tmp_path, when, peft):
    kwargs = {"save_strategy": "steps", "save_steps": 7, "probe_features": "mean", "turn_balance": "min"}
    if peft:
        kwargs["peft_config"] = LoraConfig(task_type="SEQ_CLS", lora_dropout=0.1)
    straight = turn(**kwargs)
    expected = straight.train()
    shutil.rmtree(tmp_path / "out")

    killed = turn(callbacks=[KillAt(when)], **kwargs)
    with pytest.raises(Killed):
        killed.train()
    is_there = (tmp_path / "out" / STATE_NAME).is_file()
    resumed = turn(**kwargs)
    output = resumed.train(resume_from_checkpoint=is_there)
    assert_same(state_of(straight), state_of(resumed))
    assert_same(straight.probe.state_dict(), resumed.probe.state_dict())
    assert straight.clean_probabilities()[:] == resumed.clean_probabilities()[:]
    assert output.global_step == expected.global_step > 20

    def of_phases(trainer):
        return [
            {name: value for name, value in entry.items() if not name.endswith("runtime")}
            for entry in trainer.state.log_history
            if any(name.startswith(("probe/", "cleanse/")) for name in entry)
        ]

    assert of_phases(straight) == of_phases(resumed)
    assert set(output.metrics) == set(expected.metrics) > {"probe/loss", "cleanse/purity", "finetune/loss"}


def test_all_samples_called_noisy_and_the_probe_is_kept(turn, monkeypatch):
    dataset = noisy_dataset()
    hopeless = NamedEstimator("hopeless", lambda e: CleanProbabilityEstimate(np.full(len(e.losses), 0.2)))
    monkeypatch.setitem(ESTIMATORS, "hopeless", hopeless)
    trainer = turn(dataset, turn_estimator="hopeless")
    with pytest.raises(ValueError, match="above 0.6: all 160 are called noisy.*is 0.2.*Lower `turn_threshold`"):
        trainer.train()
    trainer.args.turn_threshold = 0.1  # in the same process
    assert trainer.cleanse()["cleanse/kept"] == 160
    # In another, where nothing is probed again.
    resumed = turn(dataset)
    monkeypatch.setattr(resumed, "linear_probe", None)
    resumed.train(resume_from_checkpoint=True)
    straight = turn(dataset)
    straight.train()
    assert_same(state_of(straight), state_of(resumed))


def test_a_probe_that_was_interrupted_in_mid_epoch_begins_again(turn, monkeypatch):
    straight, trainer = turn(), turn()
    straight.linear_probe()
    with monkeypatch.context() as patch:
        steps = iter(range(8))  # five an epoch

        def loss(*args):
            next(steps)
            return generalized_cross_entropy(*args)

        patch.setattr("hf_clear.probing.generalized_cross_entropy", loss)
        with pytest.raises((StopIteration, RuntimeError)):
            trainer.linear_probe()
    trainer.model.load_state_dict(turn().model.state_dict())
    trainer.linear_probe()
    assert_same(straight.probe.state_dict(), trainer.probe.state_dict())


def test_the_phases_alone_are_the_training(turn):
    whole = turn()
    metrics = whole.train().metrics
    parts = turn()
    own = {**parts.linear_probe(), **parts.cleanse(), **parts.finetune().metrics}
    assert_same(state_of(whole), state_of(parts))
    assert set(own) == set(metrics) and own["cleanse/purity"] == metrics["cleanse/purity"]


def test_phases_out_of_order(turn):
    trainer = turn()
    for phase, message in (
        (trainer.cleanse, r"call `linear_probe\(\)` first"),
        (trainer.finetune, r"call `cleanse\(\)` first"),
        (lambda: trainer.predict_probe(trainer.train_dataset), r"call `linear_probe\(\)` first"),
        (trainer.clean_probabilities, "no clean probabilities"),
    ):
        with pytest.raises(RuntimeError, match=message):
            phase()


def test_fine_tuning_is_what_trainer_does_on_the_kept_samples(turn, training_arguments):
    trainer = turn()
    trainer.linear_probe()
    trainer.cleanse()
    model = copy.deepcopy(trainer.model)
    trainer.finetune()
    arguments = training_arguments(TrainingArguments, num_train_epochs=2, learning_rate=1e-3)
    stock = Trainer(
        model, arguments, train_dataset=trainer.train_dataset.select(trainer.fine_tuning_samples), data_collator=collate
    )
    stock.train()
    assert_same(state_of(stock), state_of(trainer))


def test_peft_modules_instead_of_the_whole_model(turn, tmp_path):
    trainer = turn(peft_config=ClearLoraConfig(task_type="SEQ_CLS", r=4))
    before = state_of(trainer)
    trainer.train()
    after = state_of(trainer)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed and all("lora_" in name or "modules_to_save" in name for name in changed)
    trainer.save_model()
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    # The probe looks at the base model, which is as it was.
    losses = -np.log(softmax(trainer.predict_probe(trainer.train_dataset).predictions, axis=1))
    given = losses[np.arange(len(losses)), trainer.train_dataset["labels"]]
    np.testing.assert_allclose(given, trainer.sample_store.losses.numpy(), rtol=1e-4, atol=1e-5)


def test_evaluation_in_every_phase(turn):
    sets = {"seen": toy_dataset(20), "new": toy_dataset(20, seed=1)}
    trainer = turn(eval_dataset=sets, compute_metrics=accuracy, eval_strategy="epoch")
    metrics = trainer.train().metrics
    for name in sets:
        assert 0 <= metrics[f"probe/eval_{name}_accuracy"] <= 1
        assert any(f"eval_{name}_accuracy" in entry for entry in trainer.state.log_history)
    logged = [next(iter(entry)) for entry in trainer.state.log_history]
    assert logged.index("probe/loss") < logged.index("cleanse/clean_fraction") < logged.index("loss")


def test_model_init_gives_every_run_its_own_probe(turn):
    def model_init(trial=None):
        return tiny_bert(initializer_range=0.2)

    trainer = turn(model_init=model_init)
    trainer.linear_probe()
    trainer.cleanse()
    trainer.args.learning_rate, trainer.args.weight_decay = 0.0, 0.0
    trainer.finetune()
    assert_same({"head": trainer.probe.head.weight.detach()}, {"head": trainer.model.classifier.weight.detach()})
    trainer = turn(model_init=model_init)
    trainer.train()
    first, probe = state_of(trainer), trainer.probe
    trainer.train()
    assert_same(first, state_of(trainer))
    assert_same(probe.state_dict(), trainer.probe.state_dict())


def test_digits_through_a_vision_transformer(training_arguments):
    """A ViT that was trained on one half of the images learns from the other, of whose labels 40 % are wrong."""
    images, digits = load_digits(return_X_y=True)
    images = (images.reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32)

    def data(first: int) -> Dataset:
        return Dataset.from_dict({"pixel_values": images[first::2], "labels": digits[first::2]})

    torch.manual_seed(0)
    model = ViTForImageClassification(
        ViTConfig(
            **{"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10, "hidden_size": 64},
            **{"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128},
        )
    )
    arguments = {"learning_rate": 1e-3, "per_device_train_batch_size": 32, "num_train_epochs": 8}
    pretraining = training_arguments(TrainingArguments, **arguments)
    Trainer(model, pretraining, train_dataset=data(0).with_format("torch")).train()
    model.classifier = torch.nn.Linear(64, 10)

    train, test = data(1).train_test_split(0.25, seed=0).values()
    train = inject_label_noise(train, "symmetric", 0.4, 0, label_column="labels")[0]
    trainer = TurnTrainer(
        model=model,
        args=training_arguments(TurnTrainingArguments, turn_balance="none", **arguments),
        train_dataset=train.with_format("torch"),
        compute_metrics=accuracy,
    )
    metrics = trainer.linear_probe() | trainer.cleanse()
    probe = trainer.predict_probe(test.with_format("torch")).metrics["test_accuracy"]
    trainer.finetune()
    assert metrics["probe/detection_auroc"] > 0.95
    assert metrics["cleanse/purity"] > 0.95
    assert trainer.evaluate(test.with_format("torch"))["eval_accuracy"] > max(probe, 0.8)


# ---- The probe as CleaR's warm-up ----


def test_linear_probe_as_warm_up_of_clear(training_arguments):
    """The first gates follow the probe's clean probabilities, before any module has seen a label."""
    seen = {}

    class Look(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 0:
                seen["state"] = state_of(trainer)
                seen["probability"] = trainer.sample_store.clean_probability.clone()

        def on_epoch_end(self, args, state, control, **kwargs):
            seen.setdefault("probabilities", []).append(trainer.sample_store.clean_probability.clone())
            seen.setdefault("targets", []).append(trainer.sample_store.targets.clone())

    dataset = noisy_dataset()
    probe = {"probe_epochs": 6, "probe_learning_rate": 1e-2, "num_train_epochs": 4}
    arguments = training_arguments(
        ClearTrainingArguments,
        **{"clear_warmup": "linear_probe", "clear_warmup_epochs": 2, **probe},
        clear_estimator="per_class_gaussian_mixture",
    )
    config = ClearLoraConfig(task_type="SEQ_CLS", r=4)
    trainer = ClearTrainer(
        tiny_bert(initializer_range=0.2),
        arguments,
        train_dataset=dataset,
        data_collator=collate,
        peft_config=config,
        callbacks=[Look()],
    )
    before = state_of(trainer)
    trainer.train()

    changed = {name for name in before if not torch.equal(before[name], seen["state"][name])}
    assert changed == {f"base_model.model.classifier.modules_to_save.default.{name}" for name in ("weight", "bias")}
    turn = TurnTrainer(
        tiny_bert(initializer_range=0.2),
        training_arguments(TurnTrainingArguments, **probe),
        train_dataset=dataset,
        data_collator=collate,
        peft_config=config,
    )
    turn.linear_probe()
    turn.cleanse()
    assert torch.equal(seen["probability"], turn.sample_store.clean_probability)
    assert_same(
        {name: tensor for name, tensor in state_of(turn).items() if "modules_to_save" in name},
        {name: tensor for name, tensor in seen["state"].items() if "modules_to_save" in name},
    )
    first, second, third, _ = seen["probabilities"]
    assert torch.equal(first, second) and not torch.equal(second, third)  # refitted to the model from epoch 3 on
    assert not torch.equal(seen["targets"][0], seen["targets"][1])  # the ensemble is asked again each epoch


def test_a_run_warmed_up_by_a_probe_resumes(training_arguments, tmp_path):
    def build(**kwargs):
        arguments = training_arguments(
            ClearTrainingArguments,
            **{"clear_warmup": "linear_probe", "clear_warmup_epochs": 2, "probe_epochs": 3, "num_train_epochs": 3},
            **{"save_strategy": "steps", "save_steps": 13},  # in mid-epoch
        )
        config = ClearLoraConfig(task_type="SEQ_CLS", r=4)
        return ClearTrainer(
            tiny_bert(), arguments, train_dataset=noisy_dataset(), data_collator=collate, peft_config=config, **kwargs
        )

    straight = build()
    straight.train()
    for step in (13, 26):
        resumed = build()
        resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{step}"))
        assert_same(state_of(straight), state_of(resumed))
        assert straight.clean_probabilities()[:] == resumed.clean_probabilities()[:]


# ---- What is refused ----


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"turn_threshold": 0.0}, "`turn_threshold`.*strictly between 0 and 1; got 0.0"),
        ({"turn_threshold": 1.0}, "`turn_threshold`.*strictly between 0 and 1; got 1.0"),
        ({"probe_gce_q": 1.1}, r"`probe_gce_q` has to be in \[0, 1\].*1.1"),
        ({"probe_gce_q": -0.1}, r"`probe_gce_q` has to be in \[0, 1\].*-0.1"),
        ({"turn_balance": "max"}, "`turn_balance` has to be 'min', 'none' or a number.*'max'"),
        ({"turn_balance": 0}, "`turn_balance` has to be"),
        ({"turn_estimator": "guess"}, "no clean-probability estimator 'guess'"),
        ({"probe_epochs": 0}, "`probe_epochs` has to be a whole number, 1 or above"),
        ({"probe_features": "cls"}, "`probe_features` has to be 'head' or 'mean'"),
        ({"probe_learning_rate": 0}, "`probe_learning_rate` has to be above 0"),
        ({"probe_batch_size": 2.5}, "`probe_batch_size` has to be a whole number"),
        ({"turn_threshold": "0.6"}, "`turn_threshold` has to be a number; got '0.6'"),
        ({"probe_gce_q": None}, "`probe_gce_q` has to be a number; got None"),
        ({"turn_balance": True}, "`turn_balance` has to be"),
    ],
)
def test_arguments_out_of_range(training_arguments, arguments, message):
    with pytest.raises(ValueError, match=message):
        training_arguments(TurnTrainingArguments, **arguments)


def test_numbers_of_another_type(training_arguments):
    arguments = training_arguments(TurnTrainingArguments, probe_epochs=2.0)
    assert arguments.probe_epochs == 2 and isinstance(arguments.probe_epochs, int)
    assert training_arguments(TurnTrainingArguments, turn_balance="30").turn_balance == 30


def test_data_and_models_that_do_not_fit(turn, training_arguments):
    with pytest.raises(ValueError, match="label of sample 3 is 9.*0 to 3"):
        turn(toy_dataset(12).map(lambda row, i: {"labels": 9 if i == 3 else 0}, with_indices=True)).train()
    tokens = toy_dataset(12).map(lambda row: {"labels": [0] * len(row["input_ids"])})
    config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_labels=4)
    with pytest.raises(ValueError, match="TURN needs one class label a sample"):
        turn(tokens, model=BertForTokenClassification(config)).train()
    with pytest.raises(ValueError, match="TURN is for classification.*regression"):
        turn(model=BertForSequenceClassification(BertConfig(**{**config.to_dict(), "num_labels": 1})))
    with pytest.raises(ValueError, match="BertModel has no head called"):
        turn(model=BertForSequenceClassification(config).bert)
    with pytest.raises(ValueError, match="TURN keeps a clean probability.*IterableDataset"):
        turn(toy_dataset(12).to_iterable_dataset(), max_steps=3)


def test_states_that_do_not_fit(turn, tmp_path):
    path = tmp_path / "out" / STATE_NAME
    with pytest.raises(ValueError, match="No checkpoint and no _turn_state.safetensors in the output directory"):
        turn().train(resume_from_checkpoint=True)
    turn(save_strategy="epoch").train()
    checkpoint = str(next((tmp_path / "out").glob("checkpoint-*")))
    with pytest.raises(ValueError, match=r"of a run with other settings \(probe_epochs=6, seed=7\)"):
        turn(probe_epochs=7, seed=8).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match=r"other settings \(turn_threshold=0.6\)"):  # has been fine-tuned on
        turn(turn_threshold=0.7).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match=r"other settings \(num_samples=160, checksum_of_labels"):
        turn(noisy_dataset(120)).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match=r"other settings \(checksum_of_labels"):  # as many samples
        turn(noisy_dataset(rate=0.2)).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match=r"other settings \(num_parameters"):
        turn(model=tiny_bert(num_hidden_layers=2)).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        turn().train(resume_from_checkpoint=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="is a file: name the folder"):
        turn().train(resume_from_checkpoint=str(path))
    with pytest.raises(FileNotFoundError, match="is missing.*TurnTrainer"):
        turn().train(resume_from_checkpoint=str(tmp_path))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="_turn_state.safetensors is damaged.*start again"):
        turn().train(resume_from_checkpoint=str(tmp_path / "out"))


def test_resuming_from_checkpoints_without_optimizer(turn):
    """They hold no state of TURN either; the one in `output_dir` stands in."""
    arguments = {"save_strategy": "epoch", "save_only_model": True}
    turn(**arguments).train()
    again = turn(**arguments)
    again.train(resume_from_checkpoint=True)
    assert again.fine_tuning_samples is not None and again.clean_probabilities()


def test_cleansing_again(turn):
    """With other arguments, after a fine-tuning that was resumed, and where features would be needed that are gone."""
    trainer = turn(save_strategy="epoch")
    trainer.linear_probe()
    trainer.args.turn_estimator = "knn"  # needs features that the probe didn't
    trainer.cleanse()
    trainer.args.turn_estimator = "per_class_gaussian_mixture"
    trainer.train()
    probability = trainer.sample_store.clean_probability.clone()
    trainer.cleanse()
    assert torch.equal(probability, trainer.sample_store.clean_probability)
    resumed = turn(save_strategy="epoch")
    resumed.finetune(True)
    assert torch.equal(probability, resumed.sample_store.clean_probability)
    with pytest.raises(RuntimeError, match="Fine-tuning has changed the features"):
        resumed.cleanse()
    for name, value, message in (
        ("turn_threshold", 1.5, "strictly between 0 and 1; got 1.5"),
        ("turn_balance", "bogus", "'min', 'none' or a number"),
    ):
        other = turn()
        other.linear_probe()
        setattr(other.args, name, value)
        with pytest.raises(ValueError, match=message):
            other.cleanse()


def test_a_training_set_that_is_replaced_between_the_phases(turn):
    trainer = turn()
    trainer.linear_probe()
    trainer.cleanse()
    trainer.train_dataset = noisy_dataset(120)
    for phase in (trainer.cleanse, trainer.finetune):
        with pytest.raises(ValueError, match="has 120 samples, and the probe has seen 160"):
            phase()


def test_labels_under_another_name_or_of_another_shape(turn, training_arguments):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = tiny_bert(initializer_range=0.2)
            self.classifier, self.bert.classifier = self.bert.classifier, torch.nn.Identity()

        def forward(self, input_ids, attention_mask, target=None):
            logits = self.classifier(self.bert(input_ids, attention_mask).logits)
            loss = None if target is None else torch.nn.functional.cross_entropy(logits, target)
            return {"logits": logits} if loss is None else {"loss": loss, "logits": logits}

    def renamed(items):
        batch = collate(items)
        return {**batch, "target": batch.pop("labels")} if "labels" in batch else batch

    arguments = {"probe_epochs": 6, "probe_learning_rate": 1e-2, "num_train_epochs": 1}
    trainer = TurnTrainer(
        Model(),
        training_arguments(TurnTrainingArguments, label_names=["target"], remove_unused_columns=False, **arguments),
        train_dataset=noisy_dataset(),
        data_collator=renamed,
    )
    metrics = trainer.linear_probe()
    stock = turn()
    stock.linear_probe()
    assert metrics["probe/loss"] == pytest.approx(stock.phase_metrics["probe/loss"], rel=1e-3)
    column = turn()
    column.data_collator = lambda items: {**(batch := collate(items)), "labels": batch["labels"][:, None]}
    with pytest.raises(ValueError, match=r"no labels of shape \[batch\].*data collator"):
        column.linear_probe()


def test_evaluation_of_the_probe_takes_what_it_can(turn, caplog):
    trainer = turn(eval_dataset=toy_dataset(20), compute_metrics=accuracy)
    trainer.preprocess_logits_for_metrics = lambda logits, labels: logits.argmax(dim=-1)
    trainer.compute_metrics = lambda p: {"accuracy": float((p.predictions == p.label_ids).mean())}
    assert trainer.linear_probe()["probe/eval_accuracy"] == trainer.evaluate()["eval_accuracy"]
    trainer.eval_dataset = toy_dataset(20).to_iterable_dataset()
    assert "probe/eval_loss" not in trainer.linear_probe() and "not evaluated on an IterableDataset" in caplog.text
    unlabelled = trainer.predict_probe(toy_dataset(5).remove_columns("labels"))
    assert unlabelled.label_ids is None and unlabelled.metrics == {}


def test_an_interrupted_write_leaves_the_state_as_it_was(turn, tmp_path, monkeypatch):
    trainer = turn()
    trainer.linear_probe()
    content = (tmp_path / "out" / STATE_NAME).read_bytes()

    def fail(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        trainer.cleanse()
    assert (tmp_path / "out" / STATE_NAME).read_bytes() == content
    assert [file.name for file in Path(tmp_path / "out").iterdir()] == [STATE_NAME]
