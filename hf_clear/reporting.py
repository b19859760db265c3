"""`ReportMixin`: the report page of a trainer that keeps clean probabilities."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ._names import REPORT, TRUE_LABEL
from ._trainer_types import OwnTrainer
from .report.callback import ReportCallback
from .report.page import save_report
from .report.shown_columns import class_names
from .sample_index import label_names


class ReportMixin(OwnTrainer):
    """For a [`~transformers.Trainer`] with `label_issues`, `true_labels` and `fit_findings`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.add_callback(ReportCallback(self))

    def save_report(self, path: str | os.PathLike | None = None, columns: Sequence[str] | None = None) -> Path:
        """Writes what was found about the labels as one HTML page ([`~hf_clear.report.save_report`]): a table of
        suspects in which suggestions are accepted and downloaded, pictures, and a table of the classes.

        The page holds texts of the training set: `push_to_hub` does not upload it. On several processes, call it on
        every one; the main process writes.

        Args:
            path (`str` or `os.PathLike`, *optional*): the file; `report.html` in `output_dir` by default.
            columns (`Sequence[str]`, *optional*): what to show of the training set, as in `label_issues`.

        Returns:
            `pathlib.Path`: the file.

        Raises:
            RuntimeError: if nothing has been fitted yet.
            FileExistsError: if a file is there that is no report.
            ValueError: if a column is not there, or every token has a label.
            ImportError: without matplotlib: `pip install "hf-clear[report]"`.

        Example:

        ```python
        >>> trainer.train()
        >>> trainer.save_report()  # open it in a browser, accept suggestions, download corrections.csv
        >>> train = hf_clear.apply_corrections(train, "corrections.csv")
        ```
        """
        path = Path(self.args.output_dir, REPORT) if path is None else Path(path)
        table = self.report_table(columns)
        if self.is_world_process_zero():
            logs, warnings = self.state.log_history, self.fit_findings.warnings.values()
            save_report(path, table, log_history=logs, warnings=warnings, label_names=self._class_names())
        return path

    def report_table(self, columns: Sequence[str] | None = None) -> datasets.Dataset:
        """`label_issues` of all samples, with a column `true_label` if the truth is known."""
        table, true, names = self.label_issues(return_all=True, columns=columns), self.true_labels, self._class_names()
        if true is None or TRUE_LABEL in table.column_names:
            return table
        labels = true[np.array(table["sample_index"])].tolist()
        known = [None if label < 0 else label if names is None else names[label] for label in labels]
        return table.add_column(TRUE_LABEL, known)

    def _class_names(self) -> list[str] | None:
        config = getattr(self.accelerator.unwrap_model(self.model), "config", None)
        return class_names(self.train_dataset, label_names(self), config)
