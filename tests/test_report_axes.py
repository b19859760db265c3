"""Plots that return axes, and what the page says in words and numbers."""

import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from helpers.report import HOSTILE, issues, log_history
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score

from hf_clear.report import (
    issue_table,
    plot_detection,
    plot_loss_mixture,
    plot_memorization,
    plot_transition_matrix,
    save_report,
    to_csv,
)
from hf_clear.report.figures import pictures_of
from hf_clear.report.frame import issue_frame
from hf_clear.report.short_names import short_names
from hf_clear.report.summary import Suspicion, by_class, facts, is_supported, sentences

matplotlib.use("agg")


@pytest.fixture
def ax():
    return Figure().subplots()


def lines(ax) -> dict[str, tuple]:
    return {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in ax.get_lines()}


def test_plot_loss_mixture(ax):
    rng = np.random.default_rng(0)
    noisy = np.arange(2000) < 500
    losses = np.where(noisy, rng.normal(4, 0.5, 2000), rng.normal(1, 0.3, 2000))
    losses[7] = np.nan

    assert plot_loss_mixture(losses, is_noisy=noisy, ax=ax) is ax

    areas = [sum(bar.get_width() * bar.get_height() for bar in bars) for bars in ax.containers]
    assert [bars.get_label() for bars in ax.containers] == ["right", "wrong"]
    assert areas == pytest.approx([1500 / 1999, 499 / 1999], abs=0.01) and sum(areas) == pytest.approx(1, abs=0.01)
    (x, right), (_, wrong) = lines(ax).values()
    assert list(lines(ax)) == ["fitted: right (75%)", "fitted: wrong (25%)"]
    assert x[right.argmax()] == pytest.approx(1, abs=0.1) and x[wrong.argmax()] == pytest.approx(4, abs=0.1)
    assert np.trapezoid(right, x) + np.trapezoid(wrong, x) == pytest.approx(1, abs=0.02)

    logged = log_history(losses[8:])[2]
    again = plot_loss_mixture((np.array([3, 1]), np.array([0, 1, 3])), logged, ax=Figure().subplots())
    assert [bar.get_height() for bar in again.patches] == [3 / 4, 1 / 8]
    assert list(lines(again)) == ["fitted: right (60%)", "fitted: wrong (40%)"]
    assert not lines(plot_loss_mixture(losses, {}, ax=Figure().subplots()))
    with pytest.raises(ValueError, match="shape \\[2\\] has no row of numbers with a finite one"):
        plot_loss_mixture(np.array([np.nan, np.inf]))
    with pytest.raises(ValueError, match="`is_noisy` has to be of shape \\[3\\]"):
        plot_loss_mixture(np.arange(3.0), is_noisy=[True])


def test_plot_memorization(ax):
    plot_memorization([{"loss": 1.0, "epoch": 0.5}, *log_history(np.arange(9.0))], ax)
    (x, right), (_, wrong) = lines(ax).values()
    assert list(x) == [1, 2, 3] and list(right) == [0.9] * 3 and wrong == pytest.approx([0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="has no `memorization_clean`.*`MemorizationCallback`"):
        plot_memorization([{"loss": 1.0, "epoch": 1.0}])


def test_plot_transition_matrix(ax):
    matrix = np.array([[0.9, 0.1], [0.25, 0.75]])
    plot_transition_matrix(matrix, [HOSTILE[4], "b\x00ad " * 9], ax)
    assert np.array_equal(ax.images[0].get_array(), matrix)
    assert [text.get_text() for text in ax.texts] == ["90", "10", "25", "75"]
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names[0] == "$\\frac{x$ & …w.hacked=5>" and names[1] == "b ad b ad b …d b ad b ad"
    ax.figure.savefig(__import__("io").BytesIO())  # names are no mathematics
    for wrong, message in [([[1.5]], "in \\[0, 1\\]"), ([0.5], "got \\[1\\]"), ([[np.nan]], "in \\[0, 1\\]")]:
        with pytest.raises(ValueError, match=message):
            plot_transition_matrix(np.array(wrong))
    with pytest.raises(ValueError, match="3 names for the 2 rows"):
        plot_transition_matrix(matrix, ["a", "b", "c"])


def test_short_names_can_be_told_apart(ax):
    names = [f"balance_not_updated_after_{what}" for what in ("bank_transfer", "cheque_or_cash_deposit")]
    plot_transition_matrix(np.eye(2), names, ax)
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [text.get_text() for text in labels] == ["balance_not_…nk_transfer", "balance_not_…ash_deposit"]
    ends = [f"the_same_beginning_{middle}_and_end_of_names" for middle in ("first", "second", "sec", "secondary" * 9)]
    assert short_names(ends)[:2] == ["the_sa…first_and_end_of…", "the_sa…second_and_end_o…"]
    rng = np.random.default_rng(0)
    many = ["".join(rng.choice(["a", "b", "_"], length)) for length in rng.integers(1, 60, 200)]
    runs = ["a" * length for length in range(1, 60)]  # one is the beginning and the end of the next
    for names in (ends, runs, [*{f"{'long_' * 9}{name}{'_end' * 9}" for name in many}], ["a b", "a  b", "a\x00b"]):
        for longest in (24, 120):
            short = short_names(names, longest)
            assert len(set(short)) == len(names) and max(map(len, short)) <= longest + len(" (10)")


def test_plot_detection(ax):
    score = np.array([0.1, 0.2, 0.4, 0.7, np.nan, 0.9])
    noisy = np.array([1, 1, 0, 1, 1, 0], dtype=bool)
    plot_detection(score, noisy, ax)
    known = ~np.isnan(score)
    precision = average_precision_score(noisy[known], -score[known])
    assert list(lines(ax))[:2] == [
        f"average precision {precision:.3f}, AUROC 0.833",
        "below 0.5: precision 0.67, recall 0.67",
    ]
    with pytest.raises(ValueError, match="True for some of the samples with a score, and False for others"):
        plot_detection(score, score < 2)


def test_a_figure_of_its_own_and_without_matplotlib(monkeypatch):
    import matplotlib.pyplot as plt

    figure = plot_detection(np.array([0.1, 0.9]), np.array([True, False])).figure
    assert figure.number in plt.get_fignums()
    plt.close(figure)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="hf-clear\\[report\\]"):
        plot_detection(np.array([0.1, 0.9]), np.array([True, False]))


def test_pictures_of_little():
    """Of a table with nothing but scores there are few pictures, and none fails."""
    table = pd.DataFrame({"sample_index": [0, 1], "given_label": [0, 1], "label_score": [np.nan, np.nan], "loss": 1.0})
    assert [picture.name for picture in pictures_of(issue_frame(table))] == ["losses"]
    table["label_score"] = [0.2, 0.9]
    for picture in pictures_of(issue_frame(table), [{}, {"fit_warnings": 0, "loss_histogram": "none"}]):
        picture.figure()
    many = pd.DataFrame({"sample_index": range(400), "given_label": range(400), "label_score": 0.1})
    many["predicted_label"] = (many.given_label + 1) % 400
    labels = pictures_of(issue_frame(many))[-1]
    assert "30 classes of 400" in labels.caption
    assert labels.figure().axes[0].images[0].get_array().shape == (30, 30)


def by_hand() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample_index": [4, 3, 2, 1, 0],
            "text": ["a", "b", None, "d", "e"],
            "given_label": [0, 0, 1, 1, None],
            "predicted_label": [1, None, 0, 1, 1],
            "label_score": [0.1, 0.3, 0.2, 0.9, 0.1],
            "suggestion_confidence": [0.95, 0.5, 0.6, 0.9, 0.9],
            "true_label": [1, 0, None, 1, 0],
        }
    )


def test_sentences_classes_and_facts_by_hand():
    table = issue_frame(by_hand(), ["good", "bad"])
    assert table.texts == ["text"] and table.classes == ["good", "bad"] and len(table.rows) == 4  # one has no label
    assert [text.replace("\N{NO-BREAK SPACE}", " ") for text in sentences(table)] == [
        "3 of 4 labels (75 %) are suspects: more likely wrong than right; about 80 in 100 of them are expected to be "
        "really wrong, if the scores are right.",
        "By the scores of all samples, the expected share of wrong labels is 62.5 %, if these are right; no range is "
        "known.",
        "The most frequent correction is “good” to “bad” (1 sample); 1 suggestion is at least 90 % sure.",
    ]
    long = [f"{'balance_not_updated_after_' * times}transfer" for times in (1, 20)]
    told = sentences(issue_frame(by_hand(), long))[2]
    assert f"“{long[0]}” to “balance_not_" in told and len(told) < 300  # in full, unless it has hundreds of letters
    expected = {"label": "good", "samples": 2, "suspects": 2, "share": 1.0, "expected_precision": pytest.approx(0.8)}
    good, bad = by_class(table)
    assert good == {**expected, "suggestion": "bad", "precision": 0.5, "recall": 1.0}
    assert bad["expected_precision"] == pytest.approx(0.8) and bad["precision"] is None and bad["recall"] is None
    assert dict(facts(table))["precision, by the truth"] == "50\N{NO-BREAK SPACE}%"
    fit = {"fit_warnings": 0, "estimated_noise_rate": 0.4, "estimated_noise_rate_low": 0.35}
    fit["estimated_noise_rate_high"] = 0.4567
    told = sentences(table, [{"fit_warnings": 1}, fit])[1].replace("\N{NO-BREAK SPACE}", " ")
    assert told == "The estimated share of wrong labels is 40 %, and between 35 % and 45.7 %."
    assert "expected to be really wrong." in sentences(table, [fit])[0]
    for unsupported in ([[fit, {"cleanse_fit_warnings": 1}]], [[], ["Nothing tells."]]):
        first, second, _ = sentences(table, *unsupported)
        assert "expected" not in first and "can't be told" in second
        assert not is_supported(*unsupported, *[()] * (2 - len(unsupported)))
    assert [row["expected_precision"] for row in by_class(table, is_supported=False)] == [None, None]
    assert sentences(issue_frame(by_hand().drop(columns="predicted_label")))[2].startswith("There are no suggestions")


def test_a_range_that_is_stated_stays_whatever_else_is_warned_of(tmp_path):
    """A remark on the data, such as one text with two labels, says nothing against the scores."""
    table, warnings = issue_frame(by_hand(), ["good", "bad"]), ["1 text is there with different labels"]
    first, second, _ = sentences(table, warnings=warnings, noise_rate=(0.075, 0.21))
    assert "about 80 in 100 of them are expected to be really wrong" in first
    assert second.replace("\N{NO-BREAK SPACE}", " ") == "The share of wrong labels is between 7.5 % and 21 %."
    assert ("noise rate", "7.5\N{NO-BREAK SPACE}% to 21\N{NO-BREAK SPACE}%") in facts(table, noise_rate=(0.075, 0.21))
    options = {"label_names": ["good", "bad"], "warnings": warnings}
    page = save_report(tmp_path / "report.html", by_hand(), **options, noise_rate=(0.075, 0.21)).read_text("utf-8")
    assert "between 7.5\N{NO-BREAK SPACE}% and 21" in page and "80\N{NO-BREAK SPACE}%</td>" in page
    for wrong in (0.2, (0.3, 0.2), (0.1, np.nan), "ab"):
        with pytest.raises(ValueError, match="`noise_rate` has to be two shares .* the lower one first"):
            save_report(tmp_path / "report.html", by_hand(), noise_rate=wrong)


def test_suspects_by_another_threshold_are_called_what_they_are():
    found = issue_table([0.1, 0.3, 0.7, 0.9], [0, 0, 1, 1], [1, 1, 1, 1], threshold=0.8, return_all=True)
    table = issue_frame(found, ["good", "bad"])
    first, _, third = (text.replace("\N{NO-BREAK SPACE}", " ") for text in sentences(table, threshold=0.8))
    assert "right with a probability below the chosen threshold of 80 % (2 labels are more likely wrong" in first
    assert third.startswith("The most frequent correction is “good” to “bad” (2 samples)"), "not “bad” to “bad”"
    assert [row["suggestion"] for row in by_class(table)] == ["bad", None]
    for threshold in (None, 0.6):  # not said, or said wrongly
        assert "marked as such in the table (`is_label_issue`) (2 labels" in sentences(table, threshold=threshold)[0]
    low = issue_table([0.1, 0.3, 0.7], [0, 0, 1], [1, 1, 1], threshold=0.05, return_all=True)
    assert Suspicion.of(issue_frame(low), 0.05).none == "No label is a suspect."
    stays = issue_table([0.7], [1], [1], threshold=0.8)
    assert sentences(issue_frame(stays))[2] == "There is no correction: each suggestion is the given label."


def test_a_table_that_was_in_a_csv_file_is_the_table_again(tmp_path):
    texts = ["=1+1", "- a;-b\n'=c", "fine"]
    table = issue_table([0.1, 0.2, 0.9], [0, 1, 1], [1, 0, 1], texts={"=text": texts}, label_names=["-1", "good"])
    to_csv(table, tmp_path / "issues.csv")
    own, again = issue_frame(table), issue_frame(pd.read_csv(tmp_path / "issues.csv"))
    assert again.texts == ["=text"] and again.classes == own.classes == ["-1", "good"]
    pd.testing.assert_frame_equal(again.rows[own.rows.columns], own.rows, check_dtype=False)


def test_truths_that_a_file_has_as_words():
    for words in ([True, False, True, False, True], ["True", "False", "TRUE", " false", "1"], [1, 0, 1.0, 0, 1]):
        frame = issue_frame(by_hand().assign(is_label_issue=words), ["good", "bad"])
        assert frame.rows["is_label_issue"].tolist() == [True, False, True, False]


def test_bad_tables_and_files_are_refused(tmp_path):
    table = by_hand()
    for wrong, message in [
        (table.drop(columns="given_label"), "no column `given_label`; it has 'sample_index', 'text'"),
        (table.drop(columns="label_score"), "no column `label_score`"),
        (table.assign(label_score=2.0), "`label_score` holds what is no probability"),
        (table.assign(loss="high"), "`loss` does not hold numbers"),
        (
            table.assign(is_label_issue=["WAHR", "FALSCH", "WAHR", "WAHR", "WAHR"]),
            "`is_label_issue` holds 'WAHR' in row 0",
        ),
        (table.assign(is_label_issue=[True, None, True, True, True]), "`is_label_issue` holds None in row 1"),
        (table.assign(predicted_label=" "), "holds the label ' ', which can't be seen: .* no correction. Give"),
        (table.assign(given_label=7), "the label 7, and there are 2 label names"),
    ]:
        with pytest.raises(ValueError, match=message):
            save_report(tmp_path / "report.html", wrong, label_names=["good", "bad"])
    path = tmp_path / "page.html"
    path.write_text("<html>my own")
    with pytest.raises(FileExistsError, match="is no report of hf_clear. Move it away"):
        save_report(path, table)
    with pytest.raises(FileExistsError):
        save_report(tmp_path, table)
    assert path.read_text() == "<html>my own" and [*tmp_path.iterdir()] == [path]


def test_a_report_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="hf-clear\\[report\\]"):
        save_report(tmp_path / "report.html", by_hand())
    assert not [*tmp_path.iterdir()]


def test_an_empty_table_and_one_without_suggestions(tmp_path):
    nothing = by_hand().assign(label_score=1.0)
    page = save_report(tmp_path / "report.html", nothing).read_text(encoding="utf-8")
    assert "No label is more likely wrong than right." in page and "<script" not in page
    few = issues(30)[0].drop(columns=["predicted_label", "suggestion_confidence", "text", "reasons", HOSTILE[2]])
    sections = [("Expected precision", pd.DataFrame({"cut": [10], "expected_precision": [0.91234]}))]
    page = save_report(tmp_path / "report.html", few, sections=sections).read_text(encoding="utf-8")  # replaced
    assert "The table has no texts" in page and "There are no suggestions" in page
    assert '<th scope="col">expected precision</th>' in page and "<td>0.912</td>" in page
