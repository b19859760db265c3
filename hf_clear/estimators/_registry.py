"""Estimators of clean probabilities, by name: [`register_estimator`] adds one, [`get_estimator`] finds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .._callables import check_call
from .._registry import Registry
from ._evidence import CleanProbabilityEstimate, SampleEvidence

Estimator = Callable[[SampleEvidence], CleanProbabilityEstimate]


@dataclass(frozen=True)
class NamedEstimator:
    """An estimator as [`get_estimator`] returns it: called with a [`SampleEvidence`]. Whatever it says, a sample whose
    loss is not finite gets clean probability 0.

    Attributes:
        name (`str`): as given to [`get_estimator`].
        estimator (`Callable[[SampleEvidence], CleanProbabilityEstimate]`): what is called.
        uses_features (`bool`): whether it needs `SampleEvidence.features`.
        uses_labels (`bool`): whether it needs `SampleEvidence.labels` or `SampleEvidence.probabilities`.
        uses_probabilities (`bool`): whether it looks at `SampleEvidence.probabilities`, which take much memory.
        gives_posterior (`bool`, *optional*): whether its estimates have a `posterior`; None if that is not known.
        uses_held_out (`bool`): whether it needs `SampleEvidence.held_out_clean_probability`.

    Raises:
        ValueError: when called, if the estimator doesn't return one clean probability for each sample.
    """

    name: str
    estimator: Estimator
    uses_features: bool = False
    uses_labels: bool = False
    uses_probabilities: bool = True
    gives_posterior: bool | None = False
    uses_held_out: bool = False

    def check_held_out(self, there_is: bool) -> None:
        """Raises ValueError if it needs evidence from outside the sample, and there never is any."""
        if self.uses_held_out and not there_is:
            raise ValueError(
                f"The estimator {self.name!r} needs what models say that have not seen the labels, and here there are "
                "none: it goes with ClearTrainer and `clear_warmup='evidence'` or 'cross_fit'. 'gaussian_mixture' does "
                "without."
            )

    def __call__(self, evidence: SampleEvidence) -> CleanProbabilityEstimate:
        estimate = self.estimator(evidence)
        if not isinstance(estimate, CleanProbabilityEstimate):
            raise ValueError(
                f"The estimator {self.name!r} returned a {type(estimate).__name__}, not a CleanProbabilityEstimate: "
                "`return CleanProbabilityEstimate(clean_probability)`."
            )
        if len(estimate.clean_probability) != len(evidence.losses):
            raise ValueError(
                f"The estimator {self.name!r} returned {len(estimate.clean_probability)} clean probabilities for "
                f"{len(evidence.losses)} samples."
            )
        if self.gives_posterior and estimate.posterior is None:
            raise ValueError(f"The estimator {self.name!r} is registered to give a posterior, and gave none.")
        finite = np.isfinite(evidence.losses)  # there is no training on the others
        if finite.all():
            return estimate
        return replace(estimate, clean_probability=np.where(finite, estimate.clean_probability, 0.0))


class _EstimatorRegistry(Registry[NamedEstimator]):
    """Lists the names that are registered, and knows combinations of them too: `"gaussian_mixture+knn" in registry`. So
    a command line that takes it as its choices shows the names in its help and accepts what [`get_estimator`] does."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and all(map(super().__contains__, name.split("+")))

    def add(self, name: str, member: NamedEstimator) -> None:
        if "+" in str(name):
            raise ValueError(f"The estimator name {name!r} holds '+', which stands between the parts of a combination.")
        super().add(name, member)

    def find(self, name: str, argument: str | None = None) -> NamedEstimator:
        parts = []
        for part in name.split("+") if isinstance(name, str) else [name]:
            try:
                parts.append(super().find(part, argument))
            except ValueError as error:
                where = f"In {name!r}: " if part != name else ""
                hint = "Put '+' between names to average several, as in 'gaussian_mixture+knn'."
                raise ValueError(f"{where}{error} {hint}") from None
        return parts[0] if len(parts) == 1 else _combination(name, parts)


ESTIMATORS = _EstimatorRegistry("clean-probability estimator", "register_estimator")


def register_estimator(
    name: str,
    estimator: Estimator,
    uses_features: bool = False,
    uses_labels: bool = False,
    uses_probabilities: bool = True,
    gives_posterior: bool = False,
    uses_held_out: bool = False,
) -> None:
    """Makes an estimator known by a name.

    Args:
        name (`str`): not taken, and without `"+"`, which stands between the parts of a combination.
        estimator (`Callable[[SampleEvidence], CleanProbabilityEstimate]`): one clean probability for each sample.
        uses_features (`bool`, *optional*, defaults to `False`): whether it needs `SampleEvidence.features`.
        uses_labels (`bool`, *optional*, defaults to `False`): whether it needs `SampleEvidence.labels` or
            `SampleEvidence.probabilities`, so that tasks with one label a token are refused before training.
        uses_probabilities (`bool`, *optional*, defaults to `True`): whether it looks at `SampleEvidence.probabilities`.
            Say False if it does not: they are `num_samples * num_labels` numbers, which need not be kept then.
        gives_posterior (`bool`, *optional*, defaults to `False`): whether its estimates have a `posterior`, which the
            training loss 'posterior' needs. In a combination it has no effect.
        uses_held_out (`bool`, *optional*, defaults to `False`): whether it needs
            `SampleEvidence.held_out_clean_probability`, so that a training without evidence is refused. It may be None
            all the same, if the evidence tells nothing.

    Raises:
        ValueError: if the name is empty, holds `"+"` or is taken, or the estimator is no function of one argument.

    Example:

    ```python
    >>> def likelihood(evidence):
    ...     of_label = np.exp(-np.nan_to_num(evidence.losses, nan=np.inf))
    ...     return CleanProbabilityEstimate(of_label, {"mean_likelihood": of_label.mean()})
    >>> register_estimator("likelihood", likelihood)
    ```
    """
    check_call(f"The estimator {name!r}", estimator, "evidence")
    needs = (uses_features, uses_labels, uses_probabilities)
    ESTIMATORS.add(name, NamedEstimator(name, estimator, *needs, gives_posterior, uses_held_out))


def get_estimator(name: str) -> NamedEstimator:
    """Finds an estimator by name.

    Args:
        name (`str`): a registered name, or several with `"+"` between them, as in `"gaussian_mixture+knn"`: the mean of
            their clean probabilities (linear opinion pool, Stone, 1961), with the diagnostics of all; of the same name,
            that of the first. One that says nothing about the labels is left out.

    Returns:
        [`NamedEstimator`]: to be called with a [`SampleEvidence`]. A combination uses features if any part does.

    Raises:
        ValueError: if a name is not registered.
    """
    return ESTIMATORS.find(name)


def _combination(name: str, parts: list[NamedEstimator]) -> NamedEstimator:
    def pool(evidence: SampleEvidence) -> CleanProbabilityEstimate:
        estimates = [part(evidence) for part in parts]
        diagnostics: dict[str, float] = {}
        for estimate in estimates:
            diagnostics = {**diagnostics, **estimate.diagnostics, **diagnostics}  # the first stands
        told = [e.clean_probability for e in estimates if e.is_supported]
        p = np.mean(told or [e.clean_probability for e in estimates], axis=0)
        return CleanProbabilityEstimate(p, diagnostics, is_supported=bool(told))

    return NamedEstimator(
        name,
        pool,
        any(part.uses_features for part in parts),
        any(part.uses_labels for part in parts),
        any(part.uses_probabilities for part in parts),
        uses_held_out=any(part.uses_held_out for part in parts),
    )
