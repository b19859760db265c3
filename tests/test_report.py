import struct
import sys
from collections import Counter
from unittest.mock import patch

import numpy as np
import pytest

from hf_clear.report import cleansing_table, knn_accuracy, linear_cka, plot_cleansing, plot_feature_drift, plots


def test_cleansing_table_by_hand():
    probability, is_noisy = [0.9, 0.5, 0.6, 0.2, 0.3], [False, False, True, False, True]
    rows = cleansing_table(probability, is_noisy, thresholds=(0.25, 0.5, 0.6, 0.95))
    assert rows[:3] == [
        {"threshold": 0.25, "kept": 4, "purity": 2 / 4, "recall": 2 / 3},
        {"threshold": 0.5, "kept": 2, "purity": 1 / 2, "recall": 1 / 3},  # 0.5 itself is not above
        {"threshold": 0.6, "kept": 1, "purity": 1, "recall": 1 / 3},
    ]
    assert np.isnan(rows[3].pop("purity")) and rows[3] == {"threshold": 0.95, "kept": 0, "recall": 0}
    assert cleansing_table(np.float32(probability), is_noisy, thresholds=(0.25, 0.5, 0.6)) == rows[:3]
    rows = cleansing_table(np.array(probability), np.array(is_noisy))
    assert [row["threshold"] for row in rows] == [0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7]
    assert {type(value) for value in rows[0].values()} == {int, float}


def test_cleansing_table_refuses_what_has_no_answer():
    for probability, is_noisy, thresholds, message in [
        ([0.5], [False], [0.5, 1], "between 0 and 1, got 1.0"),
        ([0.5], [False], [0.0], "between 0 and 1, got 0.0"),
        ([0.5], [False], [np.nan], "between 0 and 1, got nan"),
        ([0.5, 0.6], [False], [0.5], "`is_noisy` has to be of shape \\[2\\], got \\[1\\]"),
        ([0.5], [[False]], [0.5], "got \\[1, 1\\]"),
        ([[0.5]], [[False]], [0.5], "got shape \\[1, 1\\]"),
        ([0.5, np.nan], [False, False], [0.5], "in \\[0, 1\\].*got nan"),
        ([0.5, 0.6], [True, True], [0.5], "No label is correct"),
        ([], [], [0.5], "No label is correct"),
    ]:
        with pytest.raises(ValueError, match=message):
            cleansing_table(probability, is_noisy, thresholds)


def test_linear_cka_is_the_alignment_of_the_gram_matrices():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (50, 4)) @ rng.normal(size=(4, 6))
    y = np.tanh(x @ rng.normal(size=(6, 9))) + rng.normal(0, 0.3, (50, 9)) + 7
    centering = np.eye(50) - 1 / 50
    k, m = (centering @ z @ z.T @ centering for z in (x, y))
    expected = (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())
    assert 0.1 < expected < 0.9
    assert linear_cka(x, y) == pytest.approx(expected, rel=1e-12)

    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert linear_cka(x, -1e-3 * x @ rotation + 5) == pytest.approx(1, abs=1e-12)
    assert linear_cka(1e180 * x @ rotation, 1e-180 * y) == pytest.approx(expected, rel=1e-12)
    assert linear_cka(x.astype(np.float16), x.astype(np.float32)) == pytest.approx(1, abs=1e-5)
    assert linear_cka(x, x) <= 1
    assert linear_cka(rng.normal(size=(4000, 5)), rng.normal(size=(4000, 7))) < 0.01  # nothing in common


def test_linear_cka_refuses_what_has_no_answer():
    x = np.arange(6.0).reshape(3, 2)
    for first, second, message in [
        (x, x[:2], "`first` has 3 samples and `second` 2"),
        (x, np.where(x == 3, np.nan, x), "`second` has values that are NaN or infinite"),
        (np.where(x == 3, np.inf, x), x, "`first` has values that are NaN or infinite"),
        (np.full((3, 2), 0.1), x, "`first` is the same for all samples"),
        (x[:1], x[:1], "`first` is the same for all samples"),
        (x, x[:, 0], "`second` has to be of shape \\[num_samples, dim\\], got \\[3\\]"),
        (x[:0], x[:0], "`first` has to be of shape .* got \\[0, 2\\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            linear_cka(first, second)


@pytest.mark.parametrize("k", [1, 2, 5, 500])
def test_knn_accuracy_is_that_of_brute_force(k):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 120)
    features = rng.normal(size=(4, 6))[labels] + rng.normal(0, 1.2, (120, 6))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    correct = 0
    for i, row in enumerate(unit @ unit.T):
        votes = Counter()
        for j in [j for j in np.argsort(-row) if j != i][:k]:
            votes[labels[j]] += max(row[j], 1e-7)
        correct += votes.most_common(1)[0][0] == labels[i]
    assert knn_accuracy(features, labels, k=k) == correct / 120
    assert knn_accuracy(3 * features, np.array(list("abcd"))[labels], k=k) == correct / 120
    assert 0.4 < correct / 120 < 0.9


def test_knn_accuracy_ties_and_errors():
    # All are beyond a right angle and count alike. The nearest: sample 1 of sample 0, 2 of 1 and 1 of 2.
    x = np.array([[1, 0], [-0.1, 1], [-1, -0.2]])
    assert knn_accuracy(x, [7, 7, 2], k=2) == knn_accuracy(x, [2, 2, 7], k=2) == 1 / 3
    for features, labels, k, message in [
        (x[:1], [0], 1, "at least two samples, got 1"),
        (x, [0, 1], 1, "got \\[3, 2\\] and \\[2\\]"),
        (x, [0, 1, 0], 0, "at least 1 neighbor, got 0"),
        (0 * x, [0, 1, 0], 1, "3 samples .* all zero"),
    ]:
        with pytest.raises(ValueError, match=message):
            knn_accuracy(features, labels, k)


def png_size(path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", content[16:24])


def drifting(num_samples: int = 240):
    rng = np.random.default_rng(2)
    labels = rng.choice(5, num_samples, p=[0.1, 0.3, 0.3, 0.2, 0.1])
    before = rng.normal(size=(5, 12))[labels] + rng.normal(0, 1.5, (num_samples, 12))
    after = 4 * np.eye(5, 8)[labels] + before @ rng.normal(0, 0.3, (12, 8))
    return {"pretrained": before, "after fine-tuning": after}, labels, rng.random(num_samples) < 0.4


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved."""
    saved, save = [], plots._save
    monkeypatch.setattr(plots, "_save", lambda figure, *a, **b: (saved.append(figure), save(figure, *a, **b)))
    return saved


@pytest.mark.parametrize("num_tables", [1, 9, 23])
def test_plot_cleansing(num_tables, tmp_path, figures):
    probability, is_noisy = np.linspace(0, 0.65, 400), np.arange(400) % 3 == 0  # the last row keeps nothing
    tables = {f"{10 * i} %": cleansing_table(probability ** (1 + i / 9), is_noisy) for i in range(num_tables)}
    path = tmp_path / "new" / "cleansing.png"

    plot_cleansing(tables, path)

    assert png_size(path) == (1800, 630) and [file.name for file in path.parent.iterdir()] == ["cleansing.png"]
    lines = [axis.get_lines() for axis in figures[0].axes]
    for i, (name, table) in enumerate(tables.items()):
        for panel, column in zip(lines, ("purity", "recall", "kept"), strict=True):
            assert panel[i].get_label() == name
            assert np.array_equal(panel[i].get_xdata(), [row["threshold"] for row in table])
            assert np.array_equal(panel[i].get_ydata(), [row[column] for row in table], equal_nan=True)
    assert len({(line.get_color(), line.get_marker()) for line in lines[0]}) == num_tables
    assert all(axis.get_xlabel() and axis.get_ylabel() and axis.get_title() for axis in figures[0].axes)
    legend = figures[0].legends[0].get_window_extent()
    assert legend.x0 >= 0 and legend.x1 <= figures[0].bbox.width  # nothing is cut off
    assert all(not legend.overlaps(axis.get_window_extent()) for axis in figures[0].axes)


def test_plot_feature_drift(tmp_path, figures, monkeypatch):
    monkeypatch.setattr(plots, "_DRAWN", 80)
    stages, labels, is_noisy = drifting()
    path = tmp_path / "drift.png"

    rows = plot_feature_drift(stages, labels, path, num_classes=3, is_noisy=is_noisy)

    before, after = stages.values()
    assert rows == [
        {"stage": "pretrained", "knn_accuracy": knn_accuracy(before, labels), "cka_to_first": pytest.approx(1)},
        {
            "stage": "after fine-tuning",
            "knn_accuracy": knn_accuracy(after, labels),
            "cka_to_first": linear_cka(before, after),
        },
    ]
    width, height = png_size(path)
    assert 1000 < width < 2000 and 500 < height < 1500
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["1", "2", "3"]  # the most frequent
    for axis, row in zip(figures[0].axes, rows, strict=True):
        dots, crosses = (scatter.get_offsets() for scatter in axis.collections[:2])
        assert len(dots) + len(crosses) == 80 and 15 < len(crosses) < 50
        assert axis.get_title() == (
            f"{row['stage']}\nk-NN accuracy {row['knn_accuracy']:.3f}, CKA to first {row['cka_to_first']:.3f}"
        )
    again = tmp_path / "again.png"
    plot_feature_drift(stages, labels, again, num_classes=3, is_noisy=is_noisy)
    assert again.read_bytes() == path.read_bytes()
    plot_feature_drift({"only": after[:20].astype(np.float16)}, labels[:20], again)  # few samples, no noise known
    assert "wrong" not in figures[-1].legends[0].get_title().get_text() and "matplotlib.pyplot" not in vars(plots)


def test_a_picture_that_fails_leaves_the_old_one(tmp_path):
    path, table = tmp_path / "cleansing.png", cleansing_table([0.9, 0.2], [False, True])
    path.write_bytes(b"old")
    with patch("matplotlib.figure.Figure.savefig", side_effect=OSError("no memory")), pytest.raises(OSError):
        plot_cleansing({"a": table}, path)
    with patch("os.replace", side_effect=OSError("disk full")), pytest.raises(OSError):
        plot_cleansing({"a": table}, path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_pictures_refuse_what_they_cannot_draw(tmp_path):
    stages, labels, is_noisy = drifting(40)
    broken = {**stages, "after": np.full((40, 3), np.nan)}
    for call, message in [
        (lambda path: plot_cleansing({}, path), "`tables` is empty"),
        (lambda path: plot_cleansing({"60 %": []}, path), "The table '60 %' has no rows"),
        (lambda path: plot_feature_drift({}, labels, path), "`stages` is empty"),
        (lambda path: plot_feature_drift(stages, labels - 1, path), "negative numbers.*leave those samples out"),
        (lambda path: plot_feature_drift(stages, labels, path, num_classes=21), "has to be 1 to 20.* got 21"),
        (lambda path: plot_feature_drift(stages, labels, path, is_noisy=is_noisy[:3]), "`is_noisy` has to be of shape"),
        (lambda path: plot_feature_drift(stages, labels[:9], path), "'pretrained': .*\\[40, 12\\] and \\[9\\]"),
        (lambda path: plot_feature_drift(broken, labels, path), "Stage 'after': .* not finite"),
        (lambda path: plot_feature_drift({"a": labels[:, None] + 1}, labels, path), "Stage 'a': .*two features"),
        (lambda path: plot_feature_drift(stages, np.arange(40), path, num_classes=2), "at least 4 samples, got 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            call(tmp_path / "picture.png")
    with patch.dict(sys.modules, {"matplotlib": None}), pytest.raises(ImportError, match="hf-clear\\[report\\]"):
        plot_cleansing({"a": cleansing_table([0.9], [False])}, tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())
