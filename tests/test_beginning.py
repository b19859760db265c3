"""Plain epochs that teach a model nothing: it begins anew, and goes by what the evidence says."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.posterior import GOOD, NOTHING, POSTERIOR, WEAK, ExplainsLater, Modes, trainer_of
from helpers.toy import collate
from helpers.turn import assert_same, noisy_dataset, state_of
from transformers import TrainerCallback

from hf_clear.beginning import STATE_NAME, Beginning
from hf_clear.noise import TRUE_LABEL

EPOCH = 240 // 8  # steps
SETTINGS = POSTERIOR | {"num_train_epochs": 4, "clear_warmup_epochs": 3, "save_strategy": "steps", "save_steps": 20}


class Look(TrainerCallback):
    """What is trained, what the optimizer knows and how many labels are predicted right, at the beginning of epochs."""

    def __init__(self, dataset):
        self.dataset, self.seen = dataset, []

    def on_step_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        if state.global_step % EPOCH:
            return
        inputs = collate(list(self.dataset.remove_columns(TRUE_LABEL)))
        with torch.no_grad():
            found = model.eval()(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        right = (found.argmax(dim=1).numpy() == np.array(self.dataset[TRUE_LABEL])).mean()
        self.seen.append((state_of(self.trainer), len(getattr(optimizer, "optimizer", optimizer).state), right))


@pytest.fixture
def dataset(monkeypatch):
    """Evidence that tells much, and counts as weak."""
    monkeypatch.setattr("hf_clear.probing.head_start.LEAST_SKILL", 1.1)
    return noisy_dataset(240)


class KnowsTheEvidence(ExplainsLater):
    def __call__(self, evidence):
        assert evidence.held_out_clean_probability is not None
        return super().__call__(evidence)


def test_it_begins_anew_and_resumes_bit_exactly(training_arguments, dataset, monkeypatch, caplog):
    """After the first plain epoch that ends with nothing, for one epoch by the evidence; the next refit decides. A
    head that happens to predict is no reason to keep it, since it wasn't one at first."""
    monkeypatch.setattr("hf_clear.probing.head_start.no_better_than_chance", lambda *predictions: None)
    build = training_arguments(**SETTINGS, learning_rate=1e-3, per_device_train_batch_size=8)
    look, modes = Look(dataset), Modes()
    told = WEAK, NOTHING, NOTHING, WEAK, WEAK  # by training; by training and a pass, and the evidence; then by training
    straight = look.trainer = modes.trainer = trainer_of(
        build, dataset, callbacks=[KnowsTheEvidence(*told).callback(), look, modes]
    )
    before = state_of(straight)
    with caplog.at_level(logging.WARNING, "hf_clear"):
        straight.train()
    assert caplog.text.count("taught the model nothing") == 1
    assert "Unless an epoch ends with a model that says nothing: it begins anew" in caplog.text
    assert [mode[0] for _, mode in sorted(modes.seen.items())] == ["posterior"] * 3 + ["clear"]
    (first, *_), (_, _, chance), (anew, known, right), (_, known_later, _) = look.seen
    assert_same(before, first)  # keeping it changes nothing
    heads = {name for name in before if "classifier.modules_to_save" in name}
    assert_same(*({name: own for name, own in of.items() if name not in heads} for of in (before, anew)))
    assert heads and not any(torch.equal(before[name], anew[name]) for name in heads)
    assert known == 0 < known_later and chance < 0.5 < 0.7 < right
    assert not straight.sample_store.keeps_gates and not straight.sample_store.is_provisional

    folders = {step: Path(build.output_dir) / f"checkpoint-{step}" for step in (40, 60, 80)}
    assert [(folder / STATE_NAME).is_file() for folder in folders.values()] == [True, True, False]
    for step, done in ((80, 4), (60, 1), (40, 1)):  # in the middle of an epoch, nobody asks again
        resumed = trainer_of(build, dataset, callbacks=[KnowsTheEvidence(*told[done:]).callback()])
        resumed.train(resume_from_checkpoint=str(folders[step]))
        assert_same(state_of(straight), state_of(resumed))


def test_its_targets_are_those_of_the_evidence(training_arguments, dataset):
    """Which the first fit follows as it is, though a matrix explains too little by it."""
    build = training_arguments(**SETTINGS, learning_rate=1e-3, per_device_train_batch_size=8, max_steps=2 * EPOCH + 1)
    trainer = trainer_of(build, dataset, callbacks=[ExplainsLater(WEAK, NOTHING, NOTHING, WEAK).callback()])
    trainer.train()
    store = trainer.sample_store
    assert store.fitted_epoch == 2 and store.is_provisional
    suggested = store.posterior.argmax(dim=1).numpy()
    assert (suggested == np.array(dataset[TRUE_LABEL])).mean() > 0.7
    given = store.held_out_clean_probability.numpy()  # by the noise model of the scores, of which the fit is another
    assert np.abs(store.clean_probability.numpy() - given).mean() < 0.05


def test_a_model_that_has_learned_something_goes_on(training_arguments, dataset, caplog):
    """With a posterior, and with plain epochs that are those of a run that keeps nothing."""
    build = training_arguments(**SETTINGS, learning_rate=1e-3, per_device_train_batch_size=8)
    looks = []
    for settings in ({}, {"clear_min_explained": 0.0}):  # 0: there are no gates, and nothing is kept
        looks.append(look := Look(dataset))
        for name, value in settings.items():
            setattr(build, name, value)
        look.trainer = trainer_of(build, dataset, callbacks=[ExplainsLater(GOOD, GOOD, GOOD, NOTHING).callback(), look])
        with caplog.at_level(logging.WARNING, "hf_clear"):
            look.trainer.train()
        assert (look.trainer._beginning is None) == bool(settings)
        told = [entry["noise_model_skill"] for entry in look.trainer.state.log_history if "noise_model_skill" in entry]
        assert told[: len(told) - 1] == [GOOD[0]] * (0 if settings else 2)  # of plain epochs, before the first fit
    assert "taught the model nothing" not in caplog.text
    for (kept, *_), (not_kept, *_) in zip(*(look.seen[:2] for look in looks)):
        assert_same(kept, not_kept)


def test_what_was_trained_is_restored_whatever_is_trained_now(training_arguments, dataset):
    """Callbacks may freeze and unfreeze."""
    model = trainer_of(training_arguments(**SETTINGS), dataset).model
    (trained, *_), (frozen, *_) = (
        [(name, own) for name, own in model.named_parameters() if own.requires_grad == is_trained]
        for is_trained in (True, False)
    )
    before, kept = trained[1].detach().clone(), Beginning(model)
    trained[1].requires_grad_(False).add_(1)
    unfrozen = frozen[1].detach().clone() + 1
    frozen[1].add_(1).requires_grad_(True)
    kept.restore()
    assert torch.equal(trained[1], before) and torch.equal(frozen[1], unfrozen)


def test_a_file_of_another_adapter_is_refused(training_arguments, dataset, tmp_path):
    model = trainer_of(training_arguments(**SETTINGS), dataset).model
    kept = Beginning(model)
    kept.save(tmp_path / STATE_NAME)
    for own in model.parameters():
        own.data.zero_()
    again = Beginning(model)
    again.load(tmp_path / STATE_NAME)
    again.restore()
    assert_same(kept._tensors, {name: own.data for name, own in model.named_parameters() if own.requires_grad})
    next(own for own in model.parameters() if own.requires_grad).requires_grad_(False)
    with pytest.raises(ValueError, match="is of another adapter than those of this model"):
        Beginning(model).load(tmp_path / STATE_NAME)
