import numpy as np
import pytest

from hf_clear.metrics import Accuracy, detection_metrics


def test_accuracy_is_an_evaluate_metric_that_needs_no_network():
    metric = Accuracy()
    assert metric.compute(predictions=np.array([0, 1, 2, 1]), references=np.array([0, 1, 1, 1])) == {"accuracy": 0.75}
    metric.add_batch(predictions=[3], references=[2])
    assert metric.compute() == {"accuracy": 0.0}


def test_detection_metrics_by_hand():
    """Wrong labels are the positives, ranked by low clean probability: wrong, right, wrong, right, right."""
    metrics = detection_metrics(np.array([0.1, 0.3, 0.4, 0.8, 0.9]), np.array([1, 0, 1, 0, 0]))
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
