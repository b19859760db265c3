"""What is left after a kill or on a full disk is enough to go on."""

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.toy import collate, tiny_bert, toy_dataset
from safetensors import SafetensorError
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from hf_clear import ClearLoraConfig, ClearTrainer

TESTS = Path(__file__).parent


@pytest.mark.parametrize(("method", "kills"), [("clear", 20), ("turn", 8)])
def test_killed_runs_resume_to_the_same_bits(tmp_path, method, kills):
    """SIGKILL at random moments, half of them between two file operations: weights, losses and clean probabilities of
    the resumed run are those of the uninterrupted one."""
    run = subprocess.run(
        [sys.executable, str(TESTS / "helpers" / "killed_runs.py"), method, str(kills), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["equal"] == kills, (result, run.stderr)
    assert result["in_a_write"] >= kills // 5 and result["resumed"] >= kills // 3, result


@pytest.mark.parametrize("limit", [0, 3_000, 30_000], ids=["nothing fits", "small files fit", "the adapter fits"])
def test_a_full_disk_leaves_the_checkpoint_before(training_arguments, caplog, capsys, limit):
    """The kernel refuses to let files grow (RLIMIT_FSIZE), from the second checkpoint on.

    `capsys` keeps what is printed out of files."""

    class FullDisk(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def trainer(*callbacks) -> ClearTrainer:
        return ClearTrainer(
            tiny_bert(),
            training_arguments(save_strategy="steps", save_steps=2, save_total_limit=1, clear_warmup_epochs=0),
            train_dataset=toy_dataset(24),
            data_collator=collate,
            peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
            callbacks=list(callbacks),
        )

    folder = training_arguments().output_dir
    try:
        with caplog.at_level(logging.ERROR), pytest.raises((OSError, RuntimeError, SafetensorError)):
            trainer(FullDisk()).train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert os.listdir(folder) == ["checkpoint-2"] and get_last_checkpoint(folder).endswith("checkpoint-2")
    assert "checkpoint-4 could not be written. The checkpoints before it are as they were." in caplog.text
    resumed = trainer()
    resumed.train(resume_from_checkpoint=True)
    assert os.listdir(folder) == ["checkpoint-9"]
    whole = trainer()
    whole.train()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name
    assert torch.equal(resumed.sample_store.clean_probability, whole.sample_store.clean_probability)


def test_a_checkpoint_of_an_earlier_run_is_replaced_as_a_whole(training_arguments):
    """Training anew in a used folder; the best checkpoint is noted under its final name."""
    for gamma in (0.9, 0.5):
        trainer = ClearTrainer(
            tiny_bert(),
            training_arguments(
                **{"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True},
                **{"num_train_epochs": 2, "clear_gamma": gamma},
            ),
            train_dataset=toy_dataset(24),
            eval_dataset=toy_dataset(8),
            data_collator=collate,
            peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
        )
        trainer.train()
        folder = Path(trainer.args.output_dir)
        assert sorted(os.listdir(folder)) == ["checkpoint-3", "checkpoint-6"]
        for name in ("checkpoint-3", "checkpoint-6"):
            assert json.loads((folder / name / "clear_config.json").read_text())["clear_gamma"] == gamma
        state = json.loads((folder / "checkpoint-6" / "trainer_state.json").read_text())
        assert Path(state["best_model_checkpoint"]).parent == folder
        assert state["best_model_checkpoint"] == trainer.state.best_model_checkpoint
        assert os.path.isdir(trainer.state.best_model_checkpoint)


def test_no_part_of_a_checkpoint_is_ever_left(training_arguments, monkeypatch):
    """Whatever is deleted has lost its name before: a kill in between leaves nothing that looks like a checkpoint."""
    deleted, rmtree = [], shutil.rmtree

    def look(path, *args, **kwargs):
        assert Path(path).parent.name == "_incomplete", path
        deleted.append(Path(path).name)
        rmtree(path, *args, **kwargs)

    class SaveTwice(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            control.should_save = True

    monkeypatch.setattr(shutil, "rmtree", look)
    arguments = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3}
    arguments |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True}
    trainer = ClearTrainer(
        tiny_bert(initializer_range=0.2),
        training_arguments(save_total_limit=1, **arguments),
        train_dataset=toy_dataset(24),
        eval_dataset=toy_dataset(16, seed=1),
        data_collator=collate,
        peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
        callbacks=[SaveTwice()],
    )
    trainer.train()
    assert os.listdir(trainer.args.output_dir) == [Path(trainer.state.best_model_checkpoint).name] != ["checkpoint-9"]
    assert {"checkpoint-9", "earlier"} <= set(deleted)


def test_a_checkpoint_that_was_about_to_be_replaced_is_found(training_arguments):
    def trainer() -> ClearTrainer:
        return ClearTrainer(
            tiny_bert(),
            training_arguments(save_strategy="epoch", num_train_epochs=2),
            train_dataset=toy_dataset(24),
            data_collator=collate,
            peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
        )

    trainer().train()
    folder = Path(trainer().args.output_dir)
    shutil.rmtree(folder / "checkpoint-3")
    (folder / "_incomplete" / "earlier").mkdir(parents=True)
    (folder / "checkpoint-6").rename(folder / "_incomplete" / "earlier" / "checkpoint-6")
    resumed = trainer()
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6 and get_last_checkpoint(folder) == str(folder / "checkpoint-6")
