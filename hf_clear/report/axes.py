"""Plots that return matplotlib axes: losses with their mixture, memorization, labels, detection. matplotlib alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._argument_checks import check_label_names
from .._extras import NO_MATPLOTLIB
from ..estimators import gaussian_mixture
from ..log_history import mixture_of, series_of
from .short_names import short_names
from .tables import as_noisy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 50  # of a histogram
_OUTER = 0.999  # quantile of the losses at which the picture ends, so that one outlier doesn't squeeze all others
_ANNOTATED = 12  # classes up to which a cell shows its number
_NAMED = 40  # classes up to which ticks have names


def plot_loss_mixture(
    losses: np.ndarray,
    mixture: Mapping[str, float] | None = None,
    is_noisy: np.ndarray | None = None,
    ax: Axes | None = None,
    names: tuple[str, str] = ("right", "wrong"),
) -> Axes:
    """Draws a histogram of the losses under the two Gaussians that were fitted to them (CleaR, arXiv 2411.00873; Arazo
    et al., 2019).

    Args:
        losses (`np.ndarray` of shape `[num_samples]`): in nats; those that are not finite are left out. Alternatively
            `(counts, edges)` of a histogram, of shapes `[num_bins]` and `[num_bins + 1]`, as `np.histogram` returns.
        mixture (`Mapping[str, float]`, *optional*): with `mixture_mean_clean`, `mixture_std_clean`,
            `mixture_mean_noisy`, `mixture_std_noisy` and `mixture_weight_noisy`, such as an entry of
            `trainer.state.log_history` or the diagnostics of an estimate. By default, [`~hf_clear.gaussian_mixture`] is
            fitted to the losses; without them all (`{}`), only the histogram is drawn.
        is_noisy (`np.ndarray` of shape `[num_samples]`, *optional*): True for the samples to be set apart by color,
            such as those whose label is known to be wrong.
        ax (`matplotlib.axes.Axes`, *optional*): to draw on; those of a new figure by default.
        names (`tuple[str, str]`, *optional*): what `is_noisy` sets apart, for the legend: False first.

    Returns:
        `matplotlib.axes.Axes`: with the density of the losses in 1/nat.

    Raises:
        ValueError: if no loss is finite, or `is_noisy` has another shape.
        ImportError: without matplotlib.

    Example:

    ```python
    >>> table = trainer.clean_probabilities()
    >>> plot_loss_mixture(np.array(table["loss"]))
    ```
    """
    ax = _axes(ax)
    if isinstance(losses, tuple):
        counts, edges = (np.asarray(part, dtype=np.float64) for part in losses)
        groups: dict[str | None, np.ndarray] = {None: counts}
        mixture = mixture or {}
    else:
        losses = np.asarray(losses, dtype=np.float64)
        finite = np.isfinite(losses)
        if losses.ndim != 1 or not finite.any():
            raise ValueError(f"`losses` of shape {list(losses.shape)} has no row of numbers with a finite one among.")
        if mixture is None:
            mixture = gaussian_mixture(losses[finite]).diagnostics
        edges = loss_edges(losses[finite])
        groups = {None: finite}
        if is_noisy is not None:
            noisy = as_noisy(is_noisy, len(losses))
            groups = {names[0]: finite & ~noisy, names[1]: finite & noisy}
        groups = {name: np.histogram(losses[group], edges)[0] for name, group in groups.items()}
    widths, size = np.diff(edges), max(sum(counts.sum() for counts in groups.values()), 1)
    below = np.zeros(len(widths))
    for number, (name, counts) in enumerate(groups.items()):
        density = counts / (size * widths)
        style: dict[str, Any] = {"color": f"C{number}", "alpha": 0.45, "linewidth": 0}
        ax.bar(edges[:-1], density, widths, below, align="edge", label=name, **style)
        below = below + density
    found = mixture_of(mixture)
    if found is not None:
        x = np.linspace(edges[0], edges[-1], 300)
        for number, (name, weight, mean, std) in enumerate(found):
            y = weight * np.exp(-(((x - mean) / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi))
            ax.plot(x, y, color=f"C{number}", linewidth=2, label=f"fitted: {name} ({weight:.0%})")
        ax.set_ylim(0, 1.15 * below.max() if below.max() else None)  # a narrow component may be much higher
    ax.set(xlabel="Loss (nats)", ylabel="Density (1/nat)", xlim=(edges[0], edges[-1]))
    if ax.get_legend_handles_labels()[0]:
        ax.legend()
    return ax


def plot_memorization(log_history: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """Draws how much of the training set a model has learned by heart, epoch by epoch (CleaR, arXiv 2411.00873, Figures
    1 and 4; [`~hf_clear.metrics.Memorization`]).

    Args:
        log_history (`Sequence[Mapping[str, Any]]`): `trainer.state.log_history` of a training whose true labels are
            known; [`~hf_clear.MemorizationCallback`] logs it after every epoch.
        ax (`matplotlib.axes.Axes`, *optional*): to draw on; those of a new figure by default.

    Returns:
        `matplotlib.axes.Axes`: shares against epochs.

    Raises:
        ValueError: if nothing of memorization was logged.
        ImportError: without matplotlib.

    Example:

    ```python
    >>> plot_memorization(trainer.state.log_history)
    ```
    """
    lines = {
        "right labels, predicted as labelled": series_of(log_history, "memorization_clean"),
        "wrong labels, predicted as labelled": series_of(log_history, "memorization_noisy"),
    }
    if not any(len(epochs) for epochs, _ in lines.values()):
        raise ValueError(
            "`log_history` has no `memorization_clean` or `memorization_noisy`: they are logged if the training set "
            "has a column `true_label`, and by `MemorizationCallback`."
        )
    ax = _axes(ax)
    for number, (name, (epochs, values)) in enumerate(lines.items()):
        ax.plot(epochs, values, color=f"C{number}", marker="o", markersize=4, label=name)
    ax.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    ax.set(xlabel="Epoch", ylabel="Share", ylim=(-0.03, 1.03))
    ax.legend()
    return ax


def plot_transition_matrix(
    matrix: np.ndarray,
    label_names: Sequence[str] | None = None,
    ax: Axes | None = None,
    labels: tuple[str, str] = ("True class", "Given label"),
) -> Axes:
    """Draws how often each class is labelled as each other, as a heat map.

    Args:
        matrix (`np.ndarray` of shape `[num_rows, num_columns]`): shares in [0, 1], such as a noise matrix (row: true
            class; column: given label), or `sklearn.metrics.confusion_matrix(given, suggested, normalize="true")`.
        label_names (`Sequence[str]` of length `num_rows`, *optional*): the names of the classes; their numbers by
            default.
        ax (`matplotlib.axes.Axes`, *optional*): to draw on; those of a new figure by default.
        labels (`tuple[str, str]`, *optional*): what rows and columns are.

    Returns:
        `matplotlib.axes.Axes`: with an image of the matrix.

    Raises:
        ValueError: if `matrix` is no table of shares, or has not a row a name.
        ImportError: without matplotlib.

    Example:

    ```python
    >>> plot_transition_matrix(trainer.sample_store.transition_matrix.numpy(), names)
    ```
    """
    check_label_names(label_names)
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.size or not ((matrix >= -1e-3) & (matrix <= 1 + 1e-3)).all():
        raise ValueError(f"`matrix` has to be of shape [num_rows, num_columns], in [0, 1]; got {list(matrix.shape)}.")
    if label_names is not None and len(label_names) != len(matrix):
        raise ValueError(f"`label_names` has {len(label_names)} names for the {len(matrix)} rows of `matrix`.")
    ax = _axes(ax)
    image = ax.imshow(matrix, cmap="Blues", vmin=0, vmax=max(float(matrix.max()), 1e-9), interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, shrink=0.8, label="Share of the row")
    if max(matrix.shape) <= _ANNOTATED:
        for (row, column), value in np.ndenumerate(matrix):
            if value >= 0.005:
                color = "white" if value > 0.6 * matrix.max() else "black"
                ax.text(column, row, f"{value:.0%}".rstrip("%"), ha="center", va="center", color=color, fontsize=8)
    names = short_names(range(len(matrix)) if label_names is None else label_names)
    size = None if len(names) <= _ANNOTATED else max(9 - len(names) / 12, 5)
    for axis, count in ((ax.xaxis, matrix.shape[1]), (ax.yaxis, matrix.shape[0])):
        axis.set_ticks([])
        if len(names) <= _NAMED and count <= len(names):
            axis.set_ticks(range(count), names[:count], parse_math=False, fontsize=size)
    ax.tick_params(axis="x", rotation=90)
    ax.set(xlabel=labels[1], ylabel=labels[0])
    return ax


def plot_detection(clean_probability: np.ndarray, is_noisy: np.ndarray, ax: Axes | None = None) -> Axes:
    """Draws how well clean probabilities find the wrong labels, when the truth is known: the precision of every cut of
    the list against its recall, with a dot at the probability of one half.

    Args:
        clean_probability (`np.ndarray` of shape `[num_samples]`): in [0, 1]; or any score that is lower for a label
            that is likelier wrong. Samples without one (NaN) are left out.
        is_noisy (`np.ndarray` of shape `[num_samples]`): True where the given label is wrong.
        ax (`matplotlib.axes.Axes`, *optional*): to draw on; those of a new figure by default.

    Returns:
        `matplotlib.axes.Axes`: precision against recall; the legend has the average precision and the AUROC.

    Raises:
        ValueError: if `is_noisy` has another shape, or all labels are right or all are wrong: there is nothing to tell
            apart.
        ImportError: without matplotlib.

    Example:

    ```python
    >>> plot_detection(np.array(trainer.clean_probabilities()["clean_probability"]), is_noisy)
    ```
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    score = np.asarray(clean_probability, dtype=np.float64)
    noisy, known = as_noisy(is_noisy, len(score)), ~np.isnan(score)
    score, noisy = score[known], noisy[known]
    if noisy.all() or not noisy.any():
        raise ValueError("`is_noisy` has to be True for some of the samples with a score, and False for others.")
    ax = _axes(ax)
    precision, recall, _ = precision_recall_curve(noisy, -score)
    found = f"average precision {average_precision_score(noisy, -score):.3f}, AUROC {roc_auc_score(noisy, -score):.3f}"
    ax.plot(recall, precision, color="C0", linewidth=2, label=found)
    flagged = score < 0.5
    if flagged.any():
        at = noisy[flagged].sum() / noisy.sum(), noisy[flagged].mean()
        ax.plot(*at, "o", color="C1", markersize=8, label=f"below 0.5: precision {at[1]:.2f}, recall {at[0]:.2f}")
    ax.axhline(noisy.mean(), color="0.5", linestyle=":", label=f"by chance: {noisy.mean():.2f}")
    ax.set(xlabel="Recall: found share of the wrong labels", ylabel="Precision: wrong share of the found")
    ax.set(xlim=(0, 1.02), ylim=(0, 1.05))
    ax.legend(loc="lower left")
    return ax


def loss_edges(losses: np.ndarray) -> np.ndarray:
    """The edges of the bins of a histogram of finite losses: `[num_bins + 1]`."""
    low, high = float(losses.min()), float(np.quantile(losses, _OUTER))
    return np.linspace(low, high if high > low else low + 1e-3, _BINS + 1)


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(NO_MATPLOTLIB) from error
    return plt.subplots(layout="constrained")[1]
