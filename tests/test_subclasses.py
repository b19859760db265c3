"""A subclass that goes around routing is refused, and one that calls `super()` trains."""

import pytest
import torch
from accelerate import Accelerator
from helpers.task_losses import WeightedTrainer, build
from helpers.toy import collate, toy_dataset
from helpers.trainers import lora_model
from transformers import Trainer

from hf_clear import ClearMixin, ClearTrainer, TurnMixin


class OwnLoss(ClearTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = {name: value for name, value in inputs.items() if not name.startswith("_")}
        return WeightedTrainer.compute_loss(self, model, inputs, return_outputs)


class OwnStep(ClearTrainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = self.compute_loss(model, self._prepare_inputs(inputs))
        self.accelerator.backward(loss)
        return loss.detach()


class OwnStepAndLoss(ClearTrainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        inputs = {name: value for name, value in inputs.items() if not name.startswith("_")}
        loss = model(**inputs).loss
        self.accelerator.backward(loss)
        return loss.detach()


@pytest.mark.parametrize(
    ("cls", "what"), [(OwnLoss, "compute_loss"), (OwnStep, "training_step"), (OwnStepAndLoss, "training_step")]
)
def test_a_subclass_that_goes_around_routing_is_refused_in_the_first_step(tmp_path, cls, what):
    trainer = build("plain", tmp_path, cls)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    with pytest.raises(RuntimeError, match=rf"`{cls.__name__}.{what}` has not left .* to `super\(\).{what}\(...\)`"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.named_parameters())


def test_a_subclass_that_calls_super_trains(tmp_path):
    class Halved(ClearTrainer):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            return loss[0] / 2 if isinstance(loss, tuple) else loss / 2

    trainer = build("plain", tmp_path, Halved, clear_warmup_epochs=1)
    trainer.train()
    assert trainer.state.global_step == 6 and trainer.sample_store.is_fitted


def test_outputs_have_the_loss_of_the_model(tmp_path):
    class Looks(ClearTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
            own = torch.nn.functional.cross_entropy(outputs.logits, inputs["labels"])
            assert outputs.loss.item() == pytest.approx(own.item(), rel=1e-5)
            return (loss, outputs) if return_outputs else loss

    trainer = build("plain", tmp_path, Looks, clear_warmup_epochs=1)
    trainer.train()
    assert trainer.state.global_step == 6


class Sometimes(ClearTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.state.global_step != 2:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = model(**{name: value for name, value in inputs.items() if not name.startswith("_")}).loss
        return (loss, None) if return_outputs else loss


class LosesTheIndex(ClearTrainer):
    def compute_loss(self, model, inputs, *args, **kwargs):
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask", "labels")}
        return super().compute_loss(model, inputs, *args, **kwargs)


@pytest.mark.parametrize(
    ("cls", "step", "message"),
    [(Sometimes, 2, "`Sometimes.compute_loss` has not left"), (LosesTheIndex, 0, "has lost its sample index")],
)
def test_each_step_is_looked_at(tmp_path, cls, step, message):
    trainer = build("plain", tmp_path, cls)
    with pytest.raises(RuntimeError, match=message):
        trainer.train()
    assert trainer.state.global_step == step


def test_a_loss_that_is_assigned_to_the_trainer(tmp_path):
    trainer = build("plain", tmp_path, ClearTrainer)
    trainer.compute_loss = lambda model, inputs, **kwargs: (
        model(**{name: value for name, value in inputs.items() if not name.startswith("_")}).loss
    )
    with pytest.raises(RuntimeError, match="`compute_loss` was set on the trainer itself"):
        trainer.train()


@pytest.mark.parametrize("base", [Trainer, WeightedTrainer])
@pytest.mark.parametrize("mixin", [ClearMixin, TurnMixin])
def test_the_mixin_comes_first(base, mixin):
    with pytest.raises(TypeError, match=rf"class Mine\({mixin.__name__}, {base.__name__}\)"):
        type("Mine", (base, mixin), {})


def test_no_process_begins_again_alone(training_arguments, monkeypatch):
    """With several processes, one that is out of memory would leave the others waiting for it."""

    class OutOfMemory(Trainer):
        def training_step(self, *args, **kwargs):
            raise RuntimeError("CUDA out of memory.")

    trainer = type("ClearOutOfMemory", (ClearMixin, OutOfMemory), {})(
        lora_model(), training_arguments(auto_find_batch_size=True), collate, toy_dataset(8)
    )
    with pytest.raises(RuntimeError, match="^CUDA out of memory.$"):  # which `Trainer` begins again at
        trainer.training_step(trainer.model, {})
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(MemoryError, match="no memory for a batch of 8.*lower `per_device_train_batch_size`"):
        trainer.training_step(trainer.model, {})
