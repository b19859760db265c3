"""A small data set of questions made from templates, for examples and tests without a network."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import DatasetDict

_SEED = 20240611
_TRAIN_PER_CLASS, _TEST_PER_CLASS = 150, 70
_NOUNS = {
    "person": """painter nurse captain baker lawyer farmer pilot singer doctor teacher judge sailor waiter dancer
        priest soldier writer tailor butcher actor mayor clerk poet coach miner guard barber chemist plumber
        gardener""",
    "place": """city village island harbour valley castle library museum station airport bridge market church school
        hospital hotel forest desert beach stadium theatre factory prison park lake cave mountain street palace
        temple""",
    "animal": """horse rabbit eagle salmon donkey turtle spider camel parrot tiger monkey goose lizard dolphin beetle
        wolf sheep kitten lobster owl badger pony frog whale falcon hamster squirrel ox pigeon crab""",
    "food": """bread cheese soup apple honey pancake sausage carrot noodle biscuit salad omelette potato cherry
        chocolate onion yoghurt pie mushroom rice bean melon garlic cake butter peach pudding spinach lemon
        sandwich""",
    "vehicle": """truck bicycle ferry tram rocket taxi sledge canoe tractor bus yacht scooter helicopter carriage
        submarine van motorbike balloon wagon ambulance raft glider jeep barge limousine train kayak tanker skateboard
        airship""",
    "instrument": """violin trumpet piano drum flute guitar cello harp accordion clarinet banjo organ trombone
        xylophone mandolin tuba oboe saxophone bell harmonica lute viola bassoon tambourine bagpipe ukulele gong fiddle
        horn recorder""",
}
# {a}: the thing that is asked for.
_QUESTIONS = ["which {a}", "what {a}", "what kind of {a}", "the name of the {a}", "the right {a}", "more about the {a}"]
# {q}: one of the questions above; {b}, {c}: things of two other kinds.
_FRAMES = [
    "please tell me {q}, the {b} and the {c} are known",
    "I know the {b} and the {c}, but not {q}",
    "after the {b} came the {c}, but {q} is still open",
    "the {b} next to the {c} is clear, we look for {q}",
    "{q} is what we need, not the {b} or the {c}",
    "does anyone remember {q} from the story with the {b} and the {c}",
    "the story has a {b} and a {c}, and the question is {q}",
    "{q} was it, and why did it stay with the {b} and the {c}",
]
_ENDINGS = ["in {year}", "since {year}", "from {name}", "said {name}", "for {name}"]
_NAMES = """Anna Boris Clara David Emma Felix Grace Hugo Irene Jonas Karen Lucas Maria Nora Oscar Paula Ravi Sofia Tom
    Yuki""".split()


def load_questions() -> DatasetDict:
    """Generates a data set of questions; the class is the kind of thing that is asked for.

    "I know the rice and the guard, but not which lute since 1960" asks for an instrument. Each text names three things
    of three kinds, so that its words do not give the class away, only their relation does: on clean labels a logistic
    regression has a test accuracy of 0.31 on word counts and of 0.36 on TF-IDF of 1-2-grams; chance is 1/6.

    The texts are drawn by a generator of their own with a fixed seed: every call returns the same data set and leaves
    the state of `random` alone.

    Returns:
        `datasets.DatasetDict`: splits `train` (900 samples) and `test` (420), no text twice, with the columns `text`
        (`str`, 13 to 20 words) and `label` (`datasets.ClassLabel`, six classes of equal size, as `"animal"`).
    """
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    rng = random.Random(_SEED)
    kinds = list(_NOUNS)
    features = Features({"text": Value("string"), "label": ClassLabel(names=kinds)})
    seen = set()
    splits = {}
    for split, per_class in [("train", _TRAIN_PER_CLASS), ("test", _TEST_PER_CLASS)]:
        rows: list[dict[str, Any]] = []
        for label, kind in enumerate(kinds):
            stop = len(rows) + per_class
            while len(rows) < stop:
                text = _question(rng, kind)
                if text not in seen:
                    seen.add(text)
                    rows.append({"text": text, "label": label})
        rng.shuffle(rows)
        splits[split] = Dataset.from_list(rows, features=features)
    return DatasetDict(splits)


def _question(rng: random.Random, kind: str) -> str:
    others = [other for other in _NOUNS if other != kind]
    rng.shuffle(others)
    a, b, c = (rng.choice(_NOUNS[name].split()) for name in (kind, *others[:2]))
    question = rng.choice(_QUESTIONS).format(a=a)
    ending = rng.choice(_ENDINGS).format(year=rng.randrange(1900, 2020), name=rng.choice(_NAMES))
    return f"{rng.choice(_FRAMES).format(q=question, b=b, c=c)} {ending}"
