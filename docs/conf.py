"""The site: `pip install -e ".[docs]" && python -m sphinx -W docs outputs/site`."""

import re

import hf_clear

project, author, release = "hf_clear", "the hf_clear authors", hf_clear.__version__
copyright = "2026, the hf_clear authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme, html_title = "furo", "hf_clear"
html_show_sphinx = html_copy_source = False
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
autodoc_member_order, autodoc_typehints, autodoc_class_signature = "bysource", "none", "mixed"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_rtype = False
linkcheck_ignore = [r"https://huggingface\.co/.*"]

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_REFERENCE = re.compile(r"\[`~?([\w.]+?)(?:\(\))?`\]")
_CODE = re.compile(r"(?<![`:\w])`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")


def _block(fence: re.Match) -> str:
    indent, language, body = fence.groups()
    lines = "\n".join(f"   {line}" if line.strip() else "" for line in body.splitlines())
    return f"\n{indent}.. code-block:: {language or 'text'}\n\n{lines}\n"


def _link(found: re.Match) -> str:
    name = found.group(1).removeprefix("hf_clear.")
    return f":py:obj:`~hf_clear.{name}`" if name.partition(".")[0] in hf_clear.__all__ else f"``{found.group(1)}``"


def from_markdown(app, what, name, object, options, lines):
    """Docstrings are Markdown, as those of transformers are; autodoc reads reStructuredText."""
    text = _FENCE.sub(_block, "\n".join(lines))
    parts = re.split(r"(\.\. code-block:: .*(?:\n(?: .*)?)*)", text)  # code stays as it is
    parts[::2] = [_CODE.sub(r"``\1``", _REFERENCE.sub(_link, part)) for part in parts[::2]]
    lines[:] = "".join(parts).splitlines()


def setup(app):
    app.connect("autodoc-process-docstring", from_markdown, priority=100)  # before napoleon
