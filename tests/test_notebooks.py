"""The notebooks run, and the outputs that they are committed with are those of a run: small, and without what changes
from run to run."""

import importlib.util
import math
import re
from html import unescape
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_BYTES, MOST_PICTURES = 100_000, 2
# Of figures that come out of a training: the last bits of a CPU's arithmetic decide which way it goes.
CLOSE = {"rel_tol": 0.35, "abs_tol": 0.2}
# Paths, warnings of Python, progress bars, and what logging of transformers writes.
JUNK = re.compile(
    r"/home/|/root/|/work/|/tmp/|site-packages|\w+Warning\b|<progress|it/s\]|\[transformers\]|Traceback|\bat 0x"
)
NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*(?:e-?\d+)?")
CELL, HEADER = re.compile(r"<t[hd][^>]*>(.*?)</t[hd]>", re.DOTALL), re.compile(r"<thead>(.*?)</thead>", re.DOTALL)

spec = importlib.util.spec_from_file_location("execute_notebooks", FOLDER / "execute.py")
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(output: nbformat.NotebookNode) -> str:
    data = output.get("data", {})
    return output.get("text") or data.get("text/html") or data.get("text/plain", "")


def shown(cell: nbformat.NotebookNode) -> list[tuple]:
    """What a cell shows, output by output: its kinds, its words, its numbers. Of a table whose rows depend on the last
    bits, the header alone; of warnings of hf_clear, which do too, that there are any."""
    found = []
    for output in cell.outputs:
        kinds, text = (output.get("name"), *sorted(output.get("data", {}))), text_of(output)
        if "image/png" in kinds or "stderr" in kinds:
            text = ""
        elif "<table" in text:
            header = HEADER.search(text).group(1)
            text = " | ".join(
                map(unescape, CELL.findall(header if "varies" in cell.metadata.get("tags", []) else text))
            )
        words = " ".join(NUMBER.sub("#", text).split())
        found.append((kinds, words, [float(number.replace(",", "")) for number in NUMBER.findall(text)]))
    return found


def differences(committed: nbformat.NotebookNode, run: nbformat.NotebookNode) -> list[str]:
    found = []
    for number, (before, now) in enumerate(zip(code_cells(committed), code_cells(run), strict=True)):
        before, now = shown(before), shown(now)
        if [part[:2] for part in before] != [part[:2] for part in now]:
            found.append(f"cell {number} shows {now}, and is committed with {before}")
            continue
        for (_, words, old), (_, _, new) in zip(before, now):
            far = [(a, b) for a, b in zip(old, new) if not math.isclose(a, b, **CLOSE)]
            if far:
                found.append(f"cell {number}, {words!r}: committed and now {far}")
    return found


def test_each_notebook_is_there():
    assert [path.stem for path in NOTEBOOKS] == ["01_quickstart", "02_find_wrong_labels", "03_ablations", "04_turn"]
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"({path.name})" in readme for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_committed_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    assert path.stat().st_size <= MOST_BYTES
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), (
        "run `python notebooks/execute.py`"
    )
    assert all("execution" not in cell.metadata for cell in notebook.cells), "times change from run to run"
    assert set(notebook.metadata) == {"kernelspec", "language_info"} and set(notebook.metadata.language_info) == {
        "name"
    }
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert sum("image/png" in output.get("data", {}) for output in outputs) <= MOST_PICTURES
    junk = [text_of(output) for output in outputs if output.output_type == "error" or JUNK.search(text_of(output))]
    assert not junk, junk


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_shows_what_it_is_committed_with(path):
    assert not differences(nbformat.read(path, as_version=4), execute.execute(path))


@pytest.mark.parametrize("change", ["a figure", "a word", "an output less"])
def test_an_output_of_another_run_is_told(change):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("f()")])
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="40.1% of 299 labels are wrong")]
    other = nbformat.from_dict(notebook)
    assert not differences(notebook, other)
    other.cells[0].outputs[0].text = "41.2% of 290 labels are wrong"
    assert not differences(notebook, other)
    if change == "an output less":
        other.cells[0].outputs = []
    else:
        other.cells[0].outputs[0].text = "90% of 299 labels are wrong" if change == "a figure" else "40% of 299 labels"
    assert len(differences(notebook, other)) == 1
