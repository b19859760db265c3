"""The contract of noise types: [`check_noise_type`]."""

from __future__ import annotations

import numpy as np

from ..noise import NOISE_TYPES, NoiseFunction, NoiseType
from ._random_state import unchanged_random_state

_SAMPLES = 4000
_RATE_ERROR = 0.04  # 5 standard errors of a rate of 0.5


def check_noise_type(
    noise_type: NoiseFunction | NoiseType | str,
    uses_features: bool = False,
    exact_rate: bool = True,
    num_labels: int = 5,
) -> None:
    """Makes sure that a noise type does what an experiment expects of it.

    - It returns one class number for each label, also for one sample and if classes have none.
    - A rate of 0 changes no label. At other rates, that share of the labels changes.
    - The generator alone decides: the same seed gives the same labels, another seed gives others, and the global
      random state stays as it is.
    - It doesn't change the labels and features that it is given.
    - If it says that it uses features, other features give other labels; if not, it does without.

    Args:
        noise_type (`Callable`, `NoiseType` or `str`): a function as in [`~hf_clear.noise.register_noise_type`], or the
            name of a registered type.
        uses_features (`bool`, *optional*, defaults to `False`): as in [`~hf_clear.noise.register_noise_type`]; read for
            a bare function.
        exact_rate (`bool`, *optional*, defaults to `True`): False if fewer labels may change than the rate says, as
            in conventions that draw the new label from all classes, the true one included.
        num_labels (`int`, *optional*, defaults to 5): the number of classes that it is tried with.

    Raises:
        AssertionError: that says what is broken and how the noise type was called.
        ValueError: if no noise type of this name is registered.

    Example:

    ```python
    >>> check_noise_type("symmetric")
    >>> check_noise_type(class_conditional(partial(asymmetric_transition_matrix, shift=2)))
    ```
    """
    if isinstance(noise_type, str):
        noise_type = NOISE_TYPES.find(noise_type)
    elif not isinstance(noise_type, NoiseType):
        name = getattr(noise_type, "__name__", type(noise_type).__name__)
        noise_type = NoiseType(name, noise_type, uses_features)
    trial = _Trial(noise_type, num_labels)
    _check_answers(trial)
    with unchanged_random_state(trial.what):  # not the first call: imports may draw
        _check_rates(trial, exact_rate)
        _check_seeds(trial)
        _check_features(trial)


class _Trial:
    """A noise type and what it is tried on."""

    def __init__(self, noise_type: NoiseType, num_labels: int):
        rng = np.random.default_rng(0)
        self.noise_type, self.num_labels = noise_type, num_labels
        self.what = f"The noise type {noise_type.name!r}"
        self.labels = rng.integers(0, num_labels, _SAMPLES)
        self.features = rng.standard_normal((_SAMPLES, 8))

    def __call__(
        self,
        rate: float,
        seed: int = 1,
        labels: np.ndarray | None = None,
        features: np.ndarray | None = None,
    ) -> np.ndarray:
        given = (self.labels if labels is None else labels).copy()
        features = (self.features if features is None else features)[: len(given)].copy()
        before = given.copy(), features.copy()
        rng = np.random.default_rng(seed)
        try:
            noisy = self.noise_type(given, self.num_labels, rate, rng, features)
        except Exception as error:
            raise AssertionError(
                f"{self.what} (uses_features={self.noise_type.uses_features}) fails on {len(given)} labels of "
                f"{self.num_labels} classes at a rate of {rate}: {type(error).__name__}: {error}"
            ) from error
        for name, value, old in zip(("labels", "features"), (given, features), before):
            assert np.array_equal(value, old), f"{self.what} changes the {name} that it is given: work on a copy."
        return noisy


def _check_answers(trial: _Trial) -> None:
    for rate in (0.0, 0.3, 1.0):
        trial(rate)
        trial(rate, labels=trial.labels[:1])
        trial(rate, labels=np.zeros_like(trial.labels))  # all other classes are empty


def _check_rates(trial: _Trial, exact_rate: bool) -> None:
    changed = (trial(0.0) != trial.labels).sum()
    assert changed == 0, f"{trial.what} changes {changed} of {_SAMPLES} labels at a rate of 0."
    for rate in (0.2, 0.5, 1.0):
        realized = (trial(rate) != trial.labels).mean()
        too_few = exact_rate and realized < rate - _RATE_ERROR
        assert realized > 0 and not too_few and realized <= rate + _RATE_ERROR, (
            f"{trial.what} changes {realized:.3f} of the labels at a rate of {rate}."
            + (" If it may draw the true class too, say exact_rate=False." if too_few else "")
        )


def _check_seeds(trial: _Trial) -> None:
    first, again, other = trial(0.5, seed=1), trial(0.5, seed=1), trial(0.5, seed=2)
    assert np.array_equal(first, again), (
        f"{trial.what} gives other labels when it is called again with the same seed: take all draws from `rng`."
    )
    assert not np.array_equal(first, other), (
        f"{trial.what} gives the same labels with another seed: take all draws from `rng`."
    )


def _check_features(trial: _Trial) -> None:
    if trial.noise_type.uses_features:
        assert not np.array_equal(trial(0.5), trial(0.5, features=-trial.features)), (
            f"{trial.what} says that it uses features, and gives the same labels for others."
        )
