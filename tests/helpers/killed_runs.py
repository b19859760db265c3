"""Trains in forked processes, kills them, resumes them: `python killed_runs.py METHOD KILLS FOLDER`. Prints JSON.

In a process of its own that has done nothing but import, so that a fork of it is as good as a fresh process.
"""

import gc
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from transformers.trainer_utils import get_last_checkpoint

from helpers.toy import collate, tiny_bert, toy_dataset
from hf_clear import ClearLoraConfig, ClearTrainer, ClearTrainingArguments, TurnTrainer, TurnTrainingArguments, preset
from hf_clear.checkpoints.mixin import INCOMPLETE
from hf_clear.turn.state import STATE_NAME as TURN_STATE

ARGUMENTS = {
    **{"use_cpu": True, "disable_tqdm": True, "report_to": [], "seed": 7, "learning_rate": 1e-2, "logging_steps": 1},
    **{"num_train_epochs": 3, "per_device_train_batch_size": 6, "save_steps": 2, "save_strategy": "steps"},
    **{"eval_strategy": "steps", "eval_steps": 2, "save_total_limit": 1, "load_best_model_at_end": True},
}
CLEAR = {**preset("clear"), "clear_warmup_epochs": 1}


def train(method: str, folder: Path) -> dict[str, torch.Tensor]:
    """Trains: starts, or goes on if the folder has a checkpoint (TURN: or a probe), as a user would."""
    data = {"train_dataset": toy_dataset(24), "eval_dataset": toy_dataset(12, seed=1), "data_collator": collate}
    if method == "clear":
        arguments = ClearTrainingArguments(str(folder), **CLEAR, **ARGUMENTS)
        trainer = ClearTrainer(tiny_bert(), arguments, peft_config=ClearLoraConfig(task_type="SEQ_CLS"), **data)
        trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.is_dir() else None)
    else:
        arguments = TurnTrainingArguments(str(folder), probe_epochs=6, turn_threshold=0.1, **ARGUMENTS)
        trainer = TurnTrainer(tiny_bert(initializer_range=0.2), arguments, **data)
        # A run that was killed while it wrote its first state leaves a part of it, and nothing to go on from.
        has_begun = (folder / TURN_STATE).is_file() or (folder.is_dir() and get_last_checkpoint(folder) is not None)
        trainer.train(resume_from_checkpoint=has_begun)
    result = {name: value for name, value in trainer.model.state_dict().items()}
    return result | {name: getattr(trainer.sample_store, name) for name in ("clean_probability", "losses")}


def kill_at_file_event(number: int, folder: Path) -> None:
    """Kills this process right before it does something to a file below `folder` for the `number`-th time."""
    seen = 0

    def count(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") and str(folder) in str(arguments[0]):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def fork(method: str, folder: Path, result: Path, file_event: int | None = None) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        if file_event is not None:
            kill_at_file_event(file_event, folder)
        torch.save(train(method, folder), result)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    method, kills, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    gc.freeze()  # what was imported: `Trainer` collects garbage after each training, which takes a third of a second
    begin = time.monotonic()
    assert wait(fork(method, folder / "whole", folder / "whole.pt")) == 0
    duration = time.monotonic() - begin
    whole = torch.load(folder / "whole.pt")

    moments = random.Random(0)
    in_a_write, after_a_checkpoint, equal, wrong = 0, 0, 0, []
    for kill in range(kills):
        run, result = folder / f"run-{kill}", folder / f"run-{kill}.pt"
        if kill % 2:  # between two things that are done to a file
            event = moments.randrange(1, 190)
            child = fork(method, run, result, event)
            moment = f"file event {event}"
        else:  # by the clock
            share = moments.uniform(0.1, 0.95)
            child = fork(method, run, result)
            time.sleep(share * duration)
            os.kill(child, signal.SIGKILL)
            moment = f"{share:.0%} of the time"
        wait(child)
        in_a_write += (run / INCOMPLETE).exists()
        after_a_checkpoint += run.is_dir() and get_last_checkpoint(run) is not None
        ends = [wait(fork(method, run, result))]
        resumed = torch.load(result) if ends == [0] else {}
        same = resumed.keys() == whole.keys() and all(torch.equal(resumed[name], whole[name]) for name in whole)
        equal += same
        if not same:
            wrong.append(moment)
    print(json.dumps({"equal": equal, "wrong": wrong, "in_a_write": in_a_write, "resumed": after_a_checkpoint}))


main()
