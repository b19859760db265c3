"""Trainings on several processes with one thing wrong.

`torchrun --nproc_per_node N faulty_runs.py FAULT FOLDER` runs one; each process writes its stderr to `FOLDER/RANK.txt`.
`python faulty_runs.py FOLDER NUMBER:FAULT ...` runs many, each on forks of this process: imports take longer than they,
and there is no launcher that would end the others. What became of them is then in `FOLDER/results.json`.
"""

import errno
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch.distributed as dist
from torch.utils.data import Subset
from transformers import TrainerCallback

import hf_clear._processes
import hf_clear.passes
from helpers.toy import collate, tiny_bert, toy_dataset
from hf_clear import (
    CleanProbabilityCallback,
    ClearLoraConfig,
    ClearTrainer,
    ClearTrainingArguments,
    TurnTrainer,
    TurnTrainingArguments,
    preset,
)

LIMIT = 60  # seconds for one fault
SETTINGS = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no", "num_train_epochs": 2}
SETTINGS |= {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4}
CLEAR = {**preset("clear"), "clear_warmup_epochs": 1}
RAGGED = {"accelerator_config": {"even_batches": False}}


class BrokenCollator:
    """Fails after some batches, on one process."""

    def __init__(self, rank: int, batches: int):
        self.is_broken, self.left = is_rank(rank), batches

    def __call__(self, items):
        self.left -= 1
        if self.is_broken and self.left < 0:
            raise ValueError("a broken sample")
        return collate(items)


class AtStep(TrainerCallback):
    def __init__(self, act: Callable[[], None], step: int = 3):
        self.act, self.step = act, step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.act()


def is_rank(rank: int) -> bool:
    return int(os.environ["RANK"]) == rank


def fail(error: BaseException) -> None:
    raise error


def full_disk(*args) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def clear(folder: Path, num_samples: int = 48, act=None, collator=collate, data=None, callbacks=(), **settings):
    return ClearTrainer(
        tiny_bert(),
        ClearTrainingArguments(str(folder / "out"), **{**CLEAR, **SETTINGS, **settings}),
        train_dataset=toy_dataset(num_samples) if data is None else data,
        eval_dataset=toy_dataset(13, seed=1),
        data_collator=collator,
        peft_config=ClearLoraConfig(task_type="SEQ_CLS", r=4),
        callbacks=[*callbacks, *([] if act is None else [AtStep(act)])],
    )


def turn(folder: Path, num_samples: int = 48, collator=collate, data=None, **settings):
    return TurnTrainer(
        tiny_bert(initializer_range=0.2),
        TurnTrainingArguments(str(folder / "out"), **{"probe_epochs": 3, **SETTINGS, **settings}),
        train_dataset=toy_dataset(num_samples) if data is None else data,
        data_collator=collator,
    )


# ---- Faults of one process ----


def collator(folder):
    clear(folder, collator=BrokenCollator(1, 8)).train()


def worker(folder):
    clear(folder, collator=BrokenCollator(1, 2), dataloader_num_workers=1).train()


def estimator(folder):
    def broken(evidence):
        raise ValueError("a broken estimator")

    clear(folder, callbacks=[CleanProbabilityCallback(broken)]).train()


def disk(folder):
    if is_rank(0):
        os.fsync = full_disk
    clear(folder, save_strategy="epoch").train()


def check(folder):
    data = toy_dataset(48)
    clear(folder, data=data.map(lambda row: {"labels": 99}) if is_rank(1) else data).train()


def interrupt(folder):
    clear(folder, act=lambda: is_rank(1) and fail(KeyboardInterrupt())).train()


def blocked(folder):
    """The other process is where no lost connection wakes it up."""
    hf_clear._processes._END_WITHIN = 2
    clear(folder, act=lambda: fail(ValueError("so it goes")) if is_rank(1) else time.sleep(1000)).train()


def evaluation(folder):
    clear(folder, collator=BrokenCollator(1, 1)).evaluate()


def probe(folder):
    turn(folder, collator=BrokenCollator(1, 2), probe_feature_memory=0.0).linear_probe()


def probe_disk(folder):
    if is_rank(0):
        hf_clear.passes.reserve = full_disk
    turn(folder, probe_feature_memory=0.0).train()


def turn_disk(folder):
    if is_rank(0):
        os.fsync = full_disk
    turn(folder).train()


def killed(folder):
    clear(folder, act=lambda: is_rank(1) and os.kill(os.getpid(), signal.SIGKILL)).train()


def killed_main(folder):
    """The one that has the store."""
    clear(folder, act=lambda: is_rank(0) and os.kill(os.getpid(), signal.SIGKILL)).train()


# ---- No faults of one process ----


def caught(folder):
    """All fail, one later than the other, and all go on."""

    def act():
        time.sleep(1.5 * is_rank(1))
        raise ValueError("so it goes")

    try:
        clear(folder, act=act).train()
    except ValueError as error:
        print("caught:", error, file=sys.stderr)
    trainer = clear(folder, max_steps=3)
    trainer.train()
    print("steps:", trainer.state.global_step, file=sys.stderr)


def refused(folder):
    """What would leave one process waiting for another, or mix up their samples."""
    rank = int(os.environ["RANK"])
    split = {"accelerator_config": {"even_batches": False, "split_batches": True}, "per_device_train_batch_size": 12}
    attempts = {
        "a ragged end": lambda: clear(folder, 50, **RAGGED),
        "a ragged end of accumulated batches": lambda: clear(folder, 76, gradient_accumulation_steps=2, **RAGGED),
        "a ragged end of split batches": lambda: clear(folder, 51, **split),
        "a ragged evaluation": lambda: clear(folder, 48, eval_strategy="epoch", **RAGGED),
        "fewer samples than processes": lambda: clear(folder, 1, **RAGGED),
        "a ragged end of fine-tuning": lambda: turn(folder, 41, turn_threshold=0.01, **RAGGED),
        "nothing left": lambda: clear(folder, 7, dataloader_drop_last=True),
        "other samples": lambda: clear(folder, 48 + rank),
        "another order": lambda: clear(folder, data=toy_dataset(48).shuffle(seed=rank)),
        "another split": lambda: clear(folder, data=Subset(list(toy_dataset(96)), range(rank, 48 + rank))),
        "other inputs": lambda: turn(folder, data=toy_dataset(48, seed=rank)),
    }
    for name, build in attempts.items():
        try:
            build().train()
        except ValueError as error:
            print(f"{name}: {error}", file=sys.stderr)
    trainer = clear(folder, **RAGGED)
    try:
        trainer.evaluate(toy_dataset(13))
    except ValueError as error:
        print(f"evaluate: {error}", file=sys.stderr)


def even(folder):
    """What looks ragged, and is not; data sets with fewer samples than processes."""
    steps = [
        clear(folder, 20, max_steps=2, **RAGGED),
        clear(folder, 24, gradient_accumulation_steps=2, **RAGGED),
        clear(folder, 2),
        clear(folder, 24, clear_min_clean_probability=0.999),
    ]
    for trainer in steps:
        trainer.train()
    one = clear(folder, 2, **RAGGED).per_sample_losses()
    probes = [turn(folder, 2, probe_feature_memory=memory, **RAGGED) for memory in (4.0, 0.0)]
    features = []
    for trainer in probes:
        trainer.linear_probe()
        features.append(trainer.sample_store.losses.numpy())
    found = {"steps": [trainer.state.global_step for trainer in steps], "losses": one.tolist()}
    found["probes"] = np.stack(features).tolist()
    print(json.dumps(found), file=sys.stderr)


def main(fault: str, folder: Path) -> None:
    os.dup2(os.open(folder / f"{os.environ['RANK']}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    globals()[fault](folder)
    if dist.is_initialized():
        dist.destroy_process_group()


def forked(fault: str, folder: Path, size: int) -> list[dict]:
    """For each process its exit code, None if it had to be killed, the seconds it took, and its stderr."""
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start, running, ended = time.monotonic(), {}, {}
    for rank in range(size):
        process = os.fork()
        if process == 0:
            code = 1
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ |= {name: str(value) for name, value in place.items()}
            try:
                main(fault, folder)
                code = 0
            except SystemExit as error:
                code = error.code
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        running[process] = rank
    while running and time.monotonic() < start + LIMIT:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process:
            ended[running.pop(process)] = (os.waitstatus_to_exitcode(status), time.monotonic() - start)
        time.sleep(0.02)
    for process, rank in running.items():
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        ended[rank] = (None, LIMIT)
    texts = [(folder / f"{rank}.txt").read_text() for rank in range(size)]
    return [{"code": ended[rank][0], "seconds": ended[rank][1], "stderr": text} for rank, text in enumerate(texts)]


if __name__ == "__main__":
    if "RANK" in os.environ:
        main(sys.argv[1], Path(sys.argv[2]))
    else:
        root, results = Path(sys.argv[1]), {}
        for name in sys.argv[2:]:
            size, _, fault = name.partition(":")
            results[name] = forked(fault, root / name.replace(":", "-"), int(size))
        (root / "results.json").write_text(json.dumps(results))
