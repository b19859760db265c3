"""The base of all trainers of hf_clear: PEFT configs, clean probabilities, safe checkpoints, model cards."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import datasets
import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from ._processes import together
from ._typing import MapDataset
from .adapters.checks import check_checkpoint
from .checkpoints.mixin import CompleteCheckpointsMixin
from .fit_checks import SAYS_NOTHING, FitFindings
from .hub.dataset_names import dataset_names
from .hub.model_card import complete_model_card
from .hub.private_files import samples_left_out
from .identity.given_objects import given_optimizers
from .identity.same_data import check_same_data
from .identity.shares import check_same_evaluation, check_same_steps
from .labels.truth import true_labels_of
from .passes import per_sample_losses
from .probe_args import ProbeArguments
from .report.issue_table import issue_table, with_columns
from .report.shown_columns import class_names, shown_columns
from .reporting import ReportMixin
from .sample_index import label_names
from .sample_store import FINAL_STATE_NAME, SampleStore
from .saved_models import SavedModelsMixin
from .trainable import check_weights

logger = logging.getLogger(__name__)


class BaseTrainerMixin(ReportMixin, SavedModelsMixin, CompleteCheckpointsMixin):
    """For a [`~transformers.Trainer`] that keeps a clean probability for each training sample, in `sample_store`.

    Names in logs are words and underscores, the phase first, as `Trainer`'s: `eval_loss`, `probe_loss`, `cleanse_kept`.
    """

    if TYPE_CHECKING:

        @property
        def sample_store(self) -> SampleStore | None: ...

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        before = cls.__mro__[: cls.__mro__.index(BaseTrainerMixin)]
        wrong = [base for base in before if issubclass(base, Trainer) and not issubclass(base, BaseTrainerMixin)]
        if wrong:  # whose `__init__` never comes to ours: it would train plain
            mixin = next(
                base for base in before if issubclass(base, BaseTrainerMixin) and not issubclass(base, Trainer)
            )
            raise TypeError(
                f"{cls.__name__} has {wrong[0].__name__} before {mixin.__name__}, which would have no effect. Name it "
                f"first: `class {cls.__name__}({mixin.__name__}, {wrong[0].__name__})`."
            )

    def __init__(
        self, model: nn.Module | None = None, *args: Any, peft_config: PeftConfig | None = None, **kwargs: Any
    ):
        if not (peft_config is None or isinstance(peft_config, PeftConfig)):
            raise ValueError(
                f"`peft_config` has to be a PEFT config such as `ClearLoraConfig(r=4)`; got {peft_config!r}."
            )
        self._peft_config = peft_config
        self.evaluated, self._said = [], set()  # metrics and data of each evaluation; warnings
        self._fitted_on: Any = None  # of CleaR: the training set that rows of the store stand for
        if model is not None and peft_config is not None:
            model = self._with_peft(model, peft_config)
        super().__init__(model, *args, **kwargs)
        self._given_optimizers = given_optimizers(self)
        self.labels_tokens = False  # whether every token has a label, instead of every sample

    @property
    def true_labels(self) -> np.ndarray | None:
        """The column `true_label` of the training set, `[num_samples]`, if there is one (as
        [`~hf_clear.noise.inject_label_noise`] adds it) and every sample has one label; -100 if the truth is unknown.
        It is used for metrics and for routing strategies that need the truth alone."""
        return None if self.labels_tokens else true_labels_of(self.train_dataset)

    @together
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in `Trainer`."""
        return super().evaluate(*args, **kwargs)

    @together
    def predict(self, *args: Any, **kwargs: Any) -> PredictionOutput:
        """As in `Trainer`."""
        return super().predict(*args, **kwargs)

    def per_sample_losses(self, dataset: MapDataset | None = None) -> np.ndarray:
        """See [`hf_clear.per_sample_losses`]."""
        return per_sample_losses(self, dataset)

    def clean_probabilities(self) -> datasets.Dataset:
        """What the last fit found, one row a training sample, in the order of the training set.

        Returns:
            `datasets.Dataset` with the columns `sample_index` (row of the training set), `given_label` (not if every
            token has its own), `clean_probability` in [0, 1], and `loss` in nats. Of a sample whose loss is not finite
            nothing is known: its clean probability is NaN.

        Raises:
            RuntimeError: if nothing has been fitted yet.
            ValueError: if `train_dataset` is another than that of the training.
        """
        store = self._fitted_store()
        self._check_same_rows(store, None)
        columns = {"sample_index": np.arange(len(store.losses))}
        if not self.labels_tokens:
            columns["given_label"] = store.labels.cpu().numpy()
        columns["clean_probability"] = store.known_clean_probability().cpu().numpy()
        columns["loss"] = store.losses.cpu().numpy()
        return datasets.Dataset.from_dict(columns)

    def label_issues(
        self, threshold: float | None = None, *, return_all: bool = False, columns: Sequence[str] | None = None
    ) -> datasets.Dataset:
        """The samples whose label is more likely wrong than right, worst first: with their text, the label that each
        should have, and why. Look at [`fit_findings`] before you trust the list.

        Args:
            threshold (`float`, *optional*): a label is an issue if it is right with a smaller probability; 0.5 by
                default.
            return_all (`bool`, *optional*, defaults to `False`): whether to return every sample of the training set.
            columns (`Sequence[str]`, *optional*): what to show of the training set, a `datasets.Dataset`. By default
                its texts: every column of strings; without one, lists of strings (words), joined by blanks; without
                one, `decoded_text`, the `input_ids` as `processing_class` decodes them.

        Returns:
            `datasets.Dataset`: the table of [`~hf_clear.report.issue_table`]. Classes are called as the `ClassLabel`
            column of the training set or else the model's config says; without names they are numbers. Of a sample
            whose loss is not finite nothing is known: it is no issue, its score is NaN, and a warning counts such
            samples. If the last fit says nothing about the labels, that holds for all. If every token has a label,
            there is none to show and none to suggest.

        Raises:
            RuntimeError: if nothing has been fitted yet.
            ValueError: if `threshold` is no probability, a column is not there or called like one of the table, or
                `train_dataset` is another than that of the training.
        """
        store = self._fitted_store()
        config = getattr(self.accelerator.unwrap_model(self.model), "config", None)
        names = class_names(self.train_dataset, label_names(self), config)
        self._check_same_rows(store, names)
        found = store.issue_columns(self.labels_tokens)
        table = issue_table(**found, label_names=names, threshold=threshold, return_all=return_all)
        missing = int((~np.isfinite(found["loss"])).sum())
        if SAYS_NOTHING in store.findings.warnings:
            logger.warning("The last fit says nothing about the labels: none has a score, and none is an issue.")
        elif missing:
            logger.warning(
                f"The loss of {missing} of {len(store.losses)} training samples was not finite at the last fit. "
                "Nothing is known of their labels, so they are not among the issues: their score is NaN."
            )
        shown = shown_columns(self.train_dataset, table["sample_index"][:], columns, self.processing_class, names)
        return with_columns(table, shown)

    @property
    def fit_findings(self) -> FitFindings:
        """What speaks against the clean probabilities of the last fit, and the noise rate that it supports.

        Raises:
            RuntimeError: if nothing has been fitted yet.
        """
        return self._fitted_store().findings

    def save_state(self) -> None:
        """As in `Trainer`, and what is known of the samples: [`~hf_clear.load_label_issues`] reads it."""
        super().save_state()
        store = None if self._is_stock else self.sample_store
        if self.args.should_save and store is not None and store.is_fitted and store.identity is not None:
            store.save(os.path.join(self.args.output_dir, FINAL_STATE_NAME), with_tables=False)

    def _check_same_rows(self, store: SampleStore, names: Sequence[str] | None) -> None:
        """Raises ValueError if `train_dataset` is another than that of the last fit."""
        if self._fitted_on is not None:
            check_same_data("This trainer's last fit", self.train_dataset, store, names, self._fitted_on)

    def _fitted_store(self) -> SampleStore:
        if self.sample_store is None or not self.sample_store.is_fitted:
            raise RuntimeError(f"There are no clean probabilities: {self._first_fit()}")
        return self.sample_store

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        try:
            return super().training_step(*args, **kwargs)
        except RuntimeError as error:
            is_alone = self._is_stock or self.accelerator.num_processes == 1
            if is_alone or not (self.args.auto_find_batch_size and should_reduce_batch_size(error)):
                raise
            # It would begin again with smaller batches, while the others wait for it in this step.
            raise MemoryError(
                f"Process {self.args.process_index} has no memory for a batch of {self._train_batch_size}. On several "
                "processes, `auto_find_batch_size` can't help: lower `per_device_train_batch_size`, and raise "
                "`gradient_accumulation_steps` instead."
            ) from error

    def _prepare_for_training(self, *args: Any, **kwargs: Any):
        if isinstance(self.args, ProbeArguments):
            self.args.check_settings()
        if self.args.world_size > 1 and self.model_wrapped is self.model:
            # `evaluate` before training marks the model as prepared (accelerate 1.15), and training would go on without
            # DDP: every process by itself.
            self.model.__dict__.pop("_is_accelerate_prepared", None)
        check_weights(self)
        self.name_classes(begins=True)
        prepared = super()._prepare_for_training(*args, **kwargs)
        check_weights(self)  # with an optimizer that a subclass may have made
        return prepared

    def set_initial_training_values(self, args: TrainingArguments, dataloader: DataLoader, *others: Any):
        if not self._is_stock:
            check_same_steps(self, dataloader)
        return super().set_initial_training_values(args, dataloader, *others)

    def evaluation_loop(self, dataloader: DataLoader, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        if not self._is_stock:
            check_same_evaluation(self, dataloader)
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        if not self._is_stock:
            self.evaluated.append((output.metrics or {}, dataloader.dataset))
        return output

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._check_checkpoint(resume_from_checkpoint)
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        self._check_checkpoint(cast(str, self.state.best_model_checkpoint))
        super()._load_best_model()

    def _check_checkpoint(self, folder: str) -> None:
        if self._is_stock:
            return
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        check_checkpoint(folder, self.accelerator.unwrap_model(self.model), compare=not is_sharded)

    def call_model_init(self, *args: Any, **kwargs: Any) -> nn.Module:
        model = super().call_model_init(*args, **kwargs)
        return model if self._peft_config is None else self._with_peft(model, self._peft_config)

    def push_to_hub(self, *args: Any, **kwargs: Any):
        """As in `Trainer`, without what tells of single training samples."""
        with samples_left_out():
            return super().push_to_hub(*args, **kwargs)

    def _push_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with samples_left_out():
            super()._push_from_checkpoint(*args, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """As in `Trainer`, and on the method and what it found ([`~hf_clear.hub.model_card.complete_model_card`]),
        which also says how to load an adapter that needs hf_clear. If nothing is routed, it is that of `Trainer`."""
        if self._is_stock:
            return super().create_model_card(*args, **kwargs)
        self.name_classes()
        tags = copy.copy(kwargs.get("tags"))  # which peft forgets
        if not args and kwargs.keys().isdisjoint({"dataset", "dataset_tags"}):
            kwargs["dataset_tags"] = dataset_names(self.train_dataset)
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            complete_model_card(self, tags)

    def method_settings(self) -> dict[str, Any]:
        """The settings of the method as they are in force, by name."""
        raise NotImplementedError

    def _first_fit(self) -> str:
        """When there will be clean probabilities, for a message."""
        raise NotImplementedError

    def _with_peft(self, model: nn.Module, peft_config: PeftConfig) -> nn.Module:
        if isinstance(model, PeftModel):
            raise ValueError(
                "`peft_config` was given for a model that is a PeftModel already. Pass the base model with "
                "`peft_config`, or the PeftModel without it."
            )
        return get_peft_model(model, copy.deepcopy(peft_config))  # peft writes into the config it is given

    def _use_one_gpu(self) -> None:
        if self.args.n_gpu > 1:
            logger.warning(
                f"{self.args.n_gpu} GPUs are visible to one process. {self.method} does not work under "
                "nn.DataParallel and trains on one of them; start the script with `accelerate launch` to use all."
            )
            self.args._n_gpu = 1
            self._train_batch_size = self.args.train_batch_size
