"""Estimators of clean probabilities, by name: [`register_estimator`] adds one, [`get_estimator`] finds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .clean_probability import CleanProbabilityEstimate, check_rows, gaussian_mixture, per_class_gaussian_mixture
from .neighbors import knn_agreement


@dataclass(frozen=True)
class SampleEvidence:
    """What is known of the training samples at a refit. Every array has one row for each sample, and is read-only.

    Attributes:
        losses (`np.ndarray` of shape `[num_samples]`): in nats.
        labels (`np.ndarray` of shape `[num_samples]`, *optional*): the given class labels. None where a sample has no
            single one, as in token-level tasks.
        mean_losses (`np.ndarray` of shape `[num_samples]`, *optional*, defaults to `losses`): the exponential mean of
            the losses over the refits so far, with weight 0.9 on the past, in nats.
        probabilities (`np.ndarray` of shape `[num_samples, num_labels]`, *optional*): the predicted class
            probabilities.
        features (`np.ndarray` of shape `[num_samples, dim]`, *optional*): from the frozen base model. None unless the
            estimator is registered with `uses_features=True`.

    Raises:
        ValueError: where an array has more or fewer rows than `losses`.
    """

    losses: np.ndarray
    labels: np.ndarray | None = None
    mean_losses: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    features: np.ndarray | None = None

    def __post_init__(self):
        if self.mean_losses is None:
            object.__setattr__(self, "mean_losses", self.losses)
        for name in ("losses", "labels", "mean_losses", "probabilities", "features"):
            if getattr(self, name) is not None:
                view = np.asarray(getattr(self, name)).view()
                check_rows(name, view, len(self.losses))
                view.flags.writeable = False  # others look at it too
                object.__setattr__(self, name, view)


Estimator = Callable[[SampleEvidence], CleanProbabilityEstimate]


@dataclass(frozen=True)
class NamedEstimator:
    """An estimator as [`get_estimator`] returns it: called with a [`SampleEvidence`]. Whatever it says, a sample whose
    loss is not finite gets clean probability 0.

    Attributes:
        name (`str`): as given to [`get_estimator`].
        estimator (`Callable[[SampleEvidence], CleanProbabilityEstimate]`): what is called.
        uses_features (`bool`): whether it needs `SampleEvidence.features`.
        uses_labels (`bool`): whether it needs `SampleEvidence.labels`.

    Raises:
        ValueError: when called, where the estimator doesn't return one clean probability for each sample.
    """

    name: str
    estimator: Estimator
    uses_features: bool = False
    uses_labels: bool = False

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
        finite = np.isfinite(evidence.losses)  # there is no training on the others
        if finite.all():
            return estimate
        return replace(estimate, clean_probability=np.where(finite, estimate.clean_probability, 0.0))


ESTIMATORS: dict[str, NamedEstimator] = {}


def register_estimator(name: str, estimator: Estimator, uses_features: bool = False, uses_labels: bool = False) -> None:
    """Makes an estimator known by a name.

    Args:
        name (`str`): not taken, and without `"+"`, which stands between the parts of a combination.
        estimator (`Callable[[SampleEvidence], CleanProbabilityEstimate]`): one clean probability for each sample.
        uses_features (`bool`, *optional*, defaults to `False`): whether it needs `SampleEvidence.features`.
        uses_labels (`bool`, *optional*, defaults to `False`): whether it needs `SampleEvidence.labels`, so that tasks
            with one label a token are refused before training.

    Raises:
        ValueError: where the name holds `"+"` or is taken.

    Example:

    ```python
    >>> register_estimator("small_loss", lambda evidence: CleanProbabilityEstimate(np.exp(-evidence.losses)))
    ```
    """
    if "+" in name:
        raise ValueError(f"The estimator name {name!r} holds '+', which stands between the parts of a combination.")
    if name in ESTIMATORS:
        raise ValueError(f"The estimator name {name!r} is taken. Choose another, or delete `ESTIMATORS[{name!r}]`.")
    ESTIMATORS[name] = NamedEstimator(name, estimator, uses_features, uses_labels)


def get_estimator(name: str) -> NamedEstimator:
    """Finds an estimator by name.

    Args:
        name (`str`): a registered name, or several with `"+"` between them, as in `"gaussian_mixture+knn"`: the mean of
            their clean probabilities (linear opinion pool, Stone, 1961), with means, stds and weights of the first.

    Returns:
        [`NamedEstimator`]: to be called with a [`SampleEvidence`]. A combination uses features if any part does.

    Raises:
        ValueError: where a name is not registered.
    """
    for part in str(name).split("+"):
        if part not in ESTIMATORS:
            raise ValueError(
                f"There is no estimator {part!r}"
                + (f" (in {name!r})" if part != name else "")
                + f". Registered: {', '.join(sorted(ESTIMATORS))}. Put '+' between names to average several, as in "
                "'gaussian_mixture+knn'; add one with `register_estimator`."
            )
    parts = [ESTIMATORS[part] for part in name.split("+")]
    if len(parts) == 1:
        return parts[0]

    def pool(evidence: SampleEvidence) -> CleanProbabilityEstimate:
        estimates = [part(evidence) for part in parts]
        return replace(estimates[0], clean_probability=np.mean([e.clean_probability for e in estimates], axis=0))

    return NamedEstimator(
        name, pool, any(part.uses_features for part in parts), any(part.uses_labels for part in parts)
    )


register_estimator("gaussian_mixture", lambda e: gaussian_mixture(e.losses))
register_estimator(
    "per_class_gaussian_mixture", lambda e: per_class_gaussian_mixture(e.losses, e.labels), uses_labels=True
)
# As CleaR's official code does for adapters.
register_estimator("ema_gaussian_mixture", lambda e: gaussian_mixture(e.mean_losses))
register_estimator(
    "knn", lambda e: gaussian_mixture(1 - knn_agreement(e.features, e.labels)), uses_features=True, uses_labels=True
)
