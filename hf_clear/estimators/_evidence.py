"""What an estimator is given and what it returns. numpy only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Real

import numpy as np

from ..transition_matrices import check_transition_matrix


@dataclass(frozen=True)
class SampleEvidence:
    """What is known of the training samples at a refit. Every array has one row for each sample, and is read-only.
    Copy what you keep beyond the call: training goes on to change it.

    Attributes:
        losses (`np.ndarray` of shape `[num_samples]`): in nats.
        labels (`np.ndarray` of shape `[num_samples]`, *optional*): the given class labels. None if a sample has no
            single one, as in token-level tasks.
        mean_losses (`np.ndarray` of shape `[num_samples]`, *optional*, defaults to `losses`): the exponential mean of
            the losses over the refits so far, with weight 0.9 on the past, in nats.
        probabilities (`np.ndarray` of shape `[num_samples, num_labels]`, *optional*): the predicted class
            probabilities, in half precision if there are very many. None if `labels` is, or if no estimator is
            registered to look at them.
        features (`np.ndarray` of shape `[num_samples, dim]`, *optional*): from the frozen base model. None unless the
            estimator is registered with `uses_features=True`.
        held_out_clean_probability (`np.ndarray` of shape `[num_samples]`, *optional*): the probability that the label
            is correct, as far as models tell that have not seen it (`clear_evidence`, and the folds of a cross-fitting
            warm-up); NaN if they tell nothing of a sample. None if there are no such models, or they tell nothing.

    Raises:
        ValueError: if an array has more or fewer rows than `losses`, or `held_out_clean_probability` holds what is no
            probability.
    """

    losses: np.ndarray
    labels: np.ndarray | None = None
    mean_losses: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    features: np.ndarray | None = None
    held_out_clean_probability: np.ndarray | None = None

    def __post_init__(self):
        if self.mean_losses is None:
            object.__setattr__(self, "mean_losses", self.losses)
        for name in (one.name for one in fields(self)):
            if getattr(self, name) is not None:
                view = np.asarray(getattr(self, name)).view()
                check_rows(name, view, len(self.losses))
                view.flags.writeable = False  # others look at it too
                object.__setattr__(self, name, view)
        told = self.held_out_clean_probability
        if told is not None and ((told < 0) | (told > 1)).any():
            raise ValueError("`held_out_clean_probability` has to hold numbers in [0, 1], or NaN for none.")


@dataclass(frozen=True)
class CleanProbabilityEstimate:
    """What an estimator returns.

    Attributes:
        clean_probability (`np.ndarray` of shape `[num_samples]`): the probability in [0, 1] that a label is correct.
        diagnostics (`dict[str, float]`, *optional*): numbers that tell how the estimate came about, by the name under
            which training logs them; NaN if one is not defined. Empty by default.
        posterior (`np.ndarray` of shape `[num_samples, num_labels]`, *optional*): the probability of each true class,
            given everything that is known of a sample, its label included. For training losses that ask for it. None if
            the estimator knows right and wrong alone.
        transition_matrix (`np.ndarray` of shape `[num_labels, num_labels]`, *optional*): the noise matrix that was
            found; row: true class; column: given label. None if the estimator has none.
        is_supported (`bool`, *optional*, defaults to `True`): whether the estimate says anything about the labels. If
            not, training follows it all the same, and no label gets a score from it ([`~ClearMixin.label_issues`]).

    Raises:
        ValueError: if `clean_probability` is not one-dimensional or holds anything but probabilities, `posterior`
            has not one distribution for each of them, `transition_matrix` is none, or `diagnostics` holds anything but
            finite numbers and NaN.
    """

    clean_probability: np.ndarray
    diagnostics: dict[str, float] = field(default_factory=dict)
    posterior: np.ndarray | None = None
    transition_matrix: np.ndarray | None = None
    is_supported: bool = True

    def __post_init__(self):
        probability = np.asarray(self.clean_probability, dtype=np.float64)
        wrong = ~((probability >= 0) & (probability <= 1))
        if probability.ndim != 1 or wrong.any():
            raise ValueError(
                "`clean_probability` has to hold one number in [0, 1] for each sample; got "
                + (f"{probability[wrong][0]}." if probability.ndim == 1 else f"shape {list(probability.shape)}.")
            )
        if not isinstance(self.is_supported, (bool, np.bool_)):
            raise ValueError(f"`is_supported` has to be True or False; got {self.is_supported!r}.")
        object.__setattr__(self, "clean_probability", probability)
        object.__setattr__(self, "diagnostics", _checked_diagnostics(self.diagnostics))
        if self.posterior is not None:
            object.__setattr__(self, "posterior", _checked_posterior(self.posterior, len(probability)))
        if self.transition_matrix is not None:
            object.__setattr__(self, "transition_matrix", check_transition_matrix(self.transition_matrix))


def _checked_posterior(posterior: np.ndarray, num_samples: int) -> np.ndarray:
    """As an array of floats; rows of zeros stand for nothing known."""
    posterior = np.asarray(posterior)
    posterior = posterior if posterior.dtype.kind == "f" else posterior.astype(np.float32)
    if posterior.ndim != 2 or len(posterior) != num_samples:
        raise ValueError(
            f"`posterior` has to hold one row for each of {num_samples} samples; got shape {list(posterior.shape)}."
        )
    total = posterior.sum(axis=1, dtype=np.float32)
    wrong = (np.abs(total - 1) > 0.01) & (total != 0)  # NaN: below
    wrong |= ~(posterior.min(axis=1, initial=0) >= 0)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"`posterior[{row}]` is no distribution: it has to hold probabilities that sum to 1, or zeros if nothing "
            "is known of the sample."
        )
    return posterior


def _checked_diagnostics(diagnostics: Mapping[str, float]) -> dict[str, float]:
    """A copy, with Python's floats: they are written to JSON."""
    if not isinstance(diagnostics, Mapping):
        raise ValueError(f"`diagnostics` has to be a dict of numbers by name; got a {type(diagnostics).__name__}.")
    for name, value in diagnostics.items():
        if not isinstance(name, str):
            raise ValueError(f"`diagnostics` has to have strings for names; got {name!r}.")
        if not isinstance(value, Real) or math.isinf(value):
            raise ValueError(f"`diagnostics[{name!r}]` has to be a finite number, or NaN for none; got {value}.")
    return {name: float(value) for name, value in diagnostics.items()}


def features_and_labels(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels as arrays, the features in float32.

    Raises:
        ValueError: if they are not of shape [num_samples, dim] and [num_samples].
    """
    features, labels = np.asarray(features, dtype=np.float32), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            "`features` and `labels` have to be of shape [num_samples, dim] and [num_samples], got "
            f"{list(features.shape)} and {list(labels.shape)}."
        )
    return features, labels


def check_rows(name: str, values: np.ndarray, num_samples: int) -> None:
    if len(values) != num_samples:
        raise ValueError(f"`{name}` has {len(values)} rows for {num_samples} samples.")
