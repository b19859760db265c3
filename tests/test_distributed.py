import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent
SCRIPT = """
import sys

import torch
from conftest import collate, tiny_bert, toy_dataset
from transformers import TrainingArguments

from hf_clear import ClearLoraConfig, ClearTrainer, ClearTrainingArguments, TurnTrainer, TurnTrainingArguments
from hf_clear.noise import inject_label_noise

method, folder, world_size = sys.argv[1], sys.argv[2], int(sys.argv[3])
train = inject_label_noise(toy_dataset(83), "symmetric", 0.3, 0, label_column="labels")[0]
arguments = {
    **{"output_dir": folder, "use_cpu": True, "num_train_epochs": 2, "save_strategy": "no", "disable_tqdm": True},
    **{"per_device_train_batch_size": 8 // world_size, "per_device_eval_batch_size": 4, "learning_rate": 1e-3},
    **{"probe_epochs": 4, "probe_features": "mean", "report_to": []},
}
trainer_args = {"model": tiny_bert(initializer_range=0.2), "train_dataset": train, "data_collator": collate}
trainer_args["eval_dataset"] = toy_dataset(13, seed=1)
if method == "clear":
    arguments |= {"clear_warmup": "linear_probe", "clear_warmup_epochs": 1}
    config = ClearLoraConfig(task_type="SEQ_CLS")
    trainer = ClearTrainer(args=ClearTrainingArguments(**arguments), peft_config=config, **trainer_args)
    trainer.evaluate()  # after which accelerate alone would train without DDP
    trainer.train()
else:
    arguments["probe_feature_memory"] = 0.0 if method == "turn on disk" else 4.0
    trainer = TurnTrainer(args=TurnTrainingArguments(**arguments), **trainer_args)
    trainer.linear_probe()
    trainer.evaluate()
    trainer.cleanse()
    trainer.finetune()
assert trainer.args.world_size == world_size
result = {
    "clean_probability": trainer.sample_store.clean_probability,
    "model": torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]),
}
if method != "clear":
    result["kept"] = torch.from_numpy(trainer.fine_tuning_samples)
    result["probe"] = torch.cat([parameter.detach().flatten() for parameter in trainer.probe.parameters()])
torch.save(result, f"{folder}/{trainer.args.process_index}.pt")
"""


@pytest.mark.parametrize("method", ["turn", "turn on disk", "clear"])
def test_two_processes_do_what_one_does(tmp_path, method):
    (tmp_path / "script.py").write_text(SCRIPT)
    results = {}
    for world_size in (2,) if method == "clear" else (1, 2):
        folder = tmp_path / str(world_size)
        folder.mkdir()
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world_size)]
        run = subprocess.run(
            [sys.executable, *launcher, str(tmp_path / "script.py"), method, str(folder), str(world_size)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"},
        )
        assert run.returncode == 0, run.stderr
        results[world_size] = [torch.load(folder / f"{rank}.pt") for rank in range(world_size)]
    first, second = results[2]
    for name in first:
        assert torch.equal(first[name], second[name]), f"{name} differs between the processes"
    if method != "clear":  # of the phases before training, whose batches differ
        for name in ("clean_probability", "kept", "probe"):
            torch.testing.assert_close(first[name], results[1][0][name], rtol=1e-4, atol=1e-6)
