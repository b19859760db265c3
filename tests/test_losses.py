import math

import numpy as np
import pytest
import torch
from helpers.toy import collate, tiny_bert, toy_dataset
from helpers.trainers import losses_of, minimized_by

from hf_clear import ClearArguments, ClearLoraConfig, ClearTrainer
from hf_clear.losses import (
    TRAINING_LOSSES,
    LossEvidence,
    consistency_loss,
    cross_entropy,
    generalized_cross_entropy,
    get_training_loss,
    per_sample,
    register_training_loss,
)

LORA = ClearLoraConfig(task_type="SEQ_CLS", r=4)

LOGITS = [[2.0, 0.0, -1.0], [0.5, 0.5, 0.5], [-3.0, 1.0, 4.0]]
TARGET = [[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]]
LABELS = [0, 2, 1]


def log_softmax(row: list[float]) -> list[float]:
    log_sum = math.log(sum(math.exp(x) for x in row))
    return [x - log_sum for x in row]


def test_losses_by_hand():
    expected_ce = [-log_softmax(row)[label] for row, label in zip(LOGITS, LABELS)]
    expected_consistency = [
        -sum(t * lp for t, lp in zip(target, log_softmax(row))) for row, target in zip(LOGITS, TARGET)
    ]
    logits = torch.tensor(LOGITS)
    assert cross_entropy(logits, torch.tensor(LABELS)).tolist() == pytest.approx(expected_ce, rel=1e-6)
    assert consistency_loss(logits, torch.tensor(TARGET)).tolist() == pytest.approx(expected_consistency, rel=1e-6)


def test_no_gradient_flows_into_the_ensemble():
    logits, target = torch.tensor(LOGITS, requires_grad=True), torch.tensor(TARGET, requires_grad=True)
    consistency_loss(logits, target).sum().backward()
    assert target.grad is None
    # d/dlogits of -Σ t log softmax = softmax · Σt - t
    assert torch.allclose(logits.grad, torch.tensor(LOGITS).softmax(-1) - torch.tensor(TARGET), atol=1e-6)


def test_no_target_means_no_loss():
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss = consistency_loss(logits, torch.zeros(3, 3))
    loss.sum().backward()
    assert not loss.any() and not logits.grad.any()


def test_label_smoothing_is_that_of_transformers():
    from transformers.trainer_pt_utils import LabelSmoother

    logits, labels = torch.tensor(LOGITS), torch.tensor(LABELS)
    stock = LabelSmoother(epsilon=0.1)({"logits": logits}, labels)
    assert cross_entropy(logits, labels, 0.1).mean().item() == pytest.approx(stock.item(), rel=1e-6)


def test_tokens_without_a_label_count_for_nothing():
    logits, labels = torch.tensor([LOGITS, LOGITS]), torch.tensor([[0, -100, 1], [-100, -100, -100]])
    losses = cross_entropy(logits, labels)
    expected = [-log_softmax(LOGITS[0])[0], 0.0, -log_softmax(LOGITS[2])[1]]
    assert losses[0].tolist() == pytest.approx(expected, rel=1e-6) and not losses[1].any()
    assert cross_entropy(logits, labels, reduction="sum").item() == pytest.approx(sum(expected), rel=1e-6)
    means = per_sample(losses, labels)
    assert means[0].item() == pytest.approx(sum(expected) / 2, rel=1e-6) and means[1].isnan()
    assert consistency_loss(logits, logits.softmax(-1)).shape == (2, 3)


@pytest.mark.parametrize("q", [1e-4, 0.3, 0.7, 1.0])
def test_generalized_cross_entropy_is_its_formula(q):
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.tensor([0, 1, 2, 3, 3])
    p = logits.softmax(dim=-1)[torch.arange(5), labels]
    torch.testing.assert_close(
        generalized_cross_entropy(logits, labels, q).double(), (1 - p**q) / q, rtol=1e-4, atol=1e-5
    )


def test_limits_of_generalized_cross_entropy():
    logits, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 0, -100])
    expected = cross_entropy(logits, labels)
    assert torch.equal(generalized_cross_entropy(logits, labels, 0.0), expected)
    torch.testing.assert_close(generalized_cross_entropy(logits, labels, 1e-6), expected, rtol=1e-4, atol=1e-5)
    mean_absolute_error = 1 - logits.softmax(dim=-1)[torch.arange(5), labels[:5]]
    torch.testing.assert_close(generalized_cross_entropy(logits, labels, 1.0)[:5], mean_absolute_error)
    assert generalized_cross_entropy(logits, labels, 0.7)[5] == 0
    with pytest.raises(ValueError, match=r"`q`.*\[0, 1\].*1.5"):
        generalized_cross_entropy(logits, labels, 1.5)


def test_generalized_cross_entropy_of_a_hopeless_sample_has_a_finite_gradient():
    logits = torch.tensor([[500.0, 0.0]], requires_grad=True)
    generalized_cross_entropy(logits, torch.tensor([1])).sum().backward()
    assert logits.grad.abs().max() < 1e-6  # where cross entropy would pull with 1


def test_training_losses_by_hand():
    """Each of the registered losses against its formula, in plain Python."""
    p, q, (alpha, beta), weight, size = [0.9, 0.2, 0.6], 0.5, (0.3, 2.0), 7.0, 4
    rows = [[math.exp(x) for x in log_softmax(row)] for row in LOGITS]
    ce = [-math.log(row[label]) for row, label in zip(rows, LABELS)]
    soft = [-sum(t * math.log(f) for t, f in zip(target, row)) for target, row in zip(TARGET, rows)]
    running = [[t + (f - t) / size for t, f in zip(target, row)] for target, row in zip(TARGET, rows)]
    inner = [sum(f * t for f, t in zip(row, target)) for row, target in zip(rows, running)]
    given = [row[label] for row, label in zip(rows, LABELS)]
    expected = {
        "clear": ({"consistency_weight": 0.5}, {"consistency": (soft, 0.5)}),
        "label_mix": (
            {},
            {
                "given_label": ([a * b for a, b in zip(p, ce)], 1),
                "ensemble": ([(1 - a) * b for a, b in zip(p, soft)], 1),
            },
        ),
        "posterior": ({}, {"posterior": (soft, 1)}),
        "weighted": ({}, {"weighted_cross_entropy": ([a * b for a, b in zip(p, ce)], 1)}),
        "elr": (
            {"elr_weight": weight, "ensemble_size": size},
            {"elr": ([math.log(1 - x) for x in inner], weight)},
        ),
        "gce": ({"q": q}, {"gce": ([(1 - x**q) / q for x in given], 1)}),
        "sce": (
            {"alpha": alpha, "beta": beta},
            {"cross_entropy": (ce, alpha), "reverse_cross_entropy": ([4 * (1 - x) for x in given], beta)},
        ),
    }
    assert expected.keys() == TRAINING_LOSSES.keys()
    target = torch.tensor(TARGET)
    evidence = LossEvidence(torch.tensor(LOGITS), torch.tensor(LABELS), torch.tensor(p), target, posterior=target)
    for name, (settings, parts) in expected.items():
        found = get_training_loss(name, settings)(evidence)
        assert found.keys() == parts.keys(), name
        for key, (values, part_weight) in parts.items():
            assert found[key].values.tolist() == pytest.approx(values, rel=1e-5), (name, key)
            assert found[key].weight == part_weight, (name, key)


def test_before_there_is_anything_a_loss_is_that_of_the_given_labels():
    """In the warm-up there is no clean probability, and a sample may have no target yet (a row of zeros)."""
    logits, labels = torch.tensor(LOGITS), torch.tensor(LABELS)
    ce = cross_entropy(logits, labels)
    warmup = LossEvidence(logits, labels, target=torch.tensor(TARGET), is_warmup=True)
    assert get_training_loss("clear")(warmup) == {}
    for name in ("label_mix", "weighted"):
        (part,) = get_training_loss(name)(warmup).values()
        assert torch.equal(part.values, ce), name
    no_target = LossEvidence(logits, labels, torch.full((3,), 0.3), torch.zeros(3, 3))
    parts = get_training_loss("label_mix")(no_target)
    assert torch.equal(parts["given_label"].values, ce) and not parts["ensemble"].values.any()
    assert not get_training_loss("elr")(no_target)["elr"].values.any()


def test_names_and_settings_are_looked_at():
    with pytest.raises(ValueError, match="`clear_loss`.*'hinge'.*'clear', 'elr'.*`register_training_loss`"):
        ClearArguments(clear_loss="hinge")
    with pytest.raises(ValueError, match="'gce' has no setting 'Q'. Its settings are: q=0.7"):
        ClearArguments(clear_loss="gce", clear_loss_kwargs={"Q": 0.5})
    with pytest.raises(ValueError, match="an argument of its own: set `clear_consistency_weight`"):
        ClearArguments(clear_loss="clear", clear_loss_kwargs={"consistency_weight": 0.5})
    with pytest.raises(ValueError, match="`clear_loss_kwargs` is no valid JSON"):
        ClearArguments(clear_loss_kwargs="q=0.5")
    assert ClearArguments(clear_loss="gce", clear_loss_kwargs='{"q": 0.5}').get_training_loss().settings == {"q": 0.5}
    elr = ClearArguments(clear_loss="elr", clear_ensemble_size=3, clear_loss_kwargs={"elr_weight": 1.0})
    assert elr.get_training_loss().settings == {"elr_weight": 1.0, "ensemble_size": 3}
    with pytest.raises(ValueError, match="with .evidence., and takes .*'weight'. Its settings need defaults"):
        register_training_loss("bad", lambda evidence, weight: {})
    with pytest.raises(ValueError, match="training loss 'clear' already"):
        register_training_loss("clear", lambda evidence: {})


@pytest.mark.parametrize("name", TRAINING_LOSSES)
def test_every_loss_trains(training_arguments, name):
    """Each part of what the trainer minimizes is in the log by its name; `loss` is without what is added to the task
    loss, so that it can be compared from the warm-up on."""
    estimator = "noise_model" if get_training_loss(name).uses_posterior else "gaussian_mixture"
    trainer = trainer_with(training_arguments(clear_loss=name, clear_warmup_epochs=1, clear_estimator=estimator))
    minimized = minimized_by(trainer)
    trainer.train()
    loss = trainer.clear_args.get_training_loss()
    log = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    parts = get_training_loss(name)(
        LossEvidence(torch.zeros(2, 4), torch.tensor([0, 1]), torch.ones(2), torch.full((2, 4), 0.25))
    )
    weights = {key: part.weight for key, part in parts.items()} | (
        {"cross_entropy": 1.0} if loss.adds_to_task_loss else {}
    )
    assert minimized[-1] == pytest.approx(sum(weight * log[key] for key, weight in weights.items()), rel=1e-4)
    assert log["loss"] == pytest.approx(log["cross_entropy"] if loss.adds_to_task_loss else minimized[-1], rel=1e-4)
    total = next(entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry)
    assert total == pytest.approx(np.mean(losses_of(trainer)), rel=1e-4)


def test_a_bad_setting_shows_before_the_first_step(training_arguments):
    trainer = trainer_with(training_arguments(clear_loss="gce", clear_loss_kwargs={"q": 1.5}))
    with pytest.raises(ValueError, match="`q` of the generalized cross entropy"):
        trainer.train()
    assert trainer.state.global_step == 0


def trainer_with(args) -> ClearTrainer:
    return ClearTrainer(tiny_bert(), args, train_dataset=toy_dataset(), data_collator=collate, peft_config=LORA)
