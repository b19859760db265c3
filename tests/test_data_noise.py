"""Noise for a data set of texts, and a validation set that is taken from it."""

import numpy as np
import pytest
from datasets import Dataset
from helpers.texts import rows

from hf_clear.data import (
    add_noise,
    check_classes,
    labelled_texts,
    realized_noise,
    text_features,
    train_validation_split,
)


@pytest.fixture(scope="module")
def train() -> Dataset:
    return labelled_texts({"train": Dataset.from_pandas(rows(300))})[0]["train"]


@pytest.mark.parametrize("noise_type", ["symmetric", "instance_dependent"])
def test_noise_depends_on_its_seed_alone(train, noise_type):
    noisy = add_noise(train, noise_type, 0.4, seed=1)
    assert noisy["true_label"][:] == train["label"][:]
    assert realized_noise(noisy) == {"true_labels": 300, "noise_rate": pytest.approx(0.4, abs=0.1)}
    np.random.seed(5)
    assert add_noise(train, noise_type, 0.4, seed=1)["label"][:] == noisy["label"][:]
    assert add_noise(train, noise_type, 0.4, seed=2)["label"][:] != noisy["label"][:]


def test_noise_from_a_matrix(train):
    noisy = add_noise(train, transition_matrix=[[1, 0, 0], [0, 0, 1], [0, 0, 1]])  # green becomes red
    pairs = set(zip(noisy["true_label"], noisy["label"]))
    assert pairs == {(0, 0), (1, 2), (2, 2)}
    with pytest.raises(ValueError, match="^The transition matrix is for 2 classes. There are 3, .*: blue, green, red"):
        add_noise(train, transition_matrix=np.eye(2))


def test_the_rate_of_those_whose_truth_is_known(train):
    assert realized_noise(train) == {}
    truth = [label if row % 2 else -100 for row, label in enumerate(train["label"])]
    truth[1] = (truth[1] + 1) % 3
    assert realized_noise(train.add_column("true_label", truth)) == {"true_labels": 150, "noise_rate": 1 / 150}
    assert realized_noise(train.add_column("true_label", [-100] * 300)) == {"true_labels": 0}


def test_features_of_texts(train):
    features = text_features(train)
    assert features.shape[0] == 300 and 1 < features.shape[1] <= 64 and np.isfinite(features).all()
    pairs = train.add_column("text_pair", list(train["text"])[::-1])
    assert not np.allclose(text_features(pairs)[:, 0], features[:, 0])
    assert np.array_equal(text_features(pairs, ["text"]), features)
    assert text_features(Dataset.from_dict({"text": ["x", "x"]})).shape == (2, 1)


def test_a_split_by_class(train):
    kept, taken = train_validation_split(train, 0.1, seed=3)
    assert len(kept) == 270 and len(taken) == 30
    assert [taken["label"][:].count(label) for label in range(3)] == [10, 10, 10]
    assert not set(kept["text"]) & set(taken["text"])
    again = train_validation_split(train, 0.1, seed=3)
    assert (again[0]["text"][:], again[1]["text"][:]) == (kept["text"][:], taken["text"][:])
    assert train_validation_split(train, 0.1, seed=4)[1]["text"][:] != taken["text"][:]
    rows_of = [train["text"][:].index(text) for text in kept["text"]]
    assert rows_of == sorted(rows_of), "in the order of the data set"
    with pytest.raises(ValueError, match="1 training samples are too few"):
        train_validation_split(train.select([0]), 0.1, seed=3)


def test_classes_that_are_lost(train, caplog):
    without_blue = train.filter(lambda label: label != 0, input_columns="label")
    check_classes(train, train)
    assert not caplog.text
    check_classes(without_blue)  # there were none before the split either, as far as anybody knows
    check_classes(without_blue, without_blue)
    assert caplog.text.count("No training sample is left of 1 of the 3 classes (blue).") == 2
    with pytest.raises(ValueError, match="left of 1 of the 3 classes .blue.. Take a smaller share"):
        check_classes(without_blue, train)
    with pytest.raises(ValueError, match="blue.. Give more."):
        check_classes(without_blue, train, "Give more.")
