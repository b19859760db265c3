import pickle
import subprocess
import sys

import pytest

import hf_clear

LIGHT = """
import sys
import hf_clear
from peft import PeftType
heavy = {"transformers.trainer", "sklearn", "evaluate", "datasets", "pandas"} & sys.modules.keys()
assert not heavy, heavy
assert PeftType("CLEAR_LORA") and PeftType("CLEAR_PROMPT"), "import registers the types"
print("light")
"""


def test_importing_hf_clear_loads_what_peft_needs_alone():
    run = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert run.stdout == "light\n", run.stderr


def test_every_public_name_is_there():
    assert set(hf_clear._MODULE_OF) < set(hf_clear.__all__) <= set(dir(hf_clear))
    for name in hf_clear.__all__:
        assert name == "SAMPLE_INDEX" or getattr(hf_clear, name).__name__ == name
    assert pickle.loads(pickle.dumps(hf_clear.ClearTrainer)) is hf_clear.ClearTrainer
    assert hf_clear.metrics.Accuracy, "modules too"
    for name in ("nothing", "no.thing"):
        assert not hasattr(hf_clear, name)
    with pytest.raises(ImportError, match="cannot import name 'ClearTrainers'"):
        from hf_clear import ClearTrainers  # noqa: F401
