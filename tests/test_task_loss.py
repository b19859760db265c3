"""The base class's loss is the task loss: nobody's loss is dropped without a word."""

import pytest
from helpers.task_losses import CASES, HAVE_THEIR_OWN, OPEN, WeightedTrainer, assert_same_training, build, over
from transformers import Trainer

from hf_clear import ClearMixin


@pytest.mark.parametrize("name", CASES)
def test_with_open_gates_and_no_consistency_it_is_the_stock_training(tmp_path, name):
    stock = build(name, tmp_path)
    stock.train()
    clear = build(name, tmp_path, **OPEN)  # not before: a trainer seeds the generators when it is made
    clear.train()
    assert clear.sample_store.is_fitted
    assert_same_training(clear, stock)


@pytest.mark.parametrize("name", HAVE_THEIR_OWN)
def test_accumulated_it_is_scaled_as_below(tmp_path, name):
    arguments = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    stock = build(name, tmp_path, **arguments)
    stock.train()
    clear = build(name, tmp_path, **arguments, **OPEN)
    clear.train()
    assert_same_training(clear, stock)


@pytest.mark.parametrize("name", HAVE_THEIR_OWN)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_loss_below_is_asked_in_every_step_and_consistency_is_added(tmp_path, name, accumulation):
    base, asked = CASES[name][4], []

    class Base(base):
        def compute_loss(self, *args, **kwargs):
            result = super().compute_loss(*args, **kwargs)
            if self.model.training:
                asked.append((result[0] if isinstance(result, tuple) else result).item())
            return result

    trainer = build(
        name,
        tmp_path,
        over(base if base is WeightedTrainer else Trainer),
        clear_warmup_epochs=1,
        clear_consistency_weight=0.5,
        gradient_accumulation_steps=accumulation,
        per_device_train_batch_size=8 // accumulation,
    )
    trainer.__class__ = type("Watched", (ClearMixin, Base), {})
    trainer.train()
    divided = trainer.model_accepts_loss_kwargs is False  # by `Trainer`, after `compute_loss`
    steps = [sum(asked[i : i + accumulation]) for i in range(0, len(asked), accumulation)]
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == len(steps) == 6
    assert [log["task_loss"] for log in logs] == pytest.approx([s / accumulation if divided else s for s in steps])
    assert "consistency" not in logs[0] and "consistency" in logs[-1]
    for log in logs:
        assert log["loss"] == pytest.approx(log["task_loss"] + 0.5 * log.get("consistency", 0.0))


@pytest.mark.parametrize("name", HAVE_THEIR_OWN)
def test_a_loss_that_would_drop_another_is_refused(tmp_path, name):
    trainer = build(name, tmp_path, clear_loss="weighted")
    with pytest.raises(ValueError, match=f"'weighted'.*place.*{CASES[name][-1]}.*no effect.*'clear' or 'elr'"):
        trainer.train()


def test_label_smoothing_is_not_dropped_either(tmp_path):
    with pytest.raises(ValueError, match="'gce'.*label_smoothing_factor=0.1 would have no effect"):
        build("plain", tmp_path, clear_loss="gce", label_smoothing_factor=0.1).train()
