"""What README and docs say is what tests and results hold."""

import subprocess
import sys
from pathlib import Path

import pytest
import tables
from helpers.architectures import ARCHITECTURES, UNSUPPORTED

NAMES = {name.replace("-", ""): name for name in ARCHITECTURES}
ROOT = Path(__file__).parents[1]
METHODS = ("lora", "adapter", "bitfit", "prompt")


def test_the_table_of_supported_architectures_is_true():
    text = (ROOT / "docs" / "models.md").read_text()
    lines = text.split("<!-- support -->\n")[1].split("\n\n")[0].splitlines()[2:]
    said = {}
    for line in lines:
        names, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for name in names.split(", "):
            for method, cell in zip(METHODS, cells, strict=True):
                said[method, NAMES[name.replace("-", "").lower()]] = cell.split(",")[0].split(":")[0]
    expected = {
        (method, name): "no" if (method, name) in UNSUPPORTED else "yes" for method in METHODS for name in ARCHITECTURES
    }
    assert said == expected


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


def test_tables_and_pictures_are_those_of_the_results(capsys):
    assert tables.main(["--check"]) == 0, capsys.readouterr().out


def test_the_site_is_built_without_a_warning(tmp_path):
    """Unknown links, references, headings that jump: all are warnings."""
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(ROOT / "docs"), str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "api.html").read_text()
    assert 'id="hf_clear.ClearTrainer"' in page and "[`" not in page  # Markdown that was not understood
