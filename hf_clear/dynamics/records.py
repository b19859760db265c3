"""What a model said of its training samples after each epoch: the table of suspects, and files for other tools."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

import datasets
import numpy as np
import pandas as pd

from .._names import IGNORED_LABEL
from ..estimators import SampleEvidence, get_estimator
from ..files import write_atomically
from ..report.issue_table import issue_table
from .files import epoch_path, epochs_in, read_epoch


class TrainingDynamics:
    """The records of one training, epoch by epoch; from the folder that [`TrainingDynamicsCallback`] writes.

    Args:
        folder (`str` or `os.PathLike`): with files `epoch_1.safetensors` and so on.

    Attributes:
        epochs (`list[int]`): from 1 on. A file of another training in the same folder is left out.
        labels (`np.ndarray` of shape `[num_samples]`): the given classes; -100 for a sample that the collator dropped.
        losses (`np.ndarray` of shape `[num_epochs, num_samples]`): in nats.
        predicted (`np.ndarray` of shape `[num_epochs, num_samples]`): the most probable classes.
        margins (`np.ndarray` of shape `[num_epochs, num_samples]`): the logit of the given label minus the largest
            other.
        probabilities (`np.ndarray` of shape `[num_samples, num_labels]`): the mean over the epochs.

    Raises:
        FileNotFoundError: if there is no epoch.
        ValueError: if a file is damaged.

    Example:

    ```python
    >>> dynamics = TrainingDynamics("out/training_dynamics")
    >>> dynamics.label_issues(texts=train.select_columns("text")).to_pandas().head()
    ```
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.epochs: list[int] = []
        losses, predicted, margins, run = [], [], [], None
        total: np.ndarray | float = 0.0
        for epoch in epochs_in(folder):
            found, of_run = read_epoch(epoch_path(folder, epoch))
            if epoch != len(self.epochs) + 1 or (run is not None and of_run != run):
                break  # of a training before
            run, logits = of_run, found.log_probabilities.float().numpy()
            self.labels = found.labels.long().numpy()
            self.epochs.append(epoch)
            losses.append(found.losses.numpy())
            predicted.append(logits.argmax(axis=1))
            margins.append(_margins(logits, self.labels))
            total = total + np.exp(logits)
        if not self.epochs:
            raise FileNotFoundError(
                f"{os.fspath(folder)} holds no training dynamics: there is no epoch_1.safetensors. Train with a "
                "TrainingDynamicsCallback first."
            )
        self.run = run
        self.losses, self.predicted, self.margins = np.stack(losses), np.stack(predicted), np.stack(margins)
        self.probabilities = np.asarray(total / len(self.epochs))

    @property
    def area_under_margin(self) -> np.ndarray:
        """The mean margin over the epochs, `[num_samples]` (AUM, Pleiss et al., 2020, arXiv 2001.10528): low for wrong
        labels."""
        return self.margins.mean(axis=0)

    def label_issues(
        self,
        threshold: float | None = None,
        *,
        return_all: bool = False,
        estimator: str = "gaussian_mixture",
        texts: datasets.Dataset | Mapping[str, Sequence] | None = None,
        label_names: Sequence[str] | None = None,
    ) -> datasets.Dataset:
        """The samples whose label is more likely wrong than right, worst first.

        The mean loss over the epochs goes to the estimator: wrong labels are learned late, so that their mean stays
        high even if the last epochs know all labels by heart. The class that each should have is the one with the
        largest mean probability.

        Args:
            threshold (`float`, *optional*): a label is an issue if it is right with a smaller probability; 0.5 by
                default.
            return_all (`bool`, *optional*, defaults to `False`): whether to return every sample.
            estimator (`str`, *optional*, defaults to `"gaussian_mixture"`): a registered estimator that needs no
                features, and no evidence from outside the sample.
            texts, label_names: as of [`~hf_clear.report.issue_table`].

        Returns:
            `datasets.Dataset`: see [`~hf_clear.report.issue_table`].
        """
        of_name = get_estimator(estimator)
        of_name.check_held_out(False)
        known = np.isfinite(self.losses).all(axis=0) & (self.labels != IGNORED_LABEL)
        score, losses = np.full(len(known), np.nan), self.losses.mean(axis=0)
        if known.any():
            evidence = SampleEvidence(losses[known], self.labels[known], probabilities=self.probabilities[known])
            estimate = of_name(evidence)
            score[known] = estimate.clean_probability if estimate.is_supported else np.nan
        confidence = self.probabilities.max(axis=1)
        return issue_table(
            score,
            self.labels,
            np.where(known, self.probabilities.argmax(axis=1), -1),
            suggestion_confidence=np.where(np.isfinite(confidence), confidence, np.nan),
            loss=losses,
            texts=texts,
            label_names=label_names,
            threshold=threshold,
            return_all=return_all,
        )

    def to_cartography(self, folder: str | os.PathLike) -> list[Path]:
        """Writes `dynamics_epoch_0.jsonl` and so on, as Dataset Cartography reads them from its `training_dynamics`
        (Swayamdipta et al., 2020, arXiv 2009.10795): an object a line with `guid` (the row of the data set),
        `logits_epoch_0` (logarithms of probabilities: logits up to a constant) and `gold` (the given label).

        Args:
            folder (`str`): missing folders are made; files of these names that it writes anew are replaced.

        Returns:
            `list[Path]`: the files.

        Raises:
            FileExistsError: if a file of such a name holds something else.
        """
        written = []
        for number, epoch in enumerate(self.epochs):
            path = Path(folder) / f"dynamics_epoch_{number}.jsonl"
            _check_replaceable(path, b'{"guid": ')
            logits = read_epoch(epoch_path(self.folder, epoch))[0].log_probabilities.float().numpy()
            name = f"logits_epoch_{number}"
            rows = (
                json.dumps({"guid": row, name: [round(float(x), 4) for x in logits[row]], "gold": int(label)}) + "\n"
                for row, label in enumerate(self.labels)
                if label != IGNORED_LABEL and np.isfinite(logits[row]).all()
            )
            write_atomically(path, *(row.encode() for row in rows))
            written.append(path)
        return written

    def to_aum(self, path: str | os.PathLike) -> Path:
        """Writes a csv file with the columns `sample_id` (the row of the data set) and `aum`, largest first, as the
        package `aum` writes its `aum_values.csv` (Pleiss et al., 2020).

        Args:
            path (`str`): the file; one that it has written before is replaced.

        Returns:
            `Path`: the file.

        Raises:
            FileExistsError: if a file of such a name holds something else.
        """
        path = Path(path)
        _check_replaceable(path, b"sample_id,aum")
        known = np.flatnonzero(np.isfinite(self.area_under_margin))
        table = pd.DataFrame({"sample_id": known, "aum": self.area_under_margin[known]})
        buffer = StringIO()
        table.sort_values("aum", ascending=False, kind="stable").to_csv(buffer, index=False)
        write_atomically(path, buffer.getvalue().encode())
        return path


def _margins(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    rows, known = np.arange(len(labels)), np.maximum(labels, 0)
    others = logits.copy()
    others[rows, known] = -np.inf
    margins = logits[rows, known] - others.max(axis=1)
    return np.where(labels == IGNORED_LABEL, np.nan, margins)


def _check_replaceable(path: Path, begin: bytes) -> None:
    if not os.path.lexists(path):
        return
    if path.is_file():
        with open(path, "rb") as file:
            if file.read(len(begin)) == begin:
                return
    raise FileExistsError(f"{path} is in the way, and holds something else. Move it away, or choose another name.")
