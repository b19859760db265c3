"""A small text classification set made from templates, for examples and tests without a network."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import DatasetDict

_SEED = 20240611
_TRAIN_PER_CLASS, _TEST_PER_CLASS = 140, 70
_ACCOUNTS = ["savings", "checking", "card"]

# {s}: the account the money leaves, {d}: the account it reaches, {a}: an amount.
_TRANSFERS = [
    "move {a} from {s} to {d}",
    "move {a} to {d} from {s}",
    "from {s} I want {a} moved to {d}",
    "to {d} I want {a} moved from {s}",
    "take {a} out of {s} and put it into {d}",
    "put {a} into {d} after taking it out of {s}",
    "{d} should receive {a} from {s}",
    "{s} should send {a} to {d}",
    "{a} should leave {s} and arrive in {d}",
    "{a} should arrive in {d} after leaving {s}",
    "debit {s} by {a} and credit {d}",
    "credit {d} with {a} and debit {s}",
    "{d} should be credited with {a} and {s} debited",
    "{s} should be debited by {a} and {d} credited",
    "use {s} to top up {d} with {a}",
    "top up {d} with {a} and use {s} for it",
    "{d} should be topped up with {a} by {s}",
    "{s} should be used for topping up {d} with {a}",
]
# {t}: one of the transfers above, {x}: the third account, which takes no part.
_FRAMES = [
    "{t}",
    "{t}, not {x}",
    "{t}, but not from {x}",
    "{t}, but not to {x}",
    "{t} and leave {x} alone",
    "leave {x} alone, {t}",
]
_OWNERS = ["my", "the", "our"]
_NAMES = [
    "Anna", "Boris", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Irene", "Jonas", "Karen", "Lucas", "Maria",
    "Nora", "Oscar", "Paula", "Ravi", "Sofia", "Tom", "Yuki",
]  # fmt: skip
_REASONS = [
    "rent", "holiday", "dentist", "wedding", "school", "bike", "car", "supermarket", "birthday", "electricity", "tax",
    "piano", "football", "sofa", "phone", "train", "garden", "dog", "kitchen", "doctor", "camera", "book", "hotel",
    "coat", "concert", "insurance", "lawyer", "coffee", "boat", "museum", "laptop", "farm",
]  # fmt: skip
_CLOSINGS = ["for the {r} of {n}", "{n} needs it for the {r}", "{n} wants the {r}", "the {r} is for {n}"]


def _sentence(rng: random.Random, source: str, target: str) -> str:
    """One request to move money from `source` to `target`, often with a word on the third account."""
    (third,) = (name for name in _ACCOUNTS if name not in (source, target))
    s, d, x = (f"{rng.choice(_OWNERS)} {name}" for name in (source, target, third))
    transfer = rng.choice(_TRANSFERS).format(a=f"{rng.randrange(10, 100)} euros", s=s, d=d)
    body = rng.choice(_FRAMES).format(t=transfer, x=x)
    return f"{body}, {rng.choice(_CLOSINGS).format(r=rng.choice(_REASONS), n=rng.choice(_NAMES))}"


def load_embedded_dataset() -> DatasetDict:
    """Generate a data set of requests to move money between three accounts; the class is the route the money takes.

    The words do not give the class away. Source and target stand in either order, most texts name the
    third account as well, and the rest of a text (amount, person, reason) is drawn without regard to its class. On
    clean labels a logistic regression has a test accuracy of 0.19 on word counts and 0.57 on TF-IDF of 1-2-grams;
    chance is 1/6.

    The texts are drawn by a generator of their own with a fixed seed: every call returns the same data set and leaves
    the state of `random` alone.

    Returns:
        `datasets.DatasetDict`: splits `train` (840 samples) and `test` (420), no text twice, with the columns
        `text` (`str`, 8 to 25 words) and `label` (`datasets.ClassLabel`, six classes of equal size, as
        `"savings_to_card"`).
    """
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    rng = random.Random(_SEED)
    routes = [(source, target) for source in _ACCOUNTS for target in _ACCOUNTS if source != target]
    features = Features({"text": Value("string"), "label": ClassLabel(names=[f"{s}_to_{d}" for s, d in routes])})
    seen = set()
    splits = {}
    for split, per_class in [("train", _TRAIN_PER_CLASS), ("test", _TEST_PER_CLASS)]:
        rows = []
        for label, (source, target) in enumerate(routes):
            stop = len(rows) + per_class
            while len(rows) < stop:
                text = _sentence(rng, source, target)
                if text not in seen:
                    seen.add(text)
                    rows.append({"text": text, "label": label})
        rng.shuffle(rows)
        splits[split] = Dataset.from_list(rows, features=features)
    return DatasetDict(splits)
