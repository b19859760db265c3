"""What the README says of architectures is what the tests hold."""

from pathlib import Path

from helpers.architectures import ARCHITECTURES, UNSUPPORTED

NAMES = {name.replace("-", ""): name for name in ARCHITECTURES}
METHODS = ("lora", "adapter", "bitfit", "prompt")


def test_the_table_of_supported_architectures_is_true():
    text = (Path(__file__).parents[1] / "README.md").read_text()
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
