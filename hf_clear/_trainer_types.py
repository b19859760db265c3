"""What the parts of hf_clear's trainers know of each other, for type checkers. At run time these types are nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ._typing import AnyTrainer

if TYPE_CHECKING:
    import datasets
    import numpy as np
    import torch

    from .fit_checks import FitFindings
    from .task_loss import FirstBatch

    class Store(Protocol):
        """Of [`~hf_clear.sample_store.SampleStore`], what is asked on the floors below it."""

        losses: torch.Tensor
        posterior: torch.Tensor | None
        findings: FitFindings

        @property
        def is_fitted(self) -> bool: ...

    class OwnTrainer(AnyTrainer):
        """Of [`~hf_clear.base_trainer.BaseTrainerMixin`]."""

        method: str  # what messages call it
        evaluated: list[tuple[dict[str, float], Any]]  # metrics and data of each evaluation
        labels_tokens: bool  # whether every token has a label, instead of every sample

        @property
        def _is_stock(self) -> bool: ...

        @property
        def sample_store(self) -> Store | None: ...  # None before there is anything in it

        @property
        def true_labels(self) -> np.ndarray | None: ...

        @property
        def fit_findings(self) -> FitFindings: ...

        def label_issues(
            self, threshold: float | None = None, *, return_all: bool = False, columns: Sequence[str] | None = None
        ) -> datasets.Dataset: ...

        def method_settings(self) -> dict[str, Any]: ...

        _first_batch: FirstBatch  # of ClearTrainer in training

        # Of [`~hf_clear.beginning.NewBeginningMixin`].
        def keep_beginning(self) -> None: ...

        def may_begin_anew(self, epoch: int) -> bool: ...

        def begin_anew(self) -> None: ...

else:
    OwnTrainer = object
