"""Metrics that work offline, for [`evaluate`](https://huggingface.co/docs/evaluate): they load nothing from the Hub."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
)

from ._argument_checks import as_array

_ROUNDING = 1e-3  # by so much, probabilities may be beside [0, 1]
_GLUE_ACCURACY = ("sst2", "mnli", "mnli_mismatched", "mnli_matched", "qnli", "rte", "wnli", "hans")
_GLUE_ACCURACY_AND_F1 = ("mrpc", "qqp")
_GLUE_TASKS = ("cola", *_GLUE_ACCURACY_AND_F1, *_GLUE_ACCURACY)


class _Metric(evaluate.Metric):
    """What all metrics here share. A subclass names its inputs and their types, and computes."""

    _inputs = "predictions and references: class numbers."
    _dtypes = {"predictions": "int64", "references": "int64"}

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description=self._inputs,
            features=datasets.Features({name: datasets.Value(dtype) for name, dtype in self._dtypes.items()}),
        )


class Accuracy(_Metric):
    """Share of correct predictions. As `evaluate.load("accuracy")`, which needs the Hub.

    Example:

    ```python
    >>> Accuracy().compute(predictions=[0, 1], references=[0, 0])
    {'accuracy': 0.5}
    ```
    """

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class Glue(_Metric):
    """GLUE's own metric of a task (Wang et al. 2019, arXiv 1804.07461). As `evaluate.load("glue", task)`, which needs
    the Hub: `matthews_correlation` for cola, `accuracy` and `f1` (of class 1) for mrpc and qqp, `accuracy` for sst2,
    mnli, mnli_matched, mnli_mismatched, qnli, rte, wnli and hans. `Glue("stsb")` raises: a regression.

    Example:

    ```python
    >>> Glue("mrpc").compute(predictions=[0, 1, 1], references=[0, 1, 0])
    {'accuracy': 0.6666666666666666, 'f1': 0.6666666666666666}
    ```
    """

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name == "stsb":
            raise ValueError("GLUE's stsb is a regression: it has no classes, so no wrong ones.")
        if self.config_name not in _GLUE_TASKS:
            raise ValueError(f"`Glue(task)` takes one of {', '.join(_GLUE_TASKS)}; got {self.config_name!r}.")
        return super()._info()

    def _compute(self, predictions, references) -> dict[str, float]:
        if self.config_name == "cola":
            return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}
        metrics = {"accuracy": float(accuracy_score(references, predictions))}
        if self.config_name in _GLUE_ACCURACY_AND_F1:
            metrics["f1"] = float(f1_score(references, predictions, zero_division=0.0))
        return metrics


class EpochAccuracy(_Metric):
    """Peak and average accuracy over the epochs of a training, as in Tables 1, 2 and 5 of CleaR (arXiv 2411.00873):
    `peak_accuracy` is that of the best epoch, `average_accuracy` the mean over the epochs after the warm-up (absent
    if there is none). Takes the `warmup_epochs` (k) besides predictions and references.

    Example:

    ```python
    >>> EpochAccuracy().compute(predictions=[0.5, 0.8, 0.6], references=[1, 2, 3], warmup_epochs=1)
    {'peak_accuracy': 0.8, 'average_accuracy': 0.7}
    ```
    """

    _inputs = "predictions: accuracies in [0, 1]. references: the epochs they were measured after, the first being 1."
    _dtypes = {"predictions": "float64", "references": "float64"}

    def _compute(self, predictions, references, warmup_epochs: float) -> dict[str, float]:
        given = _of_one_shape(predictions=predictions, references=references)
        accuracy, epoch = given["predictions"], given["references"]
        if not len(accuracy):
            raise ValueError("`predictions` is empty: there is no accuracy to take the best of.")
        _refuse("predictions", accuracy, ~((accuracy >= 0) & (accuracy <= 1)), "an accuracy in [0, 1]")
        metrics = {"peak_accuracy": float(accuracy.max())}
        late = accuracy[epoch > warmup_epochs]
        return {**metrics, "average_accuracy": float(late.mean())} if len(late) else metrics


class Memorization(_Metric):
    """How much of its training labels a model has learned by heart (Liu et al. 2020, arXiv 2007.00151; Figures 1 and 4
    of CleaR, arXiv 2411.00873): `memorization_clean` is the share of the correctly labelled samples that are predicted
    as labelled, `memorization_noisy` the share of the wrongly labelled samples that are predicted as their given, wrong
    label. A group without samples has no key.

    Example:

    ```python
    >>> Memorization().compute(predictions=[0, 1, 1], references=[0, 1, 0], true_labels=[0, 0, 1])
    {'memorization_clean': 1.0, 'memorization_noisy': 0.5}
    ```
    """

    _inputs = (
        "predictions: class numbers. references: the given labels. true_labels: the true ones; a sample with a "
        "negative one (-100: unknown) is left out."
    )
    _dtypes = {"predictions": "int64", "references": "int64", "true_labels": "int64"}

    def _compute(self, predictions, references, true_labels) -> dict[str, float]:
        return memorization(np.array(predictions), np.array(references), np.array(true_labels))


class Detection(_Metric):
    """How well clean probabilities find the wrong labels: [`detection_metrics`].

    Example:

    ```python
    >>> Detection().compute(predictions=[0.9, 0.2, 0.7], references=[0, 1, 0])["detection_auroc"]
    1.0
    ```
    """

    _inputs = "predictions: clean probabilities in [0, 1]. references: 1 if the given label is wrong, else 0."
    _dtypes = {"predictions": "float64", "references": "int64"}

    def _compute(self, predictions, references) -> dict[str, float]:
        return detection_metrics(predictions, references)


def detection_metrics(clean_probability: np.ndarray, is_noisy: np.ndarray) -> dict[str, float]:
    """How well clean probabilities find the wrong labels, when the truth is known. Wrong labels are the positives.

    Args:
        clean_probability (`np.ndarray` of shape `[num_samples]`): in [0, 1], or NaN for a sample of which nothing is
            known, as in `label_score`. It is left out: nothing known is no evidence for or against its label.
        is_noisy (`np.ndarray` of shape `[num_samples]`): True where the given label is wrong.

    Returns:
        `dict[str, float]`: `detection_auroc` and `detection_average_precision` of the ranking by clean probability
        (lowest first), `detection_precision` and `detection_recall` of the samples below 0.5. Empty if all labels
        are right or all are wrong, or nothing is known of any: there is nothing to tell apart.

    Raises:
        ValueError: if these are not one number for each sample, a clean probability is outside [0, 1], or `is_noisy`
            holds anything but True and False.
    """
    given = _of_one_shape(clean_probability=clean_probability, is_noisy=is_noisy)
    clean_probability, is_noisy = given["clean_probability"], given["is_noisy"]
    _refuse(
        "clean_probability",
        clean_probability,
        (clean_probability < -_ROUNDING) | (clean_probability > 1 + _ROUNDING),
        "a probability in [0, 1], or NaN if nothing is known",
    )
    _refuse("is_noisy", is_noisy, (is_noisy != 0) & (is_noisy != 1), "True or False")
    known = ~np.isnan(clean_probability)
    clean_probability, is_noisy = clean_probability[known], is_noisy[known].astype(bool)
    if is_noisy.all() or not is_noisy.any():
        return {}
    flagged = clean_probability < 0.5
    return {
        "detection_auroc": float(roc_auc_score(is_noisy, -clean_probability)),
        "detection_average_precision": float(average_precision_score(is_noisy, -clean_probability)),
        "detection_precision": float(precision_score(is_noisy, flagged, zero_division=0.0)),
        "detection_recall": float(recall_score(is_noisy, flagged)),
    }


def memorization(predicted: np.ndarray, given: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """[`Memorization`] without `evaluate`.

    Args:
        predicted, given, true (`np.ndarray` of shape `[num_samples]`): class numbers; `true` negative if unknown.

    Raises:
        ValueError: if these are not one whole number for each sample.
    """
    numbers = _of_one_shape(predicted=predicted, given=given, true=true)
    for name, values in numbers.items():
        _refuse(name, values, values != np.round(values), "a class number (a negative one if it is unknown)")
    predicted, given, true = numbers["predicted"], numbers["given"], numbers["true"]
    groups = {"clean": (given == true) & (true >= 0), "noisy": (given != true) & (true >= 0)}
    as_given = predicted == given
    return {f"memorization_{name}": float(as_given[group].mean()) for name, group in groups.items() if group.any()}


def _of_one_shape(**arguments: Any) -> dict[str, np.ndarray]:
    """Arguments by name, as arrays of shape `[num_samples]`."""
    arrays = {name: as_array(name, values) for name, values in arguments.items()}
    shapes = [array.shape for array in arrays.values()]
    if len(shapes[0]) != 1 or len(set(shapes)) > 1:
        raise ValueError(
            f"{', '.join(f'`{name}`' for name in arrays)} have to be of one shape, [num_samples]; got "
            f"{', '.join(str(list(shape)) for shape in shapes)}."
        )
    return arrays


def _refuse(name: str, values: np.ndarray, is_wrong: np.ndarray, what: str) -> None:
    if is_wrong.any():
        row = int(is_wrong.argmax())
        raise ValueError(f"`{name}[{row}]` is {values[row]:g}: it has to be {what}.")
