"""Tables and pictures for a report on a training with wrong labels. numpy and scikit-learn; matplotlib for pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np

from .estimators import CleanProbabilityEstimate
from .estimators.neighbors import neighbor_votes
from .files import write_atomically

_DRAWN = 1500  # samples in a panel of t-SNE: more take long and cover each other
_COLORS = 20  # that a person can tell apart
_MARKERS = "osD^vPX*<>"
_DOT, _CROSS = {"marker": "o", "s": 9, "linewidths": 0}, {"marker": "x", "s": 13, "linewidths": 0.8}


def cleansing_table(
    clean_probability: np.ndarray,
    is_noisy: np.ndarray,
    thresholds: Sequence[float] = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7),
) -> list[dict]:
    """What is left of a dataset when only the samples with a clean probability above a threshold τ are kept, where the
    truth is known (TURN, Ahn et al., 2024, arXiv 2310.17668).

    Args:
        clean_probability (`np.ndarray` of shape `[num_samples]`): in [0, 1].
        is_noisy (`np.ndarray` of shape `[num_samples]`): True where the given label is wrong.
        thresholds (`Sequence[float]`, *optional*, defaults to 0.4 to 0.7 in steps of 0.05): the τ, in (0, 1).

    Returns:
        `list[dict]`, one row a threshold: `threshold`; `kept`, the number of samples above it; `purity`, the share of
        the kept whose label is correct (NaN where nothing is kept); `recall`, the share of all correctly labelled
        samples that are kept.

    Raises:
        ValueError: where `clean_probability` or `is_noisy` is of another shape, the former is no probability, a
            threshold is outside (0, 1), or no label is correct.

    Example:

    ```python
    >>> cleansing_table([0.9, 0.6, 0.2], [False, True, False], thresholds=[0.5])
    [{'threshold': 0.5, 'kept': 2, 'purity': 0.5, 'recall': 0.5}]
    ```
    """
    CleanProbabilityEstimate(clean_probability)  # checks it
    probability = np.asarray(clean_probability)  # compared with thresholds in its own precision, as in `select_clean`
    is_correct = ~_is_noisy(is_noisy, len(probability))
    if not is_correct.any():
        raise ValueError("No label is correct: recall is not defined. `is_noisy` is True where a given label is wrong.")
    rows = []
    for threshold in map(float, thresholds):
        if not 0 < threshold < 1:
            raise ValueError(f"`thresholds` have to lie between 0 and 1, got {threshold}.")
        kept = probability > threshold
        purity, recall = is_correct[kept].mean() if kept.any() else np.nan, kept[is_correct].mean()
        rows.append({"threshold": threshold, "kept": int(kept.sum()), "purity": float(purity), "recall": float(recall)})
    return rows


def plot_cleansing(tables: Mapping[str, list[dict]], path: str | os.PathLike) -> None:
    """Draws purity, recall and the number of kept samples against the threshold, into one PNG.

    Args:
        tables (`Mapping[str, list[dict]]`): what [`cleansing_table`] returned, by the name of its line.
        path (`str` or `os.PathLike`): the PNG. Missing folders are made.

    Raises:
        ValueError: where there is no table, or one without rows.
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


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Linear centered kernel alignment: how similar two sets of features of the same samples are (Kornblith et al.,
    2019, arXiv 1905.00414).

    `||X'Y||² / (||X'X|| ||Y'Y||)` for centered X and Y, with Frobenius norms. Rotation, scale and offset don't matter.
    Features that have nothing in common come close to 0 only with many more samples than dimensions.

    Args:
        first (`np.ndarray` of shape `[num_samples, dim1]`): features. Used in float64.
        second (`np.ndarray` of shape `[num_samples, dim2]`): other features of the same samples, in the same order.

    Returns:
        `float` in [0, 1]: 1 where both are the same up to rotation, scale and offset.

    Raises:
        ValueError: where the shapes are others, a value is not finite, or all samples have the same features.

    Example:

    ```python
    >>> round(linear_cka([[0, 0], [1, 0], [0, 2]], [[5, 5], [5, 4], [7, 5]]), 6)  # rotated and moved
    1.0
    ```
    """
    first, second = _centered("first", first), _centered("second", second)
    if len(first) != len(second):
        raise ValueError(
            f"`first` has {len(first)} samples and `second` {len(second)}: CKA compares features of the same samples."
        )
    between, *within = (np.linalg.norm(x.T @ y) for x, y in [(first, second), (first, first), (second, second)])
    return min(float(between**2 / (within[0] * within[1])), 1.0)  # rounding can exceed 1


def knn_accuracy(features: np.ndarray, labels: np.ndarray, k: int = 10) -> float:
    """How well the classes are apart in the features: the accuracy of a k-nearest-neighbor classifier that sees all
    samples but the one it classifies (leave-one-out), a probe without training (Wu et al., 2018, arXiv 1805.01978).

    Neighbors and their weights are those of [`knn_agreement`]: the `k` other samples with the largest cosine
    similarity, each counting by it. The class with the largest sum wins; of tied classes, that of the nearest neighbor.

    Time grows with the square of the number of samples, memory only with their number.

    Args:
        features (`np.ndarray` of shape `[num_samples, dim]`): used in float32.
        labels (`np.ndarray` of shape `[num_samples]`): the classes, usually the true ones.
        k (`int`, *optional*, defaults to 10): the number of neighbors.

    Returns:
        `float`: the share of samples whose class wins.

    Raises:
        ValueError: where `features` or `labels` is of another shape, there are fewer than two samples, `k` is smaller
            than 1, or the features of a sample are all zero or not finite.

    Example:

    ```python
    >>> knn_accuracy([[1, 0], [2, 0], [0, 1], [0, 3]], [0, 0, 1, 0], k=1)
    0.5
    ```
    """
    votes, weights = neighbor_votes(features, labels, k)
    if len(votes) < 2:
        raise ValueError(f"k-NN accuracy needs at least two samples, got {len(votes)}.")
    sums = np.stack([(weights * (votes == vote[:, None])).sum(axis=1) for vote in votes.T], axis=1)
    winner = votes[np.arange(len(votes)), sums.argmax(axis=1)]  # of equal sums, the first: the nearest neighbor's
    return float((winner == np.asarray(labels)).mean())


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
        ValueError: where there is no stage, a shape is another, a true label is negative (unknown), `num_classes` is
            outside 1 to 20, fewer than 4 samples are left to draw, or as [`knn_accuracy`] and [`linear_cka`].
        ImportError: without matplotlib.

    Example:

    ```python
    >>> plot_feature_drift({"pretrained": before, "after fine-tuning": after}, true_labels, "drift.png")
    [{'stage': 'pretrained', 'knn_accuracy': 0.81, 'cka_to_first': 1.0}, {'stage': 'after fine-tuning', ...}]
    ```
    """
    from sklearn.manifold import TSNE

    true_labels, stages = np.asarray(true_labels), {name: np.asarray(features) for name, features in stages.items()}
    is_noisy = np.zeros(len(true_labels), dtype=bool) if is_noisy is None else _is_noisy(is_noisy, len(true_labels))
    if not stages:
        raise ValueError("`stages` is empty: there is nothing to draw.")
    if (true_labels < 0).any():
        raise ValueError("`true_labels` has negative numbers, which stand for unknown: leave those samples out.")
    if not 1 <= num_classes <= _COLORS:
        raise ValueError(f"`num_classes` has to be 1 to {_COLORS}: more colors look alike; got {num_classes}.")
    columns = min(len(stages), 3)
    figure, colors = _figure((4.2 * columns, 4.4 * -(-len(stages) // columns) + 0.7))
    rows = []
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


def _is_noisy(values: np.ndarray, num_samples: int) -> np.ndarray:
    values = np.asarray(values, dtype=bool)
    if values.shape != (num_samples,):
        raise ValueError(f"`is_noisy` has to be of shape [{num_samples}], got {list(values.shape)}.")
    return values


def _centered(name: str, features: np.ndarray) -> np.ndarray:
    """Centered and scaled to at most 1, in float64."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or not features.size:
        raise ValueError(f"`{name}` has to be of shape [num_samples, dim], got {list(features.shape)}.")
    if not np.isfinite(features).all():
        raise ValueError(f"`{name}` has values that are NaN or infinite: leave those samples out.")
    centered = features - features.mean(axis=0)
    scale = np.abs(centered).max()
    if scale <= np.finfo(np.float32).eps * np.abs(features).max():
        raise ValueError(f"`{name}` is the same for all samples (to float32 precision): CKA is not defined.")
    return centered / scale


def _figure(size: tuple[float, float]):
    """An empty figure, outside of pyplot, and matplotlib's colors."""
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Pictures need matplotlib: pip install "hf-clear[plots]"') from error
    figure = Figure(size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
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
