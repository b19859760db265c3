"""run_glue_noisy.py in a process of its own, on a pretrained backbone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers.texts import write

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HF_CLEAR_DATA", ROOT.parent / "shared" / "data"))


def command(*arguments: str, cwd: Path) -> str:
    """Runs the script in a process of its own; returns what it prints."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "run_glue_noisy.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_without_arguments(tmp_path):
    """The very command of the README: no network, no arguments."""
    printed = command(cwd=tmp_path)
    assert "plain     CleaR" in printed and os.path.join("outputs", "embedded", "clear") in printed
    results = {
        method: json.loads((tmp_path / "outputs" / "embedded" / method / "all_results.json").read_text())
        for method in ("none", "clear")
    }
    assert results["clear"]["detection_auroc"] > 0.9
    assert results["clear"]["test_accuracy"] > results["none"]["test_accuracy"] + 0.02


@pytest.mark.skipif(not (DATA / "banking77").is_dir(), reason="needs BANKING77 in ../shared/data (or $HF_CLEAR_DATA)")
def test_real_queries(tmp_path):
    """6 of BANKING77's intents: CleaR and TURN find the wrong labels and learn the right ones."""
    train, test = (pd.read_csv(DATA / "banking77" / f"{name}.csv") for name in ("train", "test"))
    intents = sorted(set(train.category))[:6]
    files = [
        write(frame[frame.category.isin(intents)].head(limit), tmp_path / f"{name}.csv")
        for name, frame, limit in (("train", train.sample(frac=1, random_state=0), 4000), ("test", test, 400))
    ]
    arguments = ["--train_file", files[0], "--test_file", files[1], "--label_column_name", "category"]
    arguments += ["--noise_type", "symmetric", "--noise_rate", "0.4"]

    def results(method: str, *more: str) -> dict[str, float]:
        command(*arguments, "--method", method, "--output_dir", method, *more, cwd=tmp_path)
        return json.loads((tmp_path / method / "all_results.json").read_text())

    clear = results("clear", "--preset", "clear", "--num_train_epochs", "4", "--clear_warmup_epochs", "3")
    assert clear["detection_auroc"] > 0.95 and clear["test_accuracy"] > 0.8
    turn = results("turn", "--num_train_epochs", "2")
    assert turn["probe_detection_auroc"] > 0.98 and turn["cleanse_purity"] > 0.95 and turn["cleanse_recall"] > 0.8
    assert min(turn["test_accuracy"], turn["probe_test_accuracy"]) > 0.9
