"""Suspect labels from the predictions, or the features, of any model. Arrays in, a table out: no trainer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import datasets
import numpy as np
import torch

from ._argument_checks import as_array, check_label_names, check_seed
from ._names import IGNORED_LABEL
from .estimators import NoiseModel, fit_noise_model
from .estimators.neighbors import MOST_NEIGHBORS, neighbors_disagree
from .estimators.noise_model import check_num_labels, log_probabilities, warn_if_unsupported
from .evidence import cross_fitted_probe
from .report.issue_table import as_columns, issue_table

logger = logging.getLogger(__name__)
_MANY_CLASSES = 1000  # no reason to doubt fewer

_LEAST = float(np.finfo(np.float32).tiny)


def find_label_issues(
    labels: np.ndarray,
    pred_probs: np.ndarray | None = None,
    features: np.ndarray | Sequence[np.ndarray] | None = None,
    return_all: bool = False,
    *,
    texts: datasets.Dataset | Mapping[str, Sequence] | Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
    threshold: float | None = None,
    seed: int = 0,
) -> datasets.Dataset:
    """Labels that are more likely wrong than right, worst first, with the class that they should have.

    Fits the noise model ([`~hf_clear.estimators.fit_noise_model`]) to predictions of any model, scikit-learn's too, or
    to those of linear probes on features of any model ([`~hf_clear.evidence.cross_fitted_probe`], in five folds), or to
    both. How far to trust the list, [`~hf_clear.audit_labels`] says.

    Args:
        labels (`np.ndarray` of shape `[num_samples]`): the given classes, from 0 on; -100 for none.
        pred_probs (`np.ndarray` of shape `[num_samples, num_labels]`, *optional*): probabilities of the classes for
            each sample, of a model that has not been trained on its label, such as those of
            `sklearn.model_selection.cross_val_predict(..., method="predict_proba")`. A row that is not finite, or sums
            to 0, says nothing.
        features (`np.ndarray` of shape `[num_samples, dim]`, or a sequence of them, *optional*): embeddings by a model
            that has not seen the labels. A row that is not finite says nothing. A sample of which nothing is known is
            no issue, its `label_score` is NaN, and a warning counts such samples. So it is for all if predictions and
            features say nothing about the labels.
        return_all (`bool`, *optional*, defaults to `False`): whether to return every sample with a label, in order of
            suspicion.
        texts (`datasets.Dataset`, `Mapping[str, Sequence]` or `Sequence[str]`, *optional*): what to show of each
            sample, column by column; a sequence alone is the column `text`.
        label_names (`Sequence[str]`, *optional*): the names of the classes, in the order of their numbers.
        threshold (`float`, *optional*): a label is an issue if its score is below it; 0.5 by default.
        seed (`int`, *optional*, defaults to 0): of the folds. The state of random generators is left as it was.

    Returns:
        `datasets.Dataset` with the columns `sample_index`, those of `texts`, `given_label`, `predicted_label` (the most
        probable true class), `is_label_issue`, `label_score` (the probability that the given label is right),
        `suggestion_confidence` (that of `predicted_label`), `loss` (cross entropy of the given label under what is
        predicted without it, in nats) and `reasons`, see [`~hf_clear.report.issue_table`].

    Raises:
        ValueError: if there are neither predictions nor features, shapes don't fit, a label is no class, or
            `pred_probs` holds anything but probabilities.

    Example:

    ```python
    >>> pred_probs = cross_val_predict(LogisticRegression(), features, labels, method="predict_proba")
    >>> find_label_issues(labels, pred_probs).to_pandas().head()
    >>> find_label_issues(labels, features=SentenceTransformer("all-MiniLM-L6-v2").encode(texts))
    ```
    """
    check_label_names(label_names)
    evidence = LabelEvidence.of(labels, pred_probs, features, None if label_names is None else len(label_names), seed)
    return evidence.table(texts, label_names, threshold, return_all)


@dataclass(frozen=True)
class LabelEvidence:
    """Scores of every sample by models that have not seen its label, and the noise model that was fitted to them.

    Attributes:
        labels (`np.ndarray` of shape `[num_samples]`): the given classes; -100 for none.
        scores (`list[np.ndarray]` of shape `[num_samples, num_labels]`): of each source.
        model ([`NoiseModel`]): of labels and scores.
        rescore (`Callable`): from other labels to the scores that there would be with these.
        features (`list[np.ndarray]`): what the probes were trained on; empty if there were predictions alone.
    """

    labels: np.ndarray = field(repr=False)
    scores: list[np.ndarray] = field(repr=False)
    model: NoiseModel
    rescore: Callable[[np.ndarray], list[np.ndarray]] = field(repr=False)
    features: list[np.ndarray] = field(default_factory=list, repr=False)

    @classmethod
    def of(
        cls,
        labels: np.ndarray,
        pred_probs: np.ndarray | None = None,
        features: np.ndarray | Sequence[np.ndarray] | None = None,
        num_labels: int | None = None,
        seed: int = 0,
    ) -> LabelEvidence:
        """As [`find_label_issues`] takes them.

        Args:
            num_labels (`int`, *optional*): the number of classes; by default that of `pred_probs`, or of the labels.
        """
        if pred_probs is None and features is None:
            raise ValueError(
                "There is nothing to judge labels by: give `pred_probs`, the predictions of a model that has not been "
                "trained on the label, or `features`, the embeddings of any model."
            )
        check_seed(seed)
        if np.ma.is_masked(labels):
            raise ValueError("`labels` is masked: fill in -100 for labels that are missing (`labels.filled(-100)`).")
        labels = as_array("labels", labels) if callable(getattr(labels, "detach", None)) else np.asarray(labels)
        labels = labels.astype(np.int64) if labels.shape == (0,) else labels
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                "`labels` has to hold one class number for each sample, from 0 on (of names, take "
                "`np.unique(names, return_inverse=True)`); got "
                f"{labels.dtype} of shape {list(labels.shape)}."
            )
        if len(labels) == 0:
            raise ValueError("There are no labels: `labels` is empty.")
        labels = labels.astype(np.int64)
        given = [] if pred_probs is None else [_scores_of(pred_probs)]
        tables = [] if features is None else _features(features, len(labels))
        if given and len(given[0]) != len(labels):
            raise ValueError(f"`pred_probs` has {len(given[0])} rows for {len(labels)} labels: one row for each.")
        if given and num_labels not in (None, given[0].shape[1]):
            raise ValueError(
                f"There are {num_labels} `label_names`, and `pred_probs` is of {given[0].shape[1]} classes."
            )
        if not given and num_labels is None:
            num_labels = _number_of(labels)
        num_labels = given[0].shape[1] if given else int(num_labels or 0)
        check_num_labels(num_labels)  # before probes are trained
        wrong = np.flatnonzero((labels != IGNORED_LABEL) & ((labels < 0) | (labels >= num_labels)))
        if len(wrong):
            raise ValueError(
                f"`labels[{wrong[0]}]` is {labels[wrong[0]]}, and there are {num_labels} classes: labels are from 0 to "
                f"{num_labels - 1}, or {IGNORED_LABEL} for none."
            )

        def rescore(labels: np.ndarray) -> list[np.ndarray]:
            own = torch.from_numpy(labels.astype(np.int64))
            probes = (cross_fitted_probe(torch.from_numpy(table), own, num_labels, seed) for table in tables)
            return [*given, *(scores.numpy() for scores in probes)]

        scores = rescore(labels)
        model = fit_noise_model(scores, labels)
        warn_if_unsupported(model)
        is_labelled = labels != IGNORED_LABEL
        missing = int((is_labelled & ~model.has_scores).sum())
        if missing:
            logger.warning(f"{missing} of {is_labelled.sum()} labelled samples have no finite prediction: no issues.")
        return cls(labels, scores, model, rescore, tables)

    @property
    def label_score(self) -> np.ndarray:
        """The probability that each given label is right, `[num_samples]`; NaN if nothing is known of it."""
        known = self.model.has_scores & (self.labels != IGNORED_LABEL)
        return np.where(known, self.model.clean_probability, np.nan)

    def table(
        self,
        texts: datasets.Dataset | Mapping[str, Sequence] | Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
        threshold: float | None = None,
        return_all: bool = False,
    ) -> datasets.Dataset:
        """The table of [`find_label_issues`]."""
        rows = np.flatnonzero(self.labels != IGNORED_LABEL)
        given = self.labels[rows]
        prediction = self.model.prediction[rows, given].astype(np.float64)
        known = self.model.is_supported & self.model.has_scores[rows]
        looks = self.features and len(rows) <= MOST_NEIGHBORS
        shown = None
        if texts is not None:
            shown = as_columns(texts)
            if len(shown) != len(self.labels):
                raise ValueError(f"`texts` has {len(shown)} rows for {len(self.labels)} labels: one row for each.")
            shown = shown.select(rows)
        return issue_table(
            np.where(known, self.label_score[rows], np.nan),
            given,
            np.where(known, self.model.suggestion[rows], -1),
            suggestion_confidence=np.where(known, self.model.suggestion_confidence[rows], np.nan),
            loss=np.where(known, -np.log(np.maximum(prediction, _LEAST)), np.nan),
            neighbors_disagree=neighbors_disagree(self.features[0][rows], given) if looks else None,
            texts=shown,
            label_names=label_names,
            sample_index=rows,
            threshold=threshold,
            return_all=return_all,
        )


def _number_of(labels: np.ndarray) -> int:
    """The number of classes, if labels alone tell it.

    Raises:
        ValueError: if it is far above the number of samples: labels are numbers of another kind, such as ids.
    """
    number = int(max(labels.max(initial=-1) + 1, 2))
    if number > max(2 * len(labels), _MANY_CLASSES):
        raise ValueError(
            f"`labels[{labels.argmax()}]` is {labels.max()}, which makes {number} classes of {len(labels)} labels. "
            "Number the classes from 0 on (`np.unique(labels, return_inverse=True)`), or give all `label_names`."
        )
    return number


def _scores_of(pred_probs: np.ndarray) -> np.ndarray:
    probabilities = as_array("pred_probs", pred_probs)
    if probabilities.ndim != 2:
        raise ValueError(f"`pred_probs` has to be of shape [num_samples, num_labels]; got {list(probabilities.shape)}.")
    if probabilities.dtype.kind != "f":
        probabilities = probabilities.astype(np.float64)
    finite = np.isfinite(probabilities).all(axis=1)
    total = probabilities[finite].sum(axis=1)
    wrong = (probabilities[finite] < 0).any(axis=1) | ((np.abs(total - 1) > 0.01) & (total != 0))
    if wrong.any():
        row = int(np.flatnonzero(finite)[wrong.argmax()])
        raise ValueError(
            f"`pred_probs[{row}]` is no distribution: it has to hold probabilities that sum to 1. Of logits, take the "
            "softmax first."
        )
    return log_probabilities(probabilities)


def _features(features: np.ndarray | Sequence[np.ndarray], num_samples: int) -> list[np.ndarray]:
    """One table for each kind of features."""
    if callable(getattr(features, "toarray", None)):  # of scipy, whose sparse arrays have no length
        raise ValueError(
            "`features` is sparse, and a linear probe on so many columns would know little: make it dense with few "
            "columns, as by `sklearn.decomposition.TruncatedSVD(100).fit_transform(features)`."
        )
    if not len(features):
        raise ValueError("`features` is empty.")
    is_one = getattr(features, "ndim", None) is not None or np.ndim(features[0]) < 2
    tables = [as_array("features", table).astype(np.float32) for table in ([features] if is_one else features)]
    for table in tables:
        if table.ndim != 2 or len(table) != num_samples or table.shape[1] == 0:
            raise ValueError(
                f"`features` has to be of shape [{num_samples}, dim], one row for each label, or a sequence of such; "
                f"got {list(table.shape)}."
            )
    return tables
