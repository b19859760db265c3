"""Fixtures that run `run_glue_noisy.py` in the test's process."""

from __future__ import annotations

import sys

import pytest

import run_glue_noisy


@pytest.fixture
def script(tmp_path, tiny_model, monkeypatch):
    """Runs the script in this process; returns its results and its output folder."""

    def run(*arguments: str, out: str = "out", defaults: bool = True):
        argv = [str(a) for a in arguments]
        if defaults:
            argv += ["--model_name_or_path", tiny_model, "--output_dir", str(tmp_path / out), "--use_cpu"]
            argv += ["--disable_tqdm", "True", "--learning_rate", "0.01"]
            if not {"--peft_method", "turn", "--adapter_name_or_path"}.intersection(argv):  # a new LoRA, by default
                argv += ["--lora_alpha", "8"]
            argv += ["--per_device_train_batch_size", "8"]
            if not {"--preset", "none", "turn"}.intersection(argv):  # CleaR, whatever the defaults are
                argv += ["--preset", "clear"]
        monkeypatch.setattr(sys, "argv", ["run_glue_noisy.py", *argv])
        return run_glue_noisy.main(), tmp_path / out

    return run


@pytest.fixture
def parsed(monkeypatch):
    """The arguments as `run` gets them, without a run."""

    def parse(*argv: str):
        runs = []
        monkeypatch.setattr(run_glue_noisy, "run", lambda *arguments: runs.append(arguments) or {"train_samples": 0})
        monkeypatch.setattr(sys, "argv", ["run_glue_noisy.py", *argv])
        run_glue_noisy.main()
        return runs[0]

    return parse
