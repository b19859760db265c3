"""Pictures of trainings over their epochs: test accuracy and memorization, with bands over seeds. matplotlib alone."""

from __future__ import annotations

import io
import os
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .._extras import NO_MATPLOTLIB
from ..files import write_atomically
from .results import TrainingResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ACCURACY = {"eval_test_accuracy": "-"}
_MEMORIZATION = {"memorization_clean": "-", "memorization_noisy": ":"}
_TITLES = {"eval_test_accuracy": "test accuracy", "memorization_clean": "predicted as labelled\n(dotted: wrong labels)"}
_COLUMNS = 4
_WIDTH, _HEIGHT = 3.1, 2.6  # of a panel, in inches
_TITLE_WIDTH, _LINE = 2.4, 0.17  # of a title, which is to stay above its own axes; height of its further lines
_SIZE = 10  # of titles, in points
_MOST_LETTERS = 45  # of a line: of the narrowest, no more fit


def draw_curves(trainings: Sequence[TrainingResult], path: str | os.PathLike, description: str = "") -> bool:
    """Draws test accuracy by epoch, and below it how much of the training set is predicted as labelled (solid: right
    labels; dotted: wrong ones): a column for each setting, a color for each method. A line is the mean over seeds, its
    band goes from the smallest to the largest; an epoch that not all seeds have is left out.

    Args:
        path (`str`): the SVG file; written to a temporary name and renamed.
        description (`str`, *optional*): kept in the file.

    Returns:
        `bool`: False, and nothing is written, if no training has logged either. The test set is scored after each
        epoch with `--test_each_epoch`; memorization is logged with `--report_memorization`.

    Raises:
        ImportError: without matplotlib.
    """
    rows = [names for names in (_ACCURACY, _MEMORIZATION) if any(_has(one, names) for one in trainings)]
    settings = list(dict.fromkeys(one.setting for one in trainings))
    if not rows:
        return False
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(NO_MATPLOTLIB) from error
    columns = min(len(settings), _COLUMNS)
    blocks = -(-len(settings) // columns)  # of all rows, below each other
    titles = {setting: _wrapped(setting) for setting in settings}
    further_lines = max(title.count("\n") for title in titles.values())
    size = _WIDTH * columns + 0.5, (_HEIGHT * len(rows) + _LINE * further_lines) * blocks + 0.8
    figure = Figure(size, layout="constrained")
    axes = figure.subplots(len(rows) * blocks, columns, squeeze=False)
    colors = {method: f"C{number % 10}" for number, method in enumerate(dict.fromkeys(one.method for one in trainings))}
    lines = {}
    for number, setting in enumerate(settings):
        own = [one for one in trainings if one.setting == setting]
        for row, names in enumerate(rows):
            axis = axes[number // columns * len(rows) + row, number % columns]
            for method, color in colors.items():
                drawn = _draw([one for one in own if one.method == method], names, color, axis)
                lines.update({method: drawn} if drawn is not None else {})
            axis.set_title(titles[setting] if row == 0 else "", fontsize=_SIZE)
            left = axes[number // columns * len(rows) + row, : number % columns]
            axis.set_ylabel("" if any(other.lines for other in left) else _TITLES[next(iter(names))])
            axis.spines[["top", "right"]].set_visible(False)
            axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in axes.flat:
        if not axis.lines:
            axis.set_axis_off()  # a title stays
    figure.supxlabel("epoch", fontsize=_SIZE)
    fitting = int(size[0] / (0.7 + 0.085 * max(map(len, lines), default=0)))  # inches: an entry, and a letter of it
    ncols = max(min(len(lines), fitting, 4), 1)
    figure.legend(lines.values(), map(_escaped, lines), frameon=False, loc="outside upper center", ncols=ncols)
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None, "Description": description})
    write_atomically(path, content.getvalue())
    return True


def _wrapped(title: str) -> str:
    """In lines, each as wide as the axes or less."""
    from matplotlib.textpath import TextPath

    lines = [title]
    for letters in range(_MOST_LETTERS, 0, -1):
        lines = [_escaped(line) for line in textwrap.wrap(title, letters)]
        if all(TextPath((0, 0), line, size=_SIZE).get_extents().width <= 72 * _TITLE_WIDTH for line in lines):
            break
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """No formula."""
    return text.replace("$", r"\$")


def _has(training: TrainingResult, names: dict[str, str]) -> bool:
    return any(training.over_epochs(name)[0] for name in names)


def _draw(trainings: Sequence[TrainingResult], names: dict[str, str], color: str, axis: Axes):
    """Returns a line for the legend; None if there is none."""
    drawn = None
    for name, style in names.items():
        by_epoch = defaultdict(list)
        for training in trainings:
            for epoch, value in zip(*training.over_epochs(name)):
                by_epoch[epoch].append(value)
        most = max(map(len, by_epoch.values()), default=0)
        epochs = sorted(epoch for epoch, values in by_epoch.items() if len(values) == most)  # of all seeds alike
        if not epochs:
            continue
        values = [by_epoch[epoch] for epoch in epochs]
        marker = "o" if len(epochs) == 1 else None
        (line,) = axis.plot(epochs, [np.mean(own) for own in values], style, color=color, marker=marker, linewidth=1.8)
        low, high = [min(own) for own in values], [max(own) for own in values]
        axis.fill_between(epochs, low, high, color=color, alpha=0.2, linewidth=0)
        drawn = drawn or line
    return drawn
