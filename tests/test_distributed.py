"""Two processes on CPU do what one does; the launchers are those of the README."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import distributed_runs as runs
from safetensors.torch import load_file

from hf_clear.routing import sample_gates

TESTS = Path(__file__).parent
TORCHRUN = "torchrun --standalone --nproc_per_node 2"
ACCELERATE = (
    "accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no "
    "--main_process_port 0"
)


def launch(launcher: str, *command: str | Path) -> None:
    program, *arguments = shlex.split(launcher)
    run = subprocess.Popen(
        [str(Path(sys.executable).parent / program), *arguments, *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        _, errors = run.communicate(timeout=600)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)  # with the workers of its processes, which would hold the pipe
    assert run.returncode == 0, errors


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With a checkpoint that one process wrote."""
    folder = tmp_path_factory.mktemp("distributed")
    runs.build(folder / "one", runs.RESUMED, runs.LORA, runs.Save(14, stop=True)).train()
    return folder


@pytest.fixture(scope="module")
def ranks(folder) -> list[dict]:
    """What both processes found, in all settings."""
    launch(ACCELERATE, TESTS / "helpers" / "distributed_runs.py", folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys() and first
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, equal_nan=True, msg=name)


@pytest.mark.parametrize("name", runs.SETTINGS)
def test_two_processes(ranks, tmp_path, monkeypatch, name):
    monkeypatch.setattr("hf_clear.probing.head_start.LEAST_SKILL", 0.0)  # as there
    settings, config = runs.SETTINGS[name]
    first, second = (results[name] for results in ranks)
    assert first["world_size"] == 2 and first["steps"] == second["steps"]
    for what in ("first", "state", "weights"):
        assert_same(first[what], second[what])
    for state in (first["first"], first["state"]):  # every sample, once
        assert (
            state["losses"].isfinite().all()
            and state["labels"].tolist() == runs.toy_dataset(runs.NUM_SAMPLES)["labels"]
        )

    fit = runs.Before()
    alone = fit.trainer = runs.build(tmp_path, {**settings, "num_train_epochs": 1}, config, fit)
    alone.train()
    assert alone.args.world_size == 1
    difference = (first["first"]["clean_probability"] - fit.state["clean_probability"]).abs().max()
    # The search for the noise model's weights ends a little sooner or later for scores that differ in the last digit.
    assert difference <= (1e-3 if name == "posterior" else 1e-4), difference

    if settings.get("clear_routing") == "none":
        assert not first["gates"] and first["state"]["posterior"].shape == (runs.NUM_SAMPLES, 4)
        return
    # Gates of the two are those of their samples, whoever draws them.
    seen = []
    for (key, index, probability, gates), (other_key, other_index, *_) in zip(first["gates"], second["gates"]):
        assert key == other_key and torch.equal(gates, sample_gates(probability, len(gates), index, key))
        seen.append((set(index.tolist()), set(other_index.tolist())))
    assert seen and sum(bool(mine & others) for mine, others in seen) <= 4, "only the last batches are filled up"
    assert len({str(gates.tolist()) for *_, gates in first["gates"][:4]}) > 1
    covered = set().union(*(mine | others for mine, others in seen))
    assert len(covered) == runs.NUM_SAMPLES or "drop" in name


def test_two_processes_and_one_train_alike(ranks, folder, tmp_path):
    alone = runs.trajectory(tmp_path, 8)
    merged = [load_file(own / "merged" / "model.safetensors") for own in (folder, tmp_path)]
    torch.testing.assert_close(*merged, rtol=1e-4, atol=1e-4)
    for results in ranks:
        for name, value in results["trajectory"].items():
            torch.testing.assert_close(value, alone[name], rtol=1e-4, atol=1e-4, msg=name)


def test_evaluation_before_training_leaves_ddp_on(ranks):
    assert_same(*(results["evaluated"] for results in ranks))


@pytest.mark.parametrize("on_disk", [False, True])
def test_turn(ranks, tmp_path, on_disk):
    first, second = (results[f"turn, {on_disk=}"] for results in ranks)
    assert_same(first["before"], second["before"])
    assert_same(first["weights"], second["weights"])
    alone = runs.turn(tmp_path, on_disk, 1)["before"]  # of the phases before training, whose batches differ
    for name, value in first["before"].items():
        torch.testing.assert_close(value, alone[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_loss_of_a_base_trainer(ranks, accumulation):
    first, second = (results[f"base loss, {accumulation}"] for results in ranks)
    for name in first:
        assert_same(first[name], second[name])
    assert_same(first["stock"], first["open"])
    assert any(not torch.equal(first["routed"][name], value) for name, value in first["stock"].items())


def test_a_seq2seq_trainer(ranks):
    first, second = (results["seq2seq"] for results in ranks)
    assert_same(first["state"], second["state"])
    assert_same(first["weights"], second["weights"])
    assert first["state"]["losses"].isfinite().all()
    assert torch.equal(first["generated"], second["generated"]) and len(first["generated"]) >= 5


def test_resume(ranks, folder, tmp_path):
    """On as many processes to the bit; on more or fewer from the very state."""
    for results in ranks:
        for whole, again in zip(results["resume"]["whole"], results["resume"]["again"]):
            assert_same(whole, again)
        written = runs.SampleStore.load(folder / "one" / "checkpoint-14" / "clear_state.safetensors", runs.NUM_SAMPLES)
        assert_same(results["resume"]["restored"], runs.tensors(written))
        assert results["resume"]["step"] == 14 and results["resume"]["end"] == 18
    fewer, restored = runs.resumed(tmp_path, folder / "stopped" / "checkpoint-8")
    written = runs.SampleStore.load(folder / "stopped" / "checkpoint-8" / "clear_state.safetensors", runs.NUM_SAMPLES)
    assert_same(restored.restored, runs.tensors(written))
    assert restored.step == 8 and fewer.state.global_step > 8 and fewer.sample_store.fitted_epoch == 2


def test_a_new_beginning(ranks, tmp_path):
    """After a plain epoch that teaches nothing: what is trained is as before, but for the head, on every process."""
    first, second = (results["anew"] for results in ranks)
    for what in ("start", "anew", "weights", "state"):
        assert_same(first[what], second[what])
    alone = runs.begun_anew(tmp_path, 1)
    for found in (first, second, alone):
        assert found["known"] == 0 and found["is_provisional"]
        assert found["state"]["posterior"].isfinite().all()
        for name, start in found["start"].items():
            assert torch.equal(found["anew"][name], start) == ("classifier" not in name), name
            # The probes' search ends a little sooner or later for features that differ in the last digit.
            torch.testing.assert_close(found["anew"][name], alone["anew"][name], rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["lora", "adapter", "bitfit", "prompt"])
def test_fsdp2_by_hand(ranks, method, checkpointing):
    for results in ranks:
        whole, sharded = results["fsdp2"][f"{method}, checkpointing={checkpointing}"]
        assert whole.keys() == sharded.keys() and len(whole) > 4
        for name in whole:
            torch.testing.assert_close(sharded[name], whole[name], rtol=1e-5, atol=1e-6, msg=name)
