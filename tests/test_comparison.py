"""Trainings beside each other: significance against hand computations, tables, curves."""

import json
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, norm

from hf_clear.comparison import (
    TrainingResult,
    difference_table,
    draw_curves,
    markdown,
    mean_table,
    paired_bootstrap,
    rank_table,
    rank_test,
    read_training_result,
    result_table,
    to_latex,
)


def training(method, seed, right, setting="symmetric 40%", history=(), **results):
    labels = np.array(["a"] * len(right), dtype=object)
    predicted = np.where(np.array(right, bool), "a", "b").astype(object)
    results = {"test_accuracy": float(np.mean(right)), **results}
    return TrainingResult(setting, method, seed, results, labels, predicted, history, {"noise_rate": 0.4})


def test_the_interval_is_that_of_the_mean():
    rng = np.random.default_rng(0)
    difference = rng.choice([-1.0, 0.0, 1.0], size=400, p=[0.3, 0.4, 0.3])
    found = paired_bootstrap(difference)
    half = 1.96 * difference.std() / 20
    expected = difference.mean(), difference.mean() - half, difference.mean() + half
    assert (found.mean, found.low, found.high) == pytest.approx(expected, abs=0.01)
    assert found.p == pytest.approx(2 * norm.sf(abs(difference.mean()) * 20 / difference.std()), abs=0.01)
    assert found == paired_bootstrap(difference)  # the same each time
    difference = np.repeat([1.0, -1.0, 0.0], [30, 12, 400])  # a sign test agrees
    assert paired_bootstrap(difference).p == pytest.approx(binomtest(30, 42).pvalue, abs=0.01)
    few = np.repeat([1.0, 0.0], [5, 95])  # resampling alone: 0.014
    assert paired_bootstrap(few).p == pytest.approx(2 / 2**5) and paired_bootstrap(few).verdict == "tie"
    assert paired_bootstrap(difference).verdict == "win" and paired_bootstrap(-difference).verdict == "loss"


def test_few_that_differ_are_weighed_by_how_much():
    """By all choices of signs; a sign test would say 0.036 for twenty small gains, and the mean is a loss."""
    found = paired_bootstrap(np.repeat([1 / 3, -1.0, 0.0], [20, 8, 70]))
    assert found.mean < 0 and found.p > 0.7
    of_three_seeds = np.array([1, 2 / 3, 2 / 3, 1 / 3, -1 / 3, -2 / 3, 1])
    sums = np.array([*product(*([size, -size] for size in of_three_seeds))]).sum(axis=1)
    share = np.mean(abs(sums) > of_three_seeds.sum() - 1e-6)
    assert paired_bootstrap(np.append(of_three_seeds, np.zeros(90))).p == pytest.approx(share)
    for gains, losses in ((20, 9), (2, 9), (7, 7)):  # of one size: the sign test
        of_one_size = np.repeat([1 / 3, -1 / 3, 0.0], [gains, losses, 50])
        assert paired_bootstrap(of_one_size).p == pytest.approx(binomtest(gains, gains + losses).pvalue)


def test_what_says_nothing_is_a_tie():
    """No difference, one sample, and as many for as against."""
    for difference in (np.zeros(5), np.ones(1), np.array([1.0, -1.0] * 20)):
        found = paired_bootstrap(difference)
        assert found.verdict == "tie" and found.p > 0.5 and found.low <= found.mean <= found.high
    sure = paired_bootstrap(-np.ones(50))
    assert (sure.high, sure.verdict) == (-1.0, "loss") and sure.p == pytest.approx(2e-4)
    for bad in (np.zeros(0), np.array([0.0, np.nan]), np.zeros((2, 2))):
        with pytest.raises(ValueError, match="a finite number for each test sample"):
            paired_bootstrap(bad)


def test_the_bootstrap_of_a_large_test_set_fits_in_memory():
    import tracemalloc

    tracemalloc.start()
    paired_bootstrap(np.random.default_rng(0).choice([0.0, 1.0], 20_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**30  # at once, it would be 1.6 GB of indices alone


def test_ranks_differ_as_in_the_example_of_demsar():
    """Four methods on 14 data sets: a critical difference of 1.25 (Demšar, 2006, section 3.2.2)."""
    scores = np.random.default_rng(0).random((14, 4)) + [0.0, 0.1, 0.2, 5.0]
    found = rank_test(scores)
    assert found.critical_difference == pytest.approx(1.25, abs=0.005) and found.p < 1e-3
    assert found.mean_ranks[3] == 1 and found.mean_ranks.sum() == pytest.approx(10)
    assert rank_test(np.random.default_rng(0).random((14, 4))).p > 0.05
    assert rank_test(np.ones((5, 3))).p == 1.0 and rank_test(np.ones((5, 2))).p == 1.0
    thirds = np.array([[0.3833, 0.4833, 0.65], [0.4833, 0.65, 0.3833]]).mean(axis=1)  # the same but for rounding
    assert rank_test(np.array([thirds] * 3)).mean_ranks.tolist() == [1.5, 1.5]
    of_two = rank_test(np.array([[2.0, 1.0]] * 3 + [[1.0, 0.0]] * 3))
    assert of_two.critical_difference is None and of_two.p == pytest.approx(2 / 2**6)  # Wilcoxon, all signs alike
    for bad in (np.ones((1, 3)), np.ones((3, 1)), np.full((3, 3), np.nan)):
        with pytest.raises(ValueError, match="two settings or more"):
            rank_test(bad)


def test_tables_are_over_the_seeds_that_there_are():
    good, bad = [1] * 18 + [0] * 2, [1] * 4 + [0] * 16
    trainings = [training("none", 1, bad), training("none", 2, good), training("clear", 1, good, detection_auroc=0.9)]
    found = mean_table(trainings)
    assert found.loc[("symmetric 40%", "none"), "test accuracy"] == "0.550 ± 0.495 (2)"
    assert found.loc[("symmetric 40%", "clear"), "test accuracy"] == "0.900 (1)"
    assert list(found.columns) == ["test accuracy", "wrong labels: AUROC"]
    assert found.loc[("symmetric 40%", "none"), "wrong labels: AUROC"] == "-"
    (row,) = difference_table(trainings, "none").to_dict("records")
    assert (row["seeds"], row["difference"], row["result"]) == ("1", "+0.700", "win") and float(row["p"]) < 0.01
    rows = result_table(trainings)
    assert list(rows.columns) == ["setting", "noise_rate", "method", "seed", "test_accuracy", "detection_auroc"]
    text = markdown(found)
    assert text.splitlines()[0].startswith("| setting | method | test accuracy |") and len(text.splitlines()) == 4
    latex = to_latex(found, "95 % of a_b")
    assert r"\caption{95 \% of a\_b}" in latex and r"$\pm$" in latex and r"symmetric 40\%" in latex


def test_differences_that_cant_be_paired_are_refused():
    one, other = training("none", 1, [1, 0, 1]), training("clear", 1, [1, 1, 1])
    shuffled = replace(other, labels=np.array(["b", "a", "a"], dtype=object))
    with pytest.raises(ValueError, match="were tested on different samples"):
        difference_table([one, shuffled], "none")
    unknown = replace(other, labels=None, predicted=None)
    assert not len(difference_table([one, unknown], "none"))
    for right, labels in (([1, 0], ["a", "a"]), ([1, 0, 1], ["b", "a", "a"])):  # of another seed
        second = [
            replace(training(name, 2, right), labels=np.array(labels, dtype=object)) for name in ("none", "clear")
        ]
        with pytest.raises(ValueError, match="were tested on different samples"):
            difference_table([one, other, *second], "none")


def test_ranks_are_over_settings_with_all_methods():
    settings = [f"symmetric {rate}%" for rate in (20, 40, 60)]
    trainings = [training("none", 1, [1, 0, 0], setting) for setting in settings]
    trainings += [training("clear", 1, [1, 1, 0], setting) for setting in settings]
    found = rank_table(trainings)
    assert list(found.index) == ["clear", "none"] and list(found["mean rank"]) == ["1.00", "2.00"]
    assert found.attrs["test"] == "3 settings, p = 0.2500 (Wilcoxon)"
    more = [training("none", 2, [1, 1, 1], setting) for setting in settings]  # a seed that the other doesn't have
    assert list(rank_table([*trainings, *more]).index) == ["clear", "none"]
    without = [replace(one, results={}) for one in trainings]
    assert rank_table(without) is None
    by_matthews = [replace(one, results={"test_matthews_correlation": one.score}) for one in trainings]
    assert list(rank_table(by_matthews).index) == ["clear", "none"]
    assert rank_table(trainings[:-1]) is None and rank_table(trainings[:3]) is None
    with_third = [*trainings, *(training("turn", 1, [0, 0, 0], setting) for setting in settings)]
    assert "(Friedman), critical difference 1.91 (Nemenyi, 5 %)" in rank_table(with_third).attrs["test"]


def test_memorization_is_that_of_the_model_not_of_a_refit():
    """A refit may look at the predictions of training, which plain training has none of."""
    refit = {"epoch": 1.0, "fit_warnings": 0, "memorization_noisy": 0.9}
    watched = {"epoch": 1.0, "memorization_noisy": 0.2}
    both = training("clear", 1, [1], history=[watched, refit])
    assert both.over_epochs("memorization_noisy") == ([1.0], [0.2]) and both.last()["memorization_noisy"] == 0.2
    assert training("clear", 1, [1], history=[refit]).over_epochs("memorization_noisy") == ([1.0], [0.9])


def test_curves_are_drawn_of_what_was_logged(tmp_path):
    pytest.importorskip("matplotlib")
    history = [{"epoch": float(epoch), "eval_test_accuracy": epoch / 10} for epoch in (1, 2, 3)]
    trainings = [
        training("none", seed, [1], f"symmetric {rate}%", history) for seed in (1, 2) for rate in (1, 2, 3, 4, 5)
    ]
    assert draw_curves(trainings, tmp_path / "curves.svg", "mine")
    drawn = (tmp_path / "curves.svg").read_text()
    assert "mine" in drawn and all(f"symmetric {rate}%" in drawn for rate in (1, 5)) and "labelled" not in drawn
    history[1]["memorization_clean"] = 0.5
    assert draw_curves(trainings, tmp_path / "curves.svg") and "labelled" in (tmp_path / "curves.svg").read_text()
    short = training(
        "none", 3, [1], "a$\\bad$b", history[:1]
    )  # no formula; and an epoch that not all seeds have is left out
    assert draw_curves([*trainings, short], tmp_path / "curves.svg")
    assert not draw_curves([training("none", 1, [1])], tmp_path / "none.svg") and not (tmp_path / "none.svg").exists()


def test_titles_and_legend_of_curves_overlap_nothing(tmp_path, monkeypatch):
    figure_module = pytest.importorskip("matplotlib.figure")
    drawn = []
    monkeypatch.setattr(figure_module.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    history = [{"epoch": float(epoch), "eval_test_accuracy": 0.7 + epoch / 80} for epoch in (1, 2, 3)]
    names = ["../shared/data/noisyagnews, instance_dependent 40%, adapter", "WIDE $LETTERS$ " * 6, "no noise", "x" * 90]
    for settings in (names, names[:1]):
        methods = ["none", "clear:paper (adapter)", "recommended (adapter)", "turn (adapter)"]
        draw_curves([training(m, 1, [1], name, history) for name in settings for m in methods], tmp_path / "a.svg")
        figure = drawn.pop()
        figure.draw_without_rendering()
        titles = [axis.title.get_window_extent() for axis in figure.axes]
        boxes = [*titles, figure.legends[0].get_window_extent()]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        assert all(0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)
        assert figure.axes[0].get_title().split() == names[0].split()  # in full


def test_a_folder_of_a_run_is_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_training_result(tmp_path, "no noise", "none", 1)
    (tmp_path / "all_results.json").write_text(json.dumps({"test_matthews_correlation": 0.5, "test_runtime": 1.0}))
    found = read_training_result(tmp_path, "no noise", "none", 1)
    assert (found.score, found.correct, found.log_history) == (0.5, None, ())
    table = pd.DataFrame({"true_label": ["a", None, "b"], "predicted_label": ["a", "a", "a"]})
    table.to_parquet(tmp_path / "test_predictions.parquet")
    assert read_training_result(tmp_path, "no noise", "none", 1).correct.tolist() == [
        True,
        False,
    ]  # without a label: out
    (tmp_path / "test_predictions.parquet").write_text("no table")
    with pytest.raises(ValueError, match="test_predictions.parquet is no table of predictions"):
        read_training_result(tmp_path, "no noise", "none", 1)
    (tmp_path / "all_results.json").write_text("[]")
    with pytest.raises(ValueError, match="all_results.json has to hold names"):
        read_training_result(tmp_path, "no noise", "none", 1)
