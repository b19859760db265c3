"""How likely a classifier of frozen features finds the given label of a sample that it has not seen."""

from __future__ import annotations

import logging

import numpy as np

from .._argument_checks import check_count, check_seed
from ..fold_assignment import assign_folds
from ._evidence import CleanProbabilityEstimate, SampleEvidence, features_and_labels
from ._registry import register_estimator
from .mixtures import gaussian_mixture

logger = logging.getLogger(__name__)

# Inverse weight of the L2 penalty, a hundredth of scikit-learn's default, under which the classifier fits wrong labels.
# Chosen by how well the loss finds injected wrong labels (their truth known) in BANKING77 and SST-5, one noise seed.
_C = 0.01


def probe(evidence: SampleEvidence) -> CleanProbabilityEstimate:
    """The estimator `"probe"`: [`gaussian_mixture`] over [`out_of_sample_cross_entropy`]. If that is not defined,
    there is no evidence, and the clean probability is 1. If none is defined, or [`gaussian_mixture`] finds no evidence
    in them, `is_supported` is False."""
    if evidence.labels is None or evidence.features is None:
        missing = "labels" if evidence.labels is None else "features"
        raise ValueError(
            f"`{missing}` is None: the probe needs one class label (which token-level tasks don't have) and one vector "
            "of features for each sample. 'gaussian_mixture' does without."
        )
    losses = out_of_sample_cross_entropy(evidence.features, evidence.labels)
    known = np.isfinite(losses)
    if not known.all():
        logger.warning(f"{(~known).sum()} samples are alone in their class: no classifier can be fitted without them.")
    estimate = gaussian_mixture(losses[known])
    probability = np.ones(len(losses))
    probability[known] = estimate.clean_probability
    return CleanProbabilityEstimate(probability, estimate.diagnostics, is_supported=estimate.is_supported)


def out_of_sample_cross_entropy(
    features: np.ndarray, labels: np.ndarray, num_folds: int = 5, seed: int = 0
) -> np.ndarray:
    """The cross entropy of the given labels under a linear classifier that has not seen them: cross-validation, as in
    confident learning (Northcutt et al., 2021, arXiv 1911.00068).

    A classifier that is trained on a wrong label learns it in the end. Here each is judged by one that can't have: a
    logistic regression on the standardized features of the other folds. Folds are stratified: every class is spread
    over them as evenly as its size allows.

    Args:
        features (`np.ndarray` of shape `[num_samples, dim]`): of a model that has not seen the given labels, such as
            the frozen base model. Used in float32.
        labels (`np.ndarray` of shape `[num_samples]`): the given class labels.
        num_folds (`int`, *optional*, defaults to 5): as many fits; fewer if there are fewer samples.
        seed (`int`, *optional*, defaults to 0): decides which fold a sample is in.

    Returns:
        `np.ndarray` of shape `[num_samples]`: in nats; NaN for a sample whose label no sample of the other folds has,
        which happens to the only sample of a class alone. 0 if the other folds have no other label.

    Raises:
        ValueError: if `features` or `labels` is of another shape, `num_folds` is smaller than 2, `seed` is none, or
            the features of a sample are not finite.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = features_and_labels(features, labels)
    check_count("num_folds", num_folds, 2)  # one to predict and one to learn from
    check_seed(seed)
    wrong = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"The `features` of {len(wrong)} samples (the first: index {wrong[0]}) are not finite in float32. Compute "
            "them in float32, or leave those samples out."
        )
    fold = assign_folds(len(labels), num_folds, seed, labels)
    losses = np.full(len(labels), np.nan)
    for held_out in np.unique(fold):
        seen = fold != held_out
        classes = np.unique(labels[seen])
        rows = np.flatnonzero(~seen & np.isin(labels, classes))
        if len(classes) < 2 or not len(rows):
            losses[rows] = 0.0
            continue
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=_C, max_iter=1000))
        classifier.fit(features[seen], labels[seen])
        likelihood = classifier.predict_proba(features[rows])[np.arange(len(rows)), classes.searchsorted(labels[rows])]
        losses[rows] = -np.log(np.maximum(likelihood, np.finfo(np.float32).tiny))
    return losses


register_estimator("probe", probe, uses_features=True, uses_labels=True, uses_probabilities=False)
