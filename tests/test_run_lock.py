"""Two runs never share an `output_dir`; what is not a run's own stays."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers.toy import collate, tiny_bert, toy_dataset
from transformers import TrainerCallback

import run_glue_noisy
from hf_clear import ClearLoraConfig, ClearTrainer
from hf_clear.checkpoints.run_lock import HOLDER_NAME, LOCK_NAME, alone_in
from hf_clear.files import make_temporary

TESTS = Path(__file__).parent


@pytest.fixture
def clear(training_arguments):
    def build(*callbacks, searches: bool = False, **kwargs) -> ClearTrainer:
        arguments = training_arguments(**{"clear_warmup_epochs": 0, "num_train_epochs": 1, **kwargs})
        return ClearTrainer(
            **({"model_init": lambda: tiny_bert()} if searches else {"model": tiny_bert()}),
            args=arguments,
            train_dataset=toy_dataset(16),
            eval_dataset=toy_dataset(8),
            data_collator=collate,
            peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
            callbacks=list(callbacks),
        )

    return build


class Holder:
    """Another process, which is in a folder until it is killed."""

    def __init__(self, arguments):
        ready, begin = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                with alone_in(arguments.output_dir, arguments):
                    os.write(begin, b"y")
                    signal.pause()
            finally:
                os.write(begin, b"n")
                os._exit(1)
        self.is_in = os.read(ready, 1) == b"y"
        os.close(ready), os.close(begin)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_is_refused_before_it_changes_anything(clear, turn, training_arguments, tmp_path, monkeypatch):
    clear(save_strategy="epoch").train()
    holder = Holder(training_arguments())
    assert holder.is_in
    before = content_of(tmp_path)
    refusal = (
        rf"Another run is in {re.escape(str(tmp_path / 'out'))}: process {holder.pid} on {socket.gethostname()}, since "
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \w+. .* choose another `output_dir`"
    )
    script = ["run_glue_noisy.py", "--method", "none", "--output_dir", str(tmp_path / "out"), "--overwrite_output_dir"]
    monkeypatch.setattr("sys.argv", script)
    runs = {
        "CleaR": lambda: clear(save_strategy="epoch").train(),
        "CleaR, resumed": lambda: clear(save_strategy="epoch").train(resume_from_checkpoint=True),
        "TURN": lambda: turn().train(),
        "TURN's probe": lambda: turn().linear_probe(),
        "TURN, resumed": lambda: turn().train(resume_from_checkpoint=True),
        "the script": run_glue_noisy.main,
    }
    try:
        for name, run in runs.items():
            with pytest.raises(RuntimeError, match=refusal):
                run()
            assert content_of(tmp_path) == before, name
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "out")
        with pytest.raises(RuntimeError, match="Another run"):
            clear(output_dir=str(link)).train()
    finally:
        holder.kill()
    clear(save_strategy="epoch").train()  # at once: the lock went with its process
    assert os.listdir(tmp_path / "out") == ["checkpoint-2"]


def test_a_process_is_not_in_its_own_way(clear, turn, training_arguments, tmp_path):
    """Nested, one after the other, twice, in a search, after a failure; not where its own fork goes on."""

    class Look(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            assert (tmp_path / "out" / LOCK_NAME).is_file() and (tmp_path / "out" / HOLDER_NAME).is_file()
            if state.global_step == 0:
                clear(max_steps=1).train()
                other = Holder(args)
                os.waitpid(other.pid, 0)
                assert not other.is_in

    trainer = clear(Look())
    trainer.train()
    trainer.train()
    turn(probe_epochs=1, max_steps=1).train()
    assert os.listdir(tmp_path / "out") == ["_turn_state.safetensors"]

    class Fail(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clear(Fail(), output_dir=str(tmp_path / "failed")).train()
    assert os.listdir(tmp_path / "failed") == []
    with alone_in(tmp_path / "new", training_arguments()):
        pass
    assert not (tmp_path / "new").exists()

    search = clear(output_dir=str(tmp_path / "search"), searches=True, max_steps=1, eval_strategy="steps")
    search.hyperparameter_search(lambda trial: {"seed": trial.suggest_int("seed", 0, 9)}, n_trials=2, backend="optuna")
    assert os.listdir(tmp_path / "search") == []


def test_a_trainer_that_routes_nothing_takes_no_lock(training_arguments):
    holder = Holder(training_arguments())
    try:
        ClearTrainer(
            tiny_bert(), training_arguments(max_steps=1), train_dataset=toy_dataset(8), data_collator=collate
        ).train()
    finally:
        holder.kill()


def test_where_there_can_be_no_lock(clear, caplog, monkeypatch):
    def fail(code: int):
        def acquire(*args, **kwargs):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("filelock.FileLock.acquire", acquire)

    fail(errno.EROFS)
    with pytest.raises(OSError, match="can't write to its output folder: Read-only file system"):
        clear(save_strategy="epoch").train()
    for code, arguments in ((errno.EROFS, {}), (errno.ENOLCK, {"save_strategy": "epoch"})):  # nothing to write; NFS
        fail(code)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            clear(max_steps=1, **arguments).train()
        assert f"can't be locked ([Errno {code}]" in caplog.text


def test_what_killed_runs_left_is_removed_and_nothing_else(clear, tmp_path):
    """Rotation, too, knows a checkpoint from what is only called so."""
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("features", "turn_state.safetensors", "_turn_state.safetensors"):
        os.close(make_temporary(folder, name)[0])
    assert len(os.listdir(folder)) == 3
    (folder / "_incomplete" / "checkpoint-1").mkdir(parents=True)
    own = ["_features.csv", "_features.abcdefgh", "_features.hf_clear_tmp", "features.abcdefgh.hf_clear_tmp"]
    own += ["_incomplete/notes.txt", "checkpoint-1/weights", "checkpoint-2-backup/trainer_state.json"]
    own += ["checkpoint-best/trainer_state.json", "sub/_features.abcdefgh.hf_clear_tmp"]
    for name in own:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1}
    clear(save_strategy="steps", save_steps=1, save_total_limit=1, max_steps=4, **best).train()
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    own = {name.replace("checkpoint-1/", "checkpoint-1.earlier/") for name in own}  # a checkpoint takes its place
    assert {name for name in found if not re.match(r"checkpoint-\d/", name)} == own
    assert len({name.split("/")[0] for name in found if name.endswith("optimizer.pt")}) == 1


def test_the_features_of_a_killed_probe_are_removed(turn, tmp_path):
    folder, left = tmp_path / "out", []

    class Keep(TrainerCallback):  # what a kill would leave
        def on_log(self, *args, **kwargs):
            left.extend(path.rename(tmp_path / path.name) for path in folder.glob("_features*") if not left)

    turn(probe_feature_memory=0.0, probe_epochs=1, max_steps=1, callbacks=[Keep()]).train()
    left[0].rename(folder / left[0].name)
    turn(probe_epochs=1, max_steps=1).train()
    assert os.listdir(folder) == ["_turn_state.safetensors"]


def test_every_process_hears_why(training_arguments, tmp_path):
    holder = Holder(training_arguments())
    command = [
        *(str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2"),
        *(str(TESTS / "helpers" / "refused_runs.py"), str(tmp_path / "two"), str(tmp_path / "out")),
    ]
    env = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"}
    try:
        for _ in range(2):
            shutil.rmtree(tmp_path / "two", ignore_errors=True)
            run = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
            # Once in about fifteen runs, a process was aborted by C++ between two trainings; why is not known.
            if "terminate called without an active exception" not in run.stderr:
                break
    finally:
        holder.kill()
    assert run.returncode == 0, run.stderr
    for line in (
        f"held: 2 x Another run is in {tmp_path / 'out'}: process {holder.pid} on ",
        f"rank 1's state: 2 x {tmp_path / 'two' / 'copy' / 'rng_state_1.pth'} is missing",
        f"optimizer: 2 x {tmp_path / 'two' / 'copy' / 'optimizer.pt'} is damaged",
        "another's state: 2 x trained\n",
        "left: []\n",
    ):
        assert line in run.stdout, run.stdout
    shutil.copytree(tmp_path / "two" / "checkpoint-2", tmp_path / "one")
    (tmp_path / "one" / "rng_state_1.pth").unlink()  # one process has no use for it
    ClearTrainer(
        tiny_bert(),
        training_arguments(max_steps=3, learning_rate=5e-5, per_device_train_batch_size=4, clear_warmup_epochs=0),
        train_dataset=toy_dataset(16),
        data_collator=collate,
        peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
    ).train(resume_from_checkpoint=str(tmp_path / "one"))


def test_a_thread_of_the_same_process_is_another_run(training_arguments):
    arguments, messages = training_arguments(), []

    def run():
        with pytest.raises(RuntimeError, match=f"Another run is in .*process {os.getpid()} on ") as error:
            with alone_in(arguments.output_dir, arguments):
                pass
        messages.append(str(error.value))

    with alone_in(arguments.output_dir, arguments), alone_in(arguments.output_dir, arguments):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert len(messages) == 1
    with alone_in(arguments.output_dir, arguments):
        pass
