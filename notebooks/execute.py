"""Runs the notebooks and writes their outputs into them: `python notebooks/execute.py`, or with the paths of some.

Each runs in an empty folder, on one core and without a network. What changes from run to run stays out: progress bars,
times, versions.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from hf_clear.files import write_atomically

FOLDER = Path(__file__).parent
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}
_OF_TRAINER = "<IPython.core.display.HTML object>"  # a pandas table has a text of its own
_BAR = re.compile(r"^.*\d%\|.*\n?", re.MULTILINE)  # of tqdm


def notebooks() -> list[Path]:
    """All notebooks, in the order of their numbers."""
    return sorted(FOLDER.glob("*.ipynb"))


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of a new run; the file stays as it is.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=1800,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,
        )
        client.execute(env={**os.environ, **ENVIRONMENT})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = without_progress(cell.outputs)
    notebook.metadata.language_info = {"name": "python"}  # without the version
    return notebook


def without_progress(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Without the bars, times and tables that `Trainer` shows as it goes, and the bars of tqdm."""
    kept = []
    for output in outputs:
        if output.get("name") == "stderr":
            output.text = _BAR.sub("", output.text).strip("\n")
        if output.get("text") != "" and output.get("data", {}).get("text/plain") != _OF_TRAINER:
            kept.append(output)
    return kept


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else notebooks():
        print(path, flush=True)
        write_atomically(path, (nbformat.writes(execute(path)) + "\n").encode())
