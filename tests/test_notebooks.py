import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, "clear the outputs before you commit"


def test_quickstart_runs_and_finds_the_wrong_labels(tmp_path):
    notebook = nbformat.read(next(path for path in NOTEBOOKS if path.stem == "01_quickstart"), as_version=4)
    os.environ["HF_HUB_OFFLINE"] = "1"
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    texts = [
        output["data"]["text/plain"] if "data" in output else output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    metrics = next(eval(text) for text in texts if text.startswith("{'detection_auroc'"))
    assert metrics["detection_auroc"] > 0.9
    assert texts[-1] == "'animal'"
    assert any("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))
