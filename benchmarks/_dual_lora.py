"""Two sets of LoRA weights tell wrong labels (Delora: Yuan et al., Findings of ACL 2025, arXiv 2510.10208).

One set may change less and less as training goes on, the other more and more. What is learned first, the right labels,
goes into the first; what is learned by heart later goes into the second. A label is taken for wrong if the second set
alone finds it likelier than the first alone: the threshold is learned. Plain LoRA is then trained anew on the rest.

This is the paper's idea. Ours is how the sets are held back: by their learning rates. The first has that of every other
method here, which falls to 0 in a line, and the second has its mirror image. Wrong labels are left out; the paper has a
language model replace them.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from _jobs import LORA_MODULES, Job, Stopwatch, train_and_test
from peft import LoraConfig, PeftModel, get_peft_model
from torch.optim.lr_scheduler import LambdaLR
from transformers import DataCollatorWithPadding, Trainer, set_seed

from hf_clear import per_sample_losses

CLEAN, NOISY = "clean", "noisy"


class DualLoraTrainer(Trainer):
    """Both sets act, and are trained together: the head with the first."""

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        groups: dict[bool, list[torch.nn.Parameter]] = {False: [], True: []}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                groups[f".{NOISY}." in name].append(parameter)
        decay = self.args.weight_decay
        self.optimizer = torch.optim.AdamW(
            [{"params": group} for group in groups.values()], lr=self.args.learning_rate, weight_decay=decay
        )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        rates = [lambda step: 1 - step / num_training_steps, lambda step: step / num_training_steps]
        self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, rates)
        return self.lr_scheduler


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
