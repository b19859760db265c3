"""Pictures for a report on a training with wrong labels. matplotlib; scikit-learn for the t-SNE."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .._argument_checks import check_seed
from .._extras import NO_MATPLOTLIB
from ..files import write_atomically
from .tables import as_noisy, knn_accuracy, linear_cka

if TYPE_CHECKING:
    from matplotlib.layout_engine import ConstrainedLayoutEngine

_DRAWN = 1500  # samples in a panel of t-SNE: more take long and cover each other
_COLORS = 20  # that a person can tell apart
_MARKERS = "osD^vPX*<>"
_DOT, _CROSS = {"marker": "o", "s": 9, "linewidths": 0}, {"marker": "x", "s": 13, "linewidths": 0.8}


def plot_cleansing(tables: Mapping[str, list[dict]], path: str | os.PathLike) -> None:
    """Draws purity, recall and the number of kept samples against the threshold, into one PNG.

    Args:
        tables (`Mapping[str, list[dict]]`): what [`cleansing_table`] returned, by the name of its line.
        path (`str` or `os.PathLike`): the PNG. Missing folders are made.

    Raises:
        ValueError: if there is no table, or one without rows.
        ImportError: without matplotlib.

    Example:

    ```python
    >>> plot_cleansing({"60 %": cleansing_table(clean_probability, is_noisy)}, "cleansing.png")
    ```
    """
    empty = [name for name, table in tables.items() if not table]
    if not tables or empty:
        raise ValueError(f"The table {empty[0]!r} has no rows." if empty else "`tables` is empty: there is no line.")
    figure, colors = _figure((12, 4.2))
    panels = {"purity": "Purity: correct share of the kept", "recall": "Recall: kept share of the correct"}
    for axis, column in zip(figure.subplots(1, 3, sharex=True), (*panels, "kept")):
        for i, (name, table) in enumerate(tables.items()):
            x, y = ([row[key] for row in table] for key in ("threshold", column))
            marker = _MARKERS[(i + i // 10) % len(_MARKERS)]  # from the eleventh line on, no pair comes twice
            axis.plot(x, y, color=colors["tab10"](i % 10), marker=marker, markersize=5, linewidth=1.5, label=name)
        values = np.array([row[column] for table in tables.values() for row in table], dtype=np.float64)
        if column in panels:  # up to 1, from the tenth below all lines
            bottom = min(np.floor(10 * values[np.isfinite(values)].min(initial=1)) / 10, 0.9)
            axis.set_ylim(bottom - 0.03 * (1 - bottom), 1 + 0.03 * (1 - bottom))
        else:
            axis.set_ylim(0, 1.05 * max(values.max(), 1))
        axis.set(xlabel="Threshold τ of the clean probability", ylabel="Share" if column in panels else "Samples")
        axis.set_title(panels.get(column, "Number of samples kept"))
        axis.grid(alpha=0.3)
    _save(figure, path, axis.get_lines())


def plot_feature_drift(
    stages: Mapping[str, np.ndarray],
    true_labels: np.ndarray,
    path: str | os.PathLike,
    num_classes: int = 10,
    is_noisy: np.ndarray | None = None,
    seed: int = 0,
) -> list[dict]:
    """Shows what a training did to the features: a t-SNE (van der Maaten and Hinton, 2008) of every stage, colored by
    true class, with its [`knn_accuracy`] and its [`linear_cka`] with the first stage, in one PNG.

    The two numbers are of all samples. Drawn are at most 1500 of the most frequent classes, the same at each stage. As
    k-NN, the t-SNE knows only the directions of the features. Its axes have no meaning, and neither have the positions
    of distant groups.

    Args:
        stages (`Mapping[str, np.ndarray]`, each of shape `[num_samples, dim]`): the features of the same samples at
            each stage, by its name, such as "pretrained" and "after fine-tuning". `dim` may differ.
        true_labels (`np.ndarray` of shape `[num_samples]`): the true classes, all known.
        path (`str` or `os.PathLike`): the PNG. Missing folders are made.
        num_classes (`int`, *optional*, defaults to 10): how many of the most frequent classes are drawn, at most 20.
        is_noisy (`np.ndarray` of shape `[num_samples]`, *optional*): True where the given label is wrong; those samples
            are drawn as crosses.
        seed (`int`, *optional*, defaults to 0): chooses the samples and seeds the t-SNE.

    Returns:
        `list[dict]`, one row a stage: `stage`, `knn_accuracy`, `cka_to_first`.

    Raises:
        ValueError: if there is no stage, a shape is another, a true label is negative (unknown), `num_classes` is
            outside 1 to 20, fewer than 4 samples are left to draw, `seed` is none, or as [`knn_accuracy`] and
            [`linear_cka`].
        ImportError: without matplotlib.

    Example:

    ```python
    >>> plot_feature_drift({"pretrained": before, "after fine-tuning": after}, true_labels, "drift.png")
    [{'stage': 'pretrained', 'knn_accuracy': 0.81, 'cka_to_first': 1.0}, {'stage': 'after fine-tuning', ...}]
    ```
    """
    from sklearn.manifold import TSNE

    check_seed(seed)
    true_labels, stages = np.asarray(true_labels), {name: np.asarray(features) for name, features in stages.items()}
    is_noisy = np.zeros(len(true_labels), dtype=bool) if is_noisy is None else as_noisy(is_noisy, len(true_labels))
    if not stages:
        raise ValueError("`stages` is empty: there is nothing to draw.")
    if (true_labels < 0).any():
        raise ValueError("`true_labels` has negative numbers, which stand for unknown: leave those samples out.")
    if not 1 <= num_classes <= _COLORS:
        raise ValueError(f"`num_classes` has to be 1 to {_COLORS}: more colors look alike; got {num_classes}.")
    columns = min(len(stages), 3)
    figure, colors = _figure((4.2 * columns, 4.4 * -(-len(stages) // columns) + 0.7))
    rows: list[dict[str, Any]] = []
    for name, features in stages.items():
        try:
            if features.ndim == 2 and features.shape[1] < 2:
                raise ValueError("a t-SNE needs at least two features a sample.")
            rows.append({"stage": name, "knn_accuracy": knn_accuracy(features, true_labels)})
            rows[-1]["cka_to_first"] = linear_cka(next(iter(stages.values())), features)
        except ValueError as error:
            raise ValueError(f"Stage {name!r}: {error}") from error

    classes, sizes = np.unique(true_labels, return_counts=True)
    classes = np.sort(classes[np.argsort(-sizes, kind="stable")[:num_classes]])
    drawn = np.random.default_rng(seed).permutation(np.flatnonzero(np.isin(true_labels, classes)))[:_DRAWN]
    if len(drawn) < 4:
        raise ValueError(f"A t-SNE needs at least 4 samples, got {len(drawn)}.")
    palette = np.array(colors["tab10" if len(classes) <= 10 else "tab20"].colors)
    of_class, wrong = np.searchsorted(classes, true_labels[drawn]), is_noisy[drawn]
    tsne = TSNE(init="pca", perplexity=min(30, (len(drawn) - 1) / 3), random_state=seed)
    for i, row in enumerate(rows):
        axis = figure.add_subplot(-(-len(stages) // columns), columns, i + 1)
        points = stages[row["stage"]][drawn].astype(np.float32)
        x, y = tsne.fit_transform(points / np.linalg.norm(points, axis=1, keepdims=True)).T
        for group, style in [(~wrong, _DOT), (wrong, _CROSS)]:  # in the order drawn, so that no class covers another
            axis.scatter(x[group], y[group], c=palette[of_class[group]], **style)
        numbers = f"k-NN accuracy {row['knn_accuracy']:.3f}, CKA to first {row['cka_to_first']:.3f}"
        axis.set_title(f"{row['stage']}\n{numbers}", fontsize=11)
        axis.set(xlabel="t-SNE 1", ylabel="t-SNE 2", xticks=[], yticks=[])
    handles = [axis.scatter([], [], color=palette[c], label=str(label), **_DOT) for c, label in enumerate(classes)]
    title = "True class (×: the given label is wrong)" if wrong.any() else "True class"
    _save(figure, path, handles, title=title, markerscale=2, handlelength=1)
    return rows


def _figure(size: tuple[float, float]):
    """An empty figure, outside of pyplot, and matplotlib's colors."""
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(NO_MATPLOTLIB) from error
    figure = Figure(size, layout="constrained")
    cast("ConstrainedLayoutEngine", figure.get_layout_engine()).set(w_pad=0.1, h_pad=0.08)
    return figure, colormaps


def _save(figure, path: str | os.PathLike, handles: Sequence, **legend) -> None:
    """Adds a legend below all panels, in as many rows as its names need, and writes the file."""
    longest = max(len(handle.get_label()) for handle in handles)
    fitting = max(int(figure.get_figwidth() / (0.7 + 0.085 * longest)), 1)  # inches: an entry, and a letter of it
    num_rows = -(-len(handles) // fitting)
    figure.legend(handles=handles, loc="outside lower center", ncols=-(-len(handles) // num_rows), **legend)
    png = BytesIO()
    figure.savefig(png, format="png", dpi=150)
    write_atomically(path, png.getvalue())
