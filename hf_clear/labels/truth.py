"""The truth about labels, if it is known: a column of the training set."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import torch

from .._names import IGNORED_LABEL, TRUE_LABEL


def true_labels_of(dataset: Any) -> np.ndarray | None:
    """The column `true_label` of a `datasets.Dataset`, as [`~hf_clear.noise.inject_label_noise`] adds it:
    `[num_samples]`, -100 if unknown. None if there is no such column.

    Raises:
        ValueError: if the column holds anything but class numbers and nothing.
    """
    if not isinstance(dataset, datasets.Dataset) or TRUE_LABEL not in dataset.column_names:
        return None
    labels = [IGNORED_LABEL if label is None else label for label in dataset.with_format(None)[TRUE_LABEL][:]]
    wrong = next((row for row, label in enumerate(labels) if type(label) is not int), None)
    if wrong is not None:
        raise ValueError(
            f"The column {TRUE_LABEL!r} of the training set holds {labels[wrong]!r} for sample {wrong}. It has to "
            f"hold class numbers, {IGNORED_LABEL} or nothing if the truth is unknown; or rename the column."
        )
    return np.array(labels)


def truly_clean(true_labels: np.ndarray | None, labels: torch.Tensor) -> torch.Tensor | None:
    """Whether each given label is the true one: 1.0 or 0.0, NaN if that is unknown; `[num_samples]`, on the device of
    `labels`. None without true labels."""
    if true_labels is None:
        return None
    true = torch.from_numpy(true_labels).to(labels.device)
    return (true == labels).float().masked_fill(true < 0, torch.nan)
