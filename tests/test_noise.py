import datasets
import numpy as np
import pytest

from hf_clear.noise import (
    NOISE_TYPES,
    asymmetric_transition_matrix,
    corrupt_labels,
    inject_label_noise,
    symmetric_transition_matrix,
)

NUM_LABELS = 5


def dataset(num_samples: int = 20_000) -> datasets.Dataset:
    labels = np.random.default_rng(3).integers(0, NUM_LABELS, num_samples)
    return datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(num_samples)], "label": labels})


@pytest.mark.parametrize("noise_type", NOISE_TYPES)
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_realized_noise_is_what_was_asked_for_and_what_is_reported(noise_type, rate):
    clean = dataset()
    noisy, report = inject_label_noise(clean, noise_type, rate, seed=1)
    given, true = np.array(noisy["label"]), np.array(noisy["true_label"])
    assert np.array_equal(true, clean["label"]) and noisy["text"] == clean["text"]
    assert report.rate == (given != true).mean() == pytest.approx(rate, abs=0.015)
    assert np.abs(report.transition_matrix - NOISE_TYPES[noise_type](NUM_LABELS, rate)).max() < 0.03
    counted = np.array([[((true == i) & (given == j)).sum() for j in range(NUM_LABELS)] for i in range(NUM_LABELS)])
    assert np.allclose(report.transition_matrix, counted / counted.sum(1, keepdims=True))
    if noise_type == "asymmetric":
        assert (((given - true) % NUM_LABELS)[given != true] == 1).all()


def test_transition_matrices():
    assert np.allclose(symmetric_transition_matrix(3, 0.4), [[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]])
    assert np.allclose(asymmetric_transition_matrix(3, 0.4), [[0.6, 0.4, 0], [0, 0.6, 0.4], [0.4, 0, 0.6]])
    assert set(corrupt_labels(np.zeros(1000, dtype=int), np.array([[0.0, 0.5, 0.5]] * 3), seed=0)) == {1, 2}


def test_seed_decides_and_global_state_is_left_alone():
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    first, again, other = (inject_label_noise(dataset(500), "symmetric", 0.5, seed=s)[0]["label"] for s in (1, 1, 2))
    assert list(first) == list(again) != list(other)
    assert np.array_equal(np.random.get_state()[1], state)


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
        (lambda: dataset(9), ("pairwise", 0.2), "symmetric, asymmetric"),
        (lambda: dataset(0), ("symmetric", 0.2), "no sample"),
        (one_class, ("asymmetric", 0.2), "at least two classes"),
        (one_class, ("symmetric", 0.2), "at least two classes"),
        (lambda: dataset(9).rename_column("label", "y"), ("symmetric", 0.2), "no column 'label'"),
        (lambda: dataset(9).add_column("true_label", [0] * 9), ("symmetric", 0.2), "already"),
        (lambda: datasets.Dataset.from_dict({"label": [0, 1, -1]}), ("symmetric", 0.2), "sample 2 is -1"),
        (lambda: datasets.Dataset.from_dict({"label": [0.0, 1.5]}), ("symmetric", 0.2), "sample 0 is 0.0, a float"),
        (lambda: datasets.Dataset.from_dict({"label": [0, None, 1]}), ("symmetric", 0.2), "sample 1 is missing"),
    ],
)
def test_bad_input(data, arguments, message):
    with pytest.raises(ValueError, match=message):
        inject_label_noise(data(), *arguments)
