"""Noise types, by name: [`register_noise_type`] adds one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .._callables import check_call
from .._names import NO_NOISE
from .._registry import Registry

# (labels, num_labels, noise_rate, rng, features) -> noisy labels: see `register_noise_type`.
NoiseFunction = Callable[[np.ndarray, int, float, np.random.Generator, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class NoiseType:
    """A noise type as `NOISE_TYPES` holds it; called as its function is.

    Attributes:
        name (`str`): as registered.
        function (`Callable`): see [`register_noise_type`].
        uses_features (`bool`): whether it needs features. It gets None otherwise.

    Raises:
        ValueError: when called, if features are missing that it needs, or the function doesn't return one class
            number for each label.
    """

    name: str
    function: NoiseFunction
    uses_features: bool = False

    def __call__(
        self,
        labels: np.ndarray,
        num_labels: int,
        noise_rate: float,
        rng: np.random.Generator,
        features: np.ndarray | None = None,
    ) -> np.ndarray:
        if self.uses_features and features is None:
            raise ValueError(
                f"Noise type {self.name!r} needs `features` of shape [{len(labels)}, dim], sentence embeddings for "
                "example."
            )
        noisy = self.function(labels, num_labels, noise_rate, rng, features if self.uses_features else None)
        noisy = np.asarray(noisy)
        is_class = noisy.shape == labels.shape and noisy.dtype.kind in "iu"
        if not is_class or noisy.min(initial=0) < 0 or noisy.max(initial=0) >= num_labels:
            raise ValueError(
                f"Noise type {self.name!r} has to return {len(labels)} class numbers from 0 to {num_labels - 1}; got "
                f"{noisy.dtype} of shape {list(noisy.shape)}: {noisy}."
            )
        return noisy


NOISE_TYPES: Registry[NoiseType] = Registry("noise type", "register_noise_type")


def register_noise_type(name: str, noise_type: NoiseFunction, uses_features: bool = False) -> None:
    """Adds a noise type that [`~hf_clear.noise.inject_label_noise`] knows by name.

    Args:
        name (`str`): not registered yet, and not `"none"`, which stands for no noise on a command line.
        noise_type (`Callable`): called as `noise_type(labels, num_labels, noise_rate, rng, features)`, with the true
            labels (`np.ndarray` of shape `[num_samples]`), a `np.random.Generator` for all its draws, and the features
            (`np.ndarray` of shape `[num_samples, dim]`), or None unless it uses them. Returns the noisy labels, of the
            same shape. For noise that depends on the class only: [`~hf_clear.noise.class_conditional`].
        uses_features (`bool`, *optional*, defaults to `False`): whether it needs features of the samples.

    Raises:
        ValueError: if the name is empty or taken, or the noise type is no function of these arguments.

    Example:

    ```python
    >>> register_noise_type("two_on", class_conditional(partial(asymmetric_transition_matrix, shift=2)))
    ```
    """
    if name == NO_NOISE:
        raise ValueError(
            f"{name!r} stands for no noise, as in `--noise_type {name}`, and can't be the name of a noise type: choose "
            "another name."
        )
    check_call(f"The noise type {name!r}", noise_type, "labels", "num_labels", "noise_rate", "rng", "features")
    NOISE_TYPES.add(name, NoiseType(name, noise_type, uses_features))
