"""What two processes of one run are told: `torchrun ... refused_runs.py FOLDER HELD`. Prints a line for each case."""

import os
import shutil
import sys
from pathlib import Path

import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object

from helpers.toy import collate, tiny_bert, toy_dataset
from hf_clear import ClearLoraConfig, ClearTrainer, ClearTrainingArguments, preset


def trainer(folder: Path, max_steps: int = 3) -> ClearTrainer:
    return ClearTrainer(
        tiny_bert(),
        ClearTrainingArguments(
            str(folder),
            **preset("clear") | {"clear_warmup_epochs": 0},
            **{"use_cpu": True, "report_to": [], "disable_tqdm": True, "per_device_train_batch_size": 4, "seed": 7},
            **{"max_steps": max_steps, "save_strategy": "steps", "save_steps": 2},
        ),
        train_dataset=toy_dataset(16),
        data_collator=collate,
        peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
    )


def main() -> None:
    folder, held = Path(sys.argv[1]), Path(sys.argv[2])
    trainer(folder).train()
    state = PartialState()
    checkpoint, copy = folder / "checkpoint-2", folder / "copy"

    def damaged(name: str, change) -> Path:
        if state.is_main_process:
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(checkpoint, copy)
            change(copy / name)
        state.wait_for_everyone()
        return copy

    cases = {
        "held": lambda: trainer(held).train(),
        "rank 1's state": lambda: trainer(folder).train(str(damaged("rng_state_1.pth", Path.unlink))),
        "optimizer": lambda: trainer(folder).train(str(damaged("optimizer.pt", lambda path: path.write_bytes(b"0")))),
        "another's state": lambda: trainer(folder).train(str(damaged("rng_state_7.pth", Path.touch))),
    }
    for name, case in cases.items():
        try:
            case()
            message = "trained"
        except (RuntimeError, ValueError, OSError) as error:
            message = str(error)
        messages = gather_object([message])
        if state.is_main_process:
            print(f"{name}: {len(messages)} x {' AND '.join(sorted(set(messages)))}")
    if state.is_main_process:
        print("left:", sorted(name for name in os.listdir(folder) if name.startswith("_")))
    dist.destroy_process_group()


main()
