"""Planted errors: some labels are flipped on purpose, and it is counted how many of them are found. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .._argument_checks import check_count, check_seed
from .._callables import check_call
from .._names import IGNORED_LABEL
from ..estimators import NoiseModel, fit_noise_model
from ..estimators._weights import score_tables
from ._checks import as_classes, as_probabilities, check_model

SHARE = 0.05  # of the labels that are flipped in one round
_ENOUGH, _MOST_ROUNDS = 300, 4  # planted errors in all, if so many rounds give them
KINDS = ("uniform", "found")


@dataclass(frozen=True)
class PlantedErrors:
    """What [`plant_and_find`] saw.

    Attributes:
        planted (`np.ndarray` of shape `[num_planted]`): the clean probabilities of labels that were flipped.
        kind (`np.ndarray` of shape `[num_planted]`): 0 if another class was drawn uniformly, 1 if as the noise model
            says that labels go wrong (see `KINDS`).
        untouched (`np.ndarray` of shape `[num_untouched]`): the clean probabilities of the labels that were not, in the
            same rounds.
        num_labels (`int`): the number of classes that occur.
        noise_rate (`float`): the share of labels that were wrong before, by the noise model.

    Raises:
        ValueError: if shapes don't fit, a number is no probability, a kind is none of the two, or errors are planted
            among fewer than two classes.
    """

    planted: np.ndarray = field(repr=False)
    kind: np.ndarray = field(repr=False)
    untouched: np.ndarray = field(repr=False)
    num_labels: int
    noise_rate: float = 0.0

    def __post_init__(self):
        for name in ("planted", "untouched"):
            object.__setattr__(
                self, name, as_probabilities(name, getattr(self, name), may_be_missing=False).astype(float)
            )
        object.__setattr__(self, "kind", as_classes("kind", self.kind, len(self.planted)))
        if not np.isin(self.kind, range(len(KINDS))).all():
            raise ValueError(f"`kind` has to be 0 or 1 for each planted error; got {np.unique(self.kind).tolist()}.")
        check_count("num_labels", self.num_labels, 2 if len(self.planted) else 1)
        as_probabilities("noise_rate", [self.noise_rate], may_be_missing=False)

    @classmethod
    def none(cls, model: NoiseModel) -> PlantedErrors:
        return cls(np.empty(0), np.empty(0, dtype=int), np.empty(0), model.target.shape[1])

    @property
    def found(self) -> float:
        """The share of planted errors with a clean probability below 0.5; NaN without any. Flips of wrong labels that
        made them right, as far as that is to be expected, are no errors."""
        if not len(self.planted):
            return float("nan")
        found, flagged = (self.planted < 0.5).mean(), (self.untouched < 0.5).mean() if len(self.untouched) else 0.0
        return float(share_of_errors(found, flagged, self.noise_rate, self.num_labels))


def plant_and_find(
    model: NoiseModel, rescore: Callable[[np.ndarray], np.ndarray | Sequence[np.ndarray]], seed: int = 0
) -> PlantedErrors:
    """Flips 5 % of the labels, scores all samples anew, and fits the noise model again; as often as it takes to see 300
    planted errors, four times at most.

    Half of the errors are of any other class that occurs, half are as the noise model says that labels go wrong, which
    are harder to find if classes are confused that look alike.

    Args:
        model ([`NoiseModel`]): fitted to the labels as they are.
        rescore (`Callable`): from labels, `[num_samples]`, to scores `[num_samples, num_labels]` of one source or a
            sequence of them, by models that have not seen the label of the sample. As many samples and classes as
            `model` is of.
        seed (`int`, *optional*, defaults to 0): of the draw.

    Returns:
        [`PlantedErrors`]

    Raises:
        ValueError: if `model` is no noise model, `seed` is none, `rescore` is no such function, or it returns scores of
            another shape.
    """
    check_model(model)
    check_call("`rescore`", rescore, "labels")
    check_seed(seed)
    rng, rows = np.random.default_rng(seed), np.flatnonzero((model.labels != IGNORED_LABEL) & model.has_scores)
    classes = np.unique(model.labels[model.labels != IGNORED_LABEL])
    size = int(round(SHARE * len(rows)))
    planted, kinds, untouched = [], [], []
    rounds = min(-(-_ENOUGH // max(size, 1)), _MOST_ROUNDS) if len(classes) > 1 and size else 0
    for _ in range(rounds):
        flipped = rng.choice(rows, size, replace=False)
        kind = np.arange(size) % len(KINDS)
        labels = model.labels.copy()
        labels[flipped] = _other_labels(labels[flipped], kind, model.transition_matrix, classes, rng)
        tables = score_tables(rescore(labels))
        if tables[0].shape != model.target.shape:
            raise ValueError(
                f"`rescore` has to return scores of shape {list(model.target.shape)}, as those of `model`; got "
                f"{list(tables[0].shape)}."
            )
        again = fit_noise_model(tables, labels)
        clean = np.where(again.has_scores, again.clean_probability, np.nan)
        planted.append(clean[flipped])
        kinds.append(kind)
        untouched.append(clean[np.setdiff1d(rows, flipped)])
    joined = [np.concatenate(part) if part else np.empty(0) for part in (planted, kinds, untouched)]
    seen = [np.isfinite(part) for part in (joined[0], joined[2])]
    rate = float(np.nan_to_num(model.noise_rate))
    return PlantedErrors(joined[0][seen[0]], joined[1][seen[0]], joined[2][seen[1]], max(len(classes), 2), rate)


def share_of_errors(
    flipped: np.ndarray | float, untouched: np.ndarray | float, rate: float, num_labels: int
) -> np.ndarray | float:
    """The share of wrong labels that a cut takes, from the shares of flipped and of untouched labels that it takes. A
    wrong label that is flipped may have become right, at random with probability `1 / (num_labels - 1)`.

    Args:
        rate (`float`): the share of wrong labels before.
    """
    right = rate / (num_labels - 1)
    if 1 - rate - right < 0.05:  # flipped or not, labels say next to nothing
        return flipped
    return np.clip(((1 - rate) * flipped - right * untouched) / (1 - rate - right), 0, 1)


def _other_labels(
    labels: np.ndarray, kind: np.ndarray, matrix: np.ndarray, classes: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    num_labels, steps = len(matrix), rng.integers(1, len(classes), len(labels))
    others = classes[(np.searchsorted(classes, labels) + steps) % len(classes)]
    as_found = np.where(np.eye(num_labels, dtype=bool), 0, matrix)
    total = as_found.sum(axis=1, keepdims=True)
    as_found = np.divide(as_found, total, out=np.zeros_like(as_found), where=total > 0)
    for row in np.flatnonzero((kind == 1) & (total[labels, 0] > 0)):
        others[row] = rng.choice(num_labels, p=as_found[labels[row]])
    return others
