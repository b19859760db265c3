"""Every example of CONTRIBUTING.md runs as it stands, in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- example: (.+?) -->\n```python\n(.+?)```", TEXT, flags=re.DOTALL))


def test_no_block_is_left_out():
    assert len(EXAMPLES) == TEXT.count("```python")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name):
    run = subprocess.run(
        [sys.executable, "-c", EXAMPLES[name]],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
