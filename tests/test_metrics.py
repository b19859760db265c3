import numpy as np
import pandas as pd
import pytest
import torch

from hf_clear.metrics import Accuracy, Detection, EpochAccuracy, Glue, Memorization, detection_metrics, memorization


def test_accuracy_is_an_evaluate_metric_that_needs_no_network():
    metric = Accuracy()
    assert metric.compute(predictions=np.array([0, 1, 2, 1]), references=np.array([0, 1, 1, 1])) == {"accuracy": 0.75}
    metric.add_batch(predictions=[3], references=[2])
    assert metric.compute() == {"accuracy": 0.0}


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        # Of class 1: 2 found, 1 too many, 1 missed; of class 0: 1 found.
        ("cola", {"matthews_correlation": (2 * 1 - 1 * 1) / (3 * 3 * 2 * 2) ** 0.5}),
        ("mrpc", {"accuracy": 3 / 5, "f1": 2 * 2 / (2 * 2 + 1 + 1)}),
        ("qqp", {"accuracy": 3 / 5, "f1": 2 / 3}),
        *((task, {"accuracy": 3 / 5}) for task in ("sst2", "mnli", "mnli_matched", "mnli_mismatched", "qnli", "rte")),
        *((task, {"accuracy": 3 / 5}) for task in ("wnli", "hans")),
    ],
)
def test_glue_by_hand(task, expected):
    result = Glue(task).compute(predictions=[1, 1, 1, 0, 0], references=[1, 1, 0, 1, 0])
    assert result == pytest.approx(expected)


@pytest.mark.parametrize(("arguments", "message"), [(["stsb"], "regression"), (["sst"], "sst2.*'sst'"), ([], "cola")])
def test_what_glue_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Glue(*arguments)


def test_epoch_accuracy_by_hand():
    """The peak counts in the warm-up too, the average doesn't."""
    accuracies = {"predictions": [0.5, 0.9, 0.6, 0.8], "references": [1.0, 2.0, 3.0, 4.0]}
    result = EpochAccuracy().compute(**accuracies, warmup_epochs=2)
    assert result == pytest.approx({"peak_accuracy": 0.9, "average_accuracy": 0.7})
    assert EpochAccuracy().compute(**accuracies, warmup_epochs=4) == {"peak_accuracy": 0.9}


def test_memorization_by_hand():
    """Right: 2 of 3 predicted as given. Wrong: 1 of 3. Unknown: left out."""
    predictions, given = [0, 1, 2, 2, 0, 2, 0, 0], [0, 1, 1, 2, 1, 1, 0, -100]
    true = [0, 1, 1, 0, 0, 0, -100, -100]
    metric = Memorization()
    result = metric.compute(predictions=predictions, references=given, true_labels=true)
    assert result == pytest.approx({"memorization_clean": 2 / 3, "memorization_noisy": 1 / 3})
    metric.add_batch(predictions=[0, 1], references=[1, 1], true_labels=[0, -100])
    metric.add_batch(predictions=[1], references=[1], true_labels=[0])
    assert metric.compute() == {"memorization_noisy": 0.5}


def test_detection_metrics_by_hand():
    """Wrong labels are the positives, ranked by low clean probability: wrong, right, wrong, right, right."""
    clean_probability, is_noisy = np.array([0.1, 0.3, 0.4, 0.8, 0.9]), np.array([1, 0, 1, 0, 0])
    metrics = detection_metrics(clean_probability, is_noisy)
    assert Detection().compute(predictions=clean_probability, references=is_noisy) == metrics
    assert metrics == pytest.approx(
        {
            "detection_auroc": 5 / 6,  # of 2 x 3 pairs one is out of order
            "detection_average_precision": (1 / 1 + 2 / 3) / 2,
            "detection_precision": 2 / 3,
            "detection_recall": 1.0,
        }
    )


@pytest.mark.parametrize("is_noisy", [[0, 0], [1, 1]])
def test_nothing_to_tell_apart(is_noisy):
    assert detection_metrics(np.array([0.1, 0.9]), np.array(is_noisy)) == {}


def test_what_is_not_known_is_left_out():
    score, is_noisy = [0.1, np.nan, 0.3, 0.4, 0.8, np.nan, 0.9], [1, 1, 0, 1, 0, 0, 0]
    metrics = detection_metrics(score, is_noisy)
    assert metrics["detection_auroc"] == pytest.approx(5 / 6) and metrics["detection_recall"] == 1
    others = detection_metrics(torch.tensor(score, dtype=torch.float64), pd.Series(is_noisy, dtype=bool))
    assert others == metrics
    assert detection_metrics(np.array([np.nan, 0.2, np.nan]), np.array([True, False, False])) == {}
    assert detection_metrics(np.array([np.nan] * 2), np.array([True, False])) == {}
    rounded = detection_metrics(np.float32([1 + 1e-6, 0.2, -1e-7]), np.array([0, 0, 1]))
    assert rounded["detection_auroc"] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: detection_metrics(np.array([0.9, 0.1, 0.3]), np.array([True])), r"one shape.*got \[3\], \[1\]"),
        (lambda: detection_metrics(np.full((2, 2), 0.5), np.eye(2)), r"one shape.*got \[2, 2\], \[2, 2\]"),
        (
            lambda: detection_metrics(np.array([0.9, 9, -1]), np.array([1, 0, 1])),
            r"`clean_probability\[1\]` is 9: .*NaN",
        ),
        (lambda: detection_metrics(np.array([0.9, -np.inf]), np.array([1, 0])), r"`clean_probability\[1\]` is -inf"),
        (lambda: detection_metrics([0.9, 0.1], [0, 2]), r"`is_noisy\[1\]` is 2: it has to be True or False"),
        (lambda: detection_metrics([0.9, 0.1], ["no", "yes"]), "`is_noisy` has to hold numbers"),
        (lambda: memorization(np.arange(4), np.array([1]), np.arange(4)), r"one shape.*got \[4\], \[1\], \[4\]"),
        (lambda: memorization([0, 1], [0, 1], [0, np.nan]), r"`true\[1\]` is nan: it has to be a class number"),
        (
            lambda: EpochAccuracy().compute(predictions=[0.5, 50], references=[1, 2], warmup_epochs=0),
            "is 50: .*accuracy",
        ),
    ],
)
def test_what_metrics_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()
