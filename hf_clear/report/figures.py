"""The pictures of a report: which there are, and as SVG for light and dark pages."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._extras import NO_MATPLOTLIB
from ..log_history import curves_of, fits_of, histogram_of, mixture_of, series_of
from .axes import plot_detection, plot_loss_mixture, plot_memorization, plot_transition_matrix
from .frame import IssueFrame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS = 6  # epochs that are drawn side by side
_CLASSES = 30  # in a heat map: more are too small to read
# Of a light page and of a dark one: writing, lines, and Okabe and Ito's colors, which the color-blind can tell apart.
_LIGHT = ("#1f2328", "#d0d7de", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00")
_DARK = ("#e6edf3", "#3d444d", "#56b4e9", "#e69f00", "#2fbf93", "#e08fc0", "#f0e442")


@dataclass(frozen=True)
class Picture:
    """A picture of a report.

    Attributes:
        name (`str`): words and underscores.
        title, caption (`str`): for people; the caption says how to read it.
        size (`tuple[float, float]`): width and height in inches.
        draw (`Callable[[Figure], Any]`): draws onto an empty figure.
    """

    name: str
    title: str
    caption: str
    size: tuple[float, float]
    draw: Callable[[Figure], Any]

    def figure(self) -> Figure:
        """Drawn outside of pyplot, which keeps figures.

        Raises:
            ImportError: without matplotlib.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(NO_MATPLOTLIB) from error
        with _style():
            figure = Figure(self.size, layout="constrained")
            self.draw(figure)
        return figure

    def svg(self) -> dict[str, str]:
        """As data URIs of SVG images without background, for a "light" page and a "dark" one.

        Raises:
            ImportError: without matplotlib.
        """
        figure, content = self.figure(), io.BytesIO()
        with _style(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has fonts of its own
            figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
        light = content.getvalue().decode()
        dark = re.sub("|".join(_LIGHT), lambda found: _DARK[_LIGHT.index(found.group())], light)
        images = {"light": light, "dark": dark}
        return {
            name: f"data:image/svg+xml;base64,{base64.b64encode(image.encode()).decode()}"
            for name, image in images.items()
        }


def pictures_of(table: IssueFrame, log_history: Sequence[Mapping[str, Any]] = ()) -> list[Picture]:
    """The pictures that a table and a log history give: those of which something is known."""
    fits = fits_of(log_history)
    made = (
        _losses(table, fits),
        _losses_by_epoch(fits),
        _probabilities(table),
        _labels(table),
        _detection(table),
        _memorization(log_history),
        *_curves(log_history),
    )
    return [picture for picture in made if picture is not None]


def _losses(table: IssueFrame, fits: Sequence[Mapping[str, Any]]) -> Picture | None:
    if not table.has("loss") or not np.isfinite(table.rows["loss"]).any():
        return None
    loss, truth = table.rows["loss"].to_numpy(), table.is_noisy
    names, groups = ("others", "suspects"), table.rows["is_label_issue"].to_numpy()
    caption = "Blue: labels that seem right; orange: suspects."
    if truth is not None:
        known = ~np.isnan(truth)
        loss, groups, names = loss[known], truth[known] == 1, ("right labels", "wrong labels")
        caption = "By the known truth: right labels in blue, wrong ones in orange."
    if not np.isfinite(loss).any():
        return None
    mixture = fits[-1] if fits and mixture_of(fits[-1]) else None
    if len(np.unique(loss[np.isfinite(loss)])) < 2:
        mixture, told = {}, ""
    elif mixture is None:
        told = " The lines are two Gaussians fitted for this picture: the scores come from elsewhere."
    else:
        told = " The lines are the two Gaussians of the last fit (with one mixture a class: their average)."

    def draw(figure: Figure) -> None:
        plot_loss_mixture(loss, mixture, groups, figure.subplots(), names)

    return Picture("losses", "Losses of the training samples", caption + told, (5.2, 3.5), draw)


def _losses_by_epoch(fits: Sequence[Mapping[str, Any]]) -> Picture | None:
    drawn = [(fit, histogram) for fit in fits if (histogram := histogram_of(fit)) is not None]
    if len(drawn) < 2:
        return None
    at = np.unique(np.linspace(0, len(drawn) - 1, min(len(drawn), _PANELS)).round().astype(int))
    rows = -(-len(at) // 2)
    edges = [drawn[number][1][1] for number in at]
    ends = min(own[0] for own in edges), max(own[-1] for own in edges)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(rows, 2, squeeze=False, sharex=True).ravel()
        for panel, number in zip(panels, at):
            fit, histogram = drawn[number]
            plot_loss_mixture(histogram, fit, ax=panel)
            panel.set_title(f"after epoch {fit.get('epoch', number):g}", fontsize=10)
            panel.set(xlabel="", ylabel="", yticks=[], xlim=ends)
            if panel.get_legend() is not None:
                panel.get_legend().remove()
        for panel in panels[len(at) :]:
            panel.set_visible(False)
        figure.supxlabel("Loss (nats)", fontsize=10)

    caption = (
        "How the losses of all training samples came apart. Lines: the fitted mixture, if training fitted one. Two "
        "hills that stay apart are a good sign; hills that run together mean that wrong labels are learned by heart."
    )
    return Picture("losses_by_epoch", "Losses, fit by fit", caption, (5.2, 0.6 + 1.5 * rows), draw)


def _probabilities(table: IssueFrame) -> Picture | None:
    score = table.rows["label_score"].dropna().to_numpy()
    if not len(score):
        return None

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        edges = np.linspace(0, 1, 41)
        counts = np.histogram(score.clip(0, 1), edges)[0]
        colors = ["C1" if edge < 0.5 else "C0" for edge in edges[:-1]]
        ax.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colors, alpha=0.7, linewidth=0)
        ax.set(xlabel="Probability that the given label is right", ylabel="Samples", xlim=(0, 1))
        ax.set_yscale("log")
        ax.set_ylim(0.7, max(counts.max() * 1.5, 10))

    caption = (
        "Most samples should be at either end. Many in the middle: the order of the list is sound, its length is not. "
        "The vertical scale is logarithmic."
    )
    return Picture("clean_probabilities", "How sure it is", caption, (5.2, 3.5), draw)


def _labels(table: IssueFrame) -> Picture | None:
    if not table.has("predicted_label"):
        return None
    from sklearn.metrics import confusion_matrix

    rows = table.rows[table.rows["predicted_label"].notna()]
    classes, told = table.classes, ""
    if len(classes) > _CLASSES:
        suspects = rows["given_label"][rows["is_label_issue"]].value_counts()
        largest = set(suspects.index[:_CLASSES])
        classes = [name for name in classes if name in largest]
        told = f" Shown are the {len(classes)} classes of {len(table.classes)} with the most suspects."
    place = {name: number for number, name in enumerate(classes)}
    given, suggested = (rows[name].map(place) for name in ("given_label", "predicted_label"))
    both = given.notna() & suggested.notna()
    if not both.any():
        return None
    counts = confusion_matrix(given[both].astype(int), suggested[both].astype(int), labels=range(len(classes)))
    sizes = given.value_counts().reindex(range(len(classes)), fill_value=0).to_numpy()
    shares = counts / np.maximum(sizes, 1)[:, None]

    def draw(figure: Figure) -> None:
        plot_transition_matrix(shares, classes, figure.subplots(), ("Given label", "Suggested label"))

    caption = (
        "Of all samples with a given label (row), the share for which each label is suggested (column), in percent. "
        f"On the diagonal, given and suggested label agree.{told}"
    )
    side = float(np.clip(3.4 + 0.12 * len(classes), 4.2, 6.4))
    return Picture("labels", "Given against suggested labels", caption, (side + 0.8, side), draw)


def _detection(table: IssueFrame) -> Picture | None:
    truth, score = table.is_noisy, table.rows["label_score"].to_numpy()
    known = np.zeros(len(score), bool) if truth is None else ~np.isnan(truth) & ~np.isnan(score)
    of_known = np.zeros(0) if truth is None else truth[known]
    if len(set(of_known)) < 2:
        return None
    title, caption = "Wrong labels found, by the known truth", "Each point is a cut of the list, worst first."
    return Picture(
        *("detection", title, caption, (5.2, 3.8)),
        lambda figure: plot_detection(score[known], of_known == 1, figure.subplots()),
    )


def _memorization(log_history: Sequence[Mapping[str, Any]]) -> Picture | None:
    if not series_of(log_history, "memorization_clean")[0] and not series_of(log_history, "memorization_noisy")[0]:
        return None
    caption = (
        "Share of the training samples that the model predicts as they are labelled. The line of the wrong labels "
        "should stay low: if it rises, they are being learned by heart."
    )
    return Picture(
        *("memorization", "Memorization", caption, (5.2, 3.5)),
        lambda figure: plot_memorization(log_history, figure.subplots()),
    )


def _curves(log_history: Sequence[Mapping[str, Any]]) -> list[Picture]:
    pictures = []
    for kind, title in (("loss", "Learning curves: loss"), ("accuracy", "Learning curves: metrics")):
        curves = curves_of(log_history, kind)

        def draw(figure: Figure, curves: dict = curves, kind: str = kind) -> None:
            ax = figure.subplots()
            for number, (name, series) in enumerate(curves.items()):
                ax.plot(*series, color=f"C{number % 5}", marker="o", markersize=4, label=name)
            ax.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
            ax.set(xlabel="Epoch", ylabel="Loss (nats)" if kind == "loss" else "Share")
            ax.legend()

        caption = "Validation labels may be as noisy as those of the training set: then their best value is below 1."
        if any(len(epochs) > 1 for epochs, _ in curves.values()):
            pictures.append(Picture(f"curves_{kind}", title, "" if kind == "loss" else caption, (5.2, 3.5), draw))
    return pictures


def _style() -> Any:
    """A context with the colors of a light page."""
    import matplotlib
    from matplotlib import cycler  # type: ignore[attr-defined]

    ink, faint, *colors = _LIGHT
    inked = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = {
        **{name: ink for name in inked},
        **{"axes.edgecolor": faint, "grid.color": faint, "axes.prop_cycle": cycler(color=colors)},
        **{"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 10},
        **{"svg.fonttype": "none", "svg.hashsalt": "hf_clear", "font.family": ["DejaVu Sans", "sans-serif"]},
    }
    return matplotlib.rc_context(settings)
