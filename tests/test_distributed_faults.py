"""What goes wrong on one process of many ends all of them soon, and each says why; uneven work is refused."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import faulty_runs
from helpers.toy import toy_dataset

TESTS = Path(__file__).parent
SCRIPT = TESTS / "helpers" / "faulty_runs.py"
SAMPLE, DISK, KILLED = "ValueError: a broken sample", "OSError: [Errno 28] No space left on device", "it was killed"
# What runs on how many processes: the one that fails, and its reason.
FAULTS = {
    "2:worker": (1, SAMPLE),
    "3:estimator": (0, "ValueError: a broken estimator"),
    "2:disk": (0, DISK),
    "3:check": (1, "ValueError: The label of sample 0 is 99"),
    "2:interrupt": (1, "KeyboardInterrupt"),
    "2:blocked": (1, "ValueError: so it goes"),
    "2:evaluation": (1, SAMPLE),
    "2:probe": (1, SAMPLE),
    "2:probe_disk": (0, DISK),
    "2:turn_disk": (0, DISK),
    "2:killed_main": (0, KILLED),
}
REFUSED = {
    "a ragged end": "numbers of training batches (5 on process 0, 4 on process 1, 4 on process 2)",
    "a ragged end of accumulated batches": "numbers of training batches (7 on process 0, 6 on process 1",
    "a ragged end of split batches": "numbers of training batches (5 on process 0, 4 on process 1",
    "a ragged evaluation": "numbers of evaluation batches (2 on process 0, 1 on process 1",
    "fewer samples than processes": "numbers of training batches (1 on process 0, 0 on process 1",
    "a ragged end of fine-tuning": "numbers of training batches (4 on process 0, 3 on process 1",
    "nothing left": "too small for one batch on each of the 3 processes",
    "other samples": "training sets of different lengths (48 on process 0, 49 on process 1, 50 on process 2)",
    "another order": "training set on process 1 is not that on process 0, which differs in the order of the samples",
    "another split": "training set on process 1 is not that on process 0, which differs in the labels of 48 of 48",
    "other inputs": "training set on process 1 is not that on process 0, which differs in the inputs (",
    "evaluate": "numbers of evaluation batches (2 on process 0, 1 on process 1",
}


def start(launcher: str, *arguments: str | Path) -> subprocess.Popen:
    program, *options = shlex.split(launcher)
    return subprocess.Popen(
        [str(Path(sys.executable).parent / program), *options, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, list[dict]]:
    folder = tmp_path_factory.mktemp("faults")
    run = start("python", SCRIPT, folder, *FAULTS, "3:refused", "2:even", "2:caught")
    output, _ = run.communicate(timeout=900)
    assert run.returncode == 0, output
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("fault", FAULTS)
def test_all_end_and_say_why(results, fault):
    rank, reason = FAULTS[fault]
    for own, process in enumerate(results[fault]):
        assert process["code"] is not None, f"process {own} waits: {process['stderr']}"
        assert process["code"] != 0
        if (own, fault) != (0, "2:killed_main"):
            assert reason in process["stderr"], process["stderr"]
    others = [process["stderr"] for own, process in enumerate(results[fault]) if own != rank]
    if "killed" not in fault:
        assert all(f"process {rank}" in text.lower() for text in others), others


@pytest.mark.parametrize(
    "launcher, fault, size",
    [
        ("torchrun --standalone --nproc_per_node 3", "collator", 3),
        (
            "accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
            "--dynamo_backend no --main_process_port 0",
            "killed",
            2,
        ),
    ],
)
def test_with_a_launcher(tmp_path, launcher, fault, size):
    run = start(launcher, SCRIPT, fault, tmp_path)
    while run.poll() is None and len(list(tmp_path.glob("*.txt"))) < size:  # imports
        time.sleep(0.1)
    output, _ = run.communicate(timeout=faulty_runs.LIMIT)
    assert run.returncode != 0
    if fault == "killed":
        assert "Signal 9 (SIGKILL)" in output
    else:
        texts = [(tmp_path / f"{rank}.txt").read_text() for rank in range(size)]
        assert all(SAMPLE in text for text in texts), texts


@pytest.mark.parametrize("attempt", REFUSED)
def test_uneven_work_is_refused_before_it_begins(results, attempt):
    for process in results["3:refused"]:
        assert process["code"] == 0, process["stderr"]
        (message,) = [line for line in process["stderr"].splitlines() if line.startswith(f"{attempt}: ")]
        assert REFUSED[attempt] in message


def test_what_only_looks_uneven_is_done(results, tmp_path):
    found = [json.loads(process["stderr"].splitlines()[-1]) for process in results["2:even"]]
    assert found[0] == found[1]
    assert found[0]["steps"] == [2, 4, 2, 6]
    os.environ.pop("RANK", None)
    alone = faulty_runs.clear(tmp_path, data=toy_dataset(2)).per_sample_losses()
    np.testing.assert_allclose(found[0]["losses"], alone, rtol=1e-5)
    probe = faulty_runs.turn(tmp_path, 2)
    probe.linear_probe()
    np.testing.assert_allclose(found[0]["probes"], [probe.sample_store.losses.numpy()] * 2, rtol=1e-4)


def test_what_fails_on_all_can_be_caught_on_all(results):
    for process in results["2:caught"]:
        assert process["code"] == 0 and process["stderr"].splitlines()[-1] == "steps: 3", process["stderr"]
