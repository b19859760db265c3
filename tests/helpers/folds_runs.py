"""Cross-fitting warm-ups on one process or two: `torchrun --nproc_per_node 2 folds_runs.py FOLDER`.

Each process writes what it found to `FOLDER/RANK.pt`.
"""

import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from helpers.toy import collate, tiny_bert, toy_dataset
from hf_clear import ClearAdapterConfig, ClearLoraConfig, ClearTrainer, ClearTrainingArguments

SETTINGS = {
    "lora": ({}, ClearLoraConfig(task_type="SEQ_CLS", r=4)),
    "adapter": (
        {"gradient_accumulation_steps": 2, "ddp_find_unused_parameters": False, "gradient_checkpointing": True},
        ClearAdapterConfig(task_type="SEQ_CLS", bottleneck_size=8),
    ),
}


class Watch(TrainerCallback):
    """What the adapters have become before each step; may end the training after one."""

    def __init__(self, stop_at: int | None = None):
        self.weights, self.stop_at = [], stop_at

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.weights.append({n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad})

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.stop_at:
            control.should_save = control.should_training_stop = True


def run(folder: Path, name: str, batch_size: int, stop_at: int | None = None, resume: bool = False) -> dict:
    settings, config = SETTINGS[name]
    watch = Watch(stop_at)
    torch.manual_seed(0)
    trainer = ClearTrainer(
        tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.2),
        ClearTrainingArguments(
            str(folder / name),
            **{"use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no", "seed": 7},
            **{"learning_rate": 1e-2, "num_train_epochs": 3, "clear_warmup": "cross_fit", "clear_warmup_epochs": 2},
            **{**settings, "per_device_train_batch_size": batch_size // settings.get("gradient_accumulation_steps", 1)},
        ),
        train_dataset=toy_dataset(48),
        data_collator=collate,
        peft_config=config,
        callbacks=[watch],
    )
    stock, scores = trainer.end_cross_fitting, []

    def end_cross_fitting(dataloader):
        scores.append(stock(dataloader))
        return scores[-1]

    trainer.end_cross_fitting = end_cross_fitting
    trainer.train(resume_from_checkpoint=str(folder / name / "checkpoint-4") if resume else None)
    return {
        "world_size": trainer.args.world_size,
        "weights": watch.weights,
        "last": {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad},
        "scores": scores[0].scores if scores else None,
    }


if __name__ == "__main__":
    folder, found = Path(sys.argv[1]), {}
    for name in SETTINGS:
        found[name] = run(folder, name, 4)
    run(folder, "lora", 4, stop_at=4)
    found["resumed"] = run(folder, "lora", 4, resume=True)
    torch.save(found, folder / f"{torch.distributed.get_rank()}.pt")
