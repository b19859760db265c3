"""CleaR and TURN on two processes, in many settings: `torchrun --nproc_per_node 2 distributed_runs.py FOLDER`.

All settings in one launch, since imports take longer than they. Each process writes what it found to `FOLDER/RANK.pt`.
"""

import faulthandler
import multiprocessing
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from peft import get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, T5ForConditionalGeneration, TrainerCallback

import hf_clear.probing.head_start
import hf_clear.refit
from helpers.architectures import ARCHITECTURES
from helpers.posterior import NOTHING, WEAK, ExplainsLater
from helpers.task_losses import OPEN
from helpers.task_losses import build as build_base_loss
from helpers.toy import collate, randomize_adapters, tiny_bert, toy_dataset
from hf_clear import (
    ClearAdapterConfig,
    ClearArguments,
    ClearBitFitConfig,
    ClearLoraConfig,
    ClearMixin,
    ClearPromptConfig,
    ClearTrainer,
    ClearTrainingArguments,
    TurnTrainer,
    TurnTrainingArguments,
    preset,
)
from hf_clear.noise import inject_label_noise
from hf_clear.routing import num_routed_layers, route
from hf_clear.sample_store import SampleStore

NUM_SAMPLES = 46  # as many batches for each of two processes, the last of another size
LORA = ClearLoraConfig(task_type="SEQ_CLS", r=4)
PLAIN = {
    "use_cpu": True,
    "report_to": [],
    "disable_tqdm": True,
    "save_strategy": "no",
    "seed": 7,
    "learning_rate": 1e-2,
}
PLAIN |= {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "num_train_epochs": 2}
PLAIN |= {**preset("clear"), "clear_warmup_epochs": 0, "ddp_find_unused_parameters": None}
# name: (arguments, PEFT config)
SETTINGS = {
    "default": ({}, LORA),
    "adapter": ({}, ClearAdapterConfig(task_type="SEQ_CLS")),
    "bitfit": ({}, ClearBitFitConfig(task_type="SEQ_CLS")),
    "prompt": ({}, ClearPromptConfig(task_type="SEQ_CLS")),
    "step": ({"clear_ensemble_source": "step"}, LORA),
    "epoch": ({"clear_ensemble_source": "epoch"}, LORA),
    "online": ({"clear_loss_source": "online"}, LORA),
    "accumulation": ({"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}, LORA),
    "no unused parameters": ({"ddp_find_unused_parameters": False}, LORA),
    "checkpointing": ({"gradient_checkpointing": True}, LORA),
    "workers": ({"dataloader_num_workers": 2}, LORA),
    "length grouping": ({"train_sampling_strategy": "group_by_length"}, LORA),
    "split batches": ({"accelerator_config": {"split_batches": True}, "per_device_train_batch_size": 8}, LORA),
    "dispatch batches": ({"accelerator_config": {"dispatch_batches": True}}, LORA),
    "uneven batches": ({"accelerator_config": {"even_batches": False}}, LORA),
    "drop last": ({"dataloader_drop_last": True}, LORA),
    "class balanced": ({"clear_routing": "class_balanced"}, LORA),
    "knn": ({"clear_estimator": "gaussian_mixture+knn"}, LORA),
    "posterior": (preset("recommended") | {"probe_epochs": 2, "clear_min_explained": 0}, LORA),
    "linear probe": ({"clear_warmup": "linear_probe", "clear_warmup_epochs": 1, "probe_epochs": 2}, LORA),
}

RESUMED = {"num_train_epochs": 3, "clear_warmup_epochs": 1}


class ClearSeq2SeqTrainer(ClearMixin, Seq2SeqTrainer):
    pass


@dataclass
class ClearSeq2SeqArguments(ClearArguments, Seq2SeqTrainingArguments):
    pass


def no_dropout() -> torch.nn.Module:
    return tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.2)


def build(folder: Path, settings: dict, config, *callbacks: TrainerCallback, num_samples: int = NUM_SAMPLES):
    return ClearTrainer(
        no_dropout(),
        ClearTrainingArguments(str(folder), **{**PLAIN, **settings}),
        train_dataset=toy_dataset(num_samples),
        data_collator=collate,
        peft_config=config,
        callbacks=list(callbacks),
    )


def trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def tensors(store: SampleStore) -> dict[str, torch.Tensor]:
    values = {
        name: getattr(store, name)
        for name in (
            "losses",
            "mean_losses",
            "clean_probability",
            "labels",
            "targets",
            "posterior",
            "transition_matrix",
        )
    }
    return {name: value.clone() for name, value in values.items() if value is not None}


class Save(TrainerCallback):
    """Saves a checkpoint, and may end the training."""

    def __init__(self, step: int, stop: bool):
        self.step, self.stop = step, stop

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step == self.step
        control.should_training_stop = control.should_save and self.stop


class Before(TrainerCallback):
    """Keeps the state that training begins with, which may be a checkpoint's, and that of the first step."""

    def on_epoch_begin(self, args, state, control, **kwargs):
        if not hasattr(self, "restored"):  # comes before the callback that refits
            self.restored = tensors(self.trainer.sample_store)

    def on_step_begin(self, args, state, control, **kwargs):
        if not hasattr(self, "state"):
            self.state, self.step = tensors(self.trainer.sample_store), state.global_step


def resumed(folder: Path, checkpoint: Path) -> tuple[ClearTrainer, Before]:
    restored = Before()
    trainer = restored.trainer = build(folder, RESUMED, LORA, restored)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    return trainer, restored


def run(name: str, folder: Path) -> dict:
    """One row of `SETTINGS`: the state after the first refit and at the end, the weights, the gates drawn."""
    drawn = []
    draw = hf_clear.refit.sample_gates

    def record(probability, num_layers, index, key):
        gates = draw(probability, num_layers, index, key)
        drawn.append((key, index.clone(), probability.clone(), gates))
        return gates

    hf_clear.refit.sample_gates = record
    first = Before()
    settings, config = SETTINGS[name]
    trainer = first.trainer = build(folder / name, settings, config, first)
    try:
        trainer.train()
    finally:
        hf_clear.refit.sample_gates = draw
    gates = [entry for entry in drawn if entry[0][2] == hf_clear.refit.LOSS]
    end = {
        "first": first.state,
        "state": tensors(trainer.sample_store),
        "weights": trained(trainer.model),
        "gates": gates,
    }
    return end | {"world_size": trainer.args.world_size, "steps": trainer.state.global_step}


def seq2seq(folder: Path) -> dict:
    data = toy_dataset(NUM_SAMPLES)
    data = data.remove_columns("labels").add_column("labels", [ids[:4] for ids in data["input_ids"]])
    torch.manual_seed(0)
    trainer = ClearSeq2SeqTrainer(
        T5ForConditionalGeneration(ARCHITECTURES["t5"]()),
        ClearSeq2SeqArguments(str(folder / "seq2seq"), predict_with_generate=True, generation_max_length=4, **PLAIN),
        train_dataset=data,
        data_collator=lambda items: {name: torch.tensor([item[name][:4] for item in items]) for name in items[0]},
        peft_config=ClearLoraConfig(task_type="SEQ_2_SEQ_LM", r=4),
    )
    trainer.train()
    generated = trainer.predict(data.select(range(5)), max_length=4).predictions
    return {
        "state": tensors(trainer.sample_store),
        "weights": trained(trainer.model),
        "generated": torch.tensor(generated),
    }


def fsdp2(folder: Path) -> dict:
    """The model sharded by hand: loss and gradients with gates are those of the model as a whole."""
    rank, found = dist.get_rank(), {}
    for checkpointing in (False, True):
        for name, config in (("lora", LORA), *((name, SETTINGS[name][1]) for name in ("adapter", "bitfit", "prompt"))):
            results = []
            for sharded in (False, True):
                torch.manual_seed(0)
                model = get_peft_model(no_dropout(), config)
                randomize_adapters(model)
                if checkpointing:
                    model.gradient_checkpointing_enable({"use_reentrant": False})
                    model.enable_input_require_grads()
                if sharded:
                    mesh = init_device_mesh("cpu", (2,))
                    for layer in model.get_base_model().bert.encoder.layer:
                        fully_shard(layer, mesh=mesh)
                    fully_shard(model, mesh=mesh)
                batch = collate(list(toy_dataset(8).select(range(4 * rank, 4 * rank + 4))))
                gates = torch.rand(num_routed_layers(model), 4, generator=torch.Generator().manual_seed(rank)) < 0.5
                model.train()
                with route(model, gates):
                    loss = model(**batch).loss
                    loss.backward()
                gradients = {}
                for parameter_name, parameter in model.named_parameters():
                    if parameter.grad is not None:
                        gradient = parameter.grad
                        if sharded:
                            gradient = gradient.full_tensor()
                        else:
                            dist.all_reduce(gradient)
                            gradient = gradient / 2
                        gradients[parameter_name] = gradient
                results.append({"loss": loss.detach(), **gradients})
            found[f"{name}, checkpointing={checkpointing}"] = results
    return found


def evaluated(folder: Path) -> dict[str, torch.Tensor]:
    """After an evaluation before training, accelerate alone would train without DDP."""
    trainer = build(folder / "evaluated", {"clear_warmup_epochs": 1}, LORA)
    trainer.evaluate(toy_dataset(13, seed=1))
    trainer.train()
    return trained(trainer.model)


def turn(folder: Path, on_disk: bool, world_size: int) -> dict[str, torch.Tensor]:
    """TURN phase by phase; the features in memory, or in a file that all processes write."""
    arguments = {name: value for name, value in PLAIN.items() if not name.startswith("clear")}
    arguments |= {"per_device_train_batch_size": 8 // world_size, "probe_epochs": 4, "probe_features": "mean"}
    trainer = TurnTrainer(
        tiny_bert(initializer_range=0.2),
        TurnTrainingArguments(str(folder), probe_feature_memory=0.0 if on_disk else 4.0, **arguments),
        train_dataset=inject_label_noise(toy_dataset(83), "symmetric", 0.3, 0, label_column="labels")[0],
        eval_dataset=toy_dataset(13, seed=1),
        data_collator=collate,
    )
    trainer.linear_probe()
    trainer.evaluate()
    trainer.cleanse()
    trainer.finetune()
    before = {"clean_probability": trainer.sample_store.clean_probability}
    before["kept"] = torch.from_numpy(trainer.fine_tuning_samples)
    before |= {f"probe.{name}": value for name, value in trained(trainer.probe).items()}
    return {"before": before, "weights": trained(trainer.model)}


def base_losses(folder: Path, accumulation: int) -> dict[str, dict[str, torch.Tensor]]:
    """A weighted base trainer, stock and below CleaR with open gates, and routed with consistency."""
    arguments = {"gradient_accumulation_steps": accumulation, "max_steps": 6, "logging_steps": 1}
    found = {}
    for name, settings in {"stock": {}, "open": OPEN, "routed": {"clear_warmup_epochs": 1}}.items():
        trainer = build_base_loss("a weighted trainer", folder / name, **arguments, **settings)
        trainer.train()
        found[name] = trained(trainer.model)
    return found


def trajectory(folder: Path, per_device_batch_size: int) -> dict[str, torch.Tensor]:
    """40 samples: as many in every step, on however many processes."""
    settings = {"per_device_train_batch_size": per_device_batch_size, "num_train_epochs": 3, "clear_warmup_epochs": 1}
    trainer = build(folder / "trajectory", {**settings, "optim": "sgd"}, LORA, num_samples=40)
    trainer.train()
    trainer.save_merged(folder / "merged")
    return trained(trainer.model) | tensors(trainer.sample_store)


def resume(folder: Path) -> dict:
    """Stops in mid-epoch after a refit, goes on; and goes on from a checkpoint that one process wrote."""
    whole = build(folder / "whole", RESUMED, LORA, Save(8, stop=False))
    whole.train()
    build(folder / "stopped", RESUMED, LORA, Save(8, stop=True)).train()
    again, _ = resumed(folder / "stopped", folder / "stopped" / "checkpoint-8")
    result = {
        "whole": (trained(whole.model), tensors(whole.sample_store)),
        "again": (trained(again.model), tensors(again.sample_store)),
    }
    other, restored = resumed(folder / "one", folder / "one" / "checkpoint-14")
    return result | {"restored": restored.restored, "step": restored.step, "end": other.state.global_step}


class AtStep(TrainerCallback):
    """Keeps what is trained as a step finds it, and how many parameters the optimizer knows something of."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        if state.global_step == self.step:
            self.weights, self.known = trained(self.trainer.model), len(optimizer.optimizer.state)


def begun_anew(folder: Path, world_size: int) -> dict:
    """A model that its first plain epoch teaches nothing, as the estimator says; evidence counts as weak."""
    told = NOTHING, NOTHING, WEAK, WEAK  # by training and a pass; of the evidence; by training
    least, hf_clear.probing.head_start.LEAST_SKILL = hf_clear.probing.head_start.LEAST_SKILL, 1.1
    at = AtStep(8)
    settings = preset("recommended") | {"probe_epochs": 30, "per_device_train_batch_size": 8 // world_size}
    at.trainer = build(folder / "anew", settings, LORA, at, ExplainsLater(*told).callback(), num_samples=64)
    start = trained(at.trainer.model)
    try:
        at.trainer.train()
    finally:
        hf_clear.probing.head_start.LEAST_SKILL = least
    store = at.trainer.sample_store
    return {
        "start": start,
        "anew": at.weights,
        "known": at.known,
        "is_provisional": store.is_provisional,
        "weights": trained(at.trainer.model),
        "state": tensors(store),
    }


def main() -> None:
    hf_clear.probing.head_start.LEAST_SKILL = 0.0  # of so few samples, too, evidence is to be used
    faulthandler.dump_traceback_later(300, exit=True)  # should it hang, it says where
    # Workers of a dataloader: a fork beside the threads of gloo and others may never return.
    multiprocessing.set_start_method("forkserver")
    folder = Path(sys.argv[1])
    results = {name: run(name, folder) for name in SETTINGS}
    results |= {"seq2seq": seq2seq(folder), "resume": resume(folder), "fsdp2": fsdp2(folder)}
    results |= {"trajectory": trajectory(folder, 4), "evaluated": evaluated(folder), "anew": begun_anew(folder, 2)}
    results |= {f"turn, {on_disk=}": turn(folder / f"turn-{on_disk}", on_disk, 2) for on_disk in (False, True)}
    results |= {f"base loss, {n}": base_losses(folder / f"base-{n}", n) for n in (1, 2)}
    torch.save(results, folder / f"{os.environ['RANK']}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
