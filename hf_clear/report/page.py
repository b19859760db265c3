"""`save_report`: a page that shows what was found about the labels, and takes corrections. One file, no network."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from .._version import __version__
from ..files import write_atomically
from .figures import pictures_of
from .frame import issue_frame
from .issue_table import check_threshold
from .packing import pack
from .summary import Suspicion, by_class, facts, is_supported, sentences

MOST_BYTES = 5_000_000  # of a page
_MARK = b'<meta name="generator" content="hf_clear'  # by which a page of ours is known
_HEAD = 2000  # bytes in which it stands
_LIBRARY = "table-core-8.21.3.js"
_REASONS = {
    "high_loss": "its loss is above that of 95 % of the samples that are no suspects",
    "disagrees_with_neighbors": "most of the samples with the most similar features have another label",
    "disagrees_with_ensemble": "the mean of several predictions is another class",
    "label_never_predicted": "no sample at all is predicted to have this label: the model may not know the class",
    "not_scored": "nothing is known of it: there is no finite loss or prediction",
}


def save_report(
    path: str | os.PathLike,
    table: Any,
    *,
    log_history: Sequence[Mapping[str, Any]] = (),
    warnings: Iterable[str] = (),
    label_names: Sequence[str] | None = None,
    title: str = "Label report",
    sections: Iterable[tuple[str, Any]] = (),
    noise_rate: tuple[float, float] | None = None,
    threshold: float | None = None,
) -> Path:
    """Writes what was found about the labels as one HTML page: three sentences, warnings, a table of suspects in which
    suggestions are accepted and downloaded as `corrections.csv`, pictures, and a table of the classes.

    The page is one file that needs no network and no server, and it is below 5 MB: if the suspects' texts are more,
    the worst suspects are in it, and it says how many are not. Texts and names are shown as text, never as markup, and
    a content security policy forbids all that is not the page's own.

    Args:
        path (`str` or `os.PathLike`): the HTML file. A report that is there is replaced, any other file is not. Missing
            folders are made.
        table (`datasets.Dataset` or `pandas.DataFrame`): label issues, best of all samples:
            `trainer.label_issues(return_all=True)`. Needed are `sample_index`, `given_label` and `label_score` (or
            `clean_probability`); columns of strings with other names are texts; `true_label`, if it is there, is used
            to say how many suspects are really wrong.
        log_history (`Sequence[Mapping[str, Any]]`, *optional*): `trainer.state.log_history`, for the noise rate, the
            fitted mixtures, learning curves and memorization.
        warnings (`Iterable[str]`, *optional*): what speaks against the scores, as the values of
            `trainer.fit_findings.warnings`; shown before all else. With them, and with neither `log_history` nor
            `noise_rate`, nothing is said of how many labels are wrong.
        label_names (`Sequence[str]`, *optional*): all classes in order; by default those in the table.
        title (`str`, *optional*): of the page.
        sections (`Iterable[tuple[str, pandas.DataFrame]]`, *optional*): further tables to show, each below its title,
            such as the expected precision at each cut of the list.
        noise_rate (`tuple[float, float]`, *optional*): the range in which the share of wrong labels lies, as an audit
            states it: `(audit.noise_rate.low, audit.noise_rate.high)`, if `audit.is_supported`. By default it is what
            the last fit in `log_history` found.
        threshold (`float`, *optional*): that of the table, if it was made with another than 0.5, for the words.

    Returns:
        `pathlib.Path`: the file.

    Raises:
        FileExistsError: if a file is at `path` that is no report.
        ValueError: if the table lacks a column, or one holds something else, or `noise_rate` is no range.
        ImportError: without matplotlib: `pip install "hf-clear[report]"`.

    Example:

    ```python
    >>> save_report("report.html", trainer.label_issues(return_all=True), log_history=trainer.state.log_history)
    ```
    """
    path = Path(path)
    check_replaceable(path)
    noise_rate, threshold = _range(noise_rate), None if threshold is None else check_threshold(threshold)
    environment = _environment()
    frame = issue_frame(table, label_names)
    log_history, warnings = list(log_history), list(warnings)
    pictures = [
        {"name": picture.name, "title": picture.title, "caption": picture.caption, "width": picture.size[0]}
        | picture.svg()
        for picture in pictures_of(frame, log_history)
    ]
    library, script, style = (_asset(name) for name in (_LIBRARY, "page.js", "page.css"))
    classes = by_class(frame, is_supported(log_history, warnings, noise_rate))
    context = {
        **{"title": title, "version": __version__, "warnings": warnings, "pictures": pictures, "classes": classes},
        **{"sentences": sentences(frame, log_history, warnings, noise_rate, threshold)},
        **{"facts": facts(frame, log_history, noise_rate), "suspicion": Suspicion.of(frame, threshold)},
        **{"library": library, "script": script, "style": style, "policy": _policy([library, script], style)},
        **{"sections": [(name, _cells(shown)) for name, shown in sections], "texts": frame.texts},
        **{"reasons": _reasons(frame), "licence": _asset(_LIBRARY.replace(".js", ".LICENSE"))},
        **{"has_suggestions": frame.has("predicted_label"), "has_truth": frame.is_noisy is not None},
    }
    template = environment.get_template("page.html.jinja")
    rest = len(template.render(**context, packed=pack(frame, 0)).encode("utf-8", "replace"))
    page = template.render(**context, packed=pack(frame, max(MOST_BYTES - rest - 100, 0)))
    write_atomically(path, page.encode("utf-8", "replace"))
    return path


def check_replaceable(path: str | os.PathLike) -> None:
    """Makes sure that nothing but a report of ours would be replaced.

    Raises:
        FileExistsError: if something is there that is no report.
    """
    path = Path(path)
    if not os.path.lexists(path):
        return
    if path.is_file():
        with open(path, "rb") as file:
            if _MARK in file.read(_HEAD):
                return
    raise FileExistsError(f"{path} is there, and is no report of hf_clear. Move it away, or choose another name.")


def _range(noise_rate: Any) -> tuple[float, float] | None:
    if noise_rate is None:
        return None
    try:
        low, high = map(float, noise_rate)
    except (TypeError, ValueError):
        low = high = float("nan")
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f"`noise_rate` has to be two shares in [0, 1], the lower one first, such as (0.1, 0.2); got {noise_rate!r}."
        )
    return low, high


def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["percent"] = lambda share: "–" if share is None else f"{100 * share:.0f}\N{NO-BREAK SPACE}%"
    return environment


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets").joinpath(name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str], style: str) -> str:
    """Nothing but these scripts and this style, and images that are in the page."""

    def hashed(content: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {' '.join(map(hashed, scripts))}; style-src {hashed(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _reasons(frame: Any) -> list[tuple[str, str]]:
    """Those that occur, and what they mean."""
    found = {reason for reasons in frame.rows["reasons"] for reason in reasons} if frame.has("reasons") else set()
    return [(reason.replace("_", " "), _REASONS.get(reason, "")) for reason in sorted(found)]


def _cells(table: Any) -> dict[str, list]:
    """A small table as text, floats with three digits."""
    table = table if hasattr(table, "itertuples") else table.to_pandas()
    rows = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row] for row in table.itertuples(index=False)]
    return {"head": [str(name).replace("_", " ") for name in table.columns], "rows": rows}
