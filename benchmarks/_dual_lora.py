"""Two sets of LoRA weights tell wrong labels (Delora: Yuan et al., Findings of ACL 2025, arXiv 2510.10208).

One set is held back more and more as training goes on, the other less and less. What is learned first, the right
labels, goes into the first; what is learned by heart later goes into the second. A label is taken for wrong if the
second set alone finds it likelier than the first alone: the threshold is learned. Plain LoRA is then trained anew on
the rest. This is the paper's idea; how the two are held back, and by how much, is ours, and wrong labels are left out
instead of being replaced by a language model's.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from _jobs import LORA_MODULES, Job, Stopwatch, train_and_test
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import DataCollatorWithPadding, Trainer, set_seed

from hf_clear import per_sample_losses

CLEAN, NOISY = "clean", "noisy"
_WEIGHT = 0.01  # of the penalty; chosen on noisy validation labels (20 intents, symmetric 60 %, seed 42): .1, .01, .001


class DualLoraTrainer(Trainer):
    """Both sets act. `CE(f, y) + w (t^2 |ΔW_clean|^2 + (1 - t)^2 |ΔW_noisy|^2)`, with t from 0 to 1 in training and the
    squared Frobenius norms of all layers' updates."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            done = self.state.global_step / self.state.max_steps
            penalty = done**2 * squared_norm(model, CLEAN) + (1 - done) ** 2 * squared_norm(model, NOISY)
            loss = loss + _WEIGHT * penalty
        return (loss, outputs) if return_outputs else loss


def squared_norm(model: nn.Module, adapter: str) -> torch.Tensor:
    """Of the updates `s B A` of all layers: `s^2 tr(B'B AA')`, without a matrix of their size."""
    total: Any = 0.0
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and adapter in layer.lora_A:
            a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            total = total + layer.scaling[adapter] ** 2 * ((b.T @ b) * (a @ a.T)).sum()
    return total


def with_two_sets(job: Job) -> PeftModel:
    """A copy of the model with both sets, and a head that is trained, the same for both."""
    modules = LORA_MODULES.get(job.model.config.model_type)
    config = LoraConfig(r=8, target_modules=None if modules is None else modules.split(","))
    model = get_peft_model(copy.deepcopy(job.model), config, adapter_name=CLEAN)
    model.add_adapter(NOISY, config)
    model.base_model.set_adapter([CLEAN, NOISY])
    for name, child in model.base_model.model.named_children():
        if name != job.model.base_model_prefix:
            child.requires_grad_(True)
    return model


def suspicion(job: Job) -> np.ndarray:
    """By how many nats the second set alone finds each label likelier than the first, `[num_samples]`."""
    set_seed(job.cell.seed)
    model = with_two_sets(job)
    trainer = DualLoraTrainer(
        model=model,
        args=job.arguments(eval_strategy="no"),
        train_dataset=job.train,
        processing_class=job.tokenizer,
        data_collator=DataCollatorWithPadding(job.tokenizer),
    )
    trainer.train()
    losses = {}
    for name in (CLEAN, NOISY):
        model.base_model.set_adapter([name])
        losses[name] = per_sample_losses(trainer)
    return losses[CLEAN] - losses[NOISY]


def run_dual_lora(job: Job, settings: dict[str, Any]) -> dict[str, Any]:
    """As many epochs to tell wrong labels as to train on the others, twice those of the other methods in all."""
    watch = Stopwatch()
    found = suspicion(job)
    kept = np.flatnonzero(found < 0)
    if len(kept) == 0:
        raise ValueError("The second set of LoRA weights finds every label likelier: there is nothing to train on.")
    measured = train_and_test(job.trainer(Trainer, job.train.select(kept)), watch)
    return {**measured, "suspicion": found, "kept_samples": len(kept)}
