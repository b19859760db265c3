import hashlib
import random
from collections import Counter

import pytest
from datasets import ClassLabel
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from hf_clear.data import load_questions

SHA256 = "85eafda27cadf7552b82b42612310e81bd5fcdc13641488a2d1fe1521e2f0136"


@pytest.fixture(scope="module")
def data():
    return load_questions()


def test_columns_sizes_and_balance(data):
    assert {name: split.num_rows for name, split in data.items()} == {"train": 900, "test": 420}
    for split in data.values():
        assert split.column_names == ["text", "label"]
        assert isinstance(split.features["label"], ClassLabel)
        assert split.features["label"].num_classes == 6
        assert len(set(Counter(split["label"]).values())) == 1


def test_texts_are_short_and_never_repeated(data):
    texts = [*data["train"]["text"], *data["test"]["text"]]
    assert len(set(texts)) == len(texts)
    assert all(13 <= len(text.split()) <= 20 for text in texts)


def test_every_word_occurs_in_several_classes(data):
    classes = {}
    for text, label in zip(data["train"]["text"], data["train"]["label"], strict=True):
        for word in text.replace(",", "").split():
            if not word.isdigit():
                classes.setdefault(word, set()).add(label)
    assert min(len(labels) for labels in classes.values()) >= 2


def test_content_is_fixed_and_leaves_the_global_generator_alone(data):
    random.seed(1)
    before = random.getstate()
    again = load_questions()
    assert random.getstate() == before
    for name, split in data.items():
        assert split.to_dict() == again[name].to_dict()
    rows = [f"{text}\t{label}" for split in data.values() for text, label in zip(split["text"], split["label"])]
    assert hashlib.sha256("\n".join(rows).encode()).hexdigest() == SHA256


@pytest.mark.parametrize(
    ("features", "accuracy"), [(CountVectorizer(), 0.31), (TfidfVectorizer(ngram_range=(1, 2)), 0.36)]
)
def test_a_bag_of_words_does_not_solve_it(data, features, accuracy):
    """The figures of the docstring, on clean labels."""
    model = make_pipeline(features, LogisticRegression(max_iter=3000))
    model.fit(list(data["train"]["text"]), list(data["train"]["label"]))
    assert model.score(list(data["test"]["text"]), list(data["test"]["label"])) == pytest.approx(accuracy, abs=0.03)
