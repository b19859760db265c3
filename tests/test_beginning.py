"""Plain epochs that teach a model nothing: it begins anew, with a head that goes by what the evidence says."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.posterior import POSTERIOR, trainer_of
from helpers.toy import collate
from helpers.turn import assert_same, noisy_dataset, state_of
from test_back_to_the_posterior import GOOD, NOTHING, ExplainsLater
from transformers import TrainerCallback

from hf_clear.beginning import STATE_NAME, Beginning
from hf_clear.noise import TRUE_LABEL

EPOCH = 240 // 8  # steps
SETTINGS = POSTERIOR | {"num_train_epochs": 3, "clear_warmup_epochs": 1, "save_strategy": "steps", "save_steps": 20}


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


def test_it_begins_anew_and_resumes_bit_exactly(training_arguments, dataset, caplog):
    build = training_arguments(**SETTINGS, learning_rate=1e-3, per_device_train_batch_size=8)
    look, told = Look(dataset), (NOTHING, NOTHING)
    straight = look.trainer = trainer_of(build, dataset, callbacks=[ExplainsLater(*told).callback(), look])
    before = state_of(straight)
    with caplog.at_level(logging.WARNING, "hf_clear"):
        straight.train()
    assert caplog.text.count("taught the model nothing") == 1  # at the first fit alone
    assert "models that have not seen them say a little. Training goes on as CleaR with gates" in caplog.text
    (first, _, chance), (anew, known, right), (_, known_later, _) = look.seen
    assert_same(before, first)  # keeping it changes nothing
    heads = {name for name in before if "classifier.modules_to_save" in name}
    assert_same(*({name: own for name, own in of.items() if name not in heads} for of in (before, anew)))
    assert heads and not any(torch.equal(before[name], anew[name]) for name in heads)
    assert known == 0 < known_later and chance < 0.5 < 0.7 < right

    folders = {step: Path(build.output_dir) / f"checkpoint-{step}" for step in (20, 40)}
    assert [(folder / STATE_NAME).is_file() for folder in folders.values()] == [True, False]
    for step, done in ((40, 1), (20, 0)):  # the second writes the first one's checkpoint again
        resumed = trainer_of(build, dataset, callbacks=[ExplainsLater(*told[done:]).callback()])
        resumed.train(resume_from_checkpoint=str(folders[step]))
        assert_same(state_of(straight), state_of(resumed))


def test_a_model_that_has_learned_something_goes_on(training_arguments, dataset, caplog):
    """With a posterior, and with plain epochs that are those of a run that keeps nothing."""
    build = training_arguments(**SETTINGS, learning_rate=1e-3, per_device_train_batch_size=8)
    looks = []
    for settings in ({}, {"clear_min_explained": 0.0}):  # 0: there are no gates, and nothing is kept
        looks.append(look := Look(dataset))
        for name, value in settings.items():
            setattr(build, name, value)
        look.trainer = trainer_of(build, dataset, callbacks=[ExplainsLater(GOOD, NOTHING).callback(), look])
        with caplog.at_level(logging.WARNING, "hf_clear"):
            look.trainer.train()
        assert (look.trainer._beginning is None) == bool(settings)
    assert "taught the model nothing" not in caplog.text
    for (kept, *_), (not_kept, *_) in zip(*(look.seen[:2] for look in looks)):
        assert_same(kept, not_kept)


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
