import json
from functools import partial
from unittest.mock import patch

import datasets
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from hf_clear.noise import (
    NOISE_TYPES,
    asymmetric_transition_matrix,
    class_conditional,
    corrupt_labels,
    inject_label_noise,
    load_transition_matrix,
    register_noise_type,
    symmetric_transition_matrix,
)

NUM_LABELS = 5
MATRICES = {
    "symmetric": symmetric_transition_matrix,
    "symmetric_including_true_class": partial(symmetric_transition_matrix, include_true_class=True),
    "asymmetric": asymmetric_transition_matrix,
    "asymmetric_previous": partial(asymmetric_transition_matrix, shift=-1),
}


def dataset(num_samples: int = 20_000) -> datasets.Dataset:
    labels = np.random.default_rng(3).integers(0, NUM_LABELS, num_samples)
    return datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(num_samples)], "label": labels})


def features(num_samples: int = 20_000) -> np.ndarray:
    return np.random.default_rng(4).standard_normal((num_samples, 8))


@pytest.mark.parametrize("noise_type", MATRICES)
def test_realized_noise_is_what_was_asked_for_and_what_is_reported(noise_type):
    clean, rate = dataset(), 0.3
    noisy, report = inject_label_noise(clean, noise_type, rate, seed=1)
    given, true = np.array(noisy["label"]), np.array(noisy["true_label"])
    assert np.array_equal(true, clean["label"]) and noisy["text"] == clean["text"]
    effective = rate * 4 / 5 if noise_type == "symmetric_including_true_class" else rate
    assert report.rate == (given != true).mean() == pytest.approx(effective, abs=0.015)
    assert np.abs(report.transition_matrix - MATRICES[noise_type](NUM_LABELS, rate)).max() < 0.03
    counted = np.array([[((true == i) & (given == j)).sum() for j in range(NUM_LABELS)] for i in range(NUM_LABELS)])
    assert np.allclose(report.transition_matrix, counted / counted.sum(1, keepdims=True))
    if noise_type.startswith("asymmetric"):
        shift = 1 if noise_type == "asymmetric" else NUM_LABELS - 1
        assert (((given - true) % NUM_LABELS)[given != true] == shift).all()


def test_transition_matrices():
    assert np.allclose(symmetric_transition_matrix(3, 0.4), [[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]])
    assert np.allclose(symmetric_transition_matrix(2, 0.4, include_true_class=True), [[0.8, 0.2], [0.2, 0.8]])
    assert np.allclose(asymmetric_transition_matrix(3, 0.4), [[0.6, 0.4, 0], [0, 0.6, 0.4], [0.4, 0, 0.6]])
    assert np.allclose(asymmetric_transition_matrix(3, 0.4, shift=-1), [[0.6, 0, 0.4], [0.4, 0.6, 0], [0, 0.4, 0.6]])
    assert set(corrupt_labels(np.zeros(1000, dtype=int), np.array([[0.0, 0.5, 0.5]] * 3), seed=0)) == {1, 2}
    with pytest.raises(ValueError, match="`shift` of 3"):
        asymmetric_transition_matrix(3, 0.4, shift=3)


@pytest.mark.parametrize(
    ("noise_type", "expected"),
    [("symmetric", [2, 3, 2, 1, 0, 3, 0, 3, 2, 1, 1, 1]), ("asymmetric", [1, 2, 3, 0, 0, 2, 2, 3, 1, 2, 2, 0])],
)
def test_a_seed_gives_the_labels_of_version_0_1(noise_type, expected):
    """Or published figures could not be had again."""
    clean = datasets.Dataset.from_dict({"label": [0, 1, 2, 3] * 3})
    assert list(inject_label_noise(clean, noise_type, 0.6, seed=7)[0]["label"]) == expected


def test_any_transition_matrix():
    matrix = np.array([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.5, 0.25, 0.25]])
    clean = datasets.Dataset.from_dict({"label": np.arange(20_000) % 3})
    _, report = inject_label_noise(clean, transition_matrix=matrix, seed=1)
    assert np.abs(report.transition_matrix - matrix).max() < 0.02
    assert (report.transition_matrix[matrix == 0] == 0).all()
    _, report = inject_label_noise(clean.select([0, 1]), transition_matrix=matrix)
    assert report.transition_matrix.shape == (3, 3)  # the matrix knows of a class that the data lack


@pytest.mark.parametrize("suffix", ["csv", "npy", "json"])
def test_transition_matrix_from_a_file(tmp_path, suffix):
    matrix, path = np.array([[0.9, 0.1], [1 / 3, 2 / 3]]), tmp_path / f"matrix.{suffix}"
    save = {
        "csv": lambda: np.savetxt(path, matrix, delimiter=","),
        "npy": lambda: np.save(path, matrix),
        "json": lambda: path.write_text(json.dumps(matrix.tolist())),
    }
    save[suffix]()
    assert np.array_equal(load_transition_matrix(path), matrix)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("matrix.txt", b"1", "end in .csv, .npy or .json"),
        ("matrix.csv", b"a,b\n0.9,0.1\n0.1,0.9\n", "matrix.csv: could not convert"),
        ("matrix.csv", b"0.9;0.1\n0.1;0.9\n", "matrix.csv: could not convert"),
        ("matrix.npy", b"no numpy file", "matrix.npy: .*magic"),
        ("matrix.json", b"[[1.0], [", "matrix.json: Expecting value"),
        ("matrix.json", b"[[1.0], [0.5, 0.5]]", "matrix.json: .*equal length"),
        ("matrix.json", b'{"a": 1}', "matrix.json: .*numbers"),
        ("matrix.json", b"[[0.5, 0.5]]", r"\[num_labels, num_labels\]; got \[1, 2\]"),
        ("matrix.json", b"[[1.0, 0.0], [0.5, 0.4]]", "Row 1 .* sums to 0.9"),
        ("matrix.json", b"[[1.5, -0.5], [0.5, 0.5]]", r"Row 0 .* \[0, 1\]"),
        ("matrix.json", b"[[1.0, 0.0], [NaN, 1.0]]", r"Row 1 .* \[0, 1\]"),
    ],
)
def test_wrong_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_transition_matrix(tmp_path / name)


@patch.dict(NOISE_TYPES)
def test_a_noise_type_of_ones_own_takes_one_line():
    register_noise_type("two_on", class_conditional(partial(asymmetric_transition_matrix, shift=2)))
    register_noise_type(
        "negative",
        lambda labels, K, rate, rng, x: np.where(x[:, 0] < 0, rng.integers(0, K), labels),
        uses_features=True,
    )
    register_noise_type("without", lambda labels, K, rate, rng, x: labels if x is None else 1 - labels)
    register_noise_type("in_place", lambda labels, *_: labels.__iadd__(1) % NUM_LABELS)
    register_noise_type("wrong", lambda labels, *_: labels + 1)

    noisy, report = inject_label_noise(dataset(500), "two_on", 1.0)
    assert np.array_equal(noisy["label"], (np.array(noisy["true_label"]) + 2) % NUM_LABELS)
    noisy, report = inject_label_noise(dataset(500), "negative", 1.0, features=features(500))
    changed = np.array(noisy["label"]) != np.array(noisy["true_label"])
    assert changed.any() and (features(500)[changed, 0] < 0).all() and report.rate == changed.mean()
    assert inject_label_noise(dataset(500), "without", 1.0, features=features(500))[1].rate == 0
    noisy, report = inject_label_noise(dataset(500), "in_place", 1.0)
    assert noisy["true_label"] == dataset(500)["label"] and report.rate == 1
    with pytest.raises(ValueError, match="'wrong' has to return 500 class numbers from 0 to 4"):
        inject_label_noise(dataset(500), "wrong", 1.0)
    with pytest.raises(ValueError, match="'symmetric' already"):
        register_noise_type("symmetric", NOISE_TYPES["asymmetric"])
    with pytest.raises(ValueError, match="'none' stands for no noise, as in `--noise_type none`.*another name"):
        register_noise_type("none", NOISE_TYPES["asymmetric"])


@pytest.mark.parametrize("rate", [0.05, 0.4, 0.9])  # near 0 and 1 the truncation moves the mean
def test_instance_dependent_noise_has_the_rate_that_was_asked_for(rate):
    _, report = inject_label_noise(dataset(), "instance_dependent", rate, seed=1, features=features())
    assert report.rate == pytest.approx(rate, abs=0.01)
    assert np.abs(1 - report.transition_matrix.diagonal() - rate).max() < 0.03


@pytest.mark.parametrize("noise_type", ["instance_dependent", "symmetric"])
def test_features_tell_whether_and_where_to_a_label_flips(noise_type):
    """Under instance-dependent noise only. Told by a logistic regression a true class, on samples it has not seen."""
    noisy, _ = inject_label_noise(dataset(), noise_type, 0.4, seed=1, features=features())
    given, true = np.array(noisy["label"]), np.array(noisy["true_label"])
    one_hot = np.eye(NUM_LABELS)[true]
    inputs = np.hstack([one_hot, (one_hot[:, :, None] * features()[:, None]).reshape(len(true), -1)])
    flipped, seen = given != true, np.arange(len(true)) < 10_000

    score = LogisticRegression().fit(inputs[seen], flipped[seen]).decision_function(inputs[~seen])
    auroc = roc_auc_score(flipped[~seen], score)
    target = LogisticRegression().fit(inputs[seen & flipped], given[seen & flipped])
    accuracy = target.score(inputs[~seen & flipped], given[~seen & flipped])
    if noise_type == "instance_dependent":
        assert auroc > 0.55 and accuracy > 0.6
    else:  # standard error of the AUROC: 0.006; chance: 1 of 4 wrong classes
        assert abs(auroc - 0.5) < 0.02 and abs(accuracy - 0.25) < 0.03


def test_the_unit_of_a_feature_does_not_matter():
    plain = np.hstack([features(2000), np.full((2000, 1), 0.1)])  # a constant column, too
    scaled = plain * 10.0 ** np.arange(-4, 5) + 7
    first, second = (
        np.array(inject_label_noise(dataset(2000), "instance_dependent", 0.4, features=x)[0]["label"])
        for x in (plain, scaled)
    )
    assert (first == second).mean() > 0.999  # up to rounding
    assert (first != dataset(2000)["label"]).mean() == pytest.approx(0.4, abs=0.04)


def test_the_format_survives_and_the_type_has_room():
    formatted = datasets.Dataset.from_dict({"text": ["a"] * 9, "label": [0, 1, 2] * 3}).with_format("np", ["label"])
    noisy, _ = inject_label_noise(formatted, "symmetric", 0.5, seed=1)
    assert set(noisy[0]) == {"label", "true_label"} and isinstance(noisy[0]["label"], np.integer)
    assert noisy.column_names == ["text", "label", "true_label"]
    small = dataset(500).cast_column("label", datasets.Value("int8"))
    noisy, _ = inject_label_noise(small, "symmetric", 0.9, num_labels=300)
    assert max(noisy["label"]) > 127 and noisy["true_label"][:] == small["label"][:]
    assert inject_label_noise(small, "symmetric", 0.9)[0].features["label"].dtype == "int8"


def test_class_names_survive():
    named = dataset(50).cast_column("label", datasets.ClassLabel(names=list("vwxyz")))
    noisy, _ = inject_label_noise(named, "symmetric", 0.5)
    assert noisy.features["label"] == noisy.features["true_label"] == named.features["label"]


def one_class():
    return datasets.Dataset.from_dict({"label": [0, 0]})


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (lambda: dataset(9), ("symmetric", 1.2), r"\[0, 1\]; got 1.2"),
        (lambda: dataset(9), ("symmetric", float("nan")), r"\[0, 1\]"),
        (
            lambda: dataset(9),
            ("pairwise", 0.2),
            "`noise_type` has to be .*; got 'pairwise'. There are: 'asymmetric'",
        ),
        (lambda: dataset(0), ("symmetric", 0.2), "no sample"),
        (one_class, ("asymmetric", 0.2), "at least two classes"),
        (one_class, ("symmetric", 0.2), "at least two classes"),
        (lambda: dataset(9).rename_column("label", "y"), ("symmetric", 0.2), "no column 'label'"),
        (lambda: dataset(9).add_column("true_label", [0] * 9), ("symmetric", 0.2), "already"),
        (lambda: datasets.Dataset.from_dict({"label": [0, 1, -1]}), ("symmetric", 0.2), "sample 2 is -1"),
        (lambda: datasets.Dataset.from_dict({"label": [0.0, 1.5]}), ("symmetric", 0.2), "sample 0 is 0.0, a float"),
        (
            lambda: datasets.Dataset.from_dict({"label": [[0, 1], [1]]}),
            ("symmetric", 0.2),
            "sample 0 is .* one class a",
        ),
        (lambda: datasets.Dataset.from_dict({"label": [0, None, 1]}), ("symmetric", 0.2), "sample 1 is missing"),
    ],
)
def test_bad_input(data, arguments, message):
    with pytest.raises(ValueError, match=message):
        inject_label_noise(data(), *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Give `noise_type` and `noise_rate`, or"),
        ({"noise_type": "symmetric"}, "Give `noise_type` and `noise_rate`, or"),
        ({"noise_type": "symmetric", "noise_rate": 0.2, "transition_matrix": np.eye(5)}, "not both"),
        ({"noise_rate": 0.2, "transition_matrix": np.eye(5)}, "not both"),
        ({"transition_matrix": np.eye(5), "num_labels": 6}, "for 5 classes; there are 6"),
        ({"transition_matrix": np.eye(2)}, r"label of sample \d+ is \d. It has to be 0 to 1"),
        ({"transition_matrix": np.ones((5, 5)) / 4}, "Row 0 .* sums to 1.25"),
        ({"features": None}, r"'instance_dependent' needs `features` of shape \[9, dim\]"),
        ({"features": features(8)}, r"\[9, dim\]; got \[8, 8\]"),
        ({"features": features(9)[:, 0]}, r"\[9, dim\]; got \[9\]"),
        ({"features": np.where(np.arange(9)[:, None] == 4, np.nan, features(9))}, "sample 4 are not finite"),
    ],
)
def test_arguments_that_do_not_go_together(arguments, message):
    if "features" in arguments:
        arguments = {"noise_type": "instance_dependent", "noise_rate": 0.2, **arguments}
    with pytest.raises(ValueError, match=message):
        inject_label_noise(dataset(9), **arguments)
